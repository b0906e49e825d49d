//! The demo's steps, as commands.

use anyhow::Result;
use diffusion::settings::Where;
use models::{Error, write_text};
use std::{fs, path::Path};

/// Size of a demo.
pub struct Extent {
    pub what: &'static str,
    pub folder: &'static str,
    /// Settings of the training, in addition to those of configs/world/preference.toml.
    settings: &'static [&'static str],
    /// Number of held-out prompts that are drawn, and of images of each.
    pub prompts: usize,
    images: usize,
    /// Whether the training is long enough to be the page's subject; else the shipped LoRA is.
    whole: bool,
}

impl Extent {
    pub const WHOLE: Self = Self {
        what: "A LoRA for the miniature world: trained on prompts alone, drawn and judged on 300 held-out prompts, about ten minutes on two CPU cores,",
        folder: "runs/demo",
        settings: &["train.steps=150", "optimizer.decay_steps=50"],
        prompts: 300,
        images: 2,
        whole: true,
    };
    pub const QUICK: Self = Self {
        what: "A glance at the miniature world: a few steps of training, 40 held-out prompts, about a minute on two CPU cores,",
        folder: "runs/demo-quick",
        settings: &[
            "train.steps=8",
            "optimizer.warmup_steps=2",
            "optimizer.decay_steps=0",
            "checkpoints.every=4",
            "samples.every=0",
            "samples.count=4",
        ],
        prompts: 40,
        images: 1,
        whole: false,
    };
}

/// File in the demo's folder with the held-out prompts that it draws.
pub const PROMPTS: &str = "held_out.jsonl";

/// Guidance scales at which base model and LoRAs are about at their best, chosen on other prompts (docs/results.md).
const BASE: &str = "5";
const TUNED: &str = "3";

/// The shipped LoRA, of a longer training.
const SHIPPED: &str = "weights/world/lora/preferences.safetensors";

pub struct Step {
    pub what: &'static str,
    /// The command's words; the first is the program's name.
    pub words: Vec<String>,
}

/// A command from words, and from pairs of an option and its value. A value may contain spaces.
fn command(words: &str, options: &[(&str, String)]) -> Vec<String> {
    let mut all: Vec<String> = ["comat"].into_iter().chain(words.split(' ')).map(str::to_owned).collect();
    options.iter().for_each(|(option, value)| all.extend([(*option).to_owned(), value.clone()]));
    all
}

/// The steps of a demo: a training, images of the base model, of its LoRA and of the shipped one with the same noise, each
/// at its best guidance, their scores, and a page.
pub fn steps(out: &Path, extent: &Extent, device: Where) -> Vec<Step> {
    let of = |name: &str| out.join(name).display().to_string();
    let (held_out, device, own) = (of(PROMPTS), device.to_string(), of("adapter/pytorch_lora_weights.safetensors"));
    let train = || {
        let always = [format!("output={}", out.display()), format!("model.device={device}")];
        let settings = always.into_iter().chain(extent.settings.iter().map(|s| (*s).to_owned()));
        let settings: Vec<_> = settings.map(|setting| ("--set", setting)).collect();
        command("train --config configs/world/preference.toml --resume auto", &settings)
    };
    let draw = |name: &str, lora: Option<&str>| {
        let mut options = vec![
            ("--prompts", held_out.clone()),
            ("--count", extent.images.to_string()),
            ("--guidance-scale", if lora.is_some() { TUNED } else { BASE }.to_owned()),
        ];
        options.extend(lora.map(|lora| ("--lora", lora.to_owned())));
        options.extend([("--device", device.clone()), ("--out", of(name))]);
        command(
            "generate --model weights/world/sd --own-seeds --sampler ddim --steps 10 --batch 50 --overwrite",
            &options,
        )
    };
    let judge = |name: &str| command("world judge", &[("--prompts", held_out.clone()), ("--images", of(name))]);
    let report = || {
        let ((tuned, other, folder), loras, note) = if extent.whole {
            let note = "Tuned: the LoRA that this demo trained. Shipped: the LoRA that comes with comat, of a longer training. The \
                        base model is drawn at guidance 5, the LoRAs at 3, where each is about at its best.";
            (("tuned", "shipped", "shipped"), [own.as_str(), SHIPPED], note)
        } else {
            let note = "Tuned: the LoRA of a whole training, shipped with comat. Short: the LoRA of this demo's few steps; its \
                        curves are below. The base model is drawn at guidance 5, the LoRAs at 3, where each is about at its best. With so \
                        small a sample the intervals are wide: docs/results.md has 900 images.";
            (("shipped", "short", "tuned"), [SHIPPED, own.as_str()], note)
        };
        let mut options = vec![("--run", out.display().to_string()), ("--base", of("base")), ("--tuned", of(tuned))];
        options.push(("--also", format!("{other}={}", of(folder))));
        options.extend(loras.map(|lora| ("--lora", lora.to_owned())));
        options.extend([("--note", note.to_owned()), ("--prompts", held_out.clone()), ("--out", of("report.html"))]);
        command("world report", &options)
    };
    let all: [(&str, Vec<String>); 8] = [
        ("a LoRA from prompts alone", train()),
        ("held-out prompts, the base model at its best guidance", draw("base", None)),
        ("the same prompts and noise with the LoRA, at its best guidance", draw("tuned", Some(&own))),
        ("the same with the shipped LoRA of a longer training", draw("shipped", Some(SHIPPED))),
        ("the base model, judged", judge("base")),
        ("this training's LoRA, judged", judge("tuned")),
        ("the shipped LoRA, judged", judge("shipped")),
        ("the page: all three beside each other", report()),
    ];
    all.into_iter().map(|(what, words)| Step { what, words }).collect()
}

/// Writes the first `count` of the shipped held-out prompts. Their categories come in turn.
pub fn write_prompts(share: &Path, out: &Path, count: usize) -> Result<()> {
    let shipped = share.join("configs/world/held_out.jsonl");
    let text = fs::read_to_string(&shipped).map_err(Error::io(&shipped))?;
    let first: String = text.split_inclusive('\n').take(count).collect();
    Ok(write_text(&out.join(PROMPTS), &first)?)
}
