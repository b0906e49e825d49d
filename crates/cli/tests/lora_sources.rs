//! LoRAs as they are named: files, folders, ids of the hub; one or several, each with a strength; of every kind.

use crate::common::{Done, Folder, relative_error};
use crate::server::{COMMIT, Server};
use models::tensors::Tensors;
use std::{fs, path::Path};
use tch::{Device, Kind, Tensor};

fn world() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world/sd").to_str().unwrap().to_owned()
}

fn wave(shape: &[i64], start: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    ((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7 + start).sin() * 0.2).view(shape)
}

/// Layers of attention of the world's model, `[out, in]`, with a number each.
fn layers() -> Vec<(String, Vec<i64>, f64)> {
    let (unet, _) =
        models::tensors::read(&Path::new(&world()).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let linear = unet.iter().filter(|(key, t)| key.contains(".attn") && key.ends_with(".weight") && t.dim() == 2);
    linear.enumerate().map(|(i, (key, t))| (key.replace(".weight", ""), t.size(), i as f64)).collect()
}

fn plain(seed: f64) -> Tensors {
    let pair = |(layer, shape, i): (String, Vec<i64>, f64)| {
        [
            (format!("unet.{layer}.lora_A.default_0.weight"), wave(&[2, shape[1]], seed + i)),
            (format!("unet.{layer}.lora_B.default_0.weight"), wave(&[shape[0], 2], seed - i)),
        ]
    };
    layers().into_iter().flat_map(pair).collect()
}

/// LoHa on the first half of the layers, and a difference with a bias for a normalisation.
fn mixed() -> Tensors {
    let mut all = Tensors::new();
    for (layer, shape, i) in layers().into_iter().take(28) {
        let name = format!("lycoris_{}", layer.replace('.', "_"));
        for (end, shape) in [("a", [shape[0], 3]), ("b", [3, shape[1]])] {
            all.insert(format!("{name}.hada_w1_{end}"), wave(&shape, i) * 3.0);
            all.insert(format!("{name}.hada_w2_{end}"), wave(&shape, i + 1.0) * 3.0);
        }
        all.insert(format!("{name}.alpha"), Tensor::from(2f32));
    }
    let (unet, _) =
        models::tensors::read(&Path::new(&world()).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let width = unet["conv_norm_out.weight"].size()[0];
    all.insert("lora_unet_conv_norm_out.w_norm".into(), wave(&[width], 0.0));
    all.insert("lora_unet_conv_norm_out.b_norm".into(), wave(&[width], 1.0));
    all
}

/// Latents that are drawn with these words.
fn drawn(folder: &Folder, model: &str, words: &[&str]) -> Tensor {
    let fixed =
        "--prompt x --steps 2 --guidance-scale 1 --overwrite --out g --save-latents drawn.safetensors --device cpu";
    let words: Vec<&str> =
        ["generate", "--model", model].into_iter().chain(fixed.split(' ')).chain(words.iter().copied()).collect();
    let done = folder.comat(&words);
    assert_eq!(done.code, Some(0), "{done:#?}"); // it may have said what commit an id is of
    folder.tensors("drawn.safetensors").remove("x_0").unwrap()
}

#[test]
fn several_add_up() {
    let folder = Folder::new();
    let (first, second) = (plain(0.0), plain(5.0));
    folder.write_tensors(
        "first.safetensors",
        first.iter().map(|(k, t)| (k.clone(), t.shallow_clone())).collect::<Tensors>(),
    );
    folder.write_tensors(
        "second.safetensors",
        second.iter().map(|(k, t)| (k.clone(), t.shallow_clone())).collect::<Tensors>(),
    );
    // both as one: twice the rank
    let both = first.into_iter().map(|(key, one)| {
        let (axis, strength) = if key.contains("lora_A") { (0, 1.0) } else { (1, 0.5) };
        let two =
            Tensor::cat(&[one * strength, second[&key].shallow_clone() * if axis == 0 { 1.0 } else { -0.25 }], axis);
        (key, two)
    });
    folder.write_tensors("both.safetensors", both.collect::<Tensors>());
    let one = drawn(&folder, &world(), &["--lora", "both.safetensors"]);
    let two = drawn(&folder, &world(), &["--lora", "first.safetensors:0.5", "--lora", "second.safetensors:-0.25"]);
    let scaled = ["--lora", "first.safetensors", "--lora", "second.safetensors:-0.5", "--lora-scale", "0.5"];
    let none = drawn(&folder, &world(), &[]);
    assert!(relative_error(&none, &one) > 1e-2);
    assert!(relative_error(&two, &one) < 1e-4);
    assert!(relative_error(&drawn(&folder, &world(), &scaled), &one) < 1e-4);
    // the image says what it was drawn with
    let image = fs::read(folder.path("g").join(folder.names("g").into_iter().find(|n| n.ends_with(".png")).unwrap()));
    let text = String::from_utf8_lossy(&image.unwrap()).into_owned();
    assert!(text.contains("Lora: first.safetensors:0.5, Lora: second.safetensors:-0.25"), "{}", &text[..400]);
    let merge =
        ["lora", "merge", "--model", &world(), "--dtype", "float32", "--out", "m", "--lora", "first.safetensors:0.5"];
    folder.comat(&[&merge[..], &["--lora", "second.safetensors:-0.25"]].concat()).ok();
    assert!(relative_error(&drawn(&folder, "m", &[]), &one) < 1e-4);
}

/// Drawn with, merged, and by way of kohya's format.
#[test]
fn other_kinds_draw_and_merge() {
    let folder = Folder::new();
    folder.write_tensors("mixed.safetensors", mixed());
    let (none, with) = (drawn(&folder, &world(), &[]), drawn(&folder, &world(), &["--lora", "mixed.safetensors"]));
    assert!(relative_error(&none, &with) > 1e-2);
    folder
        .comat(&[
            "lora",
            "merge",
            "--model",
            &world(),
            "--dtype",
            "float32",
            "--out",
            "m",
            "--lora",
            "mixed.safetensors",
        ])
        .ok();
    assert!(relative_error(&drawn(&folder, "m", &[]), &with) < 1e-5);
    folder.comat(&["lora", "convert", "mixed.safetensors", "--to", "kohya", "--out", "k.safetensors"]).ok();
    assert!(relative_error(&drawn(&folder, &world(), &["--lora", "k.safetensors"]), &with) < 1e-6);
    let refused =
        folder.comat(&["lora", "convert", "mixed.safetensors", "--to", "diffusers", "--out", "d.safetensors"]);
    refused.error(&["this format cannot hold", "--to kohya", "comat lora merge"]);
    let info = folder.comat(&["lora", "info", "mixed.safetensors"]).ok().stdout;
    assert!(info.contains("kinds       LoHa; full difference"), "{info}");
    folder.assert_no_leftovers();
}

#[test]
fn folders_and_colons() {
    let folder = Folder::new();
    fs::create_dir(folder.path("made")).unwrap();
    folder.write_tensors("made/pytorch_lora_weights.safetensors", plain(0.0));
    folder.write_tensors("made/other.safetensors", plain(1.0));
    folder.write_tensors("a:b.safetensors", plain(0.0));
    let expected = drawn(&folder, &world(), &["--lora", "made/pytorch_lora_weights.safetensors"]);
    for lora in ["made", "made:1", "a:b.safetensors", "a:b.safetensors:1.0"] {
        assert_eq!(drawn(&folder, &world(), &["--lora", lora]), expected, "{lora}");
    }
    let half = drawn(&folder, &world(), &["--lora", "made:0.5"]);
    assert!(relative_error(&half, &expected) > 1e-3);
    for verb in
        [&["info", "made"][..], &["check", "made"], &["convert", "made", "--to", "kohya", "--out", "k.safetensors"]]
    {
        folder.comat(&[&["lora"], verb].concat()).ok();
    }
    fs::remove_file(folder.path("made/pytorch_lora_weights.safetensors")).unwrap();
    folder.write("made/adapter_model.bin", "x");
    folder.comat(&["lora", "info", "made"]).ok(); // the only one in safetensors
    fs::remove_file(folder.path("made/other.safetensors")).unwrap();
    folder
        .comat(&["lora", "info", "made"])
        .error(&["the folder made has no LoRA in safetensors", "adapter_model.bin is a pickle"]);
}

#[test]
fn what_is_left_out_and_what_is_broken() {
    let folder = Folder::new();
    let mut all = plain(0.0);
    all.insert("bundle_emb.word.clip_l".into(), wave(&[2, 8], 0.0));
    folder.write_tensors("a.safetensors", all);
    let generate = |lora: &str| {
        let words =
            format!("generate --model {} --prompt x --steps 1 --out g --device cpu --overwrite --lora {lora}", world());
        folder.comat(&words.split(' ').collect::<Vec<_>>())
    };
    let done = generate("a.safetensors");
    assert!(done.stderr.contains("embeddings in it are left out (word)"), "{done:?}");
    folder.edit_tensors("a.safetensors", |all| {
        let key = all.keys().find(|key| key.contains("lora_B")).unwrap().clone();
        let _ = all.get_mut(&key).unwrap().get(0).fill_(f64::NAN);
    });
    fs::remove_dir_all(folder.path("g")).unwrap();
    generate("a.safetensors")
        .error(&["a.safetensors: 2 values of unet.", "lora_B.default_0.weight are NaN or infinite"]);
    assert!(!folder.exists("g"));
    folder.write("pointer.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
    generate("pointer.safetensors").error(&["pointer.safetensors: this is a Git LFS pointer", "git lfs pull"]);
    let unet = Path::new(&world()).join("unet/diffusion_pytorch_model.safetensors").display().to_string();
    generate(&unet).error(&["none of its", "conv_in.bias", "this looks like the weights of a UNet"]);
}

#[test]
fn by_an_id_of_the_hub() {
    let folder = Folder::new();
    folder.write_tensors("one.safetensors", plain(0.0));
    folder.write_tensors("two.safetensors", plain(3.0));
    let [one, two] = ["one.safetensors", "two.safetensors"].map(|name| fs::read(folder.path(name)).unwrap());
    let files: [(&str, &[u8]); 3] =
        [("README.md", b"x"), ("pytorch_lora_weights.safetensors", &one), ("styles/two.safetensors", &two)];
    let server = Server::start("owner/style", &files);
    let online = |words: &[&str]| -> Done {
        let mut command = folder.command(words);
        command.env("HF_ENDPOINT", &server.endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        command.output().unwrap().into()
    };
    let tensors = |id: &str| {
        let done = online(&["lora", "convert", id, "--to", "peft", "--out", "x.safetensors", "--overwrite"]);
        assert_eq!(done.code, Some(0), "{done:#?}");
        folder.tensors("x.safetensors")
    };
    let (first, second) = (tensors("owner/style"), tensors("owner/style:styles/two.safetensors"));
    assert!(first == tensors("one.safetensors") && second == tensors("two.safetensors"));
    assert_ne!(first, second);
    let with_revision = format!("owner/style@{COMMIT}:styles/two.safetensors");
    assert_eq!(tensors(&with_revision), second);
    online(&["lora", "info", "owner/style:three.safetensors"])
        .error(&["has no three.safetensors", "pytorch_lora_weights"]);
    // with a strength, beside a file; and from then on without the network
    let expected = drawn(&folder, &world(), &["--lora", "one.safetensors:0.5", "--lora", "two.safetensors"]);
    let ids = ["--lora", "owner/style:0.5", "--lora", &with_revision];
    assert_eq!(drawn(&folder, &world(), &ids), expected);
}
