//! Bars and curves as inline SVG. Lengths along x are in per cent, those along y in pixels, so that text keeps its size on
//! every screen.

use maud::{Markup, html};
use std::collections::BTreeSet;

/// A bar from 0 to `value`, with the interval of the value.
pub struct Bar {
    /// Side of the comparison, such as `base`. It sets the colour.
    pub side: &'static str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Bars that are compared with each other.
pub struct Group {
    pub label: String,
    /// The values as text.
    pub text: String,
    pub bars: Vec<Bar>,
}

const BAR: f64 = 14.0;
const BAR_STEP: f64 = 18.0;
const LABEL: f64 = 20.0;
const BETWEEN: f64 = 16.0;
const AXIS: f64 = 22.0;

/// Shares from 0 to 1 as horizontal bars.
pub fn bars(name: &str, groups: &[Group]) -> Markup {
    let group_height = |g: &Group| LABEL + BAR_STEP * g.bars.len() as f64 + BETWEEN;
    let height: f64 = groups.iter().map(group_height).sum();
    let tops = groups.iter().scan(0.0, |below, group| {
        let top = *below;
        *below += group_height(group);
        Some(top)
    });
    let drawn = html! {
        @for at in [0, 25, 50, 75, 100] {
            line .grid x1={ (at) "%" } x2={ (at) "%" } y1="0" y2=(height) {}
            (axis_label(f64::from(at), height + 16.0, &format!("{at} %")))
        }
        @for (group, top) in groups.iter().zip(tops) {
            text .label x="0" y=(top + 13.0) { (group.label) }
            text .value x="100%" y=(top + 13.0) { (group.text) }
            @for (i, bar) in group.bars.iter().enumerate() {
                (shown_bar(bar, top + LABEL + BAR_STEP * i as f64))
            }
        }
    };
    chart("bars", name, height + AXIS, &drawn)
}

fn shown_bar(Bar { side, value, low, high }: &Bar, y: f64) -> Markup {
    let [value, low, high] = [value, low, high].map(|v| percent(100.0 * v.clamp(0.0, 1.0)));
    let (middle, above, below) = (y + BAR / 2.0, y + BAR / 2.0 - 4.0, y + BAR / 2.0 + 4.0);
    html! {
        rect class=(side) x="0" y=(y) width=(value) height=(BAR) rx="2" {}
        @for (x1, x2, y1, y2) in [(&low, &high, middle, middle), (&low, &low, above, below), (&high, &high, above, below)] {
            line .whisker x1=(x1) x2=(x2) y1=(y1) y2=(y2) {}
        }
    }
}

/// A line through points with increasing x.
pub struct Curve {
    /// CSS class, which sets the colour: `raw`, `base`, `tuned`, or one of [`series`].
    pub class: String,
    /// Tooltip of the line; may be empty.
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// CSS classes of the i-th of many curves: a colour, and a dash pattern for when the colours are used up. The colours
/// can be told apart with every kind of colour vision.
pub fn series(i: usize) -> String {
    format!("s{} d{}", i % COLOURS, i / COLOURS % DASHES)
}

const COLOURS: usize = 6;
const DASHES: usize = 3;

/// A single point with its error.
pub struct Mark {
    /// CSS class, which sets the colour; may be empty.
    pub class: String,
    pub x: f64,
    pub y: f64,
    pub error: f64,
    pub text: String,
}

const HEIGHT: f64 = 220.0;
/// Width of the numbers beside the curves, in pixels.
const LEFT: f64 = 52.0;
const TOP: f64 = 18.0;

/// A chart of curves over steps; `None` if there is no finite value.
pub fn curves(name: &str, curves: &[Curve], marks: &[Mark]) -> Option<Markup> {
    let Plot { labels, lines, height } = plot(curves, marks, |value, digits| format!("{value:.digits$}"))?;
    Some(html! {
        div .plot {
            svg .chart aria-hidden="true" width=(LEFT) height=(height) { (labels) }
            (chart("curves", name, height, &lines))
        }
    })
}

/// The parts of a chart of curves: contents of two SVG elements of the same height, side by side.
pub struct Plot {
    /// Numbers of the vertical axis, aligned to the right.
    pub labels: Markup,
    pub lines: Markup,
    pub height: f64,
}

/// Curves over steps. Values that are not finite are left out; `None` if none is left. `label` formats a number of the
/// vertical axis with the given number of decimals.
pub fn plot(curves: &[Curve], marks: &[Mark], label: impl Fn(f64, usize) -> String) -> Option<Plot> {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let points = || curves.iter().flat_map(|c| &c.points).filter(finite);
    let xs = points().map(|p| p.0).chain(marks.iter().map(|m| m.x));
    let ys = points().map(|p| p.1).chain(marks.iter().flat_map(|m| [m.y - m.error, m.y + m.error]));
    let ((left, right), (bottom, top)) =
        (range(xs, |_| 0.5)?, range(ys, |y| if y == 0.0 { 0.5 } else { 0.5 * y.abs() })?);
    let step = tick(top - bottom);
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let (bottom, top) = ((bottom / step).floor() * step, (top / step).ceil() * step);
    let along = |x: f64| (x - left) / (right - left);
    let down = |y: f64| TOP + HEIGHT * (top - y) / (top - bottom);

    let values: Vec<f64> = (0..=((top - bottom) / step).round() as usize).map(|i| bottom + step * i as f64).collect();
    let labels = html! {
        @for value in &values {
            text .tick x="100%" y=(pixels(down(*value) + 4.0)) text-anchor="end" { (label(*value, digits)) }
        }
    };
    let mut written = BTreeSet::new();
    let steps = [left, right, (left + right) / 2.0].map(|x| (x, format!("{x:.0}")));
    let steps: Vec<_> = steps.iter().filter(|(_, text)| written.insert(text)).collect();
    let through = |curve: &Curve| {
        let points = curve.points.iter().filter(finite);
        points.map(|(x, y)| format!("{:.1},{:.1}", 1000.0 * along(*x), down(*y))).collect::<Vec<_>>().join(" ")
    };
    let height = TOP + HEIGHT;
    let lines = html! {
        @for y in values.iter().map(|value| pixels(down(*value))) {
            line .grid x1="0" x2="100%" y1=(y) y2=(y) {}
        }
        @for (x, text) in steps { (axis_label(100.0 * along(*x), height + 16.0, text)) }
        svg viewBox={ "0 0 1000 " (height) } width="100%" height=(height) preserveAspectRatio="none" {
            @for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
                polyline class=(curve.class) points=(through(curve)) {
                    @if !curve.name.is_empty() { title { (curve.name) } }
                }
            }
        }
        @for Mark { class, x, y, error, text } in marks {
            @let x = percent(100.0 * along(*x));
            g class={ "mark " (class) } {
                title { (text) }
                line x1=(x) x2=(x) y1=(pixels(down(y - error))) y2=(pixels(down(y + error))) {}
                circle cx=(x) cy=(pixels(down(*y))) r="4.5" {}
            }
        }
    };
    Some(Plot { labels, lines, height: height + AXIS })
}

/// Moving average: each value becomes the mean of itself and up to `reach` values on both sides.
pub fn smoothed(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    (0..points.len())
        .map(|i| {
            let near = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
            (points[i].0, near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64)
        })
        .collect()
}

/// Reduces a curve to at most `MOST` points, about as many as a chart has pixels, by means of neighbours.
pub fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(MOST).max(1);
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0, y + p.1));
        (x / n, y / n)
    };
    points.chunks(together).map(mean).collect()
}

const MOST: usize = 1000;

/// A legend: what the colours mean.
pub fn legend(sides: &[(&str, &str)]) -> Markup {
    html! {
        p .legend {
            @for (class, name) in sides { span { i class={ "key " (class) } {} (name) } }
        }
    }
}

fn chart(class: &str, name: &str, height: f64, drawn: &Markup) -> Markup {
    html! {
        svg class={ "chart " (class) } role="img" aria-label=(name) width="100%" height=(height) { (drawn) }
    }
}

/// A number of the horizontal axis, aligned so that it stays within the chart at both ends.
fn axis_label(at: f64, y: f64, text: &str) -> Markup {
    let anchor = match at {
        at if at < 1.0 => "start",
        at if at > 99.0 => "end",
        _ => "middle",
    };
    html! { text .tick x=(percent(at)) y=(y) text-anchor=(anchor) { (text) } }
}

/// A length along x, in per cent.
fn percent(length: f64) -> String {
    format!("{length:.2}%")
}

/// A length along y, in pixels.
fn pixels(length: f64) -> String {
    format!("{length:.1}")
}

/// Smallest and largest finite value; `None` if there is none. If they are equal, the range is extended by
/// `apart(value)` on both sides, but not below 0 if the value is not.
fn range(values: impl Iterator<Item = f64>, apart: impl Fn(f64) -> f64) -> Option<(f64, f64)> {
    let (low, high) =
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let apart = if high == low { apart(low) } else { 0.0 };
    let least = if low >= 0.0 { (low - apart).max(0.0) } else { low - apart };
    (low <= high).then_some((least, high + apart))
}

/// Distance of ticks: 1, 2 or 5 times a power of ten, about four in the span.
fn tick(span: f64) -> f64 {
    let rough = span / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    power * steps.into_iter().find(|s| s * power >= rough).unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_the_axis() {
        let bar = Bar { side: "base", value: 0.5, low: 0.25, high: 1.5 };
        let svg = bars("correct", &[Group { label: "a<b".into(), text: "50 %".into(), bars: vec![bar] }]).into_string();
        assert!(svg.contains("width=\"50.00%\"") && svg.contains("x1=\"25.00%\" x2=\"100.00%\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>"));
    }

    #[test]
    fn curves_fill_their_place() {
        let points = vec![(0.0, 1.0), (5.0, f64::NAN), (10.0, 3.0)];
        let svg = curves("loss", &[Curve { class: "raw".into(), name: "a<b".into(), points }], &[]);
        let svg = svg.unwrap().into_string();
        assert!(svg.contains("points=\"0.0,238.0 1000.0,18.0\""), "{svg}");
        assert!(svg.contains(">1.0</text>") && svg.contains(">2.0</text>"), "{svg}");
        assert!(svg.contains("<title>a&lt;b</title></polyline>"), "{svg}");
        assert!(curves("loss", &[], &[]).is_none());
        let flat = curves("loss", &[Curve { class: "raw".into(), name: String::new(), points: vec![(3.0, 2.0)] }], &[]);
        let flat = flat.unwrap().into_string();
        assert!(!flat.contains("NaN") && !flat.contains("inf"), "{flat}");
        // a constant share: the axis stays within 0 and 1
        for (share, top) in [(0.458, ">0.8</text>"), (0.0, ">0.6</text>")] {
            let points = vec![(0.0, share), (9.0, share)];
            let flat = curves("share", &[Curve { class: "raw".into(), name: String::new(), points }], &[]);
            let flat = flat.unwrap().into_string();
            assert!(flat.contains(top) && !flat.contains(">-") && !flat.contains(">−"), "{flat}");
        }
    }

    #[test]
    fn ticks_are_round() {
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(
            close(tick(4.0), 1.0) && close(tick(0.5), 0.2) && close(tick(1900.0), 500.0) && close(tick(0.039), 0.01)
        );
    }

    #[test]
    fn smoothing_is_a_mean_of_neighbours() {
        let line: Vec<(f64, f64)> = (0..9).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        assert_eq!(smoothed(&line, 0), line);
        assert_eq!(smoothed(&line, 2)[2..7], line[2..7]);
        assert_eq!(smoothed(&line, 2)[0], (0.0, 2.0));
        assert_eq!(smoothed(&[], 5), []);
    }

    #[test]
    fn long_curves_are_thinned() {
        let line: Vec<(f64, f64)> = (0..2500).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        let thin = thinned(&line);
        assert_eq!((thin.len(), thin[0], thin[833]), (834, (1.0, 2.0), (2499.0, 4998.0)));
        assert_eq!(thinned(&line[..1000]), line[..1000]);
        assert_eq!(thinned(&[]), []);
    }

    #[test]
    fn many_curves_differ() {
        let classes: std::collections::BTreeSet<String> = (0..18).map(series).collect();
        assert_eq!(classes.len(), 18);
    }
}
