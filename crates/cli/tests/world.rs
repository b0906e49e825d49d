//! The miniature world's verbs: scenes, prompts, and the judgement of images.

use crate::common;

use crate::common::{Folder, Image};
use serde_json::Value;

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn scenes_come_with_masks_and_captions() {
    let folder = Folder::new();
    let done = folder.comat(&words("world render --count 3 --seed 4 --out scenes")).ok();
    assert!(done.stdout.contains("3 scenes in scenes"), "{}", done.stdout);
    let scenes = lines(&folder.read("scenes/scenes.jsonl"));
    assert_eq!(scenes.len(), 3);
    for scene in &scenes {
        let image = Image::open(&folder.path("scenes").join(scene["file"].as_str().unwrap()));
        assert_eq!((image.width, image.height), (64, 64));
        let objects = scene["scene"]["objects"].as_array().unwrap();
        let masks = scene["masks"].as_array().unwrap();
        assert_eq!(objects.len(), masks.len());
        for (object, mask) in objects.iter().zip(masks) {
            let mask = Image::open(&folder.path("scenes").join(mask.as_str().unwrap()));
            let [x, y] = [0, 1].map(|i| object["center"][i].as_f64().unwrap() as usize);
            assert_eq!(mask.pixels[(y * 64 + x) * 3], 255, "{object}");
            assert!(mask.pixels.contains(&0));
        }
        assert!(scene["captions"].as_array().unwrap().len() > 1, "{scene}");
    }
    folder.comat(&words("world render --count 5 --seed 4 --out more")).ok();
    let (few, more) = (folder.bytes("scenes"), folder.bytes("more"));
    let same = |name: &str| few[std::path::Path::new(name)] == more[std::path::Path::new(name)];
    assert!(same("000000.png") && same("000002.png") && same("000002.mask-0.png"));
    folder.comat(&words("world render --out scenes")).error(&["scenes/scenes.jsonl exists already", "--overwrite"]);
    folder.comat(&words("world render --out scenes --category spatial --overwrite --count 2")).ok();
    assert_eq!(lines(&folder.read("scenes/scenes.jsonl"))[0]["scene"]["objects"].as_array().unwrap().len(), 2);
    folder.assert_no_leftovers();
}

#[test]
fn prompts_of_both_splits() {
    let folder = Folder::new();
    let make = |rest: &str| folder.comat(&words(&format!("world prompts {rest}"))).ok().stdout;
    assert_eq!(make("--split train --count 20 --seed 1 --out train.jsonl"), "20 prompts in train.jsonl\n");
    make("--split held-out --count 20 --seed 1 --out test.txt");
    let train: Vec<String> =
        lines(&folder.read("train.jsonl")).iter().map(|p| p["prompt"].as_str().unwrap().into()).collect();
    let test = folder.read("test.txt");
    assert_eq!((train.len(), test.lines().count()), (20, 20));
    assert!(test.lines().all(|prompt| !train.iter().any(|p| p == prompt)));
    let again =
        |rest: &str| folder.comat(&words(&format!("world prompts --split train --count 2 --out train.jsonl {rest}")));
    again("").error(&["train.jsonl exists; --overwrite replaces it"]);
    let shown = make("--split train --count 20 --seed 1");
    assert_eq!(shown, folder.read("train.jsonl"));
    assert_eq!(lines(&shown)[3]["category"], "complex");
}

/// Scenes stand for drawn images, named as T2I-CompBench names them.
#[test]
fn images_are_judged() {
    let folder = Folder::new();
    folder.comat(&words("world render --category complex --count 4 --seed 2 --out scenes")).ok();
    let scenes = lines(&folder.read("scenes/scenes.jsonl"));
    std::fs::create_dir(folder.path("images")).unwrap();
    let mut prompts = vec![];
    for (i, scene) in scenes.iter().enumerate() {
        // the longest caption tells the most
        let all = scene["captions"].as_array().unwrap().iter().map(|c| c.as_str().unwrap());
        let prompt = all.max_by_key(|c| c.len()).unwrap();
        // the last image is that of another scene
        let of = if i == 3 { &scenes[0] } else { scene };
        let from = folder.path("scenes").join(of["file"].as_str().unwrap());
        std::fs::copy(from, folder.path(&format!("images/{prompt}_{i:06}.png"))).unwrap();
        prompts.push(prompt.to_owned());
    }
    std::fs::copy(folder.path("scenes/000000.png"), folder.path("images/stray.png")).unwrap();
    folder.write("prompts.txt", prompts.join("\n") + "\na red star\n");

    let done = folder.comat(&words("world judge --prompts prompts.txt --images images --out scores.json")).ok();
    let all = done.stdout.lines().find(|line| line.starts_with("all ")).unwrap();
    assert!(all.contains("75.0"), "{}", done.stdout);
    assert!(done.stdout.contains("1 prompt without an image, the first: a red star"), "{}", done.stdout);
    assert!(done.stdout.contains("1 image of none of the prompts, not judged, the first: stray.png"));
    let judged = lines(&folder.read("scores.jsonl"));
    assert_eq!(judged.len(), 4);
    for line in &judged {
        let seed = line["seed"].as_u64().unwrap();
        assert_eq!(line["verdict"]["correct"], seed != 3, "{line}");
        assert_eq!(line["prompt"], prompts[seed as usize]);
    }
    let scores: Value = serde_json::from_str(&folder.read("scores.json")).unwrap();
    assert_eq!(scores["scores"]["all"]["images"], 4);
    assert_eq!(scores["missing"][0], "a red star");
    assert!(!done.stdout.contains("2nd judge"), "{}", done.stdout);
    let second = "world judge --prompts prompts.txt --images images --captioner weights/world/blip --out second.json";
    let done = folder.comat(&words(second)).ok();
    assert!(done.stdout.contains("2nd judge"), "{}", done.stdout);
    let second: Vec<bool> = lines(&folder.read("second.jsonl")).iter().map(|line| line["second"] == true).collect();
    // a captioner errs, too: of three true images it refuses one; the last image is that of another scene
    assert!(second.len() == 4 && !second[3] && second.iter().filter(|passes| **passes).count() >= 2, "{second:?}");
    folder.comat(&words("world judge --prompts prompts.txt --images images --captioner gone")).error(&["gone"]);
    folder.comat(&words("world judge --prompts prompts.txt --images images")).ok();
    assert!(folder.exists("images/scores.json") && folder.exists("images/scores.jsonl"));
    folder.assert_no_leftovers();
}

/// What `comat generate` draws carries its prompt and seed, whatever the file is called; the fixture draws 32x32.
#[test]
fn drawn_images_say_what_they_are() {
    let folder = Folder::new();
    folder.generate(common::SD1, &["a red star"], "--out images --steps 2 --size 64 --seed 9").ok();
    folder.write("prompts.jsonl", r#"{"prompt": "a red star", "category": "color"}"#);
    folder.comat(&words("world judge --prompts prompts.jsonl --images images --out scores.json")).ok();
    let own = "world judge --prompts prompts.jsonl --images images --out prompts.json";
    folder.comat(&words(own)).error(&["prompts.jsonl beside it is the file of --prompts"]);
    folder.write("mine.json", "{}");
    let mine = "world judge --prompts prompts.jsonl --images images --out mine.json";
    folder.comat(&words(mine)).error(&["mine.json exists, and has no scores"]);
    std::fs::rename(folder.path("mine.json"), folder.path("mine.jsonl")).unwrap();
    folder.comat(&words(mine)).error(&["mine.jsonl exists, and has no scores"]);
    assert_eq!(folder.read("mine.jsonl"), "{}");
    let judged = lines(&folder.read("scores.jsonl")).remove(0);
    assert_eq!((judged["seed"].as_u64(), judged["category"].as_str()), (Some(9), Some("color")));
    assert_eq!(judged["verdict"]["correct"], false);

    // images of several kinds in one folder are said
    folder.generate(common::SD1, &["a red star"], "--out others --steps 3 --size 64 --seed 9").ok();
    let [image] = folder.names("others").try_into().unwrap();
    std::fs::copy(folder.path("others").join(&image), folder.path("images/again.png")).unwrap();
    let done = folder.comat(&words("world judge --prompts prompts.jsonl --images images --out scores.json"));
    let parts = ["images were drawn in 2 ways", "1 image of a prompt and seed that another one has, too"];
    assert!(done.code == Some(0) && parts.iter().all(|part| done.stderr.contains(part)), "{done:?}");
}

#[test]
fn bad_input() {
    let folder = Folder::new();
    let comat = |text: &str| folder.comat(&words(text));
    comat("world render --count 0 --out x").usage(&["must be at least 1"]);
    comat("world render --out x --category colour").usage(&["`colour` is not one of color, shape"]);
    comat("world prompts --split test --count 3").usage(&["train", "held-out"]);
    comat("world prompts --split train --count 3 --out a.csv").error(&["a.csv: a prompt file ends in .txt or .jsonl"]);
    comat("world prompts --split train --count 3 --out no/a.txt").error(&["no/", "no such file or folder"]);
    folder.write("good.txt", "a red star\n");
    folder.write("bad.txt", "a red star\na red dog\n");
    folder.write("bad.jsonl", r#"{"prompt": "a red star", "category": 3}"#);
    std::fs::create_dir(folder.path("empty")).unwrap();
    comat("world judge --prompts gone.txt --images empty").error(&["gone.txt: no such file or folder"]);
    comat("world judge --prompts bad.txt --images empty").error(&["bad.txt:2: `a red dog` is not a prompt"]);
    comat("world judge --prompts bad.jsonl --images empty").error(&["bad.jsonl:1: category `3` is not one of"]);
    comat("world judge --prompts good.txt --images empty").error(&["empty: there are no PNG files in it"]);
    comat("world judge --prompts good.txt --images gone").error(&["gone: no such file or folder"]);
    comat("world judge --prompts good.txt --images empty --out a.txt").error(&["a.txt: scores are written to a .json"]);
    folder.write("empty/a red star_000001.png", "no image");
    comat("world judge --prompts good.txt --images empty").error(&["a red star_000001.png: "]);
    assert_eq!(folder.names("empty"), ["a red star_000001.png"]);
    folder.comat(&words("world render --count 1 --out scenes")).ok();
    comat("world judge --prompts good.txt --images scenes").error(&["scenes: none of", "is of a prompt in good.txt"]);
    folder.assert_no_leftovers();
}
