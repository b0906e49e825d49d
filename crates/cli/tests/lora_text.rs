//! LoRA files that adapt the text encoders too.

use crate::common;

use crate::common::{Folder, SD1, SDXL, fixture, relative_error};
use models::tensors;
use std::path::{Path, PathBuf};
use tch::Tensor;

const PROMPT: &str = "a photo of a Red dog and a blue cat";

fn of(base: &str) -> PathBuf {
    fixture("lora_text").join(format!("{base}.safetensors"))
}

fn expected(name: &str) -> Tensor {
    tensors::read(&fixture("lora_text").join("io.safetensors")).unwrap().0.remove(name).unwrap()
}

/// Final latents of the fixtures' case.
fn draw(folder: &Folder, model: &Path, words: &str) -> Tensor {
    let noise = fixture("lora_text").join("io.safetensors");
    let words = format!(
        "--steps 4 --guidance-scale 3 --overwrite --out g --save-latents x.safetensors --init-latents {} {words}",
        noise.display()
    );
    folder.comat(&common::generate_words(model.to_str().unwrap(), &[PROMPT], &words)).ok();
    folder.tensors("x.safetensors").remove("x_0").unwrap()
}

/// In every format, and merged, a file draws what diffusers draws with it.
fn parity(base: &str, model: &str, parts: &[&str]) {
    let (folder, model, lora) = (Folder::new(), fixture(model), of(base));
    let (with, without) = (expected(&format!("{base}.latents")), expected(&format!("{base}.plain")));
    let is = |got: Tensor, expected: &Tensor, what: &str| {
        let error = relative_error(&got, expected);
        println!("{base}, {what}: relative error {error:.1e}");
        assert!(error < 1e-4, "{base}, {what}: {error:e}");
    };
    is(draw(&folder, &model, ""), &without, "plain");
    is(draw(&folder, &model, &format!("--lora {} --lora-scale 0", lora.display())), &without, "scale 0");
    is(draw(&folder, &model, &format!("--lora {}", lora.display())), &with, "kohya");
    for to in ["diffusers", "peft", "kohya"] {
        let file = format!("{to}.safetensors");
        folder.comat(&["lora", "convert", lora.to_str().unwrap(), "--to", to, "--out", &file]).ok();
        is(draw(&folder, &model, &format!("--lora {file}")), &with, to);
    }
    // what kohya's format is converted from and to has the same keys
    let (original, again) = (tensors::read(&lora).unwrap().0, folder.tensors("kohya.safetensors"));
    assert!(original.keys().eq(again.keys()));

    let half = format!("{}:0.5", lora.display());
    let words = ["lora", "merge", "--model", model.to_str().unwrap(), "--lora", &half, "--lora", &half, "--out", "m"];
    folder.comat(&words).ok();
    is(draw(&folder, &folder.path("m"), ""), &with, "merged");
    let (mut ours, mut theirs) = (folder.bytes("m"), folder.bytes(model.to_str().unwrap()));
    for part in parts {
        assert_ne!(ours.remove(Path::new(part)).unwrap(), theirs.remove(Path::new(part)).unwrap(), "{part}");
    }
    theirs.remove(Path::new("io.safetensors")); // weights at the top would be the original's
    assert!(ours == theirs, "everything else is as it was");

    let check = folder.comat(&["lora", "check", lora.to_str().unwrap(), "--model", model.to_str().unwrap()]).ok();
    assert!(check.stdout.contains("it adapts text_encoder too: it can be drawn with"), "{}", check.stdout);
    let info = folder.comat(&["lora", "info", lora.to_str().unwrap()]).ok();
    assert!(info.stdout.contains("text_encoder: 12 layers, rank 2, alpha 3"), "{}", info.stdout);
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

#[test]
fn sd1_as_diffusers_draws() {
    parity("sd1", SD1, &[UNET, TEXT]);
}

#[test]
fn sdxl_as_diffusers_draws() {
    parity("sdxl", SDXL, &[UNET, TEXT, "text_encoder_2/model.safetensors"]);
}

/// A file for the text encoder alone is as good.
#[test]
fn without_the_unet() {
    let folder = Folder::new();
    let (mut all, _) = tensors::read(&of("sd1")).unwrap();
    all.retain(|key, _| key.starts_with("lora_te_"));
    folder.write_tensors("text.safetensors", all);
    let latents = draw(&folder, &fixture(SD1), "--lora text.safetensors");
    assert!(relative_error(&latents, &expected("sd1.plain")) > 1e-2);
    let model = fixture(SD1);
    let words = ["lora", "merge", "--model", model.to_str().unwrap(), "--lora", "text.safetensors", "--out", "m"];
    folder.comat(&words).ok();
    assert!(relative_error(&draw(&folder, &folder.path("m"), ""), &latents) < 1e-4);
    assert_eq!(folder.bytes("m")[Path::new(UNET)], folder.bytes(model.to_str().unwrap())[Path::new(UNET)]);
}

/// The panel's two rows have their own text: below is what the file draws alone.
#[test]
fn panels_of_words() {
    let folder = Folder::new();
    let panel = |out: &str, words: &str| {
        let (model, lora) = (fixture(SD1), of("sd1"));
        let words = format!("attention --model {} --prompt dog --steps 2 --out {out} {words}", model.display());
        let words = words.replace("LORA", lora.to_str().unwrap());
        folder.comat(&words.split_whitespace().collect::<Vec<_>>()).ok();
        common::Image::open(&folder.path(&format!("{out}/00000-dog-seed0-attention.png")))
    };
    let (base, both, none) = (panel("a", ""), panel("b", "--lora LORA"), panel("c", "--lora LORA --lora-scale 0"));
    assert!(base.height < both.height && both.height == none.height);
    assert!(both.difference(&none) > 0);
}

/// Base and LoRA are drawn one after the other, each with its own text.
#[test]
fn evaluated_beside_its_base() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("prompts")).unwrap();
    folder.write("prompts/color_val.txt", "a red dog\n");
    let (model, lora) = (fixture(SD1), of("sd1"));
    let settings = "--steps 2 --size 32 --guidance-scale 2";
    let words = format!(
        "evaluate --bench t2i-compbench --prompts prompts --out eval --seeds 42 --vqa {} --clip {} {settings} --model {} --lora {}",
        fixture("vqa").display(),
        fixture("clip_score").display(),
        model.display(),
        lora.display()
    );
    folder.comat(&words.split_whitespace().collect::<Vec<_>>()).ok();
    let sides = [("base", String::new()), ("lora", format!("--lora {}", lora.display()))];
    let images = sides.map(|(side, lora)| {
        folder.generate(SD1, &["a red dog"], &format!("{settings} --seed 42 --out {side} {lora}")).ok();
        let alone = common::Image::open(&folder.path(&format!("{side}/00000-a-red-dog-seed42.png")));
        let name = format!("eval/{side}/color/a red dog_000000.png");
        assert_eq!(common::Image::open(&folder.path(&name)).difference(&alone), 0, "{side}");
        alone
    });
    assert!(images[0].difference(&images[1]) > 0);
}

#[test]
fn what_is_refused() {
    let folder = Folder::of_run();
    let generate = |model: &str, lora: &str| folder.generate(model, &["x"], &format!("--out g --lora {lora}"));
    let (sd1, sdxl) = (of("sd1").display().to_string(), of("sdxl").display().to_string());
    generate(SD1, &sdxl).error(&["text of width 36, this model's is for 16"]);
    folder.train(&format!("lora.init={sd1}")).error(&[
        "text_encoder.text_model.encoder.layers.0",
        "only the UNet's are trained",
        "--unet-only",
    ]);

    let edit = |name: &str, from: &str, to: &str| {
        let (all, _) = tensors::read(&of("sd1")).unwrap();
        let text = all.into_iter().filter(|(key, _)| key.starts_with("lora_te_"));
        folder.write_tensors(name, text.map(|(key, t)| (key.replace(from, to), t)).collect::<tensors::Tensors>());
    };
    edit("second.safetensors", "lora_te_", "lora_te2_");
    generate(SD1, "second.safetensors").error(&["second.safetensors", "adapts text_encoder_2", "has 1 text encoder"]);
    let model = fixture(SD1).display().to_string();
    let merge = |lora: &str| folder.comat(&["lora", "merge", "--model", &model, "--lora", lora, "--out", "m"]);
    merge("second.safetensors").error(&["second.safetensors: it adapts text_encoder_2, which", "does not have"]);
    let check = |lora: &str| folder.comat(&["lora", "check", lora, "--model", &model]);
    assert!(check("second.safetensors").stdout.contains("error: the model has no text_encoder_2"));

    edit("deep.safetensors", "layers_1_", "layers_11_");
    for done in [generate(SD1, "deep.safetensors"), merge("deep.safetensors")] {
        done.error(&["layers.11", "belongs to no layer of this model's text_encoder", "another base model?"]);
    }
    assert!(check("deep.safetensors").stdout.contains("layers.11.mlp.fc1 is no layer of the model"));
    // of the second encoder's sizes, under the first one's names
    let (all, _) = tensors::read(&of("sdxl")).unwrap();
    let wide = all.into_iter().filter(|(key, _)| key.starts_with("lora_te2_"));
    let wide: tensors::Tensors = wide.map(|(key, t)| (key.replace("lora_te2_", "lora_te_"), t)).collect();
    folder.write_tensors("wide.safetensors", wide);
    for done in [generate(SD1, "wide.safetensors"), merge("wide.safetensors")] {
        done.error(&["wide.safetensors", "do not fit the layer's weight"]);
    }
    assert!(!folder.exists("g") && !folder.exists("m"));
    folder.assert_no_leftovers();
}
