//! `comat world sweep`: a base model and LoRAs at several guidance scales.

use crate::common;

use crate::common::{Folder, SD1, fixture};
use serde_json::Value;

fn sweep(folder: &Folder, rest: &str) -> common::Done {
    let model = fixture(SD1);
    let mut words = vec!["world", "sweep", "--model", model.to_str().unwrap(), "--prompts", "held_out.txt"];
    words.extend(rest.split_whitespace());
    folder.comat(&words)
}

/// With prompts, and a LoRA of one step in `out/adapter/pytorch_lora_weights.safetensors`.
fn folder() -> Folder {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a red star\na blue circle above a green square\na heart\n");
    assert_eq!(folder.train("train.steps=1").code, Some(0));
    std::fs::rename(folder.path("out/adapter/pytorch_lora_weights.safetensors"), folder.path("a.safetensors")).unwrap();
    folder
}

#[test]
fn finished_cells_are_not_drawn_again() {
    let folder = folder();
    let options = "--lora a.safetensors --limit 2 --count 1 --guidance 2,1 --steps 2 --device cpu --out sw";
    let first = sweep(&folder, options);
    assert_eq!(first.code, Some(0), "{first:#?}");
    assert!(first.stdout.contains("2 prompts × 1 images, 2 DDIM steps"), "{}", first.stdout);
    assert!(
        first.stdout.contains("## Best against best") && first.stdout.contains("on 2 other prompts (of the training")
    );
    let table: Value = serde_json::from_str(&folder.read("sw/sweep.json")).unwrap();
    let guidances: Vec<f64> =
        table["rows"].as_array().unwrap().iter().map(|row| row["guidance"].as_f64().unwrap()).collect();
    assert_eq!(guidances, [1.0, 2.0]);
    assert_eq!(table["rows"][1]["tuned"]["scores"]["all"]["images"], 2);
    assert!(folder.read("sw/sweep.md").contains("| 2 | tuned | "), "{}", folder.read("sw/sweep.md"));

    // base and LoRA, two guidances, prompts that choose and prompts that are judged
    let cells = folder.names("sw/cells");
    assert_eq!(cells.len(), 8, "{cells:?}");
    // a mark that another drawing would not leave there
    let marked = |text: String| text.replacen("\"unexplained\":", "\"unexplained\":0.5,\"was\":", 1);
    for cell in &cells {
        folder.edit_text(&format!("sw/cells/{cell}"), marked);
    }
    let before = folder.bytes("sw/cells");
    std::fs::remove_file(folder.path(&format!("sw/cells/{}", cells[0]))).unwrap();
    assert_eq!(sweep(&folder, options).code, Some(0));
    let changed: Vec<_> = folder.bytes("sw/cells").into_iter().filter(|(name, of)| &before[name] != of).collect();
    assert_eq!(changed.len(), 1, "only the missing cell is drawn");
    let after = folder.bytes("sw/cells");
    assert_eq!(sweep(&folder, options).code, Some(0));
    assert!(folder.bytes("sw/cells") == after, "nothing is drawn again");

    // other settings are other cells
    assert_eq!(sweep(&folder, &options.replace("--steps 2", "--steps 1")).code, Some(0));
    assert_eq!(folder.names("sw/cells").len(), 16);
    folder.assert_no_leftovers();
}

#[test]
fn bad_input() {
    let folder = folder();
    sweep(&folder, "--guidance 1,x").usage(&["must be a number"]);
    sweep(&folder, "--guidance -1").usage(&[]);
    sweep(&folder, "--count 0").usage(&["must be at least 1"]);
    sweep(&folder, "--lora gone.safetensors").error(&["--lora gone.safetensors: there is no such file"]);
    sweep(&folder, "--lora a.safetensors --name base").error(&["--name base", "choose another name"]);
    sweep(&folder, "--lora a.safetensors --lora a.safetensors").error(&["a.safetensors: this LoRA is given twice"]);
    sweep(&folder, "--choose-on gone.txt").error(&["gone.txt: no such file or folder"]);
    folder.write("dogs.txt", "a red dog\n");
    sweep(&folder, "--choose-on dogs.txt").error(&["dogs.txt:1: `a red dog` is not a prompt of the miniature world"]);
    folder.write("empty.safetensors", "");
    sweep(&folder, "--lora empty.safetensors").error(&["empty.safetensors"]);
    assert!(!folder.exists("runs/sweep"), "mistakes are found before anything is drawn");
}
