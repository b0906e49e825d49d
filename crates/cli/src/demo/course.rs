//! The demo's steps, as commands.

use anyhow::Result;
use diffusion::settings::Where;
use models::{Error, write_text};
use std::{fs, path::Path};

/// Size of a demo.
pub struct Extent {
    pub what: &'static str,
    pub folder: &'static str,
    /// Settings of the training, in addition to those of configs/world.toml.
    settings: &'static [&'static str],
    /// Number of held-out prompts that are drawn, and of images of each.
    pub prompts: usize,
    images: usize,
    /// Whether the base model is also drawn without guidance, with a page that compares both sides without guidance.
    unguided: bool,
}

impl Extent {
    pub const WHOLE: Self = Self {
        what: "A LoRA for the miniature world: trained on prompts alone, drawn and judged on 300 held-out prompts, some minutes on two CPU cores,",
        folder: "runs/demo",
        settings: &[],
        prompts: 300,
        images: 2,
        unguided: true,
    };
    pub const QUICK: Self = Self {
        what: "A glance at the miniature world: a few steps of training, 40 held-out prompts, about a minute on two CPU cores,",
        folder: "runs/demo-quick",
        settings: &[
            "train.steps=12",
            "optimizer.warmup_steps=2",
            "checkpoints.every=4",
            "samples.every=0",
            "samples.count=4",
            "validation.count=16",
        ],
        prompts: 40,
        images: 1,
        unguided: false,
    };
}

/// File in the demo's folder with the held-out prompts that it draws.
pub const PROMPTS: &str = "held_out.jsonl";

/// Folder of the images that the captioner chose.
const BEST_LONG: &str = "long-best-of-2";

/// Guidance scales: the best one of the base model, chosen on other prompts (`comat world sweep`), and no guidance.
const BEST: &str = "6";
const NONE: &str = "1";

/// The captioner that chooses among candidates.
const CAPTIONER: &str = "weights/world/blip";

/// The shipped LoRA of a long training.
const LONG: &str = "weights/world/lora/comat.safetensors";

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

/// The steps of a demo. The base model is drawn at its best guidance and, if `extent.unguided`, without guidance; the
/// LoRAs are drawn without guidance, as they were trained. Every image has its own noise, the same for all models.
pub fn steps(out: &Path, extent: &Extent, device: Where) -> Vec<Step> {
    let of = |name: &str| out.join(name).display().to_string();
    let (held_out, device) = (of(PROMPTS), device.to_string());
    let train = || {
        let own = [format!("output={}", out.display()), format!("model.device={device}")];
        let settings = own.into_iter().chain(extent.settings.iter().map(|s| (*s).to_owned()));
        let settings: Vec<_> = settings.map(|setting| ("--set", setting)).collect();
        command("train --config world --resume auto", &settings)
    };
    let draw_best = |name: &str, guidance: &str, lora: Option<String>, of_several: usize| {
        let mut options = vec![
            ("--prompts", held_out.clone()),
            ("--count", extent.images.to_string()),
            ("--guidance-scale", guidance.to_owned()),
        ];
        options.extend(lora.map(|lora| ("--lora", lora)));
        if of_several > 1 {
            options.extend([("--best-of", of_several.to_string()), ("--captioner", CAPTIONER.to_owned())]);
        }
        options.extend([("--device", device.clone()), ("--out", of(name))]);
        command(
            "generate --model weights/world/sd --own-seeds --sampler ddim --steps 10 --batch 50 --overwrite",
            &options,
        )
    };
    let draw = |name: &str, guidance: &str, lora: Option<String>| draw_best(name, guidance, lora, 1);
    let judge = |name: &str| command("world judge", &[("--prompts", held_out.clone()), ("--images", of(name))]);
    let report = |base: &str, tuned: &str, also: Option<(&str, &str)>, note: Option<&str>, page: &str| {
        let mut options = vec![("--run", out.display().to_string()), ("--base", of(base)), ("--tuned", of(tuned))];
        options.extend(also.map(|(name, folder)| ("--also", format!("{name}={}", of(folder)))));
        if let Some(note) = note {
            options.extend([("--note", note.to_owned()), ("--lora", LONG.to_owned())]);
        }
        options.extend([("--prompts", held_out.clone()), ("--out", of(page))]);
        command("world report", &options)
    };
    let all: [(bool, &str, Vec<String>); 15] = [
        (true, "a LoRA from prompts alone", train()),
        (true, "held-out prompts, the base model at its best guidance", draw("base", BEST, None)),
        (extent.unguided, "the same without guidance", draw("base-unguided", NONE, None)),
        (
            true,
            "the same prompts and noises with the LoRA, without guidance",
            draw("tuned", NONE, Some(of("adapter/pytorch_lora_weights.safetensors"))),
        ),
        (true, "the same with the LoRA of a long training", draw("long", NONE, Some(LONG.to_owned()))),
        (
            extent.unguided,
            "the long training's LoRA at the cost of guidance: the captioner chooses one of two",
            draw_best(BEST_LONG, NONE, Some(LONG.to_owned()), 2),
        ),
        (true, "the base model at its best guidance, judged", judge("base")),
        (extent.unguided, "the base model without guidance, judged", judge("base-unguided")),
        (true, "this training's LoRA without guidance, judged", judge("tuned")),
        (true, "the long training's LoRA, judged", judge("long")),
        (extent.unguided, "the chosen images, judged", judge(BEST_LONG)),
        (
            extent.unguided,
            "a page at equal cost: both without guidance",
            report("base-unguided", "tuned", None, None, "unguided.html"),
        ),
        (
            extent.unguided,
            "a page at the cost of guidance: one image with it, or the better of two without",
            report(
                "base",
                BEST_LONG,
                None,
                Some(
                    "Tuned: the shipped LoRA of a long training, drawn without guidance. Two of its images take as many passes of the network \
                     as one with guidance; the captioner keeps the better one. The curves below are those of this demo's own training.",
                ),
                "best-of-2.html",
            ),
        ),
        (
            extent.unguided,
            "the page: the base model at its best guidance, this training's LoRA, and the long training's",
            report(
                "base",
                "tuned",
                Some(("long", "long")),
                Some("Tuned: the LoRA that this demo trained. Long: that of a long training, shipped with comat."),
                "report.html",
            ),
        ),
        (
            !extent.unguided,
            "the page: the base model at its best guidance, the long training's LoRA, and that of this short one",
            report(
                "base",
                "long",
                Some(("short", "tuned")),
                Some(
                    "Tuned: the LoRA of a long training, shipped with comat. Short: the LoRA of this demo's 12 steps; its curves are below. With so small a sample the \
                     difference means little: over 900 images, base and tuned were equally often right (docs/results.md).",
                ),
                "report.html",
            ),
        ),
    ];
    all.into_iter().filter(|(wanted, ..)| *wanted).map(|(_, what, words)| Step { what, words }).collect()
}

/// Writes the first `count` of the shipped held-out prompts. Their categories come in turn.
pub fn write_prompts(share: &Path, out: &Path, count: usize) -> Result<()> {
    let shipped = share.join("configs/world/held_out.jsonl");
    let text = fs::read_to_string(&shipped).map_err(Error::io(&shipped))?;
    let first: String = text.split_inclusive('\n').take(count).collect();
    Ok(write_text(&out.join(PROMPTS), &first)?)
}
