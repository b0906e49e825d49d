//! The table's main rows as an image: points with their intervals, a dot for every training.

use super::Table;
use crate::scores::Measure;
use maud::{Markup, PreEscaped, html};

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
    let mut top = 8.0;
    let parts = SHOWN.map(|measure| {
        let (part, below) = part(table, measure, top);
        top = below + 26.0;
        part
    });
    let height = top + 18.0;
    let drawn = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (height) } role="img" {
            style { (PreEscaped(STYLE)) }
            rect width=(WIDTH) height=(height) fill="#ffffff" {}
            @for part in parts { (part) }
            text .s x="8" y=(top + 6.0) {
                (table.prompts) " prompts, " (table.images) " images each. Dots: means, with 95 % intervals over prompts and trainings. \
                 Rings: each training. Dashed: the base model."
            }
        }
    };
    drawn.into_string() + "\n"
}

/// The rows of a measure from `top` on, and the position where they end.
fn part(table: &Table, measure: Measure, top: f64) -> (Markup, f64) {
    let rows: Vec<_> = table.columns.iter().filter_map(|c| Some((c, c.row(measure, None)?))).collect();
    let most = rows.iter().map(|(_, row)| row.mean.high).fold(0.0f64, f64::max);
    let step = [0.02, 0.05, 0.1, 0.2].into_iter().find(|step| most / step <= 6.0).unwrap_or(0.2);
    let end = (most / step).ceil().max(1.0) * step;
    let at = |share: f64| format!("{:.1}", LEFT + (WIDTH - LEFT - RIGHT) * (share / end).clamp(0.0, 1.0));
    let (above, below) = (top + HEADING - 8.0, top + HEADING + ROW * rows.len() as f64);
    let upright = |class: &str, x: &str| html! { line class=(class) x1=(x) x2=(x) y1=(above) y2=(below) {} };
    let drawn = html! {
        text .h x="8" y=(top + 14.0) { (measure.name()) @if measure.is_fault() { " (less is better)" } }
        @for tick in 0..=(end / step).round() as usize {
            @let share = step * tick as f64;
            (upright("g", &at(share)))
            text .s x=(at(share)) y=(below + 13.0) text-anchor="middle" { (format!("{:.0} %", 100.0 * share)) }
        }
        @if let Some((_, base)) = rows.first() { (upright("r", &at(base.mean.value))) }
        @for (i, (column, row)) in rows.iter().enumerate() {
            @let y = top + HEADING + ROW * i as f64 + ROW / 2.0;
            text x="8" y=(y + 4.0) { (column.name) }
            line .w x1=(at(row.mean.low)) x2=(at(row.mean.high)) y1=(y) y2=(y) {}
            circle .m cx=(at(row.mean.value)) cy=(y) r="4.5" {}
            @for training in &row.trainings { circle .t cx=(at(*training)) cy=(y) r="3" {} }
        }
    };
    (drawn, below)
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
            second: None,
            digest: None,
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
