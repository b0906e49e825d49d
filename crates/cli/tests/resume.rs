//! A run that goes on under other circumstances: what is compared with what, and that nothing good is replaced.

use crate::common::{Done, Folder, fine};

#[test]
fn another_run_does_not_take_a_runs_place() {
    let folder = Folder::of_run();
    fine(folder.train("output=mine train.steps=1 checkpoints.every=1 samples.count=0"));
    fine(folder.train("output=other seed=9 train.steps=1 checkpoints.every=1 samples.count=0"));
    let before = folder.bytes("mine");
    for checkpoint in ["other/checkpoints/step-1", "other"] {
        let done = folder.train(&format!("output=mine seed=9 train.steps=2 --resume {checkpoint}"));
        done.error(&[
            "mine holds a run",
            "other/checkpoints/step-1 is a checkpoint of another one",
            "--set output=DIR",
        ]);
    }
    // checkpoints alone are a run, too
    std::fs::remove_file(folder.path("mine/events.jsonl")).unwrap();
    folder.train("output=mine seed=9 train.steps=1").error(&["mine already holds a run", "--resume"]);
    folder.write("mine/events.jsonl", &before[&std::path::PathBuf::from("events.jsonl")]);
    assert!(folder.bytes("mine") == before);
    let new = fine(folder.train("output=new seed=9 train.steps=2 samples.count=0 --resume other/checkpoints/step-1"));
    assert!(new.stdout.contains("2 steps done"), "{new:?}");
}

/// The comparison of the first and the last round is left out where they are not alike.
#[test]
fn rounds_under_other_conditions_are_not_compared() {
    let folder = Folder::of_run_on_copies();
    folder.write("held_out.txt", "a white tree\na black car\n");
    folder.write("others.txt", "a red tree\na black car\n");
    let words = |more: &str| format!("prompts.validation=held_out.txt validation.every=1 samples.count=0 {more}");
    let compared = |done: Done| fine(done).stdout.contains("Caption loss on 2 held-out prompts");
    assert!(compared(folder.train(&words("train.steps=1"))));
    assert!(compared(folder.train(&words("train.steps=2 optimizer.learning_rate=1e-4 --resume"))));
    let others = [
        "captioner.end_weight=4",
        "captioner.prefix=of",
        "sampling.guidance_scale=2",
        "model.clip_skip=2",
        "prompts.validation=others.txt",
    ];
    for (steps, other) in (3..).zip(others) {
        assert!(!compared(folder.train(&words(&format!("{other} train.steps={steps} --resume")))), "{other}");
    }
    assert!(compared(folder.train(&words("output=again train.steps=1"))));
    folder.edit_tensors("model/unet/diffusion_pytorch_model.safetensors", |all| {
        let halved = &all["conv_in.weight"] * 0.5;
        all.insert("conv_in.weight".into(), halved);
    });
    assert!(!compared(folder.train(&words("output=again train.steps=2 --resume"))), "another model of the same name");
    let one = "prompts.validation=one.txt output=one train.steps=1 samples.count=0";
    folder.write("one.txt", "a white tree\n");
    let done = fine(folder.train(one));
    assert!(done.stdout.contains("1 held-out prompt") && !done.stdout.contains("standard error"), "{done:?}");
}

#[test]
fn samples_of_other_settings_are_not_put_side_by_side() {
    let folder = Folder::of_run();
    fine(folder.train("train.steps=1 samples.count=1"));
    assert!(folder.exists("out/before-after.png"));
    fine(folder.train("train.steps=2 samples.count=1 samples.seed=5 --resume"));
    assert!(!folder.exists("out/before-after.png"));
    fine(folder.train("train.steps=3 samples.count=1 --resume"));
    assert!(folder.exists("out/before-after.png"));
}

/// The LoRA is in the checkpoint: the file that it began from may be gone, and another one has no effect.
#[test]
fn what_a_run_began_from_is_not_read_again() {
    let folder = Folder::of_run();
    fine(folder.train("output=first train.steps=1 samples.count=0"));
    std::fs::copy(folder.path("first/adapter/first.safetensors"), folder.path("start.safetensors")).unwrap();
    fine(folder.train("train.steps=1 samples.count=0 lora.init=start.safetensors"));
    std::fs::remove_file(folder.path("start.safetensors")).unwrap();
    let done = fine(folder.train("train.steps=2 samples.count=0 lora.init=start.safetensors --resume"));
    assert!(!done.stderr.contains("lora.init"), "{done:?}");
    for words in ["lora.init=first train.steps=3 --resume", "lora.init=first train.steps=4 --resume --dry-run"] {
        let done = fine(folder.train(&format!("{words} samples.count=0")));
        assert!(done.stderr.contains("no effect: lora.init"), "{done:?}");
        assert!(!done.stdout.contains("Changed since the checkpoint: lora.init"), "{done:?}");
    }
    assert!(folder.read("out/config.toml").contains("init = \"start.safetensors\""));
}
