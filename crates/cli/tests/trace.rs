//! One iteration on given noise, and all its numbers.

use crate::common;

use crate::common::{Folder, relative_error};
use models::tensors::{self, Tensors};
use tch::{Device, Kind, Tensor};

const ADAPTER: &str = "out/checkpoints/step-1/adapter.safetensors";

/// A run's folder with noise for two samples, and an adapter that was trained for a step.
fn folder() -> Folder {
    let folder = Folder::of_run();
    folder.train("train.steps=1 lora.alpha=3").ok();
    folder.write_tensors("noise.safetensors", noise(2));
    folder.edit_text("run.toml", |text| text.replace("rank = 2", "rank = 2\nalpha = 3"));
    folder
}

fn noise(rows: i64) -> Tensors {
    let mut draws = torch_ext::Generator::seeded(1).unwrap();
    let mut draw = |shape: &[i64]| draws.randn(shape).unwrap();
    [("x_T".into(), draw(&[rows, 4, 8, 8])), ("z".into(), draw(&[4, rows, 4, 8, 8]))].into()
}

fn gradients(trace: &Tensors) -> Vec<(&str, &Tensor)> {
    trace.iter().filter_map(|(key, t)| Some((key.strip_prefix("grad.")?, t))).collect()
}

#[test]
fn everything_that_was_promised() {
    let folder = folder();
    let done = folder.trace(&format!("--out t.safetensors --lora {ADAPTER}")).ok();
    let (adapter, trace) = (folder.tensors(ADAPTER), folder.tensors("t.safetensors"));
    let size = |key: &str| trace[key].size();
    assert_eq!((size("x_0"), size("image")), (vec![2, 4, 8, 8], vec![2, 3, 32, 32]));
    assert_eq!(size("image_gradient"), size("image"));
    assert_eq!(Vec::<i64>::try_from(&trace["tracked"]).unwrap(), [0, 2]);
    let loss = trace["loss.caption"].double_value(&[]);
    assert!(loss > 0.0 && loss == trace["loss"].double_value(&[]));
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], format!("tracked steps {{0, 2}}, caption loss {loss:.8}"));
    assert!(lines[1].starts_with("iteration 0.") && lines.contains(&"written to t.safetensors"), "{}", done.stdout);

    let gradients = gradients(&trace);
    assert!(gradients.len() == 64 && gradients.len() + 6 == trace.len());
    assert!(gradients.iter().map(|(key, _)| *key).eq(adapter.keys().map(String::as_str)));
    for (key, gradient) in gradients {
        assert_eq!(gradient.size(), adapter[key].size(), "{key}");
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{key} has no gradient");
    }
    let (_, metadata) = tensors::read(&folder.path("t.safetensors")).unwrap();
    assert_eq!(metadata["prompts"], r#"["a red dog","a blue cat"]"#);
    folder.assert_no_leftovers();
}

/// The starting adapter comes in a file of its own, or beside the noise, or from the configuration; and the iteration may
/// be repeated.
#[test]
fn ways_to_give_an_adapter() {
    let folder = folder();
    let trace = |out: &str, words: &str| {
        folder.trace(&format!("--out {out} {words}")).ok();
        folder.bytes(out)
    };
    let own = trace("own.safetensors", &format!("--lora {ADAPTER}"));
    assert!(own == trace("repeated.safetensors", &format!("--lora {ADAPTER} --repeat 2")));
    assert!(own == trace("init.safetensors", &format!("lora.init={ADAPTER}")));
    let kohya = "out/adapter/out.safetensors";
    assert!(own == trace("kohya.safetensors", &format!("--lora {kohya}")));
    assert!(own != trace("fresh.safetensors", ""));

    let (adapter, metadata) = tensors::read(&folder.path(ADAPTER)).unwrap();
    let mut beside = noise(2);
    beside.extend(adapter);
    tensors::write(&folder.path("noise.safetensors"), &beside, metadata).unwrap();
    assert!(own == trace("beside.safetensors", ""));
    folder
        .trace(&format!("--out t.safetensors --lora {ADAPTER}"))
        .error(&["noise.safetensors: it holds an adapter, and --lora names another"]);
    assert!(!folder.exists("t.safetensors"));
}

/// A fresh adapter's up matrices are zero, so its down matrices have no gradient.
#[test]
fn a_fresh_adapter() {
    let folder = folder();
    folder.trace("--out t.safetensors").ok();
    for (key, gradient) in gradients(&folder.tensors("t.safetensors")) {
        let largest = gradient.abs().max().double_value(&[]);
        assert_eq!(largest > 0.0, key.ends_with("lora_B.weight"), "{key}: {largest}");
    }
}

#[test]
fn modes_differ_in_gradients_alone() {
    let folder = folder();
    let trace = |words: &str| {
        folder.trace(&format!("--out t.safetensors --lora {ADAPTER} {words}")).ok();
        folder.tensors("t.safetensors")
    };
    let (detached, chained) = (trace("replay.mode=detached"), trace("replay.mode=chained"));
    for key in ["x_0", "image", "loss", "tracked"] {
        assert_eq!(detached[key], chained[key], "{key}");
    }
    let differ =
        gradients(&detached).into_iter().filter(|(key, t)| relative_error(&chained[&format!("grad.{key}")], t) > 1e-3);
    assert!(differ.count() > 32, "most gradients are the same");
    // Where no later step is tracked there is nothing to chain.
    let [detached, chained] =
        ["detached", "chained"].map(|mode| trace(&format!("replay.mode={mode} replay.tracked=1 --tracked-start 3")));
    for (key, gradient) in gradients(&detached) {
        assert!(relative_error(&chained[&format!("grad.{key}")], gradient) < 1e-5, "{key}");
    }
}

#[test]
fn where_the_tracked_steps_start() {
    let folder = folder();
    let tracked = |words: &str| {
        folder.trace(&format!("--out t.safetensors {words}")).ok();
        Vec::<i64>::try_from(&folder.tensors("t.safetensors")["tracked"]).unwrap()
    };
    assert_eq!(tracked("--tracked-start 1"), [1, 3]);
    assert_eq!(tracked("replay.policy=last"), [2, 3]);
    let refused = |words: &str, part: &str| {
        folder.trace(&format!("--out new.safetensors {words}")).error(&[part]);
    };
    refused("--tracked-start 2", "--tracked-start 2: with 4 steps and 2 tracked it is below 2");
    refused("--tracked-start 0 replay.policy=last", "goes with replay.policy = \"grid\"");
    let start = |value: i64| {
        let mut all = noise(2);
        all.insert("tracked_start".into(), Tensor::from(value));
        folder.write_tensors("noise.safetensors", all);
    };
    start(1);
    assert_eq!(tracked(""), [1, 3]);
    assert_eq!(tracked("--tracked-start 0"), [0, 2], "what is typed wins");
    start(2);
    refused("", "with 4 steps and 2 tracked it is below 2");
    start(-1);
    refused("", "noise.safetensors: tracked_start is below 0");
    assert!(!folder.exists("new.safetensors"));
}

#[test]
fn noise_that_does_not_fit() {
    let folder = folder();
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let refused = |key: &str, value: Option<Tensor>, part: &str| {
        let mut all = noise(2);
        match value {
            Some(value) => drop(all.insert(key.into(), value)),
            None => drop(all.remove(key)),
        }
        folder.write_tensors("noise.safetensors", all);
        folder.trace("--out t.safetensors").error(&["noise.safetensors: ", part]);
    };
    refused("x_T", None, "there is no tensor x_T");
    refused("z", None, "there is no tensor z");
    refused("x_T", Some(zeros(&[2, 4, 8, 9])), "z [4, 2, 4, 8, 8] is not 4 steps of x_T [2, 4, 8, 9]");
    refused("z", Some(zeros(&[3, 2, 4, 8, 8])), "is not 4 steps");
    refused("x_T", Some(zeros(&[0, 4, 8, 8])), "x_T [0, 4, 8, 8] is not [B, C, h, w]");
    refused("crop", Some(zeros(&[3, 2])), "crop [3, 2] is not [2, 2]");
    refused("crop", Some(zeros(&[2, 2]) + 1), "crop (1, 1) is out of 0..=0");
    refused("tracked_start", Some(zeros(&[2])), "tracked_start [2] is not a single number");
    refused("y", Some(zeros(&[2])), "its only key is not of a LoRA");
    folder.write_tensors("noise.safetensors", noise(2));
    folder.trace("--out t.safetensors sampling.size=64").error(&["noise.safetensors: x_T", "does not fit"]);
    folder.write_tensors("noise.safetensors", noise(4));
    folder.trace("--out t.safetensors").error(&["prompts.txt: 3 prompts, but x_T has 4 rows"]);
    assert!(!folder.exists("t.safetensors"));
    folder.write_tensors("noise.safetensors", noise(2));
    folder.trace("--out gone/t.safetensors").error(&["gone/t.safetensors: no such file or folder"]);
    folder.trace("--out prompts.txt/t").error(&["prompts.txt/t: a part of this path is a file"]);
}

/// How the batch is cut changes the gradients by rounding only.
#[test]
fn micro_batches_change_nothing() {
    let folder = folder();
    let trace = |out: &str, words: &str| {
        folder.trace(&format!("--out {out} --lora {ADAPTER} replay.mode=chained {words}")).ok();
        folder.tensors(out)
    };
    let whole = trace("whole.safetensors", "");
    let cut = trace("cut.safetensors", "captioner.micro_batch=1 replay.micro_batch=1");
    for (key, gradient) in gradients(&whole) {
        let error = relative_error(&cut[&format!("grad.{key}")], gradient);
        assert!(error < 1e-4, "{key}: relative error {error:e}");
    }
}

/// What gradients have in common: the same as a by-hand comparison of single samples would give in its parts, and nothing is written.
#[test]
fn the_signal() {
    let folder = Folder::of_run();
    let signal = |words: &str| {
        let mut all = vec!["signal"];
        let words = common::train_words(words);
        all.extend(&words[1..]);
        folder.comat(&all)
    };
    let before = folder.names(".");
    let json = |words: &str| -> serde_json::Value {
        serde_json::from_str(&signal(&format!("--prompts 2 --noises 3 --json {words}")).ok().stdout).unwrap()
    };
    let found = json("replay.mode=detached");
    let part = |shares: &serde_json::Value, name: &str| shares[name].as_f64().unwrap_or(0.0);
    let steps = found["steps"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| step["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for shares in steps.iter().map(|step| &step["shares"]).chain([&found["all"]]) {
        let sum: f64 = ["common", "prompts", "noises", "crops"].iter().map(|name| part(shares, name)).sum();
        assert!((sum - 1.0).abs() < 1e-9 && part(shares, "norm") > 0.0, "{shares}");
        assert!(shares["crops"].is_null() && shares["common_error"].is_null(), "{shares}");
    }
    assert_eq!(found, json("replay.mode=detached"), "the same draws");
    assert_ne!(found["all"], json("replay.mode=detached seed=5")["all"]);
    // a limit that every sample exceeds gives all of them the same weight
    assert_ne!(found["all"]["noises"], json("replay.mode=detached replay.max_cotangent=1e-9")["all"]["noises"]);

    // of preferences, a part for each fifth of the schedule
    const PREFERENCE: &str =
        "preference.candidates=3 preference.compared=2 preference.draws=1 train.ema=0.5 replay.tracked=5";
    let found = json(PREFERENCE);
    let parts = found["parts"].as_array().unwrap();
    let ranges: Vec<_> = parts.iter().map(|part| part["timesteps"].clone()).collect();
    assert_eq!(
        ranges,
        [[800, 1000], [600, 800], [400, 600], [200, 400], [0, 200]].map(|range| serde_json::json!(range))
    );
    for shares in parts.iter().map(|part| &part["shares"]).chain([&found["all"]]) {
        let sum: f64 = ["common", "prompts", "noises"].iter().map(|name| part(shares, name)).sum();
        assert!((sum - 1.0).abs() < 1e-9 && part(shares, "norm") > 0.0, "{shares}");
    }
    let first = json(&format!("{PREFERENCE} preference.timesteps=[0.8,1]"));
    assert_eq!(first["all"]["norm"], parts[0]["shares"]["norm"], "the same range, and the same noise");
    assert_eq!(first["parts"], found["parts"]);
    assert!(signal(&format!("--prompts 2 {PREFERENCE}")).ok().stdout.contains("all, as set"));
    signal(&format!("--crops 2 {PREFERENCE}")).error(&["[preference] has no gradient at crops; leave --crops out"]);

    let page = signal("--prompts 2").ok().stdout;
    assert!(page.contains("2 prompts × 2 noises, caption loss") && page.contains("all tracked steps"), "{page}");
    signal("--prompts 1000").error(&["prompts", "1000 are asked for"]);
    signal("--prompts 1").usage(&["--prompts", "from 2 on"]);
    assert_eq!(folder.names("."), before);
}
