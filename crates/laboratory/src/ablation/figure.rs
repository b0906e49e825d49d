//! The table's main rows as an image: points with their intervals, a dot for every training.

use super::Table;
use crate::scores::Measure;
use report::html::Text;

const SHOWN: [Measure; 4] = [Measure::Correct, Measure::Bound, Measure::Clean, Measure::Extra];
const WIDTH: f64 = 900.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 30.0;
const ROW: f64 = 24.0;
const HEADING: f64 = 34.0;
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #1b1d22 } .h { font-weight: 600 } .s { fill: #666b76; font-size: 11px } \
    line { stroke: #c9c7c1 } .w { stroke: #3f5bd8; stroke-width: 2 } .m { fill: #3f5bd8 } .t { fill: none; stroke: #1b1d22 } .g { stroke: #e3e1db } \
    .r { stroke: #a3a9b5; stroke-dasharray: 3 3 }";

/// A whole SVG file.
pub fn draw(table: &Table) -> String {
    let mut body = String::new();
    let mut top = 8.0;
    for measure in SHOWN {
        let rows: Vec<_> = table.columns.iter().filter_map(|c| Some((c, c.row(measure, None)?))).collect();
        let most = rows.iter().map(|(_, row)| row.mean.high).fold(0.0f64, f64::max);
        let step = [0.02, 0.05, 0.1, 0.2].into_iter().find(|step| most / step <= 6.0).unwrap_or(0.2);
        let end = (most / step).ceil().max(1.0) * step;
        let at = |share: f64| LEFT + (WIDTH - LEFT - RIGHT) * (share / end).clamp(0.0, 1.0);
        let less = if measure.is_fault() { " (less is better)" } else { "" };
        body += &format!("<text class=\"h\" x=\"8\" y=\"{}\">{}{less}</text>\n", top + 14.0, Text(measure.name()));
        let (above, below) = (top + HEADING - 8.0, top + HEADING + ROW * rows.len() as f64);
        for tick in 0..=(end / step).round() as usize {
            let share = step * tick as f64;
            let x = at(share);
            body += &format!("<line class=\"g\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{above}\" y2=\"{below}\"/>\n");
            body += &format!(
                "<text class=\"s\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0} %</text>\n",
                below + 13.0,
                100.0 * share
            );
        }
        if let Some((_, base)) = rows.first() {
            let x = at(base.mean.value);
            body += &format!("<line class=\"r\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{above}\" y2=\"{below}\"/>\n");
        }
        for (i, (column, row)) in rows.iter().enumerate() {
            let y = top + HEADING + ROW * i as f64 + ROW / 2.0;
            let [value, low, high] = [row.mean.value, row.mean.low, row.mean.high].map(at);
            body += &format!("<text x=\"8\" y=\"{}\">{}</text>\n", y + 4.0, Text(&column.name));
            body += &format!("<line class=\"w\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y}\" y2=\"{y}\"/>\n");
            body += &format!("<circle class=\"m\" cx=\"{value:.1}\" cy=\"{y}\" r=\"4.5\"/>\n");
            for training in &row.trainings {
                body += &format!("<circle class=\"t\" cx=\"{:.1}\" cy=\"{y}\" r=\"3\"/>\n", at(*training));
            }
        }
        top = below + 26.0;
    }
    let caption = format!(
        "{} prompts, {} images each. Dots: means, with 95 % intervals over prompts and trainings. Rings: each training. Dashed: the base model.",
        table.prompts, table.images
    );
    body += &format!("<text class=\"s\" x=\"8\" y=\"{}\">{}</text>\n", top + 6.0, Text(caption));
    let height = top + 18.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::{
        judge::{Look, Verdict},
        judging::Judged,
        prompts::Category,
    };

    #[test]
    fn every_measure_has_its_place() {
        let judged = |i: usize| Judged {
            prompt: format!("{i}"),
            category: Category::Color,
            seed: 0,
            file: "a.png".into(),
            look: Look::default(),
            verdict: Verdict { wanted: 1, present: 1, bound: 1, relation: None, extra: 0, clean: true, correct: i > 3 },
        };
        let base: Vec<Judged> = (0..8).map(judged).collect();
        let svg = draw(&Table::new(&base, vec![]));
        assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("class=\"h\"").count(), 4, "{svg}");
        assert_eq!(svg.matches("class=\"m\"").count(), 4);
        assert!(
            svg.contains("something extra (less is better)") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
    }
}
