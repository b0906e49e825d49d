//! Runs with a discriminator: real latents, exact resume, what is refused.

use crate::common;

use crate::common::{Done, Folder, SD1, fine};
use std::fs;
use tch::Kind;

const FIDELITY: &str = "fidelity.rank=2 fidelity.learning_rate=1e-3";

fn latents(folder: &Folder, settings: &str) -> Done {
    let mut words = vec!["latents", "--config", "run.toml"];
    settings.split_whitespace().for_each(|s| words.extend(["--set", s]));
    folder.comat(&words)
}

#[test]
fn a_run_that_was_stopped_and_resumed_is_the_run_that_was_not() {
    let folder = Folder::of_run();
    let settings =
        format!("{FIDELITY} fidelity.latents=shared checkpoints.every=1 checkpoints.keep=0 train.accumulation=2");
    fine(folder.train(&format!("output=straight train.steps=3 {settings}")));
    fine(folder.train(&format!("output=stopped train.steps=1 {settings}")));
    fine(folder.train(&format!("output=stopped train.steps=3 {settings} --resume")));
    let files = |run: &str| folder.bytes(&format!("{run}/checkpoints/step-3"));
    let (straight, stopped) = (files("straight"), files("stopped"));
    for name in ["adapter", "optimizer", "discriminator", "discriminator.optimizer"] {
        let of = |files: &std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| {
            let file = files.iter().find(|(path, _)| path.ends_with(format!("{name}.safetensors")));
            file.unwrap_or_else(|| panic!("{name} in {:?}", files.keys())).1.clone()
        };
        assert!(of(&straight) == of(&stopped), "{name}");
    }
    let first = folder.tensors("straight/checkpoints/step-1/discriminator.safetensors");
    let last = folder.tensors("straight/checkpoints/step-3/discriminator.safetensors");
    assert!(last.keys().any(|key| key == "head.weight") && first.keys().eq(last.keys()));
    assert!(first.iter().any(|(key, t)| *t != last[key]), "the discriminator learns nothing");
    for step in folder.events("straight").iter().filter(|e| e["event"] == "step") {
        for key in ["adversarial_loss", "discriminator_loss", "discriminator_accuracy", "seconds_fidelity"] {
            assert!(step[key].as_f64().is_some_and(|n| n > 0.0), "{key} of {step}");
        }
    }
    folder.assert_no_leftovers();

    // It has a part in what is learned, by its weight.
    let adapter = |output: &str, settings: &str| {
        fine(folder.train(&format!("output={output} train.steps=1 checkpoints.every=1 {settings}")));
        folder.tensors(&format!("{output}/checkpoints/step-1/adapter.safetensors"))
    };
    let none = adapter("none", "");
    assert!(none == adapter("zero", &format!("{FIDELITY} fidelity.latents=shared fidelity.weight=0")));
    assert!(none != adapter("some", &format!("{FIDELITY} fidelity.latents=shared")));
    let resumed = folder.train(&format!("output=none train.steps=2 {FIDELITY} fidelity.latents=shared --resume"));
    resumed.error(&["it has no discriminator", "[fidelity]"]);
}

#[test]
fn latents_are_made_once_and_are_those_of_the_original_model() {
    let folder = Folder::of_run();
    let latents = |settings: &str| latents(&folder, settings);
    let done = fine(latents("fidelity.latents=real"));
    assert!(done.stdout.starts_with("3 latents of [4, 8, 8] for real, 0.0 MB"), "{done:?}");
    assert_eq!(folder.names("real"), ["00000.safetensors", "latents.json"]);
    let (index, shard) = (folder.read("real/latents.json"), folder.tensors("real/00000.safetensors"));
    assert_eq!((shard["latents"].size(), shard["latents"].kind()), (vec![3, 4, 8, 8], Kind::Half));

    // A prompt that is new is added in a shard of its own, what is there stays; how they are cut into batches is of no matter.
    folder.write("prompts.txt", "a tree\na red dog\na red dog\na blue cat\na small green bird\n");
    fine(latents("fidelity.latents=real fidelity.latents_batch=1"));
    assert_eq!(folder.tensors("real/00000.safetensors")["latents"], shard["latents"]);
    assert_eq!(folder.tensors("real/00001.safetensors")["latents"].size(), [1, 4, 8, 8]);
    fine(latents("fidelity.latents=again fidelity.latents_batch=4"));
    let again = folder.tensors("again/00000.safetensors")["latents"].to_kind(Kind::Float);
    let furthest = (again.narrow(0, 1, 3) - shard["latents"].to_kind(Kind::Float)).abs().max().double_value(&[]);
    assert!(furthest < 1e-2, "{furthest}");
    assert!(latents("fidelity.latents=real").ok().stderr.is_empty(), "nothing is left to be made");
    fine(folder.train(&format!("train.steps=1 {FIDELITY} fidelity.latents=real")));

    for (change, said) in [
        ("sampling.steps=3", "sampled with"),
        ("fidelity.guidance_scale=3", "sampled with"),
        ("fidelity.latents_seed=5", "from seed 0, not 5"),
        ("sampling.size=48x32", "of images of 32x32, not 48x32"),
    ] {
        latents(&format!("fidelity.latents=real {change}")).error(&["real: the latents in it are", said, "delete"]);
    }
    folder.copy(SD1, "model");
    folder.edit_tensors("model/unet/diffusion_pytorch_model.safetensors", |all| {
        all.values_mut().for_each(|t| *t = &*t * 1.01);
    });
    latents("fidelity.latents=real model.path=model").error(&["of another model", "fingerprint"]);

    folder.edit_tensors("real/00000.safetensors", |all| all.values_mut().for_each(|t| *t = &*t + 1.0));
    latents("fidelity.latents=real").error(&["00000.safetensors", "changed or damaged", "delete their folder"]);
    fs::remove_file(folder.path("real/00000.safetensors")).unwrap();
    latents("fidelity.latents=real").error(&["00000.safetensors"]);
    folder.write("real/latents.json", &index[..index.len() / 2]);
    latents("fidelity.latents=real").error(&["latents.json", "delete their folder"]);
}

/// Ctrl-C before the first step: what is made is kept, and the run can be started again.
#[test]
fn a_run_that_is_stopped_while_it_makes_latents() {
    let folder = Folder::of_run();
    let prompts: String = (0..600).map(|i| format!("a red dog and {i} birds\n")).collect();
    folder.write("prompts.txt", prompts);
    let words = format!("{FIDELITY} train.batch_size=32 replay.tracked=1 sampling.steps=2");
    let mut run = folder.start(&common::train_words(&format!("{words} train.steps=20")));
    run.until("the first shard", || folder.exists("out/latents/latents.json"));
    run.signal("INT");
    let stopped = run.wait();
    assert_eq!(stopped.code, Some(130), "{stopped:?}");
    let first = folder.bytes("out/latents/00000.safetensors");
    fine(latents(&folder, &format!("{words} train.steps=20")));
    assert!(folder.bytes("out/latents/00000.safetensors") == first);
    assert_eq!(folder.names("out/latents").len(), 4);
    fine(folder.train(&format!("{words} train.steps=1")));
    assert_eq!(folder.names("out/latents").len(), 4);
}

/// Of a short run few prompts have latents, and a longer one adds those that are new.
#[test]
fn only_prompts_that_the_run_reaches() {
    let folder = Folder::of_run();
    folder.write("prompts.txt", (0..9).map(|i| format!("a red dog and {i} birds\n")).collect::<String>());
    let listed = |name: &str| {
        let index: serde_json::Value = serde_json::from_str(&folder.read(&format!("{name}/latents.json"))).unwrap();
        let shards = index["shards"].as_array().unwrap().iter();
        shards.map(|s| s["prompts"].as_array().unwrap().len()).collect::<Vec<_>>()
    };
    let words = format!("{FIDELITY} fidelity.latents=real train.batch_size=2");
    fine(folder.train(&format!("{words} train.steps=1 output=short")));
    assert_eq!(listed("real"), [2]);
    let first = folder.bytes("real/00000.safetensors");
    fine(latents(&folder, &format!("{words} train.steps=1 train.accumulation=3")));
    assert_eq!(listed("real"), [2, 4]);
    fine(latents(&folder, &format!("{words} train.steps=100")));
    assert_eq!(listed("real"), [2, 4, 3]);
    assert!(folder.bytes("real/00000.safetensors") == first);
    fine(folder.train(&format!("{words} train.steps=5 output=long")));
}

/// However many are sampled at a time, a prompt's latents are the same ones.
#[test]
fn the_batch_changes_nothing() {
    let folder = Folder::of_run();
    let made = |at_a_time: usize| {
        let words = format!("fidelity.latents=by{at_a_time} fidelity.latents_batch={at_a_time} model.dtype=float64");
        fine(latents(&folder, &words));
        folder.tensors(&format!("by{at_a_time}/00000.safetensors"))
    };
    let one = made(1);
    assert_eq!(one["latents"].size(), [3, 4, 8, 8]);
    assert!(one == made(2) && one == made(3) && one == made(50));
}

#[test]
fn settings_that_no_run_can_have() {
    let folder = Folder::of_run();
    for (settings, said) in [
        ("fidelity.rank=0", "fidelity.rank is 0"),
        ("fidelity.weight=-1", "fidelity.weight is -1"),
        ("fidelity.learning_rate=0", "fidelity.learning_rate is 0"),
        ("fidelity.betas=[1.0,0.9]", "fidelity.betas[0] is 1"),
        ("fidelity.model=no/such", "fidelity.model: no/such"),
    ] {
        folder.train(&format!("train.steps=1 output=x{} {settings}", settings.len())).error(&[said]);
    }
    let shown = folder.train(&format!("{FIDELITY} --dry-run")).ok().stdout;
    assert!(shown.contains("discriminator of rank 2 on the model itself, weights shared"), "{shown}");
}
