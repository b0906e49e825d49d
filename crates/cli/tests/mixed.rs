//! Runs with images beside the prompts.

use crate::common::Folder;
use images::Image;

fn with_images() -> Folder {
    let folder = Folder::of_run();
    std::fs::create_dir(folder.path("images")).unwrap();
    for (i, caption) in ["a red dog", "two green cars", "a white tree"].iter().enumerate() {
        let pixels = (0..40 * 36 * 3).map(|n| ((n * (7 + i)) % 251) as u8).collect();
        let image = Image { width: 40, height: 36, pixels };
        image.save(&folder.path(&format!("images/{i}.png")), &[]).unwrap();
        folder.write(&format!("images/{i}.txt"), caption);
    }
    folder
}

#[test]
fn images_take_part_and_are_resumed_exactly() {
    let folder = with_images();
    let mixed = "mixed.pairs=images mixed.timesteps=[1,999]";
    let adapter = |output: &str, settings: &str| {
        folder.train(&format!("output={output} checkpoints.every=1 {settings}")).ok();
        folder.tensors(&format!("{output}/checkpoints/step-3/adapter.safetensors"))
    };
    let straight = adapter("straight", &format!("train.steps=3 {mixed}"));
    folder.train(&format!("output=stopped train.steps=1 {mixed}")).ok();
    assert!(straight == adapter("stopped", &format!("train.steps=3 {mixed} --resume")));
    for step in folder.events("straight").iter().filter(|e| e["event"] == "step") {
        assert!(step["mixed_loss"].as_f64().is_some_and(|loss| loss > 0.0), "{step}");
    }

    let without = adapter("without", "train.steps=3");
    assert!(without == adapter("zero", &format!("train.steps=3 {mixed} mixed.weight=0")));
    assert!(without != straight);
    assert!(straight != adapter("one", &format!("train.steps=3 {mixed} mixed.batch_size=1")));
    let shown = folder.train(&format!("{mixed} --dry-run")).ok().stdout;
    assert!(shown.contains("images of images in a step, entering at timesteps 1 to 999"), "{shown}");
}

/// A copy that broke off does not end a run: its place goes to another image, and a run that goes on chooses the same one.
#[test]
fn a_broken_image_is_passed_over() {
    let folder = with_images();
    let whole = std::fs::read(folder.path("images/1.png")).unwrap();
    folder.write("images/1.png", &whole[..whole.len() / 2]);
    let mixed = "mixed.pairs=images mixed.timesteps=[1,999] mixed.batch_size=3 checkpoints.every=1";
    let train = |words: &str| {
        let done = folder.train(&format!("{words} {mixed}"));
        assert_eq!(done.code, Some(0), "{done:?}");
        done.stderr
    };
    let said = train("output=straight train.steps=2");
    assert!(
        said.contains("images/1.png: broken image") && said.contains("it is passed over (1 of 3 pairs so far)"),
        "{said}"
    );
    train("output=stopped train.steps=1");
    train("output=stopped train.steps=2 --resume");
    let adapter = |run: &str| folder.tensors(&format!("{run}/checkpoints/step-2/adapter.safetensors"));
    assert!(adapter("straight") == adapter("stopped"));
}

#[test]
fn what_cannot_be_mixed_in() {
    let folder = with_images();
    folder.train("mixed.pairs=images mixed.timesteps=[5,6]").error(&["mixed.timesteps", "no step from 5 to 6", "751"]);
    folder.train("mixed.pairs=no/such").error(&["no/such"]);
    folder.train("mixed.pairs=images mixed.weight=-1").error(&["mixed.weight is -1"]);
    folder.train("mixed.pairs=no/such --dry-run").error(&["no/such"]);
    folder.write("images/0.png", "no image");
    folder.write("images/1.png", "no image");
    folder.write("images/2.png", "no image");
    // before the first step, and before there is a run
    let broken = "output=broken mixed.pairs=images mixed.timesteps=[1,999]";
    for words in [broken.to_owned(), format!("{broken} --dry-run")] {
        let done = folder.train(&words);
        let said = "mixed.pairs: none of 3 images can be read";
        assert!(done.code == Some(1) && done.stderr.contains(said) && !folder.exists("broken"), "{words}: {done:?}");
    }
}
