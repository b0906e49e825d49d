//! `comat signal`.

use crate::{console::Console, fetch, share};
use anyhow::Result;
use clap::Args;
use diffusion::settings::Adapter;
use serde_json::json;
use std::path::PathBuf;
use workbench::signal::{self, Of, Part, Request, Shares};

/// Measure how much of the gradient is the same in every batch, and where the rest comes from
///
/// Computes the gradient of single samples, several noises of each of several prompts, as a run would draw them, and compares
/// them. "common" is the share of a sample's squared gradient that is the same in all samples: the signal, which training follows;
/// larger is better. The rest differs between prompts, between noises of a prompt, and between crops that the captioner sees. A mean over more samples has more in
/// common. With this, settings can be compared before a run: guidance, replay.mode, replay.max_cotangent, captioner.contrast, and
/// so on. With [preference], a sample is a prompt's images and all their comparisons; the first line is of the timesteps that are
/// set, and the others are of the fifths of the schedule, each by itself. Nothing is trained or written.
#[derive(Args)]
pub struct Signal {
    /// The run's configuration (TOML): a file, or a preset by its name, such as sd15
    #[arg(long, value_name = "FILE|PRESET")]
    config: PathBuf,
    /// Change a setting; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Training prompts to draw
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = at_least_two)]
    prompts: usize,
    /// Noises of each prompt
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_two)]
    noises: usize,
    /// Crops of each image; 2 where the captioner's crop is moved (images of 224 pixels and more), else 1
    #[arg(long, value_name = "N", value_parser = crate::args::shared::at_least_one)]
    crops: Option<usize>,
    /// Adapter to start from, in place of lora.init: a file, the folder of one or of a run, or OWNER/NAME[:FILE] of the hub
    #[arg(long, value_name = "FILE|DIR|ID")]
    lora: Option<Adapter>,
    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= 2 => Ok(number),
        _ => Err("must be a whole number from 2 on".into()),
    }
}

pub fn run(args: Signal, console: &Console) -> Result<()> {
    let Signal { config, set, prompts, noises, crops, mut lora, json } = args;
    let mut config = share::config(&config, &set)?;
    fetch::config(&mut config, console)?;
    if let Some(adapter) = &mut lora {
        fetch::adapter(Some("--lora"), adapter, console)?;
    }
    let lora = lora.map(|adapter| adapter.to_path_buf());
    console.stop_on_ctrl_c("Stopping; nothing is written.");
    let bar = console.count("signal", "samples")?;
    let found = signal::run(config, &Request { prompts, noises, crops, lora }, &bar, &console.interrupt)?;
    bar.finish_and_clear();
    if json {
        say!("{:#}", as_json(&found));
    } else {
        print(&found)?;
    }
    Ok(())
}

fn print(found: &signal::Signal) -> Result<()> {
    let signal::Design { prompts, noises, crops } = found.design;
    let crops = if crops > 1 { format!(" × {crops} crops") } else { String::new() };
    say!("{prompts} prompts × {noises} noises{crops}, caption loss {:.4}", found.caption_loss);
    say!("Parts of a sample's squared gradient, in %:");
    say!("{:<18} {:>10} {:>16} {:>9} {:>9} {:>9}", "", "norm", "common", "prompts", "noises", "crops");
    let all = if found.is_of_preferences() { "all, as set" } else { "all tracked steps" };
    say!("{}", line(all, &found.all));
    for Part { of, shares } in &found.parts {
        let name = match of {
            Of::Step(step, time) => format!("step {} (t = {time:.0})", step + 1),
            Of::Timesteps(low, high) => format!("t from {low} to {}", high - 1),
        };
        say!("{}", line(&name, shares));
    }
    let of = |size: usize| format!("{:.1} % of a batch of {size}", 100.0 * found.all.of_batch(size as f64));
    match found.all.half() {
        Some(half) => say!(
            "In common: {}, {}. Half of it from batches of {} samples on.",
            of(found.batch),
            of(found.batch * 8),
            half.ceil()
        ),
        None => say!("Nothing in common could be measured; more prompts (--prompts) show smaller parts."),
    }
    Ok(())
}

fn line(name: &str, shares: &Shares) -> String {
    let percent = |part: f64| format!("{:.2}", 100.0 * part);
    let error = shares.error.map_or(String::new(), |error| format!(" ± {}", percent(error)));
    let common = format!("{}{error}", percent(shares.common));
    let crops = shares.crops.map_or("–".into(), percent);
    let (prompts, noises) = (percent(shares.prompts), percent(shares.noises));
    format!("{name:<18} {:>10.3e} {common:>16} {prompts:>9} {noises:>9} {crops:>9}", shares.norm)
}

fn as_json(found: &signal::Signal) -> serde_json::Value {
    let of = |shares: &Shares| {
        json!({
            "norm": shares.norm,
            "common": shares.common,
            "common_error": shares.error,
            "prompts": shares.prompts,
            "noises": shares.noises,
            "crops": shares.crops,
        })
    };
    let part = |Part { of: part, shares }: &Part| match part {
        Of::Step(step, time) => json!({ "step": step, "time": time, "shares": of(shares) }),
        Of::Timesteps(low, high) => json!({ "timesteps": [low, high], "shares": of(shares) }),
    };
    json!({
        "design": { "prompts": found.design.prompts, "noises": found.design.noises, "crops": found.design.crops },
        "caption_loss": found.caption_loss,
        "batch": found.batch,
        "common_of_a_batch": found.all.of_batch(found.batch as f64),
        "all": of(&found.all),
        if found.is_of_preferences() { "parts" } else { "steps" }: found.parts.iter().map(part).collect::<Vec<_>>(),
    })
}
