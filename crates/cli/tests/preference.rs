//! Runs that learn from preferences between their own images.

use crate::common::{Folder, relative_error};

const WORDS: &str =
    "captioner.label_smoothing=0.1 preference.candidates=3 preference.draws=2 sampling.guidance_scale=3";

#[test]
fn images_are_compared_and_a_run_is_resumed_exactly() {
    let folder = Folder::of_run();
    let adapter = |output: &str, settings: &str| {
        folder.train(&format!("output={output} checkpoints.every=1 {WORDS} {settings}")).ok();
        folder.tensors(&format!("{output}/checkpoints/step-3/adapter.safetensors"))
    };
    let straight = adapter("straight", "train.steps=3");
    folder.train(&format!("output=stopped train.steps=1 checkpoints.every=1 {WORDS}")).ok();
    assert!(straight == adapter("stopped", "train.steps=3 --resume"));
    let steps: Vec<_> = folder.events("straight").into_iter().filter(|e| e["event"] == "step").collect();
    assert_eq!(steps.len(), 3);
    assert!((steps[0]["preference_loss"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{}", steps[0]);
    for step in &steps {
        assert!(
            step["preference_gap"].as_f64().unwrap() > 0.0 && step["caption_loss"].as_f64().unwrap() > 0.0,
            "{step}"
        );
        let seconds = |key: &str| step[key].as_f64().unwrap();
        assert!(seconds("seconds_caption") > 0.0 && seconds("seconds_replay") > 0.0, "{step}");
        assert!(step["caption_cotangent"].is_null(), "no gradient comes from the captioner: {step}");
        assert!(step.get("smoothed_loss").is_none(), "{step}");
    }
    let lora = "straight/adapter/pytorch_lora_weights.safetensors";
    folder.generate(crate::common::SD1, &["a red dog"], &format!("--lora {lora} --out drawn --steps 2")).ok();
    assert!(folder.read("straight/adapter/README.md").contains("| preference | 3 images of each prompt, beta 1 |"));
    assert!(straight != adapter("other", "train.steps=3 preference.timesteps=[0.5,0.6]"));
    // with a running average, which draws
    let averaged = adapter("averaged", "train.steps=3 train.ema=0.5");
    folder.train(&format!("output=halted train.steps=2 checkpoints.every=1 train.ema=0.5 {WORDS}")).ok();
    assert!(averaged == adapter("halted", "train.steps=3 train.ema=0.5 --resume"));
    assert!(straight != averaged);
}

#[test]
fn the_number_of_processes_changes_nothing() {
    let folder = Folder::of_run();
    let words = |run: &str| format!("output={run} model.dtype=float64 train.batch_size=4 train.steps=2 {WORDS}");
    folder.train(&words("one")).ok();
    let learned = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-2/adapter.safetensors"));
    let one = learned("one");
    for (count, run) in [(2, "two"), (4, "four")] {
        folder.train(&format!("{} --processes {count}", words(run))).ok();
        let furthest = learned(run).iter().map(|(key, tensor)| relative_error(&one[key], tensor)).fold(0.0, f64::max);
        assert!(furthest < 1e-6, "{run}: {furthest}");
        let last = |run: &str| folder.events(run).into_iter().rfind(|e| e["event"] == "step").unwrap();
        for key in ["preference_loss", "preference_gap", "caption_loss"] {
            let apart = last("one")[key].as_f64().unwrap() - last(run)[key].as_f64().unwrap();
            assert!(apart.abs() < 1e-6, "{run} {key}: {apart}");
        }
    }
}

#[test]
fn what_a_run_would_do_and_what_it_cannot() {
    let folder = Folder::of_run();
    let shown = folder.train(&format!("{WORDS} --dry-run")).ok().stdout;
    assert!(shown.contains("3 images each") && shown.contains("2 comparisons at timesteps from 0.3 to 1"), "{shown}");
    for (settings, said) in [
        ("preference.candidates=1", "preference.candidates is 1, it must be 2 or more"),
        ("preference.beta=0", "preference.beta is 0"),
        ("preference.draws=0", "preference.draws is 0"),
        ("preference.timesteps=[0.6,0.6]", "preference.timesteps is [0.6, 0.6], it must be two numbers from 0 to 1"),
        ("preference.timesteps=[0.1,1.5]", "preference.timesteps is [0.1, 1.5]"),
        ("preference.gamma=1", "unknown key `gamma`"),
        ("captioner.weight=0 preference.beta=5", "[preference] needs a reward: captioner.weight is 0"),
        ("preference.beta=5 anchor.weight=1", "[preference] does not go together with [anchor]"),
    ] {
        folder.train(settings).error(&[said]);
    }
    folder.train("preference.beta=5 preference=false --dry-run").ok();
    folder.write("noise.safetensors", "");
    let words = ["trace", "--config", "run.toml", "--noise", "noise.safetensors", "--out", "t.safetensors"];
    folder.comat(&[&words[..], &["--set", "preference.beta=5"]].concat()).error(&["[preference] does not use"]);
}
