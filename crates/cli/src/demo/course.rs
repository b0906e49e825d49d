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
    /// Whether images without guidance are drawn, too, with two pages about them.
    unguided: bool,
}

impl Extent {
    pub const WHOLE: Self = Self {
        what: "A LoRA for the miniature world: trained on prompts alone, drawn and judged on 300 held-out prompts, a quarter of an hour on two CPU cores,",
        folder: "runs/demo",
        settings: &["train.steps=200"],
        prompts: 300,
        images: 2,
        unguided: true,
    };
    pub const QUICK: Self = Self {
        what: "A glance at the miniature world: a few steps of training, 40 held-out prompts, about a minute on two CPU cores,",
        folder: "runs/demo-quick",
        settings: &[
            "train.steps=8",
            "optimizer.warmup_steps=2",
            "checkpoints.every=4",
            "samples.every=0",
            "samples.count=4",
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

/// Guidance scales: that of the training, where the base model is at its best, too (from 4 to 6 its images are equally
/// often right, docs/results.md); and no guidance.
const GUIDED: &str = "5";
const NONE: &str = "1";

/// The captioner that chooses among candidates.
const CAPTIONER: &str = "weights/world/blip";

/// The shipped LoRAs: of the same training, drawn with guidance; and of one that learnt to draw without it.
const SHIPPED: &str = "weights/world/lora/preferences.safetensors";
const UNGUIDED: &str = "weights/world/lora/comat.safetensors";

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

/// The steps of a demo. Base model and LoRAs are drawn with guidance; if `extent.unguided`, the base
/// model also without guidance, and the LoRA that was made for it. Every image has its own noise, the same for all
/// models.
pub fn steps(out: &Path, extent: &Extent, device: Where) -> Vec<Step> {
    let of = |name: &str| out.join(name).display().to_string();
    let (held_out, device, own) = (of(PROMPTS), device.to_string(), of("adapter/pytorch_lora_weights.safetensors"));
    let train = || {
        let always = [format!("output={}", out.display()), format!("model.device={device}")];
        let settings = always.into_iter().chain(extent.settings.iter().map(|s| (*s).to_owned()));
        let settings: Vec<_> = settings.map(|setting| ("--set", setting)).collect();
        command("train --config configs/world/preference.toml --resume auto", &settings)
    };
    let draw_best = |name: &str, guidance: &str, lora: Option<&str>, of_several: usize| {
        let mut options = vec![
            ("--prompts", held_out.clone()),
            ("--count", extent.images.to_string()),
            ("--guidance-scale", guidance.to_owned()),
        ];
        options.extend(lora.map(|lora| ("--lora", lora.to_owned())));
        if of_several > 1 {
            options.extend([("--best-of", of_several.to_string()), ("--captioner", CAPTIONER.to_owned())]);
        }
        options.extend([("--device", device.clone()), ("--out", of(name))]);
        command(
            "generate --model weights/world/sd --own-seeds --sampler ddim --steps 10 --batch 50 --overwrite",
            &options,
        )
    };
    let draw = |name: &str, guidance: &str, lora: Option<&str>| draw_best(name, guidance, lora, 1);
    let judge = |name: &str| command("world judge", &[("--prompts", held_out.clone()), ("--images", of(name))]);
    let report = |[base, tuned]: [&str; 2], also: Option<(&str, &str)>, loras: &[&str], note: &str, page: &str| {
        let mut options = vec![("--run", out.display().to_string()), ("--base", of(base)), ("--tuned", of(tuned))];
        options.extend(also.map(|(name, folder)| ("--also", format!("{name}={}", of(folder)))));
        options.extend(loras.iter().map(|lora| ("--lora", (*lora).to_owned())));
        options.extend([("--note", note.to_owned()), ("--prompts", held_out.clone()), ("--out", of(page))]);
        command("world report", &options)
    };
    let all: [(bool, &str, Vec<String>); 17] = [
        (true, "a LoRA from prompts alone", train()),
        (true, "held-out prompts, the base model with guidance", draw("base", GUIDED, None)),
        (true, "the same prompts, noise and guidance with the LoRA", draw("tuned", GUIDED, Some(&own))),
        (!extent.unguided, "the same with the LoRA of a whole training", draw("shipped", GUIDED, Some(SHIPPED))),
        (extent.unguided, "the base model without guidance", draw("base-unguided", NONE, None)),
        (
            extent.unguided,
            "without guidance, a LoRA that learnt to draw so, at half the cost",
            draw("unguided", NONE, Some(UNGUIDED)),
        ),
        (
            extent.unguided,
            "at the same cost as with guidance: of two images without it the captioner chooses one",
            draw_best(CHOSEN, NONE, Some(UNGUIDED), 2),
        ),
        (true, "the base model with guidance, judged", judge("base")),
        (true, "this training's LoRA, judged", judge("tuned")),
        (!extent.unguided, "the whole training's LoRA, judged", judge("shipped")),
        (extent.unguided, "the base model without guidance, judged", judge("base-unguided")),
        (extent.unguided, "the LoRA without guidance, judged", judge("unguided")),
        (extent.unguided, "the chosen images, judged", judge(CHOSEN)),
        (
            extent.unguided,
            "a page at half the cost: both without guidance",
            report(
                ["base-unguided", "unguided"],
                None,
                &[UNGUIDED],
                "Both sides are drawn without guidance, with half the passes of the network. Tuned: a shipped LoRA that learnt what \
                 guidance adds (configs/world/distil.toml, then long.toml). The curves below are those of this demo's own training, which is another.",
                "unguided.html",
            ),
        ),
        (
            extent.unguided,
            "a page at the cost of guidance: one image with it, or the better of two without",
            report(
                ["base", CHOSEN],
                None,
                &[UNGUIDED],
                "Tuned: a shipped LoRA that learnt to draw without guidance. Two of its images take as many passes of the \
                 network as one with guidance; the captioner keeps the better one. The curves below are those of this demo's own training, which is another.",
                "best-of-2.html",
            ),
        ),
        (
            extent.unguided,
            "the page: the base model and this training's LoRA, both with guidance",
            report(
                ["base", "tuned"],
                None,
                &[],
                "Tuned: the LoRA that this demo trained. Both sides are drawn with guidance 5, which suits the base model as well as any other.",
                "report.html",
            ),
        ),
        (
            !extent.unguided,
            "the page: the base model, a whole training's LoRA, and that of these few steps, all with guidance",
            report(
                ["base", "shipped"],
                Some(("short", "tuned")),
                &[SHIPPED],
                "Tuned: the LoRA of a whole training, shipped with comat. Short: the LoRA of this demo's few steps; its curves are below. \
                 With so small a sample the intervals are wide: docs/results.md has 900 images.",
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
