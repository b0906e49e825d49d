//! `comat plan`: what a run would need.

use crate::common;

use crate::common::Folder;
use std::path::Path;

fn plan(folder: &Folder, rest: &str) -> common::Done {
    let words = format!("plan --config run.toml {rest}");
    folder.comat(&words.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn memory_is_told_phase_by_phase() {
    let folder = Folder::of_run();
    let all = "--set fidelity.rank=2 --set train.batch_size=6 --set replay.micro_batch=4";
    let done = plan(&folder, &format!("{all} --memory 100GB")).ok();
    assert!(done.stdout.contains("# The plan\n") && done.stdout.contains("images       32x32, latents 4x8x8"));
    for phase in [
        "  trajectory 6 at a time",
        "  decode     6 at a time",
        "  caption    6 at a time",
        "  fidelity   6 at a time",
        "  replay     4 at a time",
    ] {
        assert!(done.stdout.contains(phase), "{phase} in {}", done.stdout);
    }
    let chosen = "micro-batches of a batch of 6 samples: captioner.micro_batch = 6, fidelity.micro_batch = 6";
    assert!(done.stdout.contains(chosen), "{}", done.stdout);
    assert!(!done.stdout.contains("  segment"), "there is none in this run");
    assert!(done.stdout.ends_with("100.00 GB is enough\n"), "{}", done.stdout);
    assert!(!folder.exists("out"), "nothing is written");
}

/// With preferences, too, the discriminator's memory is a line of its own, which decides its micro-batch.
#[test]
fn the_discriminator_of_preferences() {
    let folder = Folder::of_run();
    let words = "--set preference.candidates=2 --set train.ema=0.5 --set train.batch_size=6 --set fidelity.rank=2 --memory 100GB";
    let done = plan(&folder, &format!("{words} --set fidelity.micro_batch=4")).ok();
    assert!(done.stdout.contains("  fidelity   4 at a time"), "{}", done.stdout);
    assert!(!plan(&folder, &words.replace("--set fidelity.rank=2 ", "")).ok().stdout.contains("  fidelity"));
}

/// What the optimiser and the running average hold is in every phase. The LoRA is large beside the miniature world's networks: its
/// layers have 10,080 rows and columns, so at rank 1024 a copy of it is 0.041 GB.
#[test]
fn what_training_holds_is_part_of_the_forecast() {
    let folder = Folder::of_run();
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world");
    let needed = |settings: &str| -> f64 {
        let networks = format!("--set model.path={0}/sd --set captioner.path={0}/blip", world.display());
        let done = plan(&folder, &format!("--memory 1000GB {networks} --set lora.rank=1024 {settings}"));
        let line = done.stdout.lines().find(|line| line.starts_with("  trajectory"));
        let before = line.and_then(|line| line.split_once(" GB")).unwrap_or_else(|| panic!("{done:#?}")).0;
        before.split_whitespace().last().unwrap().parse().unwrap()
    };
    let [least, ema, prodigy] = [
        "--set optimizer.kind=adamw --set train.ema=0",
        "--set optimizer.kind=adamw --set train.ema=0.99",
        "--set optimizer.kind=prodigy --set optimizer.learning_rate=1 --set train.ema=0.99", // four copies in place of two
    ]
    .map(needed);
    assert!((0.02..0.07).contains(&(ema - least)), "{least} {ema}");
    assert!((0.06..0.11).contains(&(prodigy - ema)), "{ema} {prodigy}");
}

#[test]
fn what_does_not_fit() {
    let folder = Folder::of_run();
    plan(&folder, "--memory 1MB").error(&["0.00 GB is too little", "trajectory", "replay", "model.dtype"]);
    plan(&folder, "--memory lots").usage(&["`lots` is no amount of memory", "24GB"]);
    plan(&folder, "--set train.batch=3").error(&["unknown key `batch`"]);
}
