//! The demo's steps, as commands.

use anyhow::Result;
use diffusion::settings::Where;
use models::{Error, write_text};
use std::{fs, path::Path};

/// Size of a demo.
pub struct Extent {
    pub what: &'static str,
    pub folder: &'static str,
    /// Settings of the training, in addition to those of configs/world-preference.toml.
    settings: &'static [&'static str],
    /// Number of held-out prompts that are drawn, and of images of each.
    pub prompts: usize,
    images: usize,
    /// Whether images are also drawn without guidance, with a page about the better of two of them.
    unguided: bool,
}

impl Extent {
    pub const WHOLE: Self = Self {
        what: "A LoRA for the miniature world: trained on prompts alone, drawn and judged on 300 held-out prompts, some ten minutes on two CPU cores,",
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
            "train.steps=8",
            "train.batch_size=6",
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
const CHOSEN: &str = "best-of-2";

/// Guidance scales: the best one of the base model, chosen on other prompts (`comat world sweep`); that of the training;
/// no guidance.
const BEST: &str = "6";
const TRAINED: &str = "5";
const NONE: &str = "1";

/// The captioner that chooses among candidates.
const CAPTIONER: &str = "weights/world/blip";

/// The shipped LoRAs of long trainings: by preferences, with guidance; with guidance distilled, without.
const LONG: &str = "weights/world/lora/preference.safetensors";
const DISTILLED: &str = "weights/world/lora/comat.safetensors";

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

/// The steps of a demo. The base model is drawn at its best guidance, the LoRAs as they were trained: by preferences
/// with guidance, so at the same cost; with guidance distilled without it, two images at the same cost. Every image has
/// its own noise, the same for all models.
pub fn steps(out: &Path, extent: &Extent, device: Where) -> Vec<Step> {
    let of = |name: &str| out.join(name).display().to_string();
    let (held_out, device) = (of(PROMPTS), device.to_string());
    let train = || {
        let own = [format!("output={}", out.display()), format!("model.device={device}")];
        let settings = own.into_iter().chain(extent.settings.iter().map(|s| (*s).to_owned()));
        let settings: Vec<_> = settings.map(|setting| ("--set", setting)).collect();
        command("train --config world-preference --resume auto", &settings)
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
    let report = |tuned: &str, also: Option<(&str, &str)>, lora: &str, note: &str, page: &str| {
        let mut options = vec![("--run", out.display().to_string()), ("--base", of("base")), ("--tuned", of(tuned))];
        options.extend(also.map(|(name, folder)| ("--also", format!("{name}={}", of(folder)))));
        options.extend([("--note", note.to_owned()), ("--lora", lora.to_owned())]);
        options.extend([("--prompts", held_out.clone()), ("--out", of(page))]);
        command("world report", &options)
    };
    let all: [(bool, &str, Vec<String>); 12] = [
        (true, "a LoRA from prompts alone", train()),
        (true, "held-out prompts, the base model at its best guidance", draw("base", BEST, None)),
        (
            true,
            "the same prompts and noises with the LoRA, at the guidance of its training",
            draw("tuned", TRAINED, Some(of("adapter/pytorch_lora_weights.safetensors"))),
        ),
        (true, "the same with the LoRA of a long training", draw("long", TRAINED, Some(LONG.to_owned()))),
        (
            extent.unguided,
            "without guidance, with a LoRA that guidance was distilled into: the captioner chooses one of two",
            draw_best(CHOSEN, NONE, Some(DISTILLED.to_owned()), 2),
        ),
        (true, "the base model, judged", judge("base")),
        (true, "this training's LoRA, judged", judge("tuned")),
        (true, "the long training's LoRA, judged", judge("long")),
        (extent.unguided, "the chosen images, judged", judge(CHOSEN)),
        (
            extent.unguided,
            "a page at the cost of guidance: one image with it, or the better of two without",
            report(
                CHOSEN,
                None,
                DISTILLED,
                "Tuned: a shipped LoRA that guidance was distilled into, drawn without guidance. Two of its images take as many passes of \
                 the network as one with guidance; the captioner keeps the better one. The curves below are those of this demo's own \
                 training.",
                "best-of-2.html",
            ),
        ),
        (
            extent.unguided,
            "the page: the base model at its best guidance, this training's LoRA, and the long training's",
            report(
                "tuned",
                Some(("long", "long")),
                LONG,
                "Tuned: the LoRA that this demo trained. Long: that of a long training, shipped with comat. All are drawn with guidance, at \
                 equal cost.",
                "report.html",
            ),
        ),
        (
            !extent.unguided,
            "the page: the base model at its best guidance, the long training's LoRA, and that of this short one",
            report(
                "long",
                Some(("short", "tuned")),
                LONG,
                "Tuned: the LoRA of a long training, shipped with comat. Short: the LoRA of this demo's few steps; its curves are below. With \
                 so small a sample the intervals are wide; docs/results.md has 900 images.",
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
