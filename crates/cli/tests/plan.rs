//! `comat plan`: what a run would need.

use crate::common;

use crate::common::Folder;

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

#[test]
fn what_does_not_fit() {
    let folder = Folder::of_run();
    plan(&folder, "--memory 1MB").error(&["0.00 GB is too little", "trajectory", "replay", "model.dtype"]);
    plan(&folder, "--memory lots").usage(&["`lots` is no amount of memory", "24GB"]);
    plan(&folder, "--set train.batch=3").error(&["unknown key `batch`"]);
}
