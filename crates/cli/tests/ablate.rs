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

#[track_caller]
fn fine(done: common::Done) -> String {
    common::fine(done).stdout
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

/// The base model at another guidance scale, the better of two images, and trainings on the model's own images.
#[test]
fn other_methods() {
    let folder = folder();
    let own =
        "settings = ['sampling.guidance_scale=3']\nbaseline = { prompts = 2, of = 2, steps = 2, batch = 2, kind =";
    let plan =
        PLAN.split("[[variant]]").next().unwrap().replace("seeds = [1, 2]", "seeds = [1]").replace("pairs = 3\n", "");
    folder.write(
        "plan.toml",
        format!(
            "{plan}[[variant]]\nname = 'best of 2'\nuntrained = true\nbest_of = 2\n[[variant]]\nname = 'caption'\n\
             [[variant]]\nname = 'DPO'\n{own} 'dpo', beta = 10 }}\n[[variant]]\nname = 'weighted'\n{own} 'reward-weighted' }}\n"
        ),
    );
    let table = fine(ablate(&folder, ""));
    assert!(
        table.starts_with("| 2 prompts × 2 images, % | base | best of 2 | caption | DPO | weighted |\n"),
        "{table}"
    );
    let row = |name: &str| {
        let line =
            table.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap_or_else(|| panic!("{table}"));
        line.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let of_image = row("UNet passes of an image");
    assert_eq!(of_image[0], "");
    let of_image: Vec<u64> = of_image[1..].iter().map(|passes| passes.parse().unwrap()).collect();
    assert_eq!(of_image, [2 * of_image[1], of_image[1], of_image[1], of_image[1]], "{table}");
    assert_eq!(row("UNet passes of a training, thousands")[1], "0.0");
    let own = folder.names("abl/own_images");
    assert!(own.len() == 1 && own[0].starts_with("2x2-guidance3-seed1-"), "both train on the same images: {own:?}");
    assert!(folder.read("abl/runs/dpo-seed1/baseline.toml").contains("kind = \"dpo\""));
    assert!(folder.exists("abl/images/best-of-2/scores.jsonl") && !folder.exists("abl/runs/best-of-2-seed1"));

    let done = folder.bytes("abl");
    assert_eq!(fine(ablate(&folder, "")), table);
    assert!(folder.bytes("abl") == done, "what is done is not done again");
    folder.edit_text("plan.toml", |plan| plan.replace("beta = 10", "beta = 20"));
    ablate(&folder, "").error(&["abl/runs/dpo-seed1 was trained with other settings"]);
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
