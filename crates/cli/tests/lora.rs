//! LoRA files for and from other programs, on the miniature world's model.

use crate::common;

use crate::common::{Folder, Image, SD1, fixture, relative_error};
use serde_json::Value;
use std::{fs, path::Path};
use tch::{Kind, Tensor};

const OURS: &str = "adapter.safetensors";
const IMAGE: &str = "00000-a-red-circle-seed0.png";

fn world() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world/sd").to_str().unwrap().to_owned()
}

/// A folder with an adapter of the world's model in kohya's format: rank 2, alpha 3, on all its attention.
fn folder() -> Folder {
    let folder = Folder::new();
    let (unet, _) =
        models::tensors::read(&Path::new(&world()).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let mut all = vec![];
    for (i, (key, weight)) in unet.iter().filter(|(key, _)| key.contains(".attn")).enumerate() {
        let Some(layer) = key.strip_suffix(".weight").filter(|_| weight.dim() == 2) else { continue };
        let wave = |shape: [i64; 2], step: f64| {
            (Tensor::arange(shape[0] * shape[1], (Kind::Float, weight.device())) * step + i as f64).sin().view(shape)
        };
        let name = format!("lora_unet_{}", layer.replace('.', "_"));
        all.push((format!("{name}.lora_down.weight"), wave([2, weight.size()[1]], 0.7) * 0.2));
        all.push((format!("{name}.lora_up.weight"), wave([weight.size()[0], 2], 1.3) * 0.2));
        all.push((format!("{name}.alpha"), Tensor::from(3f32)));
    }
    folder.write_tensors(OURS, all.into_iter().collect::<models::tensors::Tensors>());
    folder
}

fn draw(folder: &Folder, model: &str, words: &str, out: &str) -> (Image, Tensor) {
    let latents = format!("{out}.safetensors");
    let words = format!("--steps 3 --guidance-scale 1 --out {out} --save-latents {latents} {words}");
    folder.comat(&common::generate_words(model, &["a red circle"], &words)).ok();
    (Image::open(&folder.path(&format!("{out}/{IMAGE}"))), folder.tensors(&latents).remove("x_0").unwrap())
}

/// Converted to every format, it draws the same; so does the model with it merged in.
#[test]
fn converted_and_merged_it_draws_the_same() {
    let folder = folder();
    let (_, plain) = draw(&folder, &world(), "", "plain");
    let (image, expected) = draw(&folder, &world(), &format!("--lora {OURS}"), "kohya");
    assert!(relative_error(&plain, &expected) > 1e-2, "the adapter changes nothing");
    for to in ["diffusers", "peft", "kohya"] {
        let file = format!("{to}-again.safetensors");
        folder.comat(&["lora", "convert", OURS, "--to", to, "--out", &file]).ok();
        let (_, latents) = draw(&folder, &world(), &format!("--lora {file}"), &format!("{to}-drawn"));
        assert!(relative_error(&latents, &expected) < 1e-5, "{to}");
    }
    let exact = ["--dtype", "float32"]; // the world's weights are float16, which would round the sums
    folder
        .comat(&[&["lora", "merge", "--model", &world(), "--lora", OURS, "--out", "merged"][..], &exact].concat())
        .ok();
    let (merged, latents) = draw(&folder, "merged", "", "merged-drawn");
    assert!(relative_error(&latents, &expected) < 1e-5);
    assert!(merged.difference(&image) <= 1);

    // Half of it twice is all of it, and everything but the UNet's weights is as it was.
    let half = format!("{OURS}:0.5");
    let words = ["lora", "merge", "--model", &world(), "--lora", &half, "--lora", &half, "--out", "twice"];
    folder.comat(&[&words[..], &exact].concat()).ok();
    let (_, latents) = draw(&folder, "twice", "", "twice-drawn");
    assert!(relative_error(&latents, &expected) < 1e-5);
    let (mut ours, mut original) = (folder.bytes("merged"), folder.bytes(&world()));
    let unet = Path::new("unet/diffusion_pytorch_model.safetensors");
    assert_ne!(ours.remove(unet).unwrap(), original.remove(unet).unwrap());
    assert_eq!(ours, original);
    folder.assert_no_leftovers();
}

/// `FILE:SCALE` may begin with `~` or a variable: what a shell does not expand within a word, or what stands in quotes.
#[test]
fn a_path_with_a_home_and_a_scale() {
    let folder = folder();
    let merged = |lora: &str, out: &str| {
        let model = world();
        let words = ["lora", "merge", "--model", &model, "--lora", lora, "--out", out, "--dtype", "float32"];
        let mut command = folder.command(&words);
        command.env("HOME", folder.path("")).env("LORAS", folder.path(""));
        common::Done::from(command.output().unwrap())
    };
    merged(&format!("{OURS}:0.5"), "plain").ok();
    for (i, lora) in
        [format!("~/{OURS}:0.5"), format!("$LORAS/{OURS}:0.5"), format!("${{LORAS}}/{OURS}:0.5")].iter().enumerate()
    {
        merged(lora, &format!("other{i}")).ok();
        assert!(folder.bytes("plain") == folder.bytes(&format!("other{i}")), "{lora}");
    }
    merged("$COMAT_NOT_SET/x:0.5", "none").usage(&["the variable COMAT_NOT_SET is not set"]);
}

/// Weights of 16 bits take in what is large beside their last place, and lose what is small; it is said how much.
#[test]
fn merging_says_what_the_rounding_leaves() {
    let folder = folder();
    let merge = |scale: &str, out: &str, dtype: &str| {
        let (lora, model) = (format!("{OURS}:{scale}"), world());
        let words = ["lora", "merge", "--model", &model, "--lora", &lora, "--out", out, "--dtype", dtype];
        folder.comat(&words).ok().stdout
    };
    let share = |said: &str, kind: &str| -> f64 {
        let line = said.lines().find(|line| line.contains("% of the update")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.ends_with(&format!("survives the rounding to {kind}; --dtype float32 keeps all of it")), "{line}");
        line.split_once(" %").unwrap().0.parse().unwrap()
    };
    assert!((99.0..101.0).contains(&share(&merge("1", "large", "float16"), "float16")));
    assert!(share(&merge("1e-5", "small", "float16"), "float16") < 50.0);
    assert!(share(&merge("1", "other", "bfloat16"), "bfloat16") > 90.0);
    assert!(!merge("1", "wide", "float32").contains("survives"));
}

/// Other files that hold the original's weights would be taken for the merged ones.
#[test]
fn files_with_the_original_weights_are_left_out() {
    let folder = folder();
    folder.copy(&world(), "model");
    for name in ["model/whole.ckpt", "model/unet/diffusion_pytorch_model.bin", "model/.hidden", "model/card.md"] {
        folder.write(name, "x");
    }
    let done = folder.comat(&["lora", "merge", "--model", "model", "--lora", OURS, "--out", "merged"]).ok();
    let mut lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.pop(), Some("written to merged"));
    assert!(lines.pop().is_some_and(|line| line.contains("survives the rounding to float16")));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].ends_with("unet/diffusion_pytorch_model.bin") && lines[1].ends_with("whole.ckpt"), "{lines:?}");
    assert!(folder.exists("merged/card.md") && !folder.exists("merged/.hidden"));
    assert_eq!(folder.names("merged/unet"), ["config.json", "diffusion_pytorch_model.safetensors"]);
}

/// With one layer per block, as the world has: LDM counts its blocks accordingly.
#[test]
fn ldm_block_names_are_read() {
    let folder = folder();
    let (_, expected) = draw(&folder, &world(), &format!("--lora {OURS}"), "a");
    folder.edit_tensors(OURS, |all| {
        let keys = std::mem::take(all).into_iter().map(|(key, t)| {
            let key = key.replace("mid_block_attentions_0", "middle_block_1");
            let key = key.replace("down_blocks_1_attentions_0", "input_blocks_3_1");
            let key = key.replace("down_blocks_2_attentions_0", "input_blocks_5_1");
            let key = key.replace("up_blocks_0_attentions_0", "output_blocks_0_1");
            let key = key.replace("up_blocks_0_attentions_1", "output_blocks_1_1");
            let key = key.replace("up_blocks_1_attentions_0", "output_blocks_2_1");
            (key.replace("up_blocks_1_attentions_1", "output_blocks_3_1"), t)
        });
        *all = keys.collect();
        assert!(all.keys().all(|key| !key.contains("_attentions_")));
    });
    let (_, latents) = draw(&folder, &world(), &format!("--lora {OURS}"), "b");
    assert_eq!(latents, expected);
}

#[test]
fn info_in_words_and_as_json() {
    let folder = folder();
    let text = folder.comat(&["lora", "info", OURS]).ok().stdout;
    for part in ["format      kohya\n", "unknown (text of width 96)", "unet: 56 layers, rank 2, alpha 3", "mid_block "]
    {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    let json: Value = serde_json::from_str(&folder.comat(&["lora", "info", OURS, "--json"]).ok().stdout).unwrap();
    assert_eq!((&json["networks"][0]["layers"], &json["networks"][0]["ranks"]), (&56.into(), &serde_json::json!([2])));
    assert_eq!(json["size"], fs::metadata(folder.path(OURS)).unwrap().len());
}

#[test]
fn check_tells_errors_from_warnings() {
    let folder = folder();
    let done = folder.comat(&["lora", "check", OURS, "--model", &world()]).ok();
    assert!(done.stdout.contains("warning: metadata that ComfyUI") && done.stdout.contains("no errors, 1 warning"));
    let other = fixture(SD1);
    let done = folder.comat(&["lora", "check", OURS, "--model", other.to_str().unwrap()]);
    let done = done.error(&["adapter.safetensors: 1 error, 1 warning"]);
    assert!(
        done.stdout.contains("error: it adapts a UNet for text of width 96, the model's is for"),
        "{}",
        done.stdout
    );
}

/// The original program's blocks are counted by the model's own layers, of which this one has one in a block.
#[test]
fn check_counts_blocks_as_the_model_has_them() {
    let folder = Folder::new();
    let other = fixture(SD1);
    let (unet, _) = models::tensors::read(&other.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let shape = unet["down_blocks.1.resnets.0.time_emb_proj.weight"].size();
    let ones = |shape: [i64; 2]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
    // with two layers in a block, the fourth would be the step down in size
    let name = "lora_unet_input_blocks_3_0_emb_layers_1";
    let all = [
        (format!("{name}.lora_down.weight"), ones([2, shape[1]])),
        (format!("{name}.lora_up.weight"), ones([shape[0], 2])),
    ];
    folder.write_tensors(OURS, models::tensors::Tensors::from(all));
    let done = folder.comat(&["lora", "check", OURS, "--model", other.to_str().unwrap()]).ok();
    assert!(done.stdout.contains("no errors"), "{}", done.stdout);
}

#[test]
fn what_is_refused() {
    let folder = folder();
    let comat = |words: &str| folder.comat(&words.split_whitespace().collect::<Vec<_>>());
    let (world, other) = (world(), fixture(SD1));
    let other = other.to_str().unwrap();
    comat(&format!("lora merge --model {other} --lora {OURS} --out m")).error(&[
        OURS,
        "text of width 96, this model's is for",
        "another base model?",
    ]);
    comat(&format!("lora merge --model {world} --lora gone --out m")).error(&["gone: no such file"]);
    comat(&format!("lora merge --model {world}/unet --lora {OURS} --out m")).error(&["holds a single network"]);
    comat(&format!("lora merge --model {world} --lora {OURS}:inf --out m")).usage(&["from -1000 to 1000"]);
    assert!(!folder.exists("m"));
    fs::create_dir(folder.path("there")).unwrap();
    comat(&format!("lora merge --model {world} --lora {OURS} --out there")).error(&["there: exists already"]);
    folder.copy(&world, "model"); // an absolute path replaces the fixtures' folder
    comat(&format!("lora merge --model model --lora {OURS} --out model/new")).error(&["in the model's own folder"]);
    assert!(!folder.exists("model/new"));

    comat(&format!("lora convert {OURS} --to kohya --out {OURS}")).error(&["exists already", "--overwrite"]);
    comat(&format!("lora convert {OURS} --to kohya --out there")).error(&["is a folder"]);
    comat(&format!("lora convert {OURS} --to a1111 --out x")).usage(&["a1111"]);
    comat(&format!("lora convert {OURS} --to kohya --out x.pt")).error(&["x.pt", "end in .safetensors"]);
    assert!(!folder.exists("x.pt"));
    let bytes = fs::read(folder.path(OURS)).unwrap();
    folder.write("short.safetensors", &bytes[..bytes.len() - 100]);
    for verb in ["info", "check"] {
        comat(&format!("lora {verb} short.safetensors")).error(&["short.safetensors", "the file is truncated"]);
    }
    comat("lora convert short.safetensors --to peft --out x.safetensors").error(&["short.safetensors"]);
    folder.write("text.safetensors", "nothing of that sort");
    comat("lora info text.safetensors").error(&["not a safetensors file"]);

    // Without its adapter of a text encoder, which here is one of another model, it can be used.
    folder.edit_tensors(OURS, |all| {
        for (end, shape) in [("lora_down", [2, 7]), ("lora_up", [7, 2])] {
            let key = format!("lora_te_text_model_encoder_layers_0_self_attn_q_proj.{end}.weight");
            all.insert(key, Tensor::ones(shape, (Kind::Float, tch::Device::Cpu)));
        }
    });
    let words = format!("generate --model {world} --prompt x --out g --lora {OURS}");
    comat(&words).error(&["self_attn.q_proj", "do not fit the layer's weight"]);
    comat(&format!("lora convert {OURS} --to kohya --out unet.safetensors --unet-only")).ok();
    let _ = draw(&folder, &world, "--lora unet.safetensors", "g");
    folder.assert_no_leftovers();
}

/// In place, when asked to.
#[test]
fn overwriting() {
    let folder = folder();
    let before = folder.tensors(OURS);
    folder.comat(&["lora", "convert", OURS, "--to", "peft", "--out", OURS, "--overwrite"]).ok();
    folder.comat(&["lora", "convert", OURS, "--to", "kohya", "--out", OURS, "--overwrite"]).ok();
    assert_eq!(folder.tensors(OURS), before);
}
