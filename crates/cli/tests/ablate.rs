//! `comat world ablate`: a plan, carried out in pieces.

use crate::common;

use crate::common::Folder;
use serde_json::Value;

const PLAN: &str = r#"config = "run.toml"
seeds = [1, 2]
prompts = "held_out.txt"
count = 2
pairs = 3
settings = ["sampling.size=64", "train.steps=2", "checkpoints.every=1"]
[[variant]]
name = "caption"
[[variant]]
name = "+ mixed latents"
settings = ["mixed={pairs='{out}/pairs'}"]
"#;

fn folder() -> Folder {
    let folder = Folder::of_run();
    folder.write("plan.toml", PLAN);
    folder.write("held_out.txt", "a red star\na blue circle above a green square\n");
    folder
}

fn ablate(folder: &Folder, rest: &str) -> common::Done {
    let words = format!("world ablate --plan plan.toml --out abl {rest}");
    folder.comat(&words.split_whitespace().collect::<Vec<_>>())
}

/// It did what it was asked; what it says on the way is no complaint.
#[track_caller]
fn fine(done: common::Done) -> String {
    assert_eq!(done.code, Some(0), "{done:#?}");
    done.stdout
}

fn columns(folder: &Folder) -> Vec<(String, usize)> {
    let table: Value = serde_json::from_str(&folder.read("abl/ablation.json")).unwrap();
    let column = |c: &Value| (c["name"].as_str().unwrap().to_owned(), c["seeds"].as_array().unwrap().len());
    table["columns"].as_array().unwrap().iter().map(column).collect()
}

#[test]
fn a_plan_is_carried_out_in_pieces() {
    let folder = folder();
    let first = fine(ablate(&folder, "--only caption"));
    assert!(first.starts_with("| 2 prompts × 2 images, % | base | caption |\n"), "{first}");
    assert_eq!(columns(&folder), [("base".into(), 0), ("caption".into(), 2)]);
    let done = folder.bytes("abl/runs/caption-seed1");

    // a run that was stopped behind its first checkpoint goes on; it ends as one that was never stopped
    fine(ablate(&folder, ""));
    assert_eq!(columns(&folder), [("base".into(), 0), ("caption".into(), 2), ("+ mixed latents".into(), 2)]);
    assert_eq!(folder.names("abl/runs").len(), 4);
    let adapter = "abl/runs/mixed-latents-seed2/adapter";
    let weights = format!("{adapter}/pytorch_lora_weights.safetensors");
    let whole = std::fs::read(folder.path(&weights)).unwrap();
    std::fs::remove_dir_all(folder.path(adapter)).unwrap();
    std::fs::remove_dir_all(folder.path("abl/runs/mixed-latents-seed2/checkpoints/step-2")).unwrap();
    folder.write("abl/runs/mixed-latents-seed2/checkpoints/latest", "step-1\n");
    fine(ablate(&folder, ""));
    assert!(std::fs::read(folder.path(&weights)).unwrap() == whole);
    let events = folder.events("abl/runs/mixed-latents-seed2");
    let steps: Vec<u64> = events.iter().filter(|e| e["event"] == "step").map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 2]);

    assert!(folder.bytes("abl/runs/caption-seed1") == done, "what is done is not done again");
    assert!(folder.exists("abl/images/base/scores.jsonl") && folder.exists("abl/pairs/scenes.jsonl"));
    assert!(folder.read("abl/ablation.svg").contains("+ mixed latents"));
    folder.assert_no_leftovers();

    folder.edit_text("plan.toml", |plan| plan.replace("count = 2", "count = 1"));
    assert!(fine(ablate(&folder, "")).starts_with("| 2 prompts × 1 images"), "other images are drawn anew");
    folder.edit_text("plan.toml", |plan| plan.replace("train.steps=2", "train.steps=3"));
    ablate(&folder, "").error(&["abl/runs/caption-seed1 was trained with other settings", "choose another --out"]);
}

#[test]
fn mistakes_in_a_plan() {
    let folder = folder();
    ablate(&folder, "--only attention").error(&["--only attention: the variants are caption, + mixed latents"]);
    folder.edit_text("plan.toml", |plan| plan.replace("mixed={", "mixd={"));
    ablate(&folder, "").error(&["variant `+ mixed latents`", "unknown key `mixd`; did you mean `mixed`?"]);
    assert!(!folder.exists("abl/runs"), "a mistake is found before anything is trained");
    folder.edit_text("plan.toml", |plan| plan.replace("held_out.txt", "gone.txt"));
    ablate(&folder, "").error(&["gone.txt"]);
    folder.edit_text("plan.toml", |plan| plan.replace("[1, 2]", "[]"));
    ablate(&folder, "").error(&["plan.toml: an ablation needs a seed"]);
}
