//! The attention of words: `comat attention`, and the same beside the samples of a run.

use crate::common;

use crate::common::{Done, Folder, SD1, SDXL, fixture};
use images::Image;

fn attention(folder: &Folder, model: &str, prompt: &str, words: &str) -> Done {
    let model = fixture(model);
    let mut all = vec!["attention", "--model", model.to_str().unwrap(), "--prompt", prompt];
    all.extend(words.split_whitespace());
    folder.comat(&all)
}

/// Of a panel, the cell in a row and column; a cell is this many pixels wide and high.
fn cell(panel: &Image, row: usize, column: usize, side: usize) -> Vec<u8> {
    let (left, top) = (6 + column * (side + 6), 6 + row * (20 + side + 6) + 20);
    (top..top + side).flat_map(|y| panel.pixels[(y * panel.width + left) * 3..][..side * 3].to_vec()).collect()
}

#[test]
fn the_image_is_the_one_that_generate_draws() {
    for (model, guidance, side) in [(SD1, "1", 32), (SD1, "5", 32), (SDXL, "5", 32)] {
        let folder = Folder::new();
        let how = format!("--steps 3 --sampler ddpm --guidance-scale {guidance} --seed 4 --size {side}");
        let done = attention(&folder, model, "a red dog, and a cat", &format!("--out a {how}")).ok();
        let name = "00000-a-red-dog-and-a-cat-seed4";
        assert_eq!(done.stdout, format!("a/{name}-attention.png\n"));
        folder.generate(model, &["a red dog, and a cat"], &format!("--out g {how}")).ok();
        let panel = Image::open(&folder.path(&format!("a/{name}-attention.png"))).unwrap();
        let drawn = Image::open(&folder.path(&format!("g/{name}.png"))).unwrap().enlarge(192 / side);
        // with maps the attention is computed in another order: a value may be rounded the other way
        let furthest = cell(&panel, 0, 0, 192).iter().zip(&drawn.pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(furthest <= Some(1), "{model}: {furthest:?}");
        assert_eq!((panel.width, panel.height), (6 + 7 * 198, 6 + 218), "the image and six words");
        let (red, dog) = (cell(&panel, 0, 2, 192), cell(&panel, 0, 3, 192));
        assert!(red != dog && red != cell(&panel, 0, 0, 192), "every word has a map of its own");
        folder.assert_no_leftovers();
    }
}

#[test]
fn the_adapter_stands_below_and_words_can_be_chosen() {
    let folder = Folder::of_run();
    folder.train("train.steps=1 optimizer.learning_rate=0.1 optimizer.max_grad_norm=100").ok();
    let how = "--steps 3 --guidance-scale 2 --lora out/adapter/out.safetensors --words DOG,red";
    attention(&folder, SD1, "a red dog", &format!("--out a {how}")).ok();
    let panel = Image::open(&folder.path("a/00000-a-red-dog-seed0-attention.png")).unwrap();
    assert_eq!((panel.width, panel.height), (6 + 3 * 198, 6 + 2 * 218));
    (0..3).for_each(|column| assert!(cell(&panel, 0, column, 192) != cell(&panel, 1, column, 192), "{column}"));

    attention(&folder, SD1, "a red dog", &format!("--out a {how}")).error(&["exists already", "--overwrite"]);
    attention(&folder, SD1, "a red dog", &format!("--out a --overwrite {how} --lora-scale 0")).ok();
    let same = Image::open(&folder.path("a/00000-a-red-dog-seed0-attention.png")).unwrap();
    (0..3).for_each(|column| assert!(cell(&same, 0, column, 192) == cell(&same, 1, column, 192), "{column}"));

    attention(&folder, SD1, "a dog", "--out b --words cat").error(&["`cat` is not a word of `a dog`", "a, dog"]);
    attention(&folder, SD1, "a dog", "--out b --guidance-rescale 2").error(&["attention", "guidance_rescale"]);
    attention(&folder, SD1, "", "--out b --steps 1").ok();
    assert_eq!(folder.names("b").len(), 1, "a prompt without words has its image only");
}

#[test]
fn samples_of_a_run_show_it_too() {
    let folder = Folder::of_run();
    let settings = "samples.attention=true samples.every=1 samples.count=2 train.batch_size=1";
    folder.train(&format!("train.steps=1 checkpoints.every=1 optimizer.learning_rate=0.1 {settings}")).ok();
    let entries = ["000-a-red-dog.png", "001-a-blue-cat.png", "attention", "attention.safetensors", "grid.png"];
    assert_eq!(folder.names("out/samples/step-0"), entries);
    assert_eq!(folder.names("out/samples/step-1/attention"), entries[..2]);
    let panel =
        |step: usize| Image::open(&folder.path(&format!("out/samples/step-{step}/attention/{}", entries[1]))).unwrap();
    assert_eq!((panel(0).width, panel(0).height), (6 + 4 * 198, 6 + 218));
    assert_eq!((panel(1).width, panel(1).height), (6 + 4 * 198, 6 + 2 * 218));
    (0..4).for_each(|column| assert!(cell(&panel(1), 0, column, 192) != cell(&panel(1), 1, column, 192)));

    // A row is a share: no word gets more than there is.
    for maps in folder.tensors("out/samples/step-1/attention.safetensors").values() {
        let sum = maps.sum_dim_intlist([0].as_slice(), false, None);
        assert!(maps.min().double_value(&[]) >= 0.0 && sum.max().double_value(&[]) <= 1.0 + 1e-6);
    }

    // A run that goes on still knows its first round, and a damaged one is named.
    let resume = |steps: usize| {
        let set = format!("train.steps={steps} checkpoints.every=1 optimizer.learning_rate=0.1 {settings}");
        let mut words: Vec<String> = common::train_words(&set).iter().map(|w| w.to_string()).collect();
        words.push("--resume".into());
        folder.comat(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    resume(2).ok();
    assert_eq!(panel(2).height, 6 + 2 * 218);
    folder.write("out/samples/step-0/attention.safetensors", "x");
    resume(3).error(&["attention.safetensors"]);
}
