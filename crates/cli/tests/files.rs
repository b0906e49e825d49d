//! Files as other programs and people leave them: what they say is done, or refused.

use crate::common;

use crate::common::{Folder, fixture};
use serde_json::Value;
use std::process::{Command, Stdio};

const PROMPT: &str = "a red dog and a blue cat";

/// A model of this folder.
fn own(folder: &Folder, model: &str) -> String {
    folder.path(model).display().to_string()
}

/// The latents of an image, by a model of this folder.
fn latents(folder: &Folder, model: &str, words: &str) -> models::tensors::Tensors {
    let words = format!("--steps 2 --size 48x32 --overwrite --out o --save-latents l.safetensors {words}");
    folder.generate(&own(folder, model), &[PROMPT], &words).ok();
    folder.tensors("l.safetensors")
}

#[test]
fn what_files_do_not_say_can_be_said() {
    let folder = Folder::new();
    folder.copy("pipeline_sd1", "m");
    let plain = latents(&folder, "m", "");
    assert!(plain == latents(&folder, "m", "--clip-skip 1 --prediction-type epsilon --rescale-betas-zero-snr false"));
    let forced = latents(&folder, "m", "--prediction-type v_prediction");
    assert!(plain != forced && plain != latents(&folder, "m", "--clip-skip 2"));
    assert!(forced != latents(&folder, "m", "--prediction-type v_prediction --rescale-betas-zero-snr"));
    folder.edit_json("m/scheduler/scheduler_config.json", "prediction_type", "v_prediction");
    assert!(forced == latents(&folder, "m", ""));
    folder.generate(&own(&folder, "m"), &[PROMPT], "--out o --clip-skip 99").error(&["--clip-skip", "99", "from 1"]);
    folder
        .generate(&own(&folder, "m"), &[PROMPT], "--out o --rescale-betas-zero-snr --prediction-type epsilon")
        .error(&["needs prediction_type"]);

    let folder = Folder::of_run();
    let text = folder.train("model.prediction_type=v_prediction model.clip_skip=2 --dry-run").ok().stdout;
    assert!(text.contains("prediction_type = \"v_prediction\"") && text.contains("clip_skip = 2"), "{text}");
    folder.train("model.prediction_type=flow --dry-run").error(&["flow"]);
}

/// A shell may have led the output to a file: what is in it stays, and so do the messages.
#[test]
fn output_goes_on_where_the_shell_has_led_it() {
    let folder = Folder::new();
    folder.write("prompts.txt", "a red dog\na blue cat\n");
    let program = folder.command(&[]);
    for (arrow, kept) in [(">>", "mine\n"), (">", "")] {
        folder.write("f.txt", "mine\n");
        let line = format!(
            "{} init --model {} --captioner {} --prompts prompts.txt --held-out prompts.txt --out /dev/stdout --overwrite {arrow} f.txt",
            program.get_program().display(),
            fixture("pipeline_sd1").display(),
            fixture("blip").display()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(folder.path("")).stdin(Stdio::null());
        shell.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let done = shell.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = folder.read("f.txt");
        assert!(text.starts_with(kept), "{text}");
        let parts = ["[model]", "The configuration is /dev/stdout.", "Train:"].map(|part| text.find(part));
        assert!(parts.iter().all(Option::is_some) && parts.is_sorted(), "{text}");
    }
}

#[test]
fn long_prompts_in_chunks() {
    let folder = Folder::of_run();
    let model = fixture("pipeline_sd1").display().to_string();
    let long = "a red dog and a blue cat on the grass next to it a big green tree";
    let draw = |prompt: &str, words: &str| {
        let words = format!("--steps 1 --size 48x32 --overwrite --out o --save-latents l.safetensors {words}");
        let done = folder.generate(&model, &[prompt], &words);
        assert_eq!(done.code, Some(0), "{done:?}");
        (folder.tensors("l.safetensors"), done.stderr.contains("prompt longer than 16 tokens"))
    };
    let (cut, whole) = (draw(long, ""), draw(long, "--chunks 3"));
    assert!(cut.0 != whole.0 && cut.1 && !whole.1);
    assert!(draw("a red dog", "").0 == draw("a red dog", "--chunks 3").0);
    folder.generate(&model, &[long], "--out o --chunks 99").usage(&["--chunks", "at most 6"]);
    folder.write("prompts.txt", format!("{long}\na red dog\n"));
    let done = folder.train("train.steps=1 prompts.chunks=3");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stderr.contains("prompt longer"), "{}", done.stderr);
    folder.train("prompts.chunks=0").error(&["prompts.chunks is 0"]);
}

/// As the pipelines of diffusers, which set both for these models; and no guidance at 1 and below.
#[test]
fn what_pipelines_force() {
    let folder = Folder::new();
    folder.copy("pipeline_sd1", "m");
    let plain = latents(&folder, "m", "--guidance-scale 1");
    folder.edit_json("m/scheduler/scheduler_config.json", "clip_sample", true);
    folder.edit_json("m/scheduler/scheduler_config.json", "steps_offset", 0);
    for scale in ["1", "0.5", "0"] {
        assert!(plain == latents(&folder, "m", &format!("--guidance-scale {scale}")), "{scale}");
    }
    folder.edit_json("m/scheduler/scheduler_config.json", "_class_name", "FlowMatchEulerDiscreteScheduler");
    folder
        .generate(&own(&folder, "m"), &[PROMPT], "--out o")
        .error(&["_class_name FlowMatchEulerDiscreteScheduler is not known"]);
}

#[test]
fn prompts_of_other_programs() {
    let folder = Folder::new();
    folder.write("p.TXT", "# sd-scripts\r\na red dog --n bad --w 512 --d 42\r\na (blue:1.2) cat\r\n");
    let model = fixture("pipeline_sd1").display().to_string();
    let words = ["generate", "--model", &model, "--prompts", "p.TXT", "--steps", "1", "--size", "48x32", "--out", "o"];
    let done = folder.comat(&words);
    assert_eq!((done.code, folder.names("o").len()), (Some(0), 2), "{done:?}");
    assert!(folder.exists("o/00000-a-red-dog-seed0.png"), "{:?}", folder.names("o"));
    for said in ["1 lines that begin with #", "--d, --n, --w", "`(blue:1.2)`: a weight of words has no meaning here"] {
        assert!(done.stderr.contains(said), "{said}: {}", done.stderr);
    }
}

/// No folder of that name is made.
#[test]
fn home_and_variables_in_paths() {
    let folder = Folder::of_run();
    let home = folder.path("home").display().to_string();
    let run = |words: &[&str]| {
        let mut command = folder.command(words);
        command.env("HOME", &home).env("WORK", folder.path("work"));
        common::Done::from(command.output().unwrap())
    };
    run(&["train", "--config", "run.toml", "--set", "output=~/run", "--set", "train.steps=0"]).ok();
    let model = fixture("pipeline_sd1").display().to_string();
    run(&["generate", "--model", &model, "--prompt", "x", "--steps", "1", "--size", "48x32", "--out=$WORK/o"]).ok();
    assert!(
        folder.exists("home/run/config.toml")
            && folder.exists("work/o")
            && !folder.exists("~")
            && !folder.exists("$WORK")
    );
    run(&["train", "--config", "run.toml", "--set", "output=$NOWHERE/run"]).error(&["the variable NOWHERE is not set"]);
    run(&["generate", "--model", "$NOWHERE/m", "--prompt", "x", "--out", "o"])
        .usage(&["the variable NOWHERE is not set"]);
}

/// A run that was killed when its checkpoint was there, and the rest was not.
#[test]
fn what_was_not_looked_at_is_looked_at_again() {
    let folder = Folder::of_run();
    folder.write("held.txt", "a dog\n");
    let words = "prompts.validation=held.txt validation.every=1 samples.every=1 samples.count=1 checkpoints.every=1";
    folder.train(&format!("{words} train.steps=2")).ok();
    let count = |event: &str| folder.events("out").iter().filter(|e| e["event"] == event && e["step"] == 2).count();
    assert_eq!((count("validation"), count("samples")), (1, 1));
    folder.train(&format!("{words} train.steps=2 --resume")).ok();
    assert_eq!((count("validation"), count("samples")), (1, 1), "it was all there");
    let before = folder.read("out/events.jsonl");
    let losses = |event: &Value| event["losses"].clone();
    let first = folder.events("out").iter().find(|e| e["event"] == "validation" && e["step"] == 2).map(losses);
    let cut = before.lines().take_while(|line| !line.contains("\"checkpoint\"") || !line.contains("\"step\":2"));
    folder.write("out/events.jsonl", cut.map(|line| format!("{line}\n")).collect::<String>());
    std::fs::remove_file(folder.path("out/before-after.png")).unwrap();
    folder.train(&format!("{words} train.steps=2 --resume")).ok();
    assert_eq!((count("validation"), count("samples")), (1, 1));
    assert_eq!(folder.events("out").iter().find(|e| e["event"] == "validation" && e["step"] == 2).map(losses), first);
    assert!(folder.exists("out/before-after.png"));
}

/// What is in a run's folder and not of the run is never replaced; a dry run says so, too.
#[test]
fn a_lora_without_its_run_is_kept() {
    let folder = Folder::of_run();
    let lora = "out/adapter/pytorch_lora_weights.safetensors";
    folder.train("train.steps=1").ok();
    let before = folder.bytes(lora);
    std::fs::remove_file(folder.path("out/events.jsonl")).unwrap();
    folder.train("train.steps=2 --resume").ok();
    assert!(folder.bytes(lora) != before, "it is its own run");

    std::fs::remove_file(folder.path("out/events.jsonl")).unwrap();
    std::fs::remove_dir_all(folder.path("out/checkpoints")).unwrap();
    let before = folder.bytes(lora);
    for words in ["", "--dry-run", "--resume auto"] {
        folder.train(&format!("train.steps=1 {words}")).error(&["out/adapter exists, and would be replaced"]);
    }
    assert!(folder.bytes(lora) == before);
}

/// Held-out prompts that are trained on measure nothing.
#[test]
fn held_out_prompts_are_not_trained_on() {
    let folder = Folder::of_run();
    let done = folder.train("prompts.validation=prompts.txt --dry-run");
    assert!(done.code == Some(0) && done.stderr.contains("held-out prompts are also trained on"), "{done:?}");
}

/// Whatever the run would come to only after hours.
#[test]
fn a_dry_run_opens_everything() {
    let folder = Folder::of_run();
    let refused = |words: &str, parts: &[&str]| {
        folder.train(&format!("{words} --dry-run")).error(parts);
        assert!(!folder.exists("out"));
    };
    refused("mixed.pairs=no/such", &["no/such"]);
    refused("prompts.validation=no/such.txt", &["no/such.txt"]);
    refused("prompts.validation=prompts.txt validation.judge.kind=clip validation.judge.model=no/such", &["no/such"]);
    refused("fidelity.model=no/such", &["no/such"]);
    refused("lora.init=no/such.safetensors", &["no/such.safetensors"]);
    refused("--resume no/such", &["no/such"]);
    refused("output=run.toml", &["run.toml: a file of that name is where a folder should be"]);
    refused("output=run.toml/run", &["run.toml/run: a part of this path is a file"]);
}
