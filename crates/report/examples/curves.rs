//! Curves of runs as an SVG file of its own, for documents: `cargo run -p report --example curves -- OUT.svg KEY NAME=RUN…`.
//! KEY is a key of the events `step`, or `validation.KEY` of a judge's metric; with `--log` the axis of the values has powers of ten.

use anyhow::{Context, Result, bail};
use maud::html;
use report::{
    chart::{self, Curve, Plot},
    log::Log,
};
use std::{env, fs, path::Path};

const WIDTH: usize = 760;
/// Of the numbers beside the curves, and of the legend above them.
const LEFT: usize = 60;
const LEGEND: usize = 26;
/// Where the numbers end.
const PLOT_LEFT: usize = 52;
const COLOURS: [&str; 6] = ["#0067a8", "#c8500a", "#00875f", "#a8559a", "#9a7400", "#33363d"];

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let is_log = words.iter().any(|word| word == "--log");
    let words: Vec<&String> = words.iter().filter(|word| *word != "--log").collect();
    let [out, key, runs @ ..] = &words[..] else { bail!("OUT.svg KEY NAME=RUN…") };
    let mut curves = vec![];
    for (i, run) in runs.iter().enumerate() {
        let (name, folder) = run.split_once('=').context("NAME=RUN")?;
        let log = Log::read(Path::new(folder))?;
        let mut points = points(&log, key);
        if is_log {
            points.iter_mut().for_each(|point| point.1 = point.1.log10());
        }
        let smooth = if key.starts_with("validation.") { points } else { chart::smoothed(&points, points.len() / 40) };
        curves.push(Curve { class: chart::series(i), name: name.into(), points: smooth });
    }
    fs::write(out.as_str(), standalone(&curves, is_log)?).with_context(|| out.to_string())
}

fn points(log: &Log, key: &str) -> Vec<(f64, f64)> {
    if let Some(metric) = key.strip_prefix("validation.") {
        let of = |v: &report::log::Validation| match metric {
            "caption_loss" => Some(v.caption_loss),
            metric => v.metric(metric),
        };
        return log.validations.iter().filter_map(|v| Some((v.step as f64, of(v)?))).collect();
    }
    let of = |step: &report::log::Step| match key {
        "caption_loss" => Some(step.caption_loss),
        "grad_norm" => Some(step.grad_norm),
        key => step.other(key),
    };
    log.steps.iter().filter_map(|step| Some((step.step as f64, of(step)?))).collect()
}

/// The chart of a page with a legend, a width and colours of its own.
fn standalone(curves: &[Curve], is_log: bool) -> Result<String> {
    let label = |value: f64, digits: usize| if is_log { power(value) } else { format!("{value:.digits$}") };
    let Plot { labels, lines, height } = chart::plot(curves, &[], label).context("there is nothing to draw")?;
    let colours: String =
        COLOURS.iter().enumerate().map(|(i, colour)| format!(".s{i} {{ stroke: {colour} }} ")).collect();
    let mut at = LEFT;
    let legend = curves.iter().zip(COLOURS).map(|(curve, colour)| {
        let left = at;
        at += 44 + 7 * curve.name.chars().count();
        (curve, colour, left)
    });
    let whole = height + LEGEND as f64;
    let drawn = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (WIDTH) " " (whole) } width=(WIDTH) height=(whole) {
            style {
                "text { font: 12px system-ui, sans-serif; fill: #1b1d22 } .tick { fill: #666b76 } .grid { stroke: #e3e1db } \
                 polyline { fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke } "
                (colours)
            }
            rect width=(WIDTH) height=(whole) fill="#ffffff" {}
            @for (curve, colour, left) in legend {
                rect x=(left) y="8" width="14" height="4" fill=(colour) {}
                text x=(left + 20) y="14" { (curve.name) }
            }
            svg y=(LEGEND) width=(PLOT_LEFT) height=(height) { (labels) }
            svg x=(LEFT) y=(LEGEND) width=(WIDTH - LEFT - 8) height=(height) { (lines) }
        }
    };
    Ok(drawn.into_string() + "\n")
}

/// `-2` at the axis becomes `0.01`.
fn power(exponent: f64) -> String {
    let value = 10f64.powf(exponent);
    if (0.01..1000.0).contains(&value) {
        ((value * 1000.0).round() / 1000.0).to_string()
    } else {
        format!("{value:.0e}")
    }
}
