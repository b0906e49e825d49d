//! Runs that learn from preferences between their own images.

use crate::common::{Folder, relative_error};

const WORDS: &str = "preference.candidates=3 preference.compared=3 preference.draws=2 sampling.guidance_scale=3 train.ema=0.5 replay.tracked=5";

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
    }
    let lora = "straight/adapter/pytorch_lora_weights.safetensors";
    folder.generate(crate::common::SD1, &["a red dog"], &format!("--lora {lora} --out drawn --steps 2")).ok();
    assert!(
        folder
            .read("straight/adapter/README.md")
            .contains("| preference | 3 images of each prompt, beta 1, anchor 0.1 |")
    );
    assert!(straight != adapter("other", "train.steps=3 preference.timesteps=[0.5,0.6]"));
    assert!(straight != adapter("two", "train.steps=3 preference.compared=2"), "the middle one is left out");
    // the running average is what the run makes
    let average = folder.tensors("straight/checkpoints/step-3/ema.safetensors");
    let made = folder.tensors(lora);
    assert!(average.values().zip(made.values()).all(|(a, b)| a == b), "{:?}", made.keys());
    assert!(straight != average && !folder.exists("straight/adapter/ema"));
}

/// The discriminator is one of the rewards; it learns from the images.
#[test]
fn the_discriminator_takes_part() {
    let folder = Folder::of_run();
    const FIDELITY: &str = "fidelity.rank=3 fidelity.weight=1000 fidelity.learning_rate=0.01 fidelity.latents=latents";
    let train = |words: &str| {
        let done = folder.train(&format!("checkpoints.every=1 {WORDS} {words}"));
        assert_eq!(done.code, Some(0), "{done:?}"); // what the original model samples is said
    };
    let adapter = |output: &str, settings: &str| {
        train(&format!("output={output} {settings}"));
        folder.tensors(&format!("{output}/checkpoints/step-3/adapter.safetensors"))
    };
    let straight = adapter("straight", &format!("train.steps=3 {FIDELITY}"));
    train(&format!("output=stopped train.steps=1 {FIDELITY}"));
    assert!(straight == adapter("stopped", &format!("train.steps=3 --resume {FIDELITY}")));
    assert!(straight != adapter("without", "train.steps=3"));
    let steps: Vec<_> = folder.events("straight").into_iter().filter(|e| e["event"] == "step").collect();
    let of = |key: &str| steps.iter().map(|step| step[key].as_f64().unwrap()).collect::<Vec<_>>();
    let (loss, gap) = (of("discriminator_loss"), of("preference_gap"));
    assert!(of("seconds_fidelity").iter().all(|seconds| *seconds > 0.0), "{steps:?}");
    assert!(steps[0].get("adversarial_cotangent").is_none(), "it gives no gradient at the latents: {}", steps[0]);
    assert!(loss.iter().all(|loss| *loss > 0.0) && loss[0] != loss[2], "{loss:?}");
    let without = folder.events("without").into_iter().find(|e| e["event"] == "step").unwrap();
    assert!(gap[0] > without["preference_gap"].as_f64().unwrap(), "its reward is among the others: {gap:?} {without}");
}

#[test]
fn the_number_of_processes_changes_nothing() {
    let folder = Folder::of_run();
    let words = |run: &str| {
        format!("output={run} model.dtype=float64 train.batch_size=4 train.steps=2 {WORDS} preference.compared=2")
    };
    folder.train(&words("one")).ok();
    let learned = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-2/adapter.safetensors"));
    let one = learned("one");
    for (count, run) in [(2, "two"), (4, "four")] {
        folder.train(&format!("{} --processes {count}", words(run))).ok();
        let furthest = learned(run).iter().map(|(key, tensor)| relative_error(&one[key], tensor)).fold(0.0, f64::max);
        assert!(furthest < 1e-6, "{run}: {furthest}");
        let last = |run: &str| folder.events(run).into_iter().rfind(|e| e["event"] == "step").unwrap();
        for key in ["preference_loss", "preference_gap", "preference_distance", "caption_loss"] {
            let apart = last("one")[key].as_f64().unwrap() - last(run)[key].as_f64().unwrap();
            assert!(apart.abs() < 1e-6 * last("one")[key].as_f64().unwrap(), "{run} {key}: {apart}");
        }
    }
}

#[test]
fn what_a_run_would_do_and_what_it_cannot() {
    let folder = Folder::of_run();
    let shown = folder.train(&format!("{WORDS} --dry-run")).ok().stdout;
    assert!(shown.contains("3 images each") && shown.contains("2 times at timesteps from 0.65 to 1"), "{shown}");
    for (settings, said) in [
        ("preference.candidates=1", "preference.candidates is 1, it must be from 2 to 1000"),
        ("preference.beta=0", "preference.beta is 0"),
        ("preference.draws=0", "preference.draws is 0"),
        ("preference.timesteps=[0.6,0.6]", "preference.timesteps is [0.6, 0.6], it must be two numbers from 0 to 1"),
        ("preference.timesteps=[0.1,1.5]", "preference.timesteps is [0.1, 1.5]"),
        ("preference.anchor=-1", "preference.anchor is -1"),
        ("preference.beta=inf", "preference.beta is inf"),
        ("preference.draws=1001", "preference.draws is 1001"),
        ("captioner.end_weight=-1", "captioner.end_weight is -1"),
        ("captioner.end_weight=nan", "captioner.end_weight is NaN"),
        ("preference.beta=5 train.ema=0", "[preference] draws with the running average of the LoRA: set train.ema"),
        (
            "preference.compared=3",
            "preference.compared is 3, it must be an even number from 2 to 8, or all 8 (preference.candidates)",
        ),
        ("preference.compared=10", "preference.compared is 10"),
        ("preference.gamma=1", "unknown key `gamma`"),
        ("captioner.weight=0 preference.beta=5", "[preference] needs a reward: captioner.weight is 0"),
        ("preference.beta=5 anchor.weight=1", "[preference] does not go together with [anchor]"),
    ] {
        folder.train(&format!("train.ema=0.5 {settings}")).error(&[said]);
    }
    folder.train("train.ema=0.5 preference.beta=5 preference=false --dry-run").ok();
    // no preset says what it does not use
    let preset = folder.comat(&["train", "--config", "sd15-preference", "--dry-run"]).stderr;
    assert!(!preset.contains("no effect"), "{preset}");
    // what takes no part is named, and only then
    let said = |settings: &str| {
        let done = folder.train(&format!("train.ema=0.5 {settings} --dry-run"));
        assert_eq!(done.code, Some(0), "{done:?}");
        done.stderr
    };
    let warning = "no effect with [preference], which takes no gradient through the images: captioner.contrast, replay.mode, replay.tracked, memory.keep_decoder;";
    let found = said("captioner.contrast=0.5 replay.mode=chained memory.keep_decoder=never preference.beta=5");
    assert!(found.contains(warning), "{found}");
    assert!(!said("captioner.contrast=0.5 replay.mode=chained").contains("no effect"));
    assert!(!said("preference.beta=5 replay.tracked=5").contains("no effect"));
    folder.write("noise.safetensors", "");
    let words = ["trace", "--config", "run.toml", "--noise", "noise.safetensors", "--out", "t.safetensors"];
    folder
        .comat(&[&words[..], &["--set", "preference.beta=5", "--set", "train.ema=0.5"]].concat())
        .error(&["[preference] does not use"]);
}
