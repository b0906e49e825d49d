//! Every reader of files as a function of bytes. What it makes of them does not matter: it may refuse them, and must neither panic nor
//! hang, nor ask for more memory than the bytes are worth.
//!
//! `fuzz/` calls these from cargo-fuzz, `tests/mutations.rs` from a test on stable Rust.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of files of its own

pub mod seeds;

use diffusion::pipeline::Overrides;
use models::{
    blip, clip, grounding_dino,
    ldm::{self, Parts},
    lora::{AdapterFile, convert},
    preprocess::Preprocess,
    sam::Segmenter,
    schedule::{Forced, NoisePath, NoiseSchedule, SamplerKind},
    sentence::SentenceEmbedder,
    tensors::{self, Tensors},
    tokenizer::{BertTokenizer, ClipTokenizer},
    unet, vae,
    weights::Weights,
};
use std::{
    collections::HashMap,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

/// A reader, by the name of its target in `fuzz/`.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: [Target; 13] = [
    Target { name: "safetensors", run: safetensors },
    Target { name: "single_file", run: single_file },
    Target { name: "adapter", run: adapter },
    Target { name: "lora_names", run: lora_names },
    Target { name: "model_config", run: model_config },
    Target { name: "scheduler", run: scheduler },
    Target { name: "tokenizer", run: tokenizer },
    Target { name: "run_config", run: run_config },
    Target { name: "prompts", run: prompts },
    Target { name: "images", run: images },
    Target { name: "pairs", run: pairs },
    Target { name: "scores", run: scores },
    Target { name: "events", run: events },
];

/// Calls a function with a folder that has these files, and the path of the first.
fn with_files<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path, &Path) -> T) -> T {
    thread_local! {
        static PARENT: TempDir = tempfile::tempdir().unwrap();
    }
    PARENT.with(|parent| {
        let folder = parent.path();
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
        for (path, (_, bytes)) in paths.iter().zip(files) {
            fs::write(path, bytes).unwrap();
        }
        let result = read(folder, &paths[0]);
        for path in paths {
            fs::remove_file(path).unwrap();
        }
        result
    })
}

fn with_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path, &Path) -> T) -> T {
    with_files(&[(name, bytes)], read)
}

/// An error has to have a text, too.
fn ended<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|e| assert!(!format!("{e:#}").is_empty())).ok()
}

fn nothing() -> Weights {
    Weights::new(Tensors::new(), PathBuf::from("nothing"), Kind::Float, Device::Cpu).unwrap()
}

pub fn safetensors(bytes: &[u8]) {
    with_file("x.safetensors", bytes, |_, path| {
        let Some((tensors, _)) = ended(tensors::read(path)) else { return };
        let size: usize = tensors.values().map(|t| t.numel() * t.kind().elt_size_in_bytes()).sum();
        assert!(size <= 2 * bytes.len());
    });
}

pub fn single_file(bytes: &[u8]) {
    with_file("x.safetensors", bytes, |_, path| {
        let Some(parts) = ended(Parts::read(path)) else { return };
        ldm::unet_config(&ldm::shapes(&parts.unet));
        ldm::vae_config(&ldm::shapes(&parts.vae), false);
        for text in &parts.text {
            ldm::text_config(&ldm::shapes(text), true);
        }
        ended(parts.said.schedule(Forced::default(), path));
    });
}

/// Converts to every format; what is written has to be read back.
fn understood(file: &AdapterFile) {
    ended(file.changes());
    let options = convert::Options { kind: Some(Kind::Half), factor: 0.5, unet_only: false };
    for target in [convert::Target::Diffusers, convert::Target::Peft, convert::Target::Kohya] {
        with_file("converted.safetensors", b"", |_, out| {
            if ended(convert::convert(file, target, options, out)).is_some() {
                AdapterFile::read(out).expect("what was written is read back");
            }
        });
    }
}

pub fn adapter(bytes: &[u8]) {
    if let Some(file) = with_file("x.safetensors", bytes, |_, path| ended(AdapterFile::read(path))) {
        understood(&file);
    }
}

/// A key a line, each of a tensor of four numbers.
pub fn lora_names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let value = |key: &str| {
        let shape: &[i64] = if key.ends_with("alpha") { &[] } else { &[2, 2] };
        (key.to_owned(), Tensor::ones(shape, (Kind::Float, Device::Cpu)))
    };
    let tensors: Tensors = text.lines().take(40).map(value).collect();
    for layers_per_block in [1, 2] {
        let tensors = tensors.iter().map(|(key, t)| (key.clone(), t.shallow_clone())).collect();
        let file = AdapterFile::parse(tensors, HashMap::new(), Path::new("x.safetensors"), layers_per_block);
        let Some(file) = ended(file) else { continue };
        understood(&file);
    }
}

/// `config.json` of every network, and the network built on it.
pub fn model_config(bytes: &[u8]) {
    with_file("config.json", bytes, |folder, path| {
        if let Some(config) = ended(unet::Config::read(path)) {
            ended(unet::UNet::new(&config, &nothing()));
        }
        if let Some(config) = ended(vae::Config::read(path)) {
            ended(vae::AutoencoderKl::new(&config, &nothing(), Kind::Float));
        }
        if let Some(config) = ended(clip::TextConfig::read(path)) {
            ended(clip::TextEncoder::new(&config, &nothing()));
        }
        let (kind, device) = (Kind::Float, Device::Cpu);
        ended(blip::Captioner::open(folder, kind, device));
        ended(clip::Clip::open(folder, kind, device));
        ended(grounding_dino::Detector::open(folder, kind, device));
        ended(Segmenter::open(folder, kind, device));
        ended(SentenceEmbedder::open(folder, kind, device));
    });
    with_file("preprocessor_config.json", bytes, |folder, _| {
        ended(Preprocess::open(folder));
    });
    with_file("model_index.json", bytes, |folder, _| {
        drop(ended(diffusion::family::stable_diffusion::describe(folder, Overrides::default())));
    });
}

pub fn scheduler(bytes: &[u8]) {
    with_file("scheduler_config.json", bytes, |_, path| {
        for by_pipeline in [false, true] {
            let forced = Forced { by_pipeline, ..Forced::default() };
            let Some(schedule) = ended(NoiseSchedule::read(path, forced)) else { continue };
            for kind in SamplerKind::ALL {
                for steps in [1, 7, 50] {
                    if let Some(sampler) = ended(schedule.sampler(kind, steps, 1.0)) {
                        assert_eq!(sampler.len(), steps);
                    }
                }
            }
            schedule.signal_at(10.5);
        }
    });
}

pub fn tokenizer(bytes: &[u8]) {
    let use_it = |folder: &Path| {
        if let Some(tokenizer) = ended(ClipTokenizer::open(folder)) {
            ended(tokenizer.encode("a red dog, and it's raining"));
        }
        if let Some(tokenizer) = ended(BertTokenizer::open(folder)) {
            ended(tokenizer.encode("a red dog", 16));
        }
    };
    with_file("tokenizer.json", bytes, |folder, _| use_it(folder));
    with_file("vocab.txt", bytes, |folder, _| use_it(folder));
    let vocabulary = br#"{"a": 0, "b": 1, "ab": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}"#;
    let merges = b"a b\n";
    with_files(&[("vocab.json", bytes), ("merges.txt", merges)], |folder, _| use_it(folder));
    with_files(&[("merges.txt", bytes), ("vocab.json", vocabulary)], |folder, _| use_it(folder));
    for name in ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        let files = [(name, bytes), ("vocab.json", &vocabulary[..]), ("merges.txt", merges)];
        with_files(&files, |folder, _| use_it(folder));
    }
}

/// `run.toml`, and the same as one setting over a file that is right.
pub fn run_config(bytes: &[u8]) {
    with_file("run.toml", bytes, |_, path| drop(ended(config::read(path, &[]))));
    let right = b"output = 'o'\n[model]\npath = 'm'\n[captioner]\npath = 'c'\n[prompts]\ntrain = 'p.txt'\n";
    let settings: Vec<String> = String::from_utf8_lossy(bytes).lines().take(3).map(str::to_owned).collect();
    with_file("run.toml", right, |_, path| drop(ended(config::read(path, &settings))));
}

pub fn prompts(bytes: &[u8]) {
    for name in ["prompts.txt", "prompts.jsonl"] {
        with_file(name, bytes, |_, path| drop(ended(diffusion::prompts::read(path))));
    }
}

pub fn images(bytes: &[u8]) {
    if let Some(image) = ended(images::Image::decode(bytes)) {
        assert_eq!(image.pixels.len(), image.width * image.height * 3);
        if image.width > 0 && image.height > 0 && image.pixels.len() < 1 << 22 {
            ended(images::decode::cover(&image, images::Size { width: 8, height: 16 }));
        }
    }
    with_file("x.png", bytes, |_, path| drop(ended(images::Image::open_with_texts(path))));
}

/// Shards and lists, with their images.
pub fn pairs(bytes: &[u8]) {
    for name in ["x.tar", "x.jsonl", "x.csv", "x.json"] {
        with_file(name, bytes, |_, path| {
            let Some(pairs) = ended(pairs::Pairs::open(path)) else { return };
            for i in 0..pairs.len().min(4) {
                ended(pairs.image(i));
            }
        });
    }
}

/// Scores, and the log of a run.
pub fn scores(bytes: &[u8]) {
    with_file("scores.jsonl", bytes, |_, path| {
        if let Some(read) = ended(benchmarks::records::read(path)) {
            read.images.iter().for_each(|image| assert!(!image.lines().is_empty()));
        }
    });
    with_files(&[("events.jsonl", bytes), ("config.toml", b"output = 'o'\n")], |folder, _| {
        if let Some(log) = ended(report::log::Log::read(folder)) {
            let _ = (log.seconds(), log.seconds_a_step(), log.peak_memory());
        }
    });
}

/// TensorBoard's.
pub fn events(bytes: &[u8]) {
    with_file("x.tfevents", bytes, |_, path| drop(ended(runlog::tensorboard::read(path))));
    // with checksums that fit, so that the message is reached
    with_file("x.tfevents", &runlog::tensorboard::record::frame(bytes), |_, path| {
        drop(ended(runlog::tensorboard::read(path)));
    });
}
