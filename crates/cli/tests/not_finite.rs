//! Steps in which something is not finite: they are skipped, and the run goes on.

use crate::common;

use crate::common::{Folder, SD1, fine};
use models::tokenizer::ClipTokenizer;
use serde_json::Value;
use std::fs;

const TEXT: &str = "model/text_encoder/model.safetensors";
const UNET: &str = "model/unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "model/vae/diffusion_pytorch_model.safetensors";
const CAPTIONER: &str = "captioner/model.safetensors";

/// Every third prompt has a word that the text encoder knows nothing finite of.
fn folder_with_one_bad_prompt() -> Folder {
    let folder = Folder::of_run_on_copies();
    let tokenizer = ClipTokenizer::open(&folder.path("model/tokenizer")).unwrap();
    let ids = |prompt: &str| tokenizer.encode(prompt).unwrap().ids;
    let known = [ids("a red dog"), ids("a blue cat"), ids("")].concat();
    let word = ids("a small green bird").into_iter().find(|id| !known.contains(id)).unwrap();
    folder.edit_tensors(TEXT, |all| {
        let key = all.keys().find(|key| key.ends_with("token_embedding.weight")).unwrap().clone();
        let poisoned = all[&key].copy();
        let _ = poisoned.get(word).fill_(f64::NAN);
        all.insert(key, poisoned);
    });
    folder
}

fn poison(folder: &Folder, file: &str, tensor: &str) {
    folder.edit_tensors(file, |all| {
        let poisoned = all[tensor].full_like(f64::NAN);
        all.insert(tensor.into(), poisoned);
    });
}

fn events(folder: &Folder, run: &str, name: &str) -> Vec<Value> {
    folder.events(run).into_iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn one_bad_step_does_not_end_a_run() {
    let folder = folder_with_one_bad_prompt();
    let settings = "train.batch_size=1 checkpoints.every=3 train.steps=";
    let done = fine(folder.train(&format!("output=straight {settings}6")));
    let skipped = events(&folder, "straight", "skipped");
    assert_eq!((skipped.len(), events(&folder, "straight", "step").len()), (2, 4), "{done:?}");
    assert_eq!((&skipped[1]["skipped"], &skipped[1]["not_finite"]), (&2.into(), &"latents".into()));
    assert_eq!(done.stderr.matches("was skipped: not finite: latents").count(), 2, "{done:?}");

    let checkpoint = "straight/checkpoints/step-6";
    let state: Value = serde_json::from_str(&folder.read(&format!("{checkpoint}/state.json"))).unwrap();
    assert_eq!((&state["step"], &state["skipped"]), (&6.into(), &2.into()));
    let moments = folder.path(&format!("{checkpoint}/optimizer.safetensors"));
    assert_eq!(models::tensors::read(&moments).unwrap().1["updates"], "4");
    let adapter = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-6/adapter.safetensors"));
    assert!(adapter("straight").values().all(|t| t.isfinite().all().int64_value(&[]) == 1));

    // a step that was skipped is not saved but as the last one; the next one that was not takes its place
    let steps =
        |name| events(&folder, "straight", name).iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>();
    let (saved, skipped) = (steps("checkpoint"), steps("skipped"));
    assert!(
        saved.len() == 2 && saved[0] >= 3 && !skipped.contains(&saved[0]) && saved[1] == 6,
        "{saved:?} {skipped:?}"
    );

    // Counts of steps and of updates are resumed, each by itself.
    fine(folder.train(&format!("output=stopped {settings}3")));
    fine(folder.train(&format!("output=stopped {settings}6 --resume")));
    assert!(adapter("stopped") == adapter("straight"));
    assert_eq!(events(&folder, "stopped", "skipped").last().unwrap()["skipped"], 2);
}

/// Whichever of them finds it, all skip the step.
#[test]
fn ranks_skip_together() {
    let folder = folder_with_one_bad_prompt();
    let run = |output: &str, words: &str| {
        let settings = "train.batch_size=2 train.steps=4 checkpoints.every=1 model.dtype=float64";
        fine(folder.train(&format!("output={output} {settings} {words}")));
        let skipped = events(&folder, output, "skipped");
        let steps: Vec<u64> = skipped.iter().map(|event| event["step"].as_u64().unwrap()).collect();
        (steps, folder.tensors(&format!("{output}/checkpoints/step-4/adapter.safetensors")))
    };
    let (alone, one) = run("alone", "");
    let (together, two) = run("together", "--processes 2");
    assert!(!alone.is_empty() && alone == together, "{alone:?} {together:?}");
    for (key, tensor) in &one {
        let error = common::relative_error(&two[key], tensor);
        assert!(error < 1e-7, "{key}: {error}");
    }
}

/// The run ends when nothing more is learned, and says what it was.
#[test]
fn ten_in_a_row_end_a_run() {
    let folder = Folder::of_run_on_copies();
    folder.train("train.steps=2 checkpoints.every=1 sampling.steps=2").ok();
    let before = (folder.bytes("out/checkpoints"), folder.bytes("out/adapter"));
    let attention = "attention.segmenter.kind=world";
    for (file, tensor, words, part) in [
        (VAE, "decoder.conv_out.bias", "", "image"),
        (VAE, "decoder.conv_out.bias", "model.dtype=float16", "image"),
        (CAPTIONER, "text_decoder.cls.predictions.bias", "", "caption loss"),
        (CAPTIONER, "text_decoder.cls.predictions.bias", "model.dtype=float16", "caption loss"),
        (UNET, "conv_in.weight", "", "latents"),
        (UNET, "conv_in.weight", "model.dtype=float16", "latents"),
        (UNET, "conv_in.weight", attention, "latents"),
        (VAE, "decoder.conv_out.bias", attention, "image"),
    ] {
        let whole = fs::read(folder.path(file)).unwrap();
        poison(&folder, file, tensor);
        let words = format!("--resume train.steps=30 checkpoints.every=1 sampling.steps=2 {words}");
        let done = folder.train(&words);
        assert_eq!(done.code, Some(1), "{done:?}");
        let last = done.stderr.lines().last().unwrap();
        let said = format!("step 12: 10 steps in a row were skipped, the last one since this was not finite: {part}.");
        assert!(last.contains(&said) && last.contains("the checkpoints are untouched; try "), "{last}");
        assert!(!last.contains("cannot hold"), "the forward pass is taken for an overflow: {last}");
        assert_eq!(done.stderr.lines().filter(|line| line.contains("was skipped")).count(), 9, "{done:?}");
        assert!((folder.bytes("out/checkpoints"), folder.bytes("out/adapter")) == before);
        folder.write(file, whole);
    }
    folder.train("--resume sampling.steps=2").ok();
}

#[test]
fn the_discriminator_has_figures_of_its_own() {
    let folder = Folder::of_run();
    fine(folder.train("train.steps=2 fidelity.rank=2"));
    for step in events(&folder, "out", "step") {
        assert!(step["discriminator_grad_norm"].as_f64().is_some_and(|norm| norm > 0.0), "{step}");
        assert_eq!(step["discriminator_skipped"], 0);
    }
}

/// What is finite on the way there can be too much on the way back; and so can a discriminator of its own.
#[test]
fn later_parts_are_named_too() {
    let folder = Folder::of_run_on_copies();
    let skipped = |output: &str, words: &str| {
        let done = fine(folder.train(&format!("output={output} train.steps=2 sampling.steps=2 {words}")));
        let parts = events(&folder, output, "skipped").into_iter().map(|event| event["not_finite"].clone());
        (parts.collect::<Vec<_>>(), done)
    };
    let (parts, done) = skipped("gradients", "captioner.weight=1e300");
    assert_eq!(parts, ["gradients", "gradients"], "{done:?}");

    folder.copy(SD1, "judge");
    poison(&folder, "judge/unet/diffusion_pytorch_model.safetensors", "conv_in.weight");
    let (parts, done) = skipped("discriminator", "fidelity.rank=2 fidelity.model=judge");
    assert_eq!(parts, ["discriminator", "discriminator"], "{done:?}");
}
