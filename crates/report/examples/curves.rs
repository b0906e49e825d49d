//! Curves of runs as an SVG file of its own, for documents: `cargo run -p report --example curves -- OUT.svg KEY NAME=RUN…`.
//! KEY is a key of the events `step`, or `validation.KEY` of a judge's metric; with `--log` the axis of the values has powers of ten.

use anyhow::{Context, Result, bail};
use report::{
    chart::{self, Curve},
    html::Text,
    log::Log,
};
use std::{env, fs, path::Path};

const WIDTH: usize = 760;
/// Of the numbers beside the curves, and of the legend above them.
const LEFT: usize = 60;
const LEGEND: usize = 26;
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
            metric => v.figure(metric),
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
    let chart = chart::curves("curves over training steps", curves, &[]);
    let inner = chart.trim().strip_prefix("<div class=\"plot\">").and_then(|rest| rest.strip_suffix("</div>"));
    let (labels, plot) = inner.and_then(|inner| inner.split_once("</svg>\n")).context("there is nothing to draw")?;
    let attribute = |text: &str, name: &str| {
        text.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned)
    };
    let height: f64 = attribute(labels, "height").context("height")?.parse()?;
    let mut labels = labels.replacen("<svg ", &format!("<svg y=\"{LEGEND}\" "), 1);
    if is_log {
        labels = powers(&labels);
    }
    let width = WIDTH - LEFT - 8;
    let plot = plot.replacen("width=\"100%\"", &format!("x=\"{LEFT}\" y=\"{LEGEND}\" width=\"{width}\""), 1);
    let mut legend = String::new();
    let mut at = LEFT;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        legend += &format!(
            "<rect x=\"{at}\" y=\"8\" width=\"14\" height=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"14\">{}</text>\n",
            at + 20,
            Text(&curve.name)
        );
        at += 44 + 7 * curve.name.chars().count();
    }
    let colours: String =
        COLOURS.iter().enumerate().map(|(i, colour)| format!(".s{i} {{ stroke: {colour} }} ")).collect();
    let height = height + LEGEND as f64;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>text {{ font: 12px system-ui, sans-serif; fill: #1b1d22 }} .tick {{ fill: #666b76 }} .grid {{ stroke: #e3e1db }} \
         polyline {{ fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke }} {colours}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{legend}{labels}</svg>\n{plot}</svg>\n"
    ))
}

/// `-2` at the axis becomes `0.01`.
fn powers(labels: &str) -> String {
    let mut out = String::new();
    for (i, part) in labels.split_inclusive('>').enumerate() {
        let value = part.strip_suffix("</text>").and_then(|text| text.parse::<f64>().ok()).filter(|_| i > 0);
        match value {
            Some(power) if (0.01..1000.0).contains(&10f64.powf(power)) => {
                out += &format!("{}</text>", (10f64.powf(power) * 1000.0).round() / 1000.0);
            }
            Some(power) => out += &format!("{:.0e}</text>", 10f64.powf(power)),
            None => out += part,
        }
    }
    out
}
