//! Peak memory of one iteration over the number of tracked steps, here and in PyTorch, and the figure that the README has of it.

use super::measure::output;
use super::{Bench, number_after};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;

const FIGURE: &str = "docs/images/memory.svg";
const STEPS: usize = 25;
const BATCH: usize = 8;
const TRACKED: [usize; 6] = [1, 5, 10, 15, 20, 25];

pub fn tracked(bench: &Bench) -> Result<()> {
    println!("  peak resident set of one iteration, {STEPS} steps, {BATCH} samples, chained, in MiB");
    let noise = bench.noise(BATCH, STEPS)?;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for tracked in TRACKED {
        let settings = [
            format!("sampling.steps={STEPS}"),
            format!("replay.tracked={tracked}"),
            "replay.mode=chained".to_owned(),
            "lora.rank=16".to_owned(),
        ];
        ours.push(number_after(&output(&mut bench.trace(&noise, &settings, 1)?)?, "peak memory")?);
        let mut python = bench.pytorch(&noise, STEPS, tracked, "chained", 1)?;
        theirs.push(number_after(&output(&mut python)?, "peak resident set")?);
        let ratio = ours[ours.len() - 1] / theirs[theirs.len() - 1];
        bench.ratios.add(&format!("{tracked} tracked steps, memory over PyTorch's"), &[ratio]);
        println!(
            "  K {tracked:2}  comat {:6.0}  PyTorch {:6.0}  ratio {ratio:.2}",
            ours[ours.len() - 1],
            theirs[theirs.len() - 1]
        );
    }
    let path = bench.workspace.root().join(FIGURE);
    fs::write(&path, figure(&ours, &theirs)).with_context(|| path.display().to_string())?;
    println!("  drawn in {FIGURE}");
    Ok(())
}

/// Two curves over the tracked steps, as SVG on a white ground.
fn figure(ours: &[f64], theirs: &[f64]) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 300.0;
    const LEFT: f64 = 56.0;
    const RIGHT: f64 = 90.0;
    const TOP: f64 = 34.0;
    const BOTTOM: f64 = 46.0;
    let most = theirs.iter().chain(ours).copied().fold(1.0, f64::max);
    let unit = 1024.0;
    let top = (most / unit).ceil() * unit;
    let last = TRACKED[TRACKED.len() - 1] as f64;
    let x = |tracked: usize| LEFT + (WIDTH - LEFT - RIGHT) * tracked as f64 / last;
    let y = |mib: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * mib / top;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
         <title>Peak memory of one iteration over the tracked steps, comat and PyTorch</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">Peak memory of one iteration</text>\n"
    );
    let mut line = |text: String| {
        out += &text;
        out.push('\n');
    };
    for gib in 0..=(top / unit) as usize {
        let at = y(gib as f64 * unit);
        line(format!(
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
            WIDTH - RIGHT
        ));
        line(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{gib} GiB</text>", LEFT - 6.0, at + 4.0));
    }
    for tracked in TRACKED {
        let (at, below) = (x(tracked), HEIGHT - BOTTOM + 18.0);
        line(format!("<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{tracked}</text>"));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    line(format!(
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">tracked steps, of {STEPS}</text>",
        HEIGHT - 8.0
    ));
    for (name, colour, values) in [("comat", "#1a7f4b", ours), ("PyTorch", "#b3443a", theirs)] {
        let mut points = String::new();
        for (tracked, mib) in TRACKED.iter().zip(values) {
            let _ = write!(points, "{:.1},{:.1} ", x(*tracked), y(*mib));
        }
        let points = points.trim_end();
        line(format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"));
        for (tracked, mib) in TRACKED.iter().zip(values) {
            line(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", x(*tracked), y(*mib)));
        }
        let end = values.last().copied().unwrap_or(0.0);
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" font-weight=\"bold\">{name}</text>",
            WIDTH - RIGHT + 10.0,
            y(end) + 4.0
        ));
    }
    out + "</svg>\n"
}
