//! `comat prepare`: a model folder for smaller pictures.

mod common;

use common::{Folder, fixture};

/// `rest` may say otherwise.
fn prepare(folder: &Folder, rest: &str) -> common::Done {
    let model = fixture(common::SDXL);
    let usual = [("--size", "16"), ("--prompts", "prompts.txt"), ("--batch", "2")]
        .into_iter()
        .filter(|(key, _)| !rest.contains(key));
    let usual: String = usual.map(|(key, value)| format!("{key} {value} ")).collect();
    let words = format!(
        "prepare --model {} --out ready --images 3 --sampling-steps 2 --rank 4 \
         {usual}{rest}",
        model.display()
    );
    folder.comat(&words.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn a_model_is_made_ready_for_a_smaller_size() {
    let folder = Folder::of_run();
    let done = prepare(&folder, "--steps 60 --batch 4 --learning-rate 0.005");
    assert_eq!(done.code, Some(0), "{done:?}");
    let line = done.stdout.lines().find(|line| line.starts_with("denoising error at 16x16")).unwrap();
    let (_, numbers) = line.split_once(": ").unwrap();
    let numbers: Vec<f64> = numbers.split(" → ").map(|n| n.parse().unwrap()).collect();
    assert!(numbers[1] < 0.995 * numbers[0], "{line}");
    assert_eq!(folder.names("ready.preparation/images"), ["00000.png", "00001.png", "00002.png"]);
    let picture = common::Picture::open(&folder.path("ready.preparation/images/00000.png"));
    assert_eq!((picture.width, picture.height), (16, 16));

    // The new folder is a model like another, and draws otherwise than the old one.
    let draw = |model: &str, out: &str| {
        let words = format!("generate --model {model} --prompt dog --size 16 --steps 2 --out {out}");
        folder.comat(&words.split_whitespace().collect::<Vec<_>>()).ok();
        folder.bytes(out).into_values().next().unwrap()
    };
    assert!(draw("ready", "a") != draw(fixture(common::SDXL).to_str().unwrap(), "b"));
    prepare(&folder, "").error(&["ready exists already"]);

    // What is drawn is not drawn again; pictures of other prompts are not taken for these.
    std::fs::remove_dir_all(folder.path("ready")).unwrap();
    let first = folder.bytes("ready.preparation/images");
    assert_eq!(prepare(&folder, "--steps 1").code, Some(0));
    assert!(folder.bytes("ready.preparation/images") == first);
    std::fs::remove_dir_all(folder.path("ready")).unwrap();
    folder.write("prompts.txt", "a tree\na red dog\na blue cat\n");
    prepare(&folder, "--steps 1").error(&["00000.png: was drawn with other settings", "--work"]);
    assert!(!folder.exists("ready"));
}

#[test]
fn what_cannot_be_prepared() {
    let folder = Folder::of_run();
    prepare(&folder, "--size 32").error(&["the model's own size is 32x32"]);
    prepare(&folder, "--size 17").error(&["size 17x17"]);
    prepare(&folder, "--learning-rate 0").error(&["--learning-rate 0"]);
    prepare(&folder, "--prompts gone.txt").error(&["gone.txt"]);
}
