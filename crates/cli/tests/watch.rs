//! Figures that the losses do not see, beside the training.

use crate::common::{Folder, fixture};
use serde_json::Value;
use std::fs;

const HELD_OUT: &str = "a white tree\nan orange house\na red bird\n";

fn settings(more: &str) -> String {
    format!(
        "prompts.validation=held_out.txt validation.every=1 samples.count=1 train.steps=3 checkpoints.every=1 \
         optimizer.learning_rate=0.05 optimizer.max_grad_norm=100 {more}"
    )
}

fn rounds(folder: &Folder, run: &str) -> Vec<Value> {
    folder.events(run).into_iter().filter(|e| e["event"] == "validation").collect()
}

#[test]
fn clip_watches_and_the_best_adapter_is_kept() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", HELD_OUT);
    let judge = format!("validation.judge={{kind='clip',model='{}'}}", fixture("clip_score").display());
    let settings = settings(&format!("{judge} validation.keep_best=true"));
    assert_eq!(folder.train(&settings).code, Some(0));
    let seen = rounds(&folder, "out");
    assert_eq!(seen.len(), 4);
    let figure = |round: &Value| round["judge"]["clip_cosine"].as_f64().unwrap();
    assert!(seen.iter().all(|round| (-1.0..=1.0).contains(&figure(round))));
    assert_eq!(seen[0]["distance"], 0.0);
    assert!(seen[1..].iter().all(|round| round["distance"].as_f64().unwrap() > 0.0));

    assert!(folder.exists("out/best/out.safetensors"), "the other format");
    // The best of all rounds is the one that is kept, with the adapter that it was measured with.
    let best: Value = serde_json::from_str(&folder.read("out/best/best.json")).unwrap();
    let expected = seen.iter().fold(&seen[0], |best, round| if figure(round) > figure(best) { round } else { best });
    assert_eq!((&best["step"], best["value"].as_f64()), (&expected["step"], Some(figure(expected))));
    if let Some(step @ 1..) = best["step"].as_u64() {
        let (kept, saved) = (
            folder.tensors("out/best/pytorch_lora_weights.safetensors"),
            folder.tensors(&format!("out/checkpoints/step-{step}/adapter.safetensors")),
        );
        let key = kept.keys().find(|key| key.contains("lora.down")).unwrap();
        let theirs = saved.iter().find(|(_, t)| t.size() == kept[key].size() && **t == kept[key]);
        assert!(theirs.is_some(), "{key}");
    }

    // A run that goes on knows its first round.
    let more = settings.replace("train.steps=3", "train.steps=4");
    assert_eq!(folder.train(&format!("{more} --resume")).code, Some(0));
    assert!(rounds(&folder, "out").last().unwrap()["distance"].as_f64().unwrap() > 0.0);
    folder.write("out/validation.safetensors", "x");
    folder.train(&format!("{} --resume", more.replace("steps=4", "steps=5"))).error(&["validation.safetensors"]);
    folder.assert_no_leftovers();
}

#[test]
fn a_run_that_gets_no_better_is_stopped() {
    let folder = Folder::of_run();
    // the miniature world's judge sees nothing in images of another size: no round is better than the first
    folder.write("held_out.txt", "a red circle\na blue star\n");
    let words = settings("validation.judge={kind='world'} validation.early_stop=2 train.steps=9");
    let done = folder.train(&words.replace("train.steps=3", ""));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("step 2: the judge's metric has not improved for 2 rounds"), "{}", done.stderr);
    assert!(done.stdout.contains("2 steps done. The LoRA is in out/adapter"), "{}", done.stdout);
    assert_eq!(folder.read("out/checkpoints/latest"), "step-2");
    assert!(folder.read("out/adapter/README.md").contains("| judge: attributes_bound | "), "the card says what it saw");
    // a run that is taken up again has not forgotten how long it has been waiting
    let again = folder.train(&format!("{} --resume", words.replace("train.steps=3", "")));
    assert!(again.stderr.contains("step 2: the judge's metric has not improved for 2 rounds"), "{}", again.stderr);
    assert_eq!(folder.read("out/checkpoints/latest"), "step-2", "and makes no further step");
    assert!(!folder.exists("out/best/pytorch_lora_weights.safetensors"), "nobody asked for it");
    let judged = &rounds(&folder, "out")[1]["judge"];
    for name in ["attributes_bound", "all_correct", "objects_present", "clean", "nothing_extra"] {
        assert!(judged[name].is_f64(), "{name} in {judged}");
    }
}

#[test]
fn what_cannot_be_watched() {
    let folder = Folder::of_run();
    folder.train("validation.keep_best=true").error(&["keep_best", "validation.judge"]);
    folder.train("validation.judge={kind='world'}").error(&["validation.judge", "prompts.validation"]);
    folder.write("held_out.txt", HELD_OUT);
    let words = "prompts.validation=held_out.txt validation.judge={kind='world'}";
    folder.train(words).error(&["`a white tree` is not a prompt of the miniature world"]);
    fs::remove_dir_all(folder.path("out")).unwrap();
    let words = words.replace("kind='world'", "kind='clip',model='no/such'");
    folder.train(&words).error(&["validation.judge", "no/such"]);
    assert!(!folder.exists("out"), "a run that cannot be watched is not begun");
}
