//! Nouns found in an image and painted over it, on tiny networks with random weights.

use crate::common::{Done, Folder, fixture};
use images::Image;
use std::path::Path;

const WIDTH: usize = 44;
const HEIGHT: usize = 30;

/// Patches of grey and colour.
fn image() -> Image {
    let value = |x: usize, y: usize, channel: usize| ((x / 6 * 37 + y / 6 * 59 + channel * 83) % 251) as u8;
    let pixels = (0..HEIGHT).flat_map(|y| (0..WIDTH).flat_map(move |x| (0..3).map(move |c| value(x, y, c)))).collect();
    Image { width: WIDTH, height: HEIGHT, pixels }
}

fn folder() -> Folder {
    let folder = Folder::new();
    image().save(&folder.path("in.png"), &[]).unwrap();
    folder
}

/// What the detector finds, it finds by chance; above a threshold of 1 that is nothing.
fn segment(folder: &Folder, nouns: &str, words: &str) -> Done {
    let (detector, segmenter) = (fixture("grounding_dino"), fixture("sam"));
    run(folder, nouns, &detector, &segmenter, words)
}

fn run(folder: &Folder, nouns: &str, detector: &Path, segmenter: &Path, words: &str) -> Done {
    let mut all = vec!["segment", "--image", "in.png", "--nouns", nouns];
    all.extend(["--detector", detector.to_str().unwrap(), "--segmenter", segmenter.to_str().unwrap()]);
    all.extend(words.split_whitespace());
    folder.comat(&all)
}

#[test]
fn what_was_found_is_painted_and_listed() {
    let folder = folder();
    let attempts = ["dog", "cat", "bird", "tree", "house"].iter().flat_map(|noun| [0.25, 0.5, 0.75].map(|t| (noun, t)));
    let mut found = attempts.map(|(noun, threshold)| {
        let words = format!("--out out.png --overwrite --box-threshold 0.2 --text-threshold {threshold}");
        (noun, segment(&folder, noun, &words).ok().stdout)
    });
    let (noun, stdout) = found.find(|(_, stdout)| stdout.contains("box")).expect("something is found");
    let lines: Vec<&str> = stdout.lines().collect();
    let [first, boxes @ .., last] = &lines[..] else { panic!("{stdout}") };
    let (head, count) = (first.split(' ').take(3).collect::<Vec<_>>().join(" "), boxes.len());
    assert!(count > 0 && head == format!("{noun} (red): {count}") && first.ends_with("% of the image"), "{first}");
    for line in boxes {
        let numbers: Vec<f64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.len() == 5 && numbers[0] >= 0.2, "{line}");
        assert!(numbers[1] <= numbers[3] && numbers[2] <= numbers[4], "{line}");
    }
    assert_eq!(*last, "written to out.png");

    // As many pixels are painted as the legend says: none of the image's has the colour already.
    let (before, after) = (image(), Image::open(&folder.path("out.png")).unwrap());
    assert_eq!((after.width, after.height), (WIDTH, HEIGHT));
    let pixels = before.pixels.chunks(3).zip(after.pixels.chunks(3));
    let painted = pixels.filter(|(before, after)| before != after).count();
    let share = format!("{:.1}%", 100.0 * painted as f64 / (WIDTH * HEIGHT) as f64);
    assert!(painted > 0 && first.contains(&share), "{share} of the pixels are painted: {first}");
    folder.assert_no_leftovers();
}

#[test]
fn what_was_not_found_leaves_the_image_alone() {
    let folder = folder();
    let done = segment(&folder, " dog, red bird ", "--out out.png --box-threshold 1").ok();
    assert_eq!(done.stdout, "dog: not found\nred bird: not found\nwritten to out.png\n");
    assert_eq!(Image::open(&folder.path("out.png")).unwrap(), image());
}

#[test]
fn wrong_arguments() {
    let folder = folder();
    segment(&folder, "dog,,cat", "--out out.png").usage(&["--nouns", "no noun between two commas"]);
    segment(&folder, "", "--out out.png").usage(&["--nouns"]);
    segment(&folder, "dog", "").usage(&["--out"]);
    segment(&folder, "dog", "--out out.png --box-threshold 30%").usage(&["--box-threshold"]);
    for score in ["-0.1", "1.5", "nan"] {
        segment(&folder, "dog", &format!("--out out.png --text-threshold={score}")).usage(&["from 0 to 1"]);
    }
    folder.write("out.png", "mine");
    segment(&folder, "dog", "--out out.png").error(&["out.png exists already", "--overwrite"]);
    assert_eq!(folder.read("out.png"), "mine");
    segment(&folder, "dog", "--out out.png --overwrite --box-threshold 1").ok();
    segment(&folder, "dog", "--out no/out.png --box-threshold 1").error(&["no/out.png", "no such file or folder"]);
    let many = "dog,cat,bird,car,tree,house,red,blue,green,black,white,orange,big,small";
    segment(&folder, many, "--out many.png").error(&["detector: ", "tokens", "look for fewer at once"]);
}

#[test]
fn wrong_files() {
    let folder = folder();
    let (detector, segmenter) = (fixture("grounding_dino"), fixture("sam"));
    run(&folder, "dog", &segmenter, &segmenter, "--out out.png").error(&[
        "detector: ",
        "sam/config.json: model_type is",
        "sam",
    ]);
    run(&folder, "dog", &detector, &detector, "--out out.png")
        .error(&["segmenter: ", "config.json: model_type is \"grounding-dino\"; only \"sam\" is supported"]);
    run(&folder, "dog", &detector, Path::new("nowhere"), "--out out.png")
        .error(&["segmenter: nowhere/config.json: no such file or folder"]);
    folder.copy("sam", "sam");
    folder.edit_tensors("sam/model.safetensors", |all| drop(all.remove("vision_encoder.pos_embed")));
    run(&folder, "dog", &detector, Path::new("sam"), "--out out.png")
        .error(&["sam/model.safetensors: vision_encoder.pos_embed is missing"]);
    folder.write("in.png", "no image");
    segment(&folder, "dog", "--out out.png").error(&["in.png: "]);
    std::fs::remove_file(folder.path("in.png")).unwrap();
    segment(&folder, "dog", "--out out.png").error(&["in.png: no such file or folder"]);
    assert!(!folder.exists("out.png"));
}
