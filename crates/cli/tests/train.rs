//! Training runs from start to end, stopped and resumed.

use crate::common;

use crate::common::{Done, Folder, Image, fixture, on_a_device, relative_error, train_words};
use models::tensors::Tensors;
use serde_json::Value;
use std::{fs, path::Path, process::Command};
use tch::Kind;

/// Steps of a run's log, in the order they were written.
fn steps(folder: &Folder, run: &str) -> Vec<Value> {
    folder.events(run).into_iter().filter(|e| e["event"] == "step").collect()
}

fn logged(folder: &Folder, run: &str, steps_at_least: usize) -> bool {
    let log = fs::read_to_string(folder.path(&format!("{run}/events.jsonl"))).unwrap_or_default();
    log.matches("\"event\":\"step\"").count() >= steps_at_least
}

/// Tensors of two checkpoints, bit by bit.
#[track_caller]
fn assert_same_checkpoint(folder: &Folder, one: &str, other: &str) {
    for file in ["adapter.safetensors", "optimizer.safetensors"] {
        let [a, b] = [one, other].map(|checkpoint| folder.tensors(&format!("{checkpoint}/{file}")));
        assert!(a.len() > 8 && a.keys().eq(b.keys()));
        a.iter().for_each(|(key, tensor)| assert_eq!(*tensor, b[key], "{key} of {file}"));
        let [a, b] = [one, other].map(|checkpoint| folder.bytes(&format!("{checkpoint}/{file}")));
        assert!(a == b, "{file}");
    }
}

/// A run that was stopped and resumed is the run that was not: adapter and moments are the same numbers.
#[test]
fn resuming_is_exact() {
    for mode in ["detached", "chained"] {
        let folder = Folder::of_run();
        let settings = format!("replay.mode={mode} train.accumulation=2 train.steps=");
        folder.train(&format!("output=straight checkpoints.every=2 {settings}4")).ok();
        folder.train(&format!("output=stopped {settings}2")).ok();
        folder.train(&format!("output=stopped {settings}4 --resume")).ok();
        assert_same_checkpoint(&folder, "straight/checkpoints/step-2", "stopped/checkpoints/step-2");
        assert_same_checkpoint(&folder, "straight/checkpoints/step-4", "stopped/checkpoints/step-4");
        assert_eq!(folder.read("stopped/checkpoints/latest"), "step-4");
        let adapter = |step| folder.bytes(&format!("straight/checkpoints/step-{step}/adapter.safetensors"));
        assert!(adapter(2) != adapter(4), "nothing was learned");
        let losses = |run| steps(&folder, run).iter().map(|s| s["caption_loss"].as_f64().unwrap()).collect::<Vec<_>>();
        assert_eq!(losses("straight"), losses("stopped"));
    }
}

/// Prodigy's distance and sums are resumed as exactly as AdamW's moments; neither goes on from the other's.
#[test]
fn prodigy() {
    let folder = Folder::of_run();
    let settings = "optimizer.kind=prodigy optimizer.learning_rate=1 optimizer.max_grad_norm=0.01 \
         optimizer.prodigy={d0=1e-5,d_coef=50} train.accumulation=2 train.steps=";
    folder.train(&format!("output=straight checkpoints.every=2 {settings}5")).ok();
    folder.train(&format!("output=stopped {settings}2")).ok();
    folder.train(&format!("output=stopped {settings}5 --resume")).ok();
    assert_same_checkpoint(&folder, "straight/checkpoints/step-2", "stopped/checkpoints/step-2");
    assert_same_checkpoint(&folder, "straight/checkpoints/step-5", "stopped/checkpoints/step-5");
    let distances: Vec<f64> = steps(&folder, "straight").iter().map(|s| s["prodigy_d"].as_f64().unwrap()).collect();
    assert!(distances[0] == 1e-5 && distances[4] > 1e-5, "{distances:?}");
    folder
        .train("output=stopped train.steps=6 --resume")
        .error(&["step-5/optimizer.safetensors: it is of prodigy, optimizer.kind says adamw", "start another run"]);
    folder.train("output=plain train.steps=1").ok();
    assert!(steps(&folder, "plain")[0].get("prodigy_d").is_none());
    folder
        .train("output=plain train.steps=2 optimizer.kind=prodigy optimizer.learning_rate=1 --resume")
        .error(&["step-1/optimizer.safetensors: it is of adamw, optimizer.kind says prodigy"]);
}

/// Samples may be drawn by a sampler that does not train, in steps of their own; the rest of the run does not notice.
#[test]
fn samples_by_another_sampler() {
    let folder = Folder::of_run();
    let settings = "train.steps=1 samples.count=1 sampling.sampler=euler";
    folder.train(&format!("output=same {settings}")).ok();
    folder.train(&format!("output=other {settings} samples.sampler=dpm++_2m_karras samples.steps=3")).ok();
    let drawn = |run: &str| Image::open(&folder.path(&format!("{run}/samples/step-1/000-a-red-dog.png")));
    let (same, other) = (drawn("same"), drawn("other"));
    assert!(same.texts["parameters"].contains("Steps: 4, Sampler: Euler,"), "{:?}", same.texts);
    assert!(other.texts["parameters"].contains("Steps: 3, Sampler: DPM++ 2M Karras,"), "{:?}", other.texts);
    assert!(same.difference(&other) > 0);
    assert_same_checkpoint(&folder, "same/checkpoints/step-1", "other/checkpoints/step-1");
    let recipe = folder.read("other/samples/step-1/README.md");
    assert!(recipe.contains("| scheduler | `karras` | schedule type Karras |\n| steps | 3 | 3 |"), "{recipe}");
    folder.train("output=none sampling.sampler=dpm++_2m").error(&[
        "run.toml: sampling.sampler is dpm++_2m, which draws images but does not train",
        "ddpm, ddim and euler",
    ]);
}

/// `micro_batch = "auto"` is a number from then on, and stays it when the run goes on.
#[test]
fn micro_batches_are_chosen_once() {
    let folder = Folder::of_run();
    folder.edit_text("run.toml", |text| text.replace("micro_batch", "# micro_batch"));
    folder.train("output=out train.steps=1").ok();
    let chosen =
        |file: &str| folder.read(file).lines().filter(|l| l.starts_with("micro_batch")).collect::<Vec<_>>().join(" ");
    assert_eq!(chosen("out/config.toml"), "micro_batch = 0 micro_batch = 0");
    folder.edit_text("out/checkpoints/step-1/config.toml", |text| text.replace("micro_batch = 0", "micro_batch = 1"));
    let done = folder.train("output=out train.steps=2 --resume").ok();
    assert!(!done.stdout.contains("micro_batch"), "nothing has changed: {}", done.stdout);
    assert_eq!(chosen("out/config.toml"), "micro_batch = 1 micro_batch = 1");
    folder.train("output=bad captioner.micro_batch=some").error(&["`some` is not a micro-batch", "auto"]);
}

/// The running average is resumed as exactly, and is an adapter of its own with samples of its own.
#[test]
fn a_running_average() {
    let folder = Folder::of_run();
    let settings = "train.ema=0.5 samples.count=1 checkpoints.every=2 optimizer.learning_rate=0.1 train.steps=";
    folder.train(&format!("output=straight {settings}4")).ok();
    folder.train(&format!("output=stopped {settings}2")).ok();
    folder.train(&format!("output=stopped {settings}4 --resume")).ok();
    let ema = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-4/ema.safetensors"));
    assert!(ema("straight") == ema("stopped"));
    assert!(ema("straight") != folder.tensors("straight/checkpoints/step-4/adapter.safetensors"));
    assert_eq!(folder.names("straight/adapter/ema"), ["pytorch_lora_weights.safetensors", "straight.safetensors"]);
    assert_eq!(folder.names("straight/samples/step-4/ema"), ["000-a-red-dog.png", "grid.png"]);
    let drawn = |path: &str| Image::open(&folder.path(&format!("straight/samples/step-4/{path}000-a-red-dog.png")));
    assert!(drawn("").difference(&drawn("ema/")) > 0);
    let plain = settings.replace("train.ema=0.5", "");
    folder.train(&format!("output=plain {plain}2")).ok();
    folder.train(&format!("output=plain {settings}4 --resume")).ok(); // from here on
    assert!(folder.exists("plain/checkpoints/step-4/ema.safetensors"));
}

/// The same settings are the same run, and each of these makes another one.
#[test]
fn what_a_run_depends_on() {
    let folder = Folder::of_run();
    let adapter = |output: &str, settings: &str| {
        folder.train(&format!("output={output} train.steps=1 {settings}")).ok();
        folder.bytes(&format!("{output}/checkpoints/step-1/adapter.safetensors"))
    };
    let first = adapter("a", "");
    assert!(first == adapter("b", "") && first == adapter("d", "model.deterministic=true"));
    let others = ["replay.mode=chained", "train.accumulation=2", "seed=4", "replay.policy=last", "train.batch_size=1"];
    for (i, other) in others.into_iter().enumerate() {
        assert!(first != adapter(&format!("c{i}"), other), "{other} makes no difference");
    }
}

/// The machine may go off at any time: what is there then is enough to come to the same end.
#[test]
fn a_killed_run_goes_on() {
    let folder = Folder::of_run();
    let settings = "checkpoints.every=1 checkpoints.keep=0 train.steps=6";
    folder.train(&format!("output=straight {settings}")).ok();
    let words = format!("output=killed {settings}");
    let mut run = folder.start(&train_words(&words));
    run.until("the second step", || logged(&folder, "killed", 2));
    run.signal("KILL");
    assert_eq!(run.wait().code, None);
    folder.train(&format!("{words} --resume")).ok();
    assert_same_checkpoint(&folder, "straight/checkpoints/step-6", "killed/checkpoints/step-6");
    assert_eq!(folder.names("killed/checkpoints"), folder.names("straight/checkpoints"));
}

/// The names in it are hints only: a checkpoint without `latest`, or beside a wrong one, is found.
#[test]
fn the_newest_checkpoint_is_found() {
    let folder = Folder::of_run();
    folder.train("train.steps=2 checkpoints.every=1").ok();
    for hint in [Some("step-9"), Some(""), None] {
        match hint {
            Some(text) => folder.write("out/checkpoints/latest", text),
            None => fs::remove_file(folder.path("out/checkpoints/latest")).unwrap(),
        }
        folder.train("train.steps=2 --resume").ok();
        assert_eq!(folder.events("out").iter().rfind(|e| e["event"] == "start").unwrap()["step"], 2);
    }
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let folder = Folder::of_run();
    fs::rename(folder.path("run.toml"), folder.path("it's mine.toml")).unwrap();
    let mut words = train_words("checkpoints.every=1000 lora.targets=['to_q','to_k'] train.steps=5000");
    words[2] = "it's mine.toml";
    let mut run = folder.start(&words);
    run.until("the second step", || logged(&folder, "out", 2));
    run.signal("INT");
    let Done { code, stdout, stderr } = run.wait();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(
        stderr,
        "Stopping; the step under way is given up, all before it is saved. Ctrl-C once more stops at once, without saving.\n"
    );
    folder.assert_no_leftovers();

    let step = steps(&folder, "out").len();
    let checkpoint = format!("step-{step}");
    assert_eq!(folder.names("out/checkpoints"), ["latest", &checkpoint]);
    assert_eq!(folder.read("out/checkpoints/latest"), checkpoint);
    assert!(!folder.exists("out/adapter"));
    let (said, command) = stdout.trim().split_once(". Go on with: comat ").unwrap();
    assert_eq!(said, format!("Stopped after step {step}; it is saved"));

    // the command, typed as it was printed, and ended by a setting
    let script = format!("\"$0\" {command} --set train.steps={}", step + 2);
    let program = folder.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(program.get_program()).current_dir(folder.path("")).env("RUST_LOG", "warn");
    Done::from(shell.output().unwrap()).ok();
    assert_eq!(folder.read("out/checkpoints/latest"), format!("step-{}", step + 2));
    let numbers: Vec<_> = steps(&folder, "out").iter().map(|s| s["step"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=step as u64 + 2).collect::<Vec<_>>());
}

/// It is heard in the middle of a trajectory, and in a validation: the step is given up, and what was saved goes on as if nothing had been.
#[test]
fn ctrl_c_does_not_wait_for_the_step() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a red square\na blue circle\n");
    let settings = "train.accumulation=500 train.batch_size=4 sampling.steps=20 train.steps=1"; // minutes
    let mut run = folder.start(&train_words(settings));
    run.until("the start", || folder.exists("out/events.jsonl") && !folder.events("out").is_empty());
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal("INT");
    let began = std::time::Instant::now();
    let done = run.wait();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(began.elapsed().as_secs() < 10 && done.stdout.starts_with("Stopped after step 0; it is saved"), "{done:?}");
    assert!(steps(&folder, "out").is_empty());
    assert_eq!(folder.names("out/checkpoints"), ["latest", "step-0"]);
    let rest = "train.accumulation=1 train.steps=2 checkpoints.every=1";
    folder.train(&format!("{rest} --resume")).ok();
    folder.train(&format!("output=straight {rest}")).ok();
    assert_same_checkpoint(&folder, "out/checkpoints/step-2", "straight/checkpoints/step-2");

    let words =
        "output=watched prompts.validation=held_out.txt validation.every=1 sampling.steps=500 train.batch_size=1";
    let mut run = folder.start(&train_words(words));
    run.until("the start", || folder.exists("watched/events.jsonl") && !folder.events("watched").is_empty());
    run.signal("INT");
    let done = run.wait();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(folder.events("watched").iter().all(|event| event["event"] != "validation"));
}

/// Killed while a checkpoint takes the place of another one of the same step, a run still has the old one.
#[test]
fn a_checkpoint_that_is_being_replaced_is_there() {
    let folder = Folder::of_run();
    let settings = "checkpoints.every=1 train.steps=";
    folder.train(&format!("{settings}3")).ok();
    let last = folder.bytes("out/checkpoints/step-3");
    let moved = |from: &str, to: &str| fs::rename(folder.path(from), folder.path(to)).unwrap();
    moved("out/checkpoints/step-3", "out/checkpoints/step-3.replaced");
    folder.train(&format!("{settings}4 --resume")).ok();
    assert_eq!(folder.events("out").iter().rfind(|e| e["event"] == "start").unwrap()["step"], 3);
    fs::remove_dir_all(folder.path("out/checkpoints/step-3.replaced")).unwrap();
    folder.train(&format!("{settings}3 --resume out/checkpoints/step-2")).ok();
    folder.train(&format!("{settings}3 --resume out/checkpoints/step-2")).ok();
    assert_eq!(folder.names("out/checkpoints"), ["latest", "step-2", "step-3", "step-4"]);
    assert!(folder.bytes("out/checkpoints/step-3").iter().all(|(name, bytes)| last[name] == *bytes));
}

/// The second one does not wait for anything, and leaves what was saved before.
#[test]
fn two_ctrl_c_stop_at_once() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let before = folder.bytes("out/checkpoints");
    let words = train_words("sampling.size=512 train.batch_size=8 train.steps=3 --resume"); // a denoising step of seconds
    let mut run = folder.start(&words);
    run.until("the start", || folder.events("out").iter().filter(|e| e["event"] == "start").count() == 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    run.signal("INT");
    std::thread::sleep(std::time::Duration::from_millis(30)); // two that come at once are one
    run.signal("INT");
    let done = run.wait();
    assert_eq!(done.code, Some(130), "{done:#?}");
    assert!(folder.bytes("out/checkpoints") == before);
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let folder = Folder::of_run();
    folder.train("train.steps=5 checkpoints.every=1 checkpoints.keep=2").ok();
    assert_eq!(folder.names("out/checkpoints"), ["latest", "step-4", "step-5"]);
    assert_eq!(folder.read("out/checkpoints/latest"), "step-5");
    folder.train("train.steps=6 --resume out/checkpoints/step-4").ok();
    let names = ["adapter.safetensors", "config.toml", "optimizer.safetensors", "state.json"];
    assert_eq!(folder.names("out/checkpoints/step-6"), names);
    assert_eq!(folder.events("out").iter().rfind(|e| e["event"] == "start").unwrap()["step"], 4);
    folder.train("output=all train.steps=3 checkpoints.every=1 checkpoints.keep=0").ok();
    assert_eq!(folder.names("all/checkpoints"), ["latest", "step-1", "step-2", "step-3"]);
    folder.train("output=last train.steps=3 checkpoints.every=0").ok();
    assert_eq!(folder.names("last/checkpoints"), ["latest", "step-3"]);
}

/// A second process would mix its log and checkpoints with those of the first.
#[test]
fn a_folder_in_which_another_process_trains() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let lock = std::fs::File::options().append(true).open(folder.path("out/.lock")).unwrap();
    lock.lock().unwrap();
    let before = folder.bytes("out");
    folder
        .train("train.steps=2 --resume auto")
        .error(&["out: another process is training in this folder", "output=DIR"]);
    assert!(folder.bytes("out") == before);
    drop(lock);
    folder.train("train.steps=2 --resume auto").ok();
}

/// Everything that the documentation promises of a run's folder.
#[test]
fn the_folder_of_a_run() {
    let folder = Folder::of_run();
    folder.write("held_out.jsonl", "{\"prompt\": \"a white tree\"}\n{\"prompt\": \"an orange house\"}\n");
    let settings = "output=runs/first prompts.validation=held_out.jsonl samples.count=2 samples.every=2 validation.every=2 \
                    checkpoints.every=2";
    let done: Done = folder.command(&train_words(settings)).env("RUST_LOG", "info").output().unwrap().into();
    assert_eq!(done.code, Some(0), "{done:#?}");
    assert!(done.stdout.contains("4 steps done. The LoRA is in runs/first/adapter"), "{}", done.stdout);
    assert!(done.stdout.contains("Before and after: runs/first/before-after.png"), "{}", done.stdout);
    assert_eq!(done.stderr.matches(": caption loss on 2 held-out prompts").count(), 3, "{}", done.stderr);
    let entries = [
        ".lock",
        "adapter",
        "before-after.png",
        "checkpoints",
        "config.toml",
        "events.jsonl",
        "samples",
        "tensorboard",
    ];
    assert_eq!(folder.names("runs/first"), entries);
    assert_eq!(
        folder.names("runs/first/adapter"),
        ["README.md", "before-after.png", "first.safetensors", "pytorch_lora_weights.safetensors"]
    );
    assert_eq!(folder.names("runs/first/samples"), ["step-0", "step-2", "step-4"]);
    folder.assert_no_leftovers();

    let first = "runs/first/samples/step-0/000-a-white-tree.png";
    assert_eq!(
        folder.names("runs/first/samples/step-0"),
        ["000-a-white-tree.png", "001-an-orange-house.png", "grid.png"]
    );
    let image = Image::open(&folder.path(first));
    assert_eq!((image.width, image.height, image.texts["step"].as_str()), (32, 32, "0"));
    assert_eq!((image.texts["prompt"].as_str(), image.texts["seed"].as_str()), ("a white tree", "0"));
    let settings = &image.texts["parameters"];
    let parts =
        ["a white tree\n", "Steps: 4, Sampler: DDPM, CFG scale: 7.5, Seed: 0, Size: 32x32", "Model: pipeline_sd1"];
    parts.iter().for_each(|part| assert!(settings.contains(part), "{settings}"));
    let trained = Image::open(&folder.path(&first.replace("step-0", "step-4")));
    assert!(image.difference(&trained) > 0, "the samples do not change");
    let comparison = Image::open(&folder.path("runs/first/before-after.png"));
    assert_eq!((comparison.width, comparison.height), (8 * (2 * 32 + 4), 8 * (2 * 32 + 4)));

    let events = folder.events("runs/first");
    let count = |name| events.iter().filter(|e| e["event"] == name).count();
    let counts = ["start", "step", "checkpoint", "validation", "samples", "finished"].map(count);
    assert_eq!(counts, [1, 4, 2, 3, 3, 1]);
    assert_eq!(counts.iter().sum::<usize>(), events.len());
    for (i, step) in steps(&folder, "runs/first").iter().enumerate() {
        assert_eq!(step["step"], i + 1);
        assert_eq!(step["learning_rate"], 1e-2);
        for key in ["caption_loss", "grad_norm", "seconds", "peak_memory"] {
            assert!(step[key].as_f64().is_some_and(|n| n > 0.0), "{key} of {step}");
        }
    }
    let validation: Vec<&Value> = events.iter().filter(|e| e["event"] == "validation").collect();
    let at: Vec<u64> = validation.iter().map(|v| v["step"].as_u64().unwrap()).collect();
    assert_eq!((at, &validation[0]["prompts"]), (vec![0, 2, 4], &Value::from(2)));
    assert!(validation.iter().all(|v| v["caption_loss"].as_f64().is_some_and(|n| n > 0.0)));

    // The resolved configuration is a configuration; with it, it is the same run.
    let again = folder.comat(&["train", "--config", "runs/first/config.toml", "--set", "output=runs/second"]);
    assert_eq!(again.code, Some(0), "{again:#?}");
    assert_same_checkpoint(&folder, "runs/first/checkpoints/step-4", "runs/second/checkpoints/step-4");
    let [a, b] = ["first", "second"].map(|run| {
        let mut files = folder.bytes(&format!("runs/{run}/samples"));
        assert!(files.remove(Path::new("step-4/README.md")).is_some(), "it names the run");
        files
    });
    assert!(a == b, "the same run drew other samples");
}

/// Adapter files are for other programs, which may run as somebody else.
#[test]
fn files_may_be_read_as_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    folder.write("new", "");
    let mode = |name: &str| fs::metadata(folder.path(name)).unwrap().permissions().mode();
    for name in ["adapter/out.safetensors", "checkpoints/step-1/optimizer.safetensors", "events.jsonl"] {
        assert_eq!(mode(&format!("out/{name}")), mode("new"), "{name}");
    }
}

/// A run without samples at its start may get some later: there is nothing to compare them with.
#[test]
fn samples_that_come_later() {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    folder.train("train.steps=2 samples.count=1 --resume").ok();
    assert_eq!(folder.names("out/samples"), ["step-2"]);
    assert!(folder.exists("out/adapter/out.safetensors") && !folder.exists("out/before-after.png"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = Folder::of_run();
    let plan = folder.train("--dry-run train.steps=7 train.accumulation=3").ok().stdout;
    assert_eq!(folder.names(""), ["prompts.txt", "run.toml"]);
    let parts = [
        "UNet 36,364 parameters",
        "rank 2 on 32 layers, 1,264 trainable parameters",
        "3 to train on, 0 held out",
        "images       32x32, latents 4x8x8",
        "6 samples: 4 ddpm steps",
        "7 steps, 42 samples, 14.00 epochs",
        "output       out",
    ];
    parts.iter().for_each(|part| assert!(plan.contains(part), "{part} is not in {plan}"));
    let phases = ["trajectory", "decode", "caption", "replay"];
    phases.iter().for_each(|phase| assert!(plan.contains(&format!("\n  {phase:<10} 2 at a time")), "{phase}: {plan}"));
    // What stands above the plan is the configuration.
    folder.write("again.toml", plan);
    folder.edit_text("again.toml", |text| text.split("# The plan").next().unwrap().to_owned());
    folder.comat(&["train", "--config", "again.toml", "--dry-run"]).ok();
    folder.train("--dry-run model.path=gone").error(&["gone: no such file"]);
}

/// Networks that are unloaded between their phases compute what those compute that stay: all that a run can have.
#[test]
fn offloading_changes_nothing() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a red square\na blue circle\n");
    let settings = format!(
        "train.steps=2 attention.segmenter.kind=grounded attention.segmenter.detector={} attention.segmenter.segmenter={} \
         attention.segmenter.box_threshold=0.1 attention.segmenter.text_threshold=0.2 sampling.size=64 fidelity.model={} \
         prompts.validation=held_out.txt validation.every=1 validation.count=2",
        fixture("grounding_dino").display(),
        common::fixture("sam").display(),
        common::fixture("pipeline_sd1").display()
    );
    for offload in [false, true] {
        let words = format!(
            "output=offload-{offload} memory.offload={offload} {settings} model.path={}",
            fixture("pipeline_sdxl").display()
        );
        let done = folder.train(&words);
        assert_eq!(done.code, Some(0), "{}", done.stderr); // with a warning, where nothing is found
    }
    for file in ["checkpoints/step-2/adapter.safetensors", "checkpoints/step-2/discriminator.safetensors"] {
        let of = |offload: bool| folder.tensors(&format!("offload-{offload}/{file}"));
        assert!(of(true) == of(false), "{file}");
    }
    let losses = |offload: bool| {
        let lines = folder.read(&format!("offload-{offload}/events.jsonl"));
        let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|e| e["event"] == "validation").map(|e| e["losses"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((losses(true).len(), losses(true)), (3, losses(false)));
}

/// A tile that is larger than the image is the image; smaller ones give a run that is a little another one.
#[test]
fn decoding_in_tiles() {
    let folder = Folder::of_run();
    folder.train("output=whole train.steps=1").ok();
    for side in [64, 5] {
        folder.train(&format!("output=tiles-{side} memory.vae_tile={side} train.steps=1")).ok();
    }
    let adapter = |run: &str| folder.bytes(&format!("{run}/checkpoints/step-1/adapter.safetensors"));
    assert!(adapter("tiles-64") == adapter("whole") && adapter("tiles-5") != adapter("whole"));
    let loss = |run: &str| steps(&folder, run)[0]["caption_loss"].as_f64().unwrap();
    let (tiled, whole) = (loss("tiles-5"), loss("whole"));
    assert!(tiled != whole && (tiled / whole - 1.0).abs() < 0.05, "{tiled} {whole}");
    folder.train("output=none memory.vae_tile=0").error(&["memory.vae_tile is 0, it must be 1 or more"]);
}

/// How a batch is cut changes memory, and numbers by rounding only.
#[test]
fn micro_batches_change_nothing() {
    let folder = Folder::of_run();
    let adapter = |output: &str, settings: &str| -> Tensors {
        folder.train(&format!("output={output} train.steps=2 train.batch_size=3 replay.mode=chained {settings}")).ok();
        folder.tensors(&format!("{output}/checkpoints/step-2/adapter.safetensors"))
    };
    let whole = adapter("whole", "");
    for (output, settings) in [
        ("one", "replay.micro_batch=1 captioner.micro_batch=1"),
        ("two", "replay.micro_batch=2 captioner.micro_batch=2"),
    ] {
        let cut = adapter(output, settings);
        for (key, tensor) in &whole {
            let error = relative_error(&cut[key], tensor);
            assert!(error <= 1e-4, "{output}, {key}: relative error {error:e}");
        }
    }
}

#[test]
fn every_schedule_of_the_learning_rate() {
    let folder = Folder::of_run();
    for (schedule, expected) in [
        ("constant", [0.005, 0.01, 0.01, 0.01]),
        ("linear", [0.005, 0.01, 0.01 * 2.0 / 3.0, 0.01 / 3.0]),
        ("cosine", [0.005, 0.01, 0.0075, 0.0025]),
        ("constant optimizer.decay_steps=2", [0.005, 0.01, 0.01, 0.005]),
    ] {
        let words = format!("optimizer.schedule={schedule} optimizer.warmup_steps=1");
        let schedule = schedule.replace([' ', '.', '='], "-");
        folder.train(&format!("output={schedule} {words}")).ok();
        for (step, rate) in steps(&folder, &schedule).iter().zip(expected) {
            let logged = step["learning_rate"].as_f64().unwrap();
            assert!((logged - rate).abs() < 1e-12, "{schedule}: {logged} instead of {rate}");
        }
    }
}

/// A run may start from an adapter file, if it is of the rank that the configuration says, or of a smaller one.
#[test]
fn starting_from_an_adapter() {
    let folder = Folder::of_run();
    folder.train("output=first train.steps=1").ok();
    folder.train("output=second train.steps=0 lora.init=first/adapter/first.safetensors").ok();
    let [first, second] = ["first", "second"].map(|run| folder.tensors(&format!("{run}/adapter/{run}.safetensors")));
    assert!(first.keys().eq(second.keys()));
    first.iter().for_each(|(key, tensor)| assert_eq!(*tensor, second[key], "{key}"));
    folder
        .train("output=third lora.rank=1 lora.init=first/adapter/first.safetensors")
        .error(&["first/adapter/first.safetensors", "has rank 2, more than lora.rank = 1: set lora.rank = 2"]);

    // the run's folder stands for its LoRA; a list is a sum
    let settings = "lora.rank=5 lora.alpha=3 train.steps=0 samples.count=0";
    let list = r#"lora.init=["first:0.75","first/adapter/first.safetensors:-0.25"]"#;
    folder.train(&format!("output=fourth {settings} {list}")).ok();
    let fourth = folder.tensors("fourth/adapter/fourth.safetensors");
    let change = |all: &Tensors, layer: &str| {
        let of = |end: &str| all[&format!("{layer}.{end}")].to_kind(Kind::Double);
        let (down, up, alpha) = (of("lora_down.weight"), of("lora_up.weight"), of("alpha").double_value(&[]));
        up.matmul(&down) * (alpha / down.size()[0] as f64)
    };
    for layer in first.keys().filter_map(|key| key.strip_suffix(".alpha")) {
        assert!(relative_error(&change(&fourth, layer), &(change(&first, layer) * 0.5)) < 1e-6, "{layer}");
    }
    let resolved = folder.read("fourth/config.toml");
    assert!(resolved.contains(r#"init = ["first:0.75", "first/adapter/first.safetensors:-0.25"]"#), "{resolved}");
    folder
        .train(&format!("output=fifth lora.rank=3 {list}"))
        .error(&["first/adapter/first.safetensors: ", "has rank 4 together, more than lora.rank = 3"]);
}

/// A file has the prompts of the samples.
#[test]
fn sample_prompts_of_a_file() {
    let folder = Folder::of_run();
    folder.write("mine.txt", "a green tree --w 512\nthe sea\n");
    let done = folder.train("train.steps=0 samples.prompts=mine.txt");
    assert!(done.code == Some(0) && done.stderr.contains("--w"), "{done:?}");
    for name in ["000-a-green-tree", "001-the-sea"] {
        assert!(folder.exists(&format!("out/samples/step-0/{name}.png")), "{name}");
    }
    folder.train("output=steps train.steps=2").ok();
    let again = folder.train("output=steps train.steps=1 --resume").ok();
    assert!(again.stdout.contains("No step was left: the run has 2, train.steps is 1"), "{again:?}");
    folder.train("output=other samples.prompts=gone.txt --dry-run").error(&["samples.prompts", "gone.txt"]);
    folder.train("output=other samples.prompts=3").error(&["samples.prompts", "name of a file with prompts"]);
}

#[test]
fn sdxl_in_other_sizes_and_precisions() {
    let folder = Folder::of_run();
    let model = format!("model.path={}", fixture(common::SDXL).display());
    folder.train(&format!("{model} train.steps=1 sampling.size=48x32 samples.count=1")).ok();
    let image = Image::open(&folder.path("out/samples/step-1/000-a-red-dog.png"));
    assert_eq!((image.width, image.height), (48, 32));
    for dtype in ["bfloat16", "float64"] {
        folder.train(&format!("{model} output={dtype} train.steps=1 model.dtype={dtype}")).ok();
    }
}

/// Attention losses with both networks of the segmenter, on tiny weights: counted in the log, and gone on with exactly.
#[test]
fn attention_losses_with_detector_and_segmenter() {
    let folder = Folder::of_run();
    let grounded = |detector: &str| {
        format!(
            "attention.segmenter.kind=grounded attention.segmenter.detector={} attention.segmenter.segmenter={} \
             attention.segmenter.box_threshold=0.1 attention.segmenter.text_threshold=0.2 \
             attention.token_weight=1 sampling.size=64 train.steps=2 checkpoints.every=1 checkpoints.keep=0",
            common::fixture(detector).display(),
            common::fixture("sam").display()
        )
    };
    folder.write("prompts.txt", "a red tree\na blue house\na small green tree\n"); // words that the tiny detector finds
    let run = |rest: &str| {
        let done = folder.train(&format!("output=whole {}{rest}", grounded("grounding_dino")));
        assert_eq!(done.code, Some(0), "{}", done.stderr); // with a warning, where it finds nothing
    };
    run("");
    let (mut subjects, mut not_found) = (0, 0);
    for step in steps(&folder, "whole") {
        let count = |key: &str| step[key].as_u64().unwrap_or_else(|| panic!("{key} in {step}"));
        subjects += count("subjects");
        not_found += count("not_found");
        assert!(step["pixel_loss"].as_f64().unwrap() > 0.0 && step["token_loss"].is_f64());
        assert!(step["seconds_segment"].as_f64().unwrap() > 0.0);
    }
    assert!(not_found < subjects, "{not_found} of {subjects} were not found: masks took no part");
    let end = || folder.tensors("whole/checkpoints/step-2/adapter.safetensors");
    let before = end();
    run(" --resume whole/checkpoints/step-1");
    assert_eq!(end(), before);
    folder.train(&format!("output=without {} train.steps=2 sampling.size=64", "checkpoints.every=1")).ok();
    assert!(steps(&folder, "without").iter().all(|step| step.get("subjects").is_none()));
    folder.train(&format!("output=wrong {}", grounded("blip"))).error(&["detector", "blip"]);
}

/// What takes no part is said once, and then only counted.
#[test]
fn prompts_without_nouns_and_nouns_without_objects_are_told_once() {
    let folder = Folder::of_run();
    folder.write("prompts.txt", "very slowly\na red circle\n");
    let done = folder.train("output=run train.steps=2 train.batch_size=2 attention.segmenter.kind=world");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    for words in ["`very slowly` has no noun", "1 of 1 nouns were not found"] {
        assert_eq!(done.stderr.matches(words).count(), 1, "{words}: {}", done.stderr);
    }
    for step in steps(&folder, "run") {
        assert_eq!((&step["subjects"], &step["not_found"]), (&1.into(), &1.into()), "random weights draw no circle");
        assert_eq!(step["prompts_without_subjects"], 1);
    }
}

#[test]
fn too_large_a_image_names_the_phase() {
    if on_a_device() {
        return; // CUDA reserves more addresses than the test leaves, and has an allocator of its own
    }
    let folder = Folder::of_run();
    let words = train_words("train.batch_size=1 train.steps=1 sampling.size=16384");
    let said = "out of memory in the phase `trajectory` of a step (can't allocate memory: you tried to allocate";
    let help = "a smaller train.batch_size needs less; `comat plan --memory";
    folder.with_address_space(3 << 20, &words).error(&[said, help]);
    folder.assert_no_leftovers();
}

/// A GPU computes while the program goes on. It is waited for at the end of every part of a step, or the part's seconds and memory would
/// be those of another: seven parts, of which the decoder's is in two pieces.
#[test]
fn a_gpu_is_waited_for_after_every_part_of_a_step() {
    let counted = |steps: usize| -> usize {
        let folder = Folder::of_run();
        let log = folder.path("counts");
        let mut command = folder.command(&train_words(&format!("model.device=cuda:0 train.steps={steps}")));
        command.env(stand_in::PRELOAD, stand_in::library()).env(stand_in::LOG, &log);
        command.env("LIBTORCH_CUDA", "none").env("CUDA_VISIBLE_DEVICES", "0"); // the stand-in, also where there is a GPU
        let done: Done = command.output().unwrap().into();
        assert_eq!(done.code, Some(0), "{done:#?}");
        let text = fs::read_to_string(log).unwrap();
        let line = text.lines().find_map(|line| line.strip_suffix(" synchronize"));
        line.unwrap_or_else(|| panic!("it was never waited for: {text}")).parse().unwrap()
    };
    assert_eq!(counted(3) - counted(1), 2 * 8);
}

/// The captioner of the fixture takes 24 tokens. What it does not see of a prompt is said once.
#[test]
fn captions_that_are_too_long_are_named_once() {
    let folder = Folder::of_run();
    let long = |end: &str| format!("a {} {end}\n", "red dog and a blue cat ".repeat(4).trim());
    folder.write("prompts.txt", long("here") + &long("there"));
    let done = folder.train("train.steps=2");
    assert_eq!(done.code, Some(0), "{done:?}");
    let said = done.stderr.matches("tokens that the captioner takes").count();
    assert_eq!(said, 1, "{}", done.stderr);
    assert!(done.stderr.contains("prompt longer than the 24 tokens"), "{}", done.stderr);
}

/// With smoothed labels the log has both losses, and the gradient is another one.
#[test]
fn smoothed_labels() {
    let folder = Folder::of_run();
    folder.train("output=plain train.steps=1").ok();
    folder.train("output=smoothed train.steps=1 captioner.label_smoothing=0.1").ok();
    let step = |run: &str| folder.events(run).into_iter().find(|e| e["event"] == "step").unwrap();
    let (plain, smoothed) = (step("plain"), step("smoothed"));
    assert_eq!(plain["caption_loss"], smoothed["caption_loss"]);
    assert!(plain.get("smoothed_loss").is_none() && smoothed["smoothed_loss"] != smoothed["caption_loss"]);
    assert!(plain["grad_norm"] != smoothed["grad_norm"]);
    folder.train("output=x captioner.label_smoothing=1.5").error(&["captioner.label_smoothing is 1.5"]);
}

/// With one prompt of its category, the first sample is that prompt, whatever the seed.
#[test]
fn categories_take_turns() {
    let folder = Folder::of_run();
    let others = ["a blue cat", "two dogs", "a green car", "a bench", "a tree"];
    let line = |category: u32, prompt: &str| format!("{{\"prompt\": \"{prompt}\", \"category\": {category}}}\n");
    let lines: String = others.map(|prompt| line(2, prompt)).concat();
    folder.write("mixed.jsonl", &(lines + &line(1, "a red dog")));
    folder.write("one.txt", "a red dog\n");
    let learned = |settings: String| {
        folder.train(&format!("{settings} train.steps=1 train.batch_size=1")).ok();
        folder.tensors(&format!(
            "{}/adapter/pytorch_lora_weights.safetensors",
            settings.split(&['=', ' ']).nth(1).unwrap()
        ))
    };
    for seed in 0..3 {
        let balanced =
            learned(format!("output=balanced-{seed} seed={seed} prompts.train=mixed.jsonl prompts.balance=category"));
        assert!(balanced == learned(format!("output=one-{seed} seed={seed} prompts.train=one.txt")), "seed {seed}");
    }
}
