//! Bars and curves as inline SVG. Lengths along x are in per cent, those along y in pixels, so that text keeps its size on
//! every screen.

use super::html::Text;
use std::collections::BTreeSet;

/// A bar from 0 to `value`, with the interval of the value.
pub struct Bar {
    /// Its side, such as `base`: chooses the colour.
    pub side: &'static str,
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Bars that are compared with each other.
pub struct Group {
    pub label: String,
    /// The values in words.
    pub text: String,
    pub bars: Vec<Bar>,
}

const BAR: f64 = 14.0;
const BAR_STEP: f64 = 18.0;
const LABEL: f64 = 20.0;
const BETWEEN: f64 = 16.0;
const AXIS: f64 = 22.0;

/// Shares from 0 to 1 as horizontal bars.
pub fn bars(name: &str, groups: &[Group]) -> String {
    let group_height = |g: &Group| LABEL + BAR_STEP * g.bars.len() as f64 + BETWEEN;
    let plot: f64 = groups.iter().map(group_height).sum();
    let mut out = open("bars", name, plot + AXIS);
    for quarter in 0..=4 {
        let at = 25 * quarter;
        out += &format!("<line class=\"grid\" x1=\"{at}%\" x2=\"{at}%\" y1=\"0\" y2=\"{plot}\"/>\n");
        out += &axis_label(at as f64, plot + 16.0, &format!("{at} %"));
    }
    let mut top = 0.0;
    for group in groups {
        let base = top + 13.0;
        out += &format!("<text x=\"0\" y=\"{base}\" class=\"label\">{}</text>\n", Text(&group.label));
        out += &format!("<text x=\"100%\" y=\"{base}\" class=\"value\">{}</text>\n", Text(&group.text));
        for (i, Bar { side, value, low, high }) in group.bars.iter().enumerate() {
            let y = top + LABEL + BAR_STEP * i as f64;
            let [value, low, high] = [value, low, high].map(|v| 100.0 * v.clamp(0.0, 1.0));
            let middle = y + BAR / 2.0;
            out += &format!(
                "<rect class=\"{side}\" x=\"0\" y=\"{y}\" width=\"{value:.2}%\" height=\"{BAR}\" rx=\"2\"/>\n"
            );
            out += &whisker_across(low, high, middle);
        }
        top += group_height(group);
    }
    out + "</svg>\n"
}

fn whisker_across(low: f64, high: f64, y: f64) -> String {
    let (above, below) = (y - 4.0, y + 4.0);
    let line = |x1: f64, x2: f64, y1: f64, y2: f64| {
        format!("<line class=\"whisker\" x1=\"{x1:.2}%\" x2=\"{x2:.2}%\" y1=\"{y1}\" y2=\"{y2}\"/>\n")
    };
    line(low, high, y, y) + &line(low, low, above, below) + &line(high, high, above, below)
}

/// A line through points of rising x.
pub struct Curve {
    /// Chooses the colour: `raw`, `base`, `tuned`, or one of [`series`].
    pub class: String,
    /// What a pointer on the line is told; may be empty.
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Of the i-th of many curves: a colour, and dashes when the colours are used up. The colours can be told apart with every
/// kind of colour vision.
pub fn series(i: usize) -> String {
    format!("s{} d{}", i % COLOURS, i / COLOURS % DASHES)
}

const COLOURS: usize = 6;
const DASHES: usize = 3;

/// A single point with its error.
pub struct Mark {
    /// Chooses the colour; may be empty.
    pub class: String,
    pub x: f64,
    pub y: f64,
    pub error: f64,
    pub text: String,
}

const HEIGHT: f64 = 220.0;
/// Room for numbers beside the curves.
const LEFT: f64 = 52.0;
const TOP: f64 = 18.0;

/// Curves over steps. Values that are not finite are left out.
pub fn curves(name: &str, curves: &[Curve], marks: &[Mark]) -> String {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let points = || curves.iter().flat_map(|c| &c.points).filter(finite);
    let xs = points().map(|p| p.0).chain(marks.iter().map(|m| m.x));
    let ys = points().map(|p| p.1).chain(marks.iter().flat_map(|m| [m.y - m.error, m.y + m.error]));
    let (Some((left, right)), Some((bottom, top))) = (range(xs), range(ys)) else { return String::new() };
    let step = tick(top - bottom);
    let (bottom, top) = ((bottom / step).floor() * step, (top / step).ceil() * step);
    let along = |x: f64| (x - left) / (right - left);
    let down = |y: f64| TOP + HEIGHT * (top - y) / (top - bottom);

    let (mut out, mut labels) = (open("curves", name, TOP + HEIGHT + AXIS), String::new());
    let lines = ((top - bottom) / step).round() as usize;
    for i in 0..=lines {
        let value = bottom + step * i as f64;
        let y = down(value);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        out += &format!("<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n");
        labels += &format!(
            "<text x=\"100%\" y=\"{:.1}\" text-anchor=\"end\" class=\"tick\">{value:.digits$}</text>\n",
            y + 4.0
        );
    }
    let mut written = BTreeSet::new();
    for x in [left, right, (left + right) / 2.0] {
        let label = format!("{x:.0}");
        if written.insert(label.clone()) {
            out += &axis_label(100.0 * along(x), TOP + HEIGHT + 16.0, &label);
        }
    }
    let height = TOP + HEIGHT;
    out += &format!(
        "<svg viewBox=\"0 0 1000 {height}\" width=\"100%\" height=\"{height}\" preserveAspectRatio=\"none\">\n"
    );
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let points: Vec<String> = curve
            .points
            .iter()
            .filter(finite)
            .map(|(x, y)| format!("{:.1},{:.1}", 1000.0 * along(*x), down(*y)))
            .collect();
        let name = match curve.name.as_str() {
            "" => String::new(),
            name => format!("<title>{}</title>", Text(name)),
        };
        out += &format!("<polyline class=\"{}\" points=\"{}\">{name}</polyline>\n", curve.class, points.join(" "));
    }
    out += "</svg>\n";
    for Mark { class, x, y, error, text } in marks {
        let (x, low, high, y) = (100.0 * along(*x), down(y - error), down(y + error), down(*y));
        out += &format!(
            "<g class=\"mark {class}\"><title>{}</title>\n<line x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>\n\
             <circle cx=\"{x:.2}%\" cy=\"{y:.1}\" r=\"4.5\"/></g>\n",
            Text(text)
        );
    }
    let height = TOP + HEIGHT + AXIS;
    format!(
        "<div class=\"plot\">\n<svg class=\"chart\" aria-hidden=\"true\" width=\"{LEFT}\" height=\"{height}\">\n{labels}</svg>\n{out}</svg>\n</div>\n"
    )
}

/// The same curve, each point the mean of those within so many steps on both sides.
pub fn smoothed(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    (0..points.len())
        .map(|i| {
            let near = &points[i.saturating_sub(reach)..(i + reach + 1).min(points.len())];
            (points[i].0, near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64)
        })
        .collect()
}

/// Never more points than a chart has pixels: means of neighbours where there are.
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

/// What the colours mean.
pub fn legend(sides: &[(&str, &str)]) -> String {
    let keys: String = sides
        .iter()
        .map(|(class, name)| format!("<span><i class=\"key {class}\"></i>{}</span>\n", Text(name)))
        .collect();
    format!("<p class=\"legend\">\n{keys}</p>\n")
}

fn open(class: &str, name: &str, height: f64) -> String {
    format!(
        "<svg class=\"chart {class}\" role=\"img\" aria-label=\"{}\" width=\"100%\" height=\"{height}\">\n",
        Text(name)
    )
}

/// Kept within the image at both ends.
fn axis_label(percent: f64, y: f64, text: &str) -> String {
    let anchor = match percent {
        p if p < 1.0 => "start",
        p if p > 99.0 => "end",
        _ => "middle",
    };
    format!("<text x=\"{percent:.2}%\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"tick\">{text}</text>\n")
}

/// Least and largest, a little apart where they are equal; `None` of nothing.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) =
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let apart = if high > low { 0.0 } else { (0.1 * low.abs()).max(0.5) };
    (low <= high).then_some((low - apart, high + apart))
}

/// 1, 2 or 5 times a power of ten: about four of them in the span.
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
        let svg = bars("correct", &[Group { label: "a<b".into(), text: "50 %".into(), bars: vec![bar] }]);
        assert!(svg.contains("width=\"50.00%\"") && svg.contains("x1=\"25.00%\" x2=\"100.00%\""), "{svg}");
        assert!(svg.contains("a&lt;b") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn curves_fill_their_place() {
        let points = vec![(0.0, 1.0), (5.0, f64::NAN), (10.0, 3.0)];
        let svg = curves("loss", &[Curve { class: "raw".into(), name: "a<b".into(), points }], &[]);
        assert!(svg.contains("points=\"0.0,238.0 1000.0,18.0\""), "{svg}");
        assert!(svg.contains(">1.0</text>") && svg.contains(">2.0</text>"), "{svg}");
        assert!(svg.contains("<title>a&lt;b</title></polyline>"), "{svg}");
        assert_eq!(curves("loss", &[], &[]), "");
        let flat = curves("loss", &[Curve { class: "raw".into(), name: String::new(), points: vec![(3.0, 2.0)] }], &[]);
        assert!(!flat.contains("NaN") && !flat.contains("inf"), "{flat}");
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
