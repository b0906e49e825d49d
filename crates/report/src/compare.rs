//! Tables of figures before and after, with intervals.

use super::{
    html::Text,
    numbers::{Scale, verdict},
};
use benchmarks::statistics::Estimate;

/// A figure; with what it was before, where that is known.
pub struct Line {
    pub name: String,
    /// In small letters below the name.
    pub note: Option<String>,
    pub base: Option<Estimate>,
    pub tuned: Estimate,
    /// tuned − base, paired
    pub difference: Option<Estimate>,
    pub scale: Scale,
    /// Whether less of it is better.
    pub is_fault: bool,
    /// Of all the other lines.
    pub is_total: bool,
}

/// `what` the lines are about; the columns of the two sides are called by `sides`.
pub fn table(what: &str, sides: [&str; 2], lines: &[Line]) -> String {
    let is_compared = lines.iter().any(|line| line.base.is_some());
    let headings: &[&str] = if is_compared { &[sides[0], sides[1], "difference"] } else { &[sides[1]] };
    let headings: String = headings.iter().map(|name| format!("<th scope=\"col\">{}</th>", Text(name))).collect();
    let rows: String = lines.iter().map(|line| row(line, is_compared)).collect();
    format!(
        "<table>\n<thead><tr><th scope=\"col\">{}</th>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n",
        Text(what)
    )
}

fn row(line: &Line, is_compared: bool) -> String {
    let Line { name, note, base, tuned, difference, scale, is_fault, is_total } = line;
    let plain = |e: &Estimate| cell("", &scale.plain(e.value), &scale.interval(e));
    let mut cells = plain(tuned);
    if is_compared {
        let change = |e: &Estimate| {
            let value = scale.signed(e.value);
            let class = if value.starts_with(['+', '−']) { verdict(e, *is_fault) } else { "" };
            cell(class, &value, &scale.signed_interval(e))
        };
        let before = base.as_ref().map_or(cell("", "–", ""), plain);
        let change = difference.as_ref().map_or(cell("", "–", ""), change);
        cells = format!("{before}{cells}{change}");
    }
    let note = note.as_ref().map_or(String::new(), |note| format!("<small class=\"under\">{}</small>", Text(note)));
    let class = if *is_total { " class=\"total\"" } else { "" };
    format!("<tr{class}><th scope=\"row\">{}{note}</th>{cells}</tr>\n", Text(name))
}

/// A number with something in small letters below it.
pub fn cell(class: &str, number: &str, below: &str) -> String {
    let below = if below.is_empty() { String::new() } else { format!("<small>{}</small>", Text(below)) };
    format!("<td class=\"{class}\">{}{below}</td>", Text(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(base: Option<f64>) -> Line {
        let estimate = |value: f64| Estimate { value, low: value - 0.01, high: value + 0.01 };
        Line {
            name: "a<b".into(),
            note: Some("2 prompts".into()),
            base: base.map(estimate),
            tuned: estimate(0.5),
            difference: base.map(|base| estimate(0.5 - base)),
            scale: Scale::PERCENT,
            is_fault: false,
            is_total: false,
        }
    }

    #[test]
    fn columns_are_those_that_there_are() {
        let both = table("share", ["base", "tuned"], &[line(Some(0.25)), line(None)]);
        assert!(
            both.contains("a&lt;b") && both.contains("<td class=\"better\">+25.0<small>+24.0 to +26.0</small></td>")
        );
        assert_eq!(both.matches("<td").count(), 6);
        assert_eq!(both.matches("<td class=\"\">–</td>").count(), 2);
        let alone = table("share", ["base", "tuned"], &[line(None)]);
        assert!(alone.matches("<td").count() == 1 && !alone.contains("difference"), "{alone}");
    }
}
