//! Tables of metrics before and after training, with intervals.

use super::numbers::{Scale, verdict};
use benchmarks::statistics::Estimate;
use maud::{Markup, html};

/// A row of the table: a metric, with its value before if that is known.
pub struct Line {
    pub name: String,
    /// Text in small letters below the name.
    pub note: Option<String>,
    pub base: Option<Estimate>,
    pub tuned: Estimate,
    /// tuned − base, paired
    pub difference: Option<Estimate>,
    pub scale: Scale,
    /// Whether a lower value is better.
    pub is_fault: bool,
    /// Whether the line summarises all the other lines.
    pub is_total: bool,
}

/// A table of lines. `what`: heading of the first column; `sides`: headings of the two columns of values.
pub fn table(what: &str, sides: [&str; 2], lines: &[Line]) -> Markup {
    let is_compared = lines.iter().any(|line| line.base.is_some());
    let headings: &[&str] = if is_compared { &[sides[0], sides[1], "difference"] } else { &[sides[1]] };
    html! {
        table {
            thead {
                tr {
                    th scope="col" { (what) }
                    @for name in headings { th scope="col" { (name) } }
                }
            }
            tbody {
                @for line in lines { (row(line, is_compared)) }
            }
        }
    }
}

fn row(line: &Line, is_compared: bool) -> Markup {
    let Line { name, note, base, tuned, difference, scale, is_fault, is_total } = line;
    let plain = |e: &Estimate| cell("", &scale.plain(e.value), &scale.interval(e));
    let change = |e: &Estimate| {
        let value = scale.signed(e.value);
        let class = if value.starts_with(['+', '−']) { verdict(e, *is_fault) } else { "" };
        cell(class, &value, &scale.signed_interval(e))
    };
    let none = || cell("", "–", "");
    html! {
        tr .total[*is_total] {
            th scope="row" {
                (name)
                @if let Some(note) = note { small .under { (note) } }
            }
            @if is_compared { (base.as_ref().map_or_else(none, plain)) }
            (plain(tuned))
            @if is_compared { (difference.as_ref().map_or_else(none, change)) }
        }
    }
}

/// A number with something in small letters below it.
pub fn cell(class: &str, number: &str, below: &str) -> Markup {
    html! {
        td class=(class) {
            (number)
            @if !below.is_empty() { small { (below) } }
        }
    }
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
        let both = table("share", ["base", "tuned"], &[line(Some(0.25)), line(None)]).into_string();
        assert!(
            both.contains("a&lt;b") && both.contains("<td class=\"better\">+25.0<small>+24.0 to +26.0</small></td>")
        );
        assert_eq!(both.matches("<td").count(), 6);
        assert_eq!(both.matches("<td class=\"\">–</td>").count(), 2);
        let alone = table("share", ["base", "tuned"], &[line(None)]).into_string();
        assert!(alone.matches("<td").count() == 1 && !alone.contains("difference"), "{alone}");
    }
}
