//! Adapter files of other programs: peft's patterns, shapes, what comes along, and what is no adapter.

use crate::common;

use models::{
    lora::{
        AdapterFile, Network,
        check::check,
        convert::{Options, Target, convert},
    },
    tensors::{self, Tensors},
    weights::Weights,
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const PLAIN: Options = Options { kind: None, factor: 1.0, unet_only: false };
const BLOCK: &str = "down_blocks.0.attentions.0.transformer_blocks.0";

fn wave(shape: &[i64]) -> Tensor {
    (Tensor::arange(shape.iter().product::<i64>(), FLOAT) * 0.37).sin().view(shape)
}

/// Layers of rank 4 as peft itself writes them.
fn pefts(folder: &Path, layers: &[&str], configuration: &str) -> PathBuf {
    let mut all = Tensors::new();
    for layer in layers {
        all.insert(format!("base_model.model.{layer}.lora_A.weight"), wave(&[4, 8]));
        all.insert(format!("base_model.model.{layer}.lora_B.weight"), wave(&[8, 4]));
    }
    let path = folder.join("adapter_model.safetensors");
    tensors::write(&path, &all, HashMap::new()).unwrap();
    fs::write(folder.join("adapter_config.json"), configuration).unwrap();
    path
}

/// As `re.match(rf"(.*\.)?({key})$", layer)` has it, the first match wins; in a file beside and in the metadata.
#[test]
fn patterns_of_peft() {
    let folder = tempfile::tempdir().unwrap();
    let [q, k, v] = ["attn1.to_q", "attn2.to_k", "attn2.to_v"].map(|end| format!("{BLOCK}.{end}"));
    let of = |configuration: &str| -> Vec<f64> {
        let path = pefts(folder.path(), &[&q, &k, &v], configuration);
        let beside = AdapterFile::read(&path).unwrap();
        let said: serde_json::Value = serde_json::from_str(configuration).unwrap();
        let keys = said.as_object().unwrap().iter().map(|(key, value)| (format!("unet.{key}"), value.clone()));
        let keys: serde_json::Map<_, _> = keys.collect();
        let metadata = HashMap::from([("lora_adapter_metadata".into(), serde_json::Value::Object(keys).to_string())]);
        let all = tensors::read(&path).unwrap().0;
        let inside = AdapterFile::parse(all, metadata, Path::new("x"), 2).unwrap();
        let alphas = |file: &AdapterFile| file.pairs().unwrap().values().map(|pair| pair.alpha).collect::<Vec<_>>();
        assert_eq!(alphas(&beside), alphas(&inside), "{configuration}");
        alphas(&beside)
    };
    assert_eq!(of(r#"{"r": 4, "lora_alpha": 8}"#), [8.0, 8.0, 8.0]);
    assert_eq!(of(r#"{"r": 4, "lora_alpha": 4, "alpha_pattern": {".*attn2\\.to_k": 16}}"#), [4.0, 16.0, 4.0]);
    assert_eq!(of(r#"{"lora_alpha": 4, "alpha_pattern": {"to_[qk]": 16, "attn2.*": 2}}"#), [16.0, 16.0, 2.0]);
    assert_eq!(of(r#"{"lora_alpha": 4, "alpha_pattern": {"attn2.*": 2, "to_[qk]": 16}}"#), [16.0, 2.0, 2.0]);
    assert_eq!(of(r#"{"lora_alpha": 4, "alpha_pattern": {"^attn2.*": 2, "o_q": 3, "to_": 5}}"#), [4.0, 4.0, 4.0]);
    assert_eq!(
        of(r#"{"r": 9, "rank_pattern": {"attn\\d.to_.": 4}, "lora_alpha": 6, "use_rslora": true}"#),
        [12.0, 12.0, 12.0],
        "alpha / √4 = 12 / 4"
    );
    assert_eq!(of(r#"{"lora_alpha": null, "alpha_pattern": null}"#), [4.0, 4.0, 4.0]);
}

/// Where a configuration leaves alpha out, it is peft's own, 8; where it says nothing of a network, alpha is the rank.
#[test]
fn alpha_that_a_configuration_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let layer = format!("{BLOCK}.attn1.to_q");
    let alpha = |file: &AdapterFile| file.pairs().unwrap().into_values().map(|pair| pair.alpha).next().unwrap();
    for (configuration, expected) in [
        (r#"{"r": 4}"#, 8.0),
        (r#"{"peft_type": "LORA", "target_modules": ["to_q"]}"#, 8.0),
        (r#"{"r": 4, "lora_alpha": null}"#, 8.0),
        (r#"{"r": 4, "use_rslora": true}"#, 16.0),
        (r#"{"r": 4, "alpha_pattern": {"to_k": 2}}"#, 8.0),
        (r#"{"r": 4, "alpha_pattern": {"to_q": 2}}"#, 2.0),
        ("{}", 4.0),
    ] {
        let path = pefts(folder.path(), &[&layer], configuration);
        assert_eq!(alpha(&AdapterFile::read(&path).unwrap()), expected, "{configuration}");
    }
    for (said, expected) in [
        (r#"{"unet.r": 4, "unet.target_modules": ["to_q"]}"#, 8.0),
        (r#"{"text_encoder.r": 4, "text_encoder.lora_alpha": 2}"#, 4.0),
    ] {
        let keys = ["A", "B"].map(|end| (format!("unet.{layer}.lora_{end}.weight"), wave(&[4, 4])));
        let metadata = HashMap::from([("lora_adapter_metadata".to_owned(), said.to_owned())]);
        let file = AdapterFile::parse(keys.into(), metadata, Path::new("x"), 2).unwrap();
        assert_eq!(alpha(&file), expected, "{said}");
    }
}

/// The configuration beside a file is of keys as peft writes them, with the whole model's prefix or with none; diffusers'
/// keys have alpha in the metadata.
#[test]
fn whose_configuration_is_beside_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.safetensors");
    let read = |prefix: &str, configuration: &str| {
        let all = ["A", "B"].map(|end| (format!("{prefix}{BLOCK}.attn1.to_q.lora_{end}.weight"), wave(&[4, 4])));
        tensors::write(&path, &all.into(), HashMap::new()).unwrap();
        fs::write(folder.path().join("adapter_config.json"), configuration).unwrap();
        let file = AdapterFile::read(&path).unwrap();
        let alpha = file.pairs().unwrap().into_values().map(|pair| pair.alpha).next().unwrap();
        let warned =
            check(&file, None).unwrap().iter().any(|p| p.to_string().contains("adapter_config.json beside it"));
        assert_eq!(warned, file.left_out().is_some());
        (alpha, warned)
    };
    let twice = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
    assert_eq!(read("base_model.model.", twice), (8.0, false));
    assert_eq!(read("", twice), (8.0, false));
    assert_eq!(read("unet.", twice), (4.0, true));
    assert_eq!(read("unet.", r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 4}"#), (4.0, false));
    assert_eq!(read("unet.", r#"{"peft_type": "BOFT"}"#), (4.0, false), "of something else");
}

/// peft's own loader would take the norms of the model's weights.
#[test]
fn a_dora_without_norms() {
    let folder = tempfile::tempdir().unwrap();
    let layers = ["attn1.to_q", "attn1.to_k"].map(|end| format!("{BLOCK}.{end}"));
    let layers = layers.each_ref().map(String::as_str);
    let path = pefts(folder.path(), &layers, r#"{"r": 4, "lora_alpha": 4, "use_dora": true}"#);
    let file = AdapterFile::read(&path).unwrap();
    let error = file.changes().err().unwrap().to_string();
    assert!(error.contains("attn1.to_k has no norms, but use_dora in its configuration"), "{error}");
    assert!(check(&file, None).unwrap().iter().any(|p| p.is_error() && p.to_string().contains("use_dora")));
    // one of the layers may be an ordinary LoRA
    let (mut all, _) = tensors::read(&path).unwrap();
    all.insert(format!("base_model.model.{}.lora_magnitude_vector", layers[0]), wave(&[8]));
    let all: Tensors = all.iter().map(|(key, t)| (key.clone(), t.copy())).collect();
    tensors::write(&path, &all, HashMap::new()).unwrap();
    assert_eq!(AdapterFile::read(&path).unwrap().changes().unwrap().len(), 2);
}

/// peft's norms of an embedding, whose weight is `[words, width]`, are of its columns.
#[test]
fn a_dora_of_words() {
    let layer = "text_model.embeddings.token_embedding";
    let (weight, words, width, norms) = (wave(&[6, 4]), wave(&[2, 6]), wave(&[4, 2]) * 0.3, wave(&[4]) + 2.0);
    let sum = &weight + width.matmul(&words).tr();
    let expected = &sum * (&norms / sum.square().sum_dim_intlist([0i64].as_slice(), true, Kind::Float).sqrt());
    let all = [("embedding_A", &words), ("embedding_B", &width), ("magnitude_vector", &norms)];
    let all = all.map(|(end, t)| (format!("base_model.model.{layer}.lora_{end}"), t.shallow_clone()));
    let file = AdapterFile::parse(all.into(), HashMap::new(), Path::new("x"), 2).unwrap();
    let all = Tensors::from([(format!("{layer}.weight"), weight)]);
    let plain = Weights::new(all, "base".into(), Kind::Float, Device::Cpu).unwrap();
    let changes = file.changes_of(Network::TextEncoder, &plain).unwrap();
    let changed = plain.changed(&[changes]).unwrap();
    let error = common::relative_error(changed.get(&format!("{layer}.weight")).unwrap(), &expected);
    assert!(error < 1e-6, "{error:e}");
}

/// accelerate's `save_state` and `save_pretrained` of a network with an adapter in it: its weights beside the matrices.
#[test]
fn a_whole_state_with_the_adapter_in_it() {
    let layer = format!("{BLOCK}.attn1.to_q");
    let mut all = Tensors::new();
    for end in ["lora_A.default.weight", "lora_B.default.weight", "base_layer.weight", "base_layer.bias"] {
        all.insert(format!("{layer}.{end}"), wave(&[4, 4]));
    }
    for key in ["conv_in.weight", "conv_norm_out.bias", "time_embedding.linear_1.weight"] {
        all.insert(key.into(), wave(&[4]));
    }
    let of = |all: &Tensors| {
        let all = all.iter().map(|(key, t)| (key.clone(), t.shallow_clone())).collect();
        AdapterFile::parse(all, HashMap::new(), Path::new("x"), 2).unwrap()
    };
    let file = of(&all);
    assert_eq!((file.pairs().unwrap().len(), file.weights), (1, 5));
    let said = file.left_out().unwrap();
    assert!(said.contains("its 5 tensors of the network itself are left out") && said.contains("alpha"), "{said}");
    // what was trained beside the LoRA is not
    all.insert("conv_out.modules_to_save.default.weight".into(), wave(&[4]));
    assert!(of(&all).changes().err().unwrap().to_string().contains("`modules_to_save`"));
    all.retain(|key, _| !key.contains("base_layer"));
    assert_eq!(of(&all).foreign.len(), 4, "no whole state");
}

#[test]
fn configurations_that_do_not_go_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let layer = format!("{BLOCK}.attn1.to_q");
    let error = |configuration: &str| {
        let path = pefts(folder.path(), &[&layer], configuration);
        let file = AdapterFile::read(&path);
        let checked = file.as_ref().ok().map(|file| check(file, None).unwrap());
        let error = file.and_then(|file| file.changes().map(|_| ())).unwrap_err().to_string();
        let said = checked.is_none_or(|problems| problems.iter().any(|p| p.is_error() && error.contains("rank 4")));
        assert!(said, "`lora check` finds nothing: {error}");
        error
    };
    for (configuration, part) in [
        (r#"{"r": 8}"#, "attn1.to_q has rank 4, but its configuration says 8 (r)"),
        (r#"{"r": 4, "rank_pattern": {"attn1.*": 2}}"#, "says 2 (rank_pattern `attn1.*`)"),
        (r#"{"alpha_pattern": {"to_(q": 2}}"#, "alpha_pattern: `to_(q` is not a regular expression"),
        (r#"{"alpha_pattern": [1]}"#, "alpha_pattern: is [1], not an object"),
        (r#"{"lora_alpha": "8"}"#, "lora_alpha is \"8\", not a number"),
        (r#"{"peft_type": "BOFT"}"#, "peft_type is BOFT"),
        (r#"{"init_lora_weights": "pissa_niter_16"}"#, "other weights than the published ones"),
    ] {
        let error = error(configuration);
        assert!(error.contains(part), "{error}");
        assert!(error.contains("adapter_config.json") || error.contains("adapter_model.safetensors"), "{error}");
    }
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    let file = AdapterFile::read(&folder.path().join("adapter_model.safetensors")).unwrap();
    let problems = check(&file, None).unwrap();
    assert!(problems.iter().any(|p| p.to_string().contains("alpha is not known")), "{problems:?}");
}

/// The same pair in other numbers of dimensions, for a linear layer and for convolutions.
#[test]
fn shapes_of_factors() {
    let layers = [("attn1.to_q", vec![8, 6]), ("proj_in", vec![8, 6, 1, 1]), ("conv1", vec![8, 6, 3, 3])];
    for (end, shape) in layers {
        let layer = match end {
            "attn1.to_q" => format!("{BLOCK}.attn1.to_q"),
            "proj_in" => "down_blocks.0.attentions.0.proj_in".into(),
            _ => "down_blocks.0.resnets.0.conv1".into(),
        };
        let weight = wave(&shape);
        let kernel: i64 = shape[2..].iter().product();
        let (down, up) = (wave(&[2, 6 * kernel]), wave(&[8, 2]) * 0.3);
        let expected = &weight + up.matmul(&down).view(shape.as_slice());
        let mut downs = vec![vec![2, 6 * kernel], [&[2, 6], &shape[2..]].concat()];
        if kernel == 1 {
            downs.push(vec![2, 6, 1, 1]);
        }
        for down_shape in downs {
            for up_shape in [vec![8, 2], vec![8, 2, 1, 1]] {
                for kind in [Kind::Float, Kind::BFloat16] {
                    let all = Tensors::from([(format!("{layer}.weight"), weight.shallow_clone())]);
                    let plain = Weights::new(all, "base".into(), kind, Device::Cpu).unwrap();
                    let pair = [("A", down.view(down_shape.as_slice())), ("B", up.view(up_shape.as_slice()))];
                    let pair = pair.map(|(end, t)| (format!("unet.{layer}.lora_{end}.weight"), t));
                    let file = AdapterFile::parse(pair.into(), HashMap::new(), Path::new("x"), 2).unwrap();
                    let changes = file.changes_of(Network::UNet, &plain).unwrap();
                    let lora = file.changes_of(Network::UNet, &plain).unwrap().into_lora().unwrap();
                    let merged = plain.merged(&lora).unwrap();
                    plain.changed(&[changes]).unwrap();
                    let error = common::relative_error(merged.get(&format!("{layer}.weight")).unwrap(), &expected);
                    assert!(error < if kind == Kind::Float { 1e-6 } else { 1e-2 }, "{layer} {down_shape:?} {error:e}");
                }
            }
        }
        let wrong = [("A", wave(&[2, 7])), ("B", up.shallow_clone())];
        let wrong = wrong.map(|(end, t)| (format!("unet.{layer}.lora_{end}.weight"), t));
        let all = Tensors::from([(format!("{layer}.weight"), weight)]);
        let plain = Weights::new(all, "base".into(), Kind::Float, Device::Cpu).unwrap();
        let file = AdapterFile::parse(wrong.into(), HashMap::new(), Path::new("x"), 2).unwrap();
        let error = file.changes_of(Network::UNet, &plain).err().unwrap().to_string();
        assert!(error.contains("do not fit the layer's weight"), "{error}");
    }
}

fn pair_of(layer: &str) -> Tensors {
    [("A", wave(&[2, 8])), ("B", wave(&[8, 2]))].map(|(end, t)| (format!("unet.{layer}.lora_{end}.weight"), t)).into()
}

#[test]
fn embeddings_that_came_along() {
    let mut all = pair_of(&format!("{BLOCK}.attn1.to_q"));
    for end in ["clip_l", "clip_g", "string_to_param.*"] {
        all.insert(format!("bundle_emb.my.word.{end}"), wave(&[2, 8]));
    }
    let folder = tempfile::tempdir().unwrap();
    let [path, out] = ["a", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    tensors::write(&path, &all, HashMap::new()).unwrap();
    let file = AdapterFile::read(&path).unwrap();
    assert_eq!((file.entries.len(), file.foreign.len()), (1, 0));
    assert!(file.left_out().unwrap().contains("(my.word)"));
    assert!(check(&file, None).unwrap().iter().any(|p| !p.is_error() && p.to_string().contains("my.word")));
    convert(&file, Target::Kohya, PLAIN, &out).unwrap();
    assert!(tensors::read(&out).unwrap().0.keys().all(|key| key.starts_with("lora_unet_")));
}

#[test]
fn several_adapters_in_one_file() {
    let mut all = Tensors::new();
    for (name, end) in [("first", "to_q"), ("second", "to_k")] {
        all.insert(format!("unet.{BLOCK}.attn1.{end}.lora_A.{name}.weight"), wave(&[2, 8]));
        all.insert(format!("unet.{BLOCK}.attn1.{end}.lora_B.{name}.weight"), wave(&[8, 2]));
    }
    let file = AdapterFile::parse(all, HashMap::new(), Path::new("x"), 2).unwrap();
    let error = file.changes().err().unwrap().to_string();
    assert!(error.contains("`first`") && error.contains("`second`"), "{error}");
    // diffusers numbers those of each network
    let mut all = Tensors::new();
    for start in [
        format!("unet.{BLOCK}.attn1.to_q.lora_X.default_0"),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_X.default_1".into(),
    ] {
        all.insert(format!("{}.weight", start.replace('X', "A")), wave(&[2, 8]));
        all.insert(format!("{}.weight", start.replace('X', "B")), wave(&[8, 2]));
    }
    let file = AdapterFile::parse(all, HashMap::new(), Path::new("x"), 2).unwrap();
    assert_eq!(file.pairs().unwrap().len(), 2);
}

/// The first three keys are named, and what they look like.
#[test]
fn files_of_which_nothing_fits() {
    for (keys, part) in [
        (
            &["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"][..],
            "a whole model",
        ),
        (&["conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "the weights of a UNet"),
        (&["emb_params"], "a textual-inversion embedding"),
        (&["clip_g", "clip_l"], "a textual-inversion embedding"),
        (&["bundle_emb.x.clip_l"], "textual-inversion embeddings alone"),
        (&["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "a Flux"),
        (&["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "a Flux"),
        (&["lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight"], "a Stable Diffusion 3"),
        (&["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (&["controlnet_cond_embedding.conv_in.weight"], "a ControlNet"),
        (&["down_blocks.0.motion_modules.0.temporal_transformer.proj_in.lora_A.weight"], "an AnimateDiff"),
        (&["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a video model"),
        (&["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "a language model"),
        (&["base_model.model.blocks.0.self_attn.q.lora_A.weight"], "a video model"),
        (&["lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight"], "Qwen-Image"),
        (&["diffusion_model.layers.0.attention.to_q.lora_A.weight"], "Z-Image"),
        (&["base_model.model.transformer_blocks.0.attn1.to_q.lora_A.weight"], "PixArt"),
        (&["clip_x.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"], "a LoRA of a CLIP text encoder"),
        (&["768.0.linear.0.weight"], "a hypernetwork"),
        (&["text_model.encoder.layers.0.mlp.fc1.weight"], "the weights of a text encoder"),
        (&["encoder.down_blocks.0.resnets.0.conv1.weight"], "an autoencoder"),
        (&["one.two", "three.four", "five.six", "seven.eight"], "five.six, one.two, seven.eight, …"),
    ] {
        let all = keys.iter().map(|key| ((*key).to_owned(), wave(&[2, 2]))).collect();
        let error = AdapterFile::parse(all, HashMap::new(), Path::new("x"), 2).err().unwrap().to_string();
        assert!(error.contains(part) && keys.iter().take(1).all(|key| error.contains(key)), "{part}: {error}");
    }
}

/// LoRAs of other architectures adapt the same text encoders; those of the keys that are left tell.
#[test]
fn other_architectures_with_a_text_encoder() {
    let flat = "text_model_encoder_layers_0_self_attn_q_proj";
    let path = flat.replace("_encoder_layers_0_self_attn_", ".encoder.layers.0.self_attn.");
    for (layer, clip, ends, part) in [
        (
            "lora_unet_double_blocks_0_img_attn_proj",
            format!("lora_te1_{flat}"),
            ["lora_down.weight", "lora_up.weight"],
            "a Flux",
        ),
        (
            "lora_unet_joint_blocks_0_x_block_attn_proj",
            format!("lora_te1_{flat}"),
            ["lora_down.weight", "lora_up.weight"],
            "a Stable Diffusion 3",
        ),
        (
            "transformer.transformer_blocks.0.attn.to_q",
            format!("text_encoder.{path}"),
            ["lora_A.weight", "lora_B.weight"],
            "Stable Diffusion 3",
        ),
        (
            "lora_transformer_transformer_blocks_0_attn_to_q",
            format!("lora_te1_{flat}"),
            ["lora_down.weight", "lora_up.weight"],
            "a diffusion transformer",
        ),
    ] {
        let stems = [layer, clip.as_str()].into_iter();
        let keys = stems.flat_map(|stem| ends.map(|end| (format!("{stem}.{end}"), wave(&[2, 2]))));
        let file = AdapterFile::parse(keys.collect(), HashMap::new(), Path::new("x"), 2).unwrap();
        assert_eq!((file.entries.len(), file.foreign.len()), (1, 2), "{layer}");
        let error = file.changes().err().unwrap().to_string();
        assert!(error.starts_with("x: this looks like ") && error.contains(part), "{error}");
        assert!(error.contains(layer), "{error}");
        let problems = check(&file, None).unwrap();
        assert!(problems[0].is_error() && problems[0].to_string().contains(part), "{problems:?}");
    }
}

/// Numbers of 8 bits: all that there are, as float16 has them.
#[test]
fn numbers_of_eight_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for (dtype, values) in [
        ("F8_E4M3", [(0x38u8, 1.0), (0x7e, 448.0), (0x01, 2f64.powi(-9)), (0xb8, -1.0), (0x08, 2f64.powi(-6))]),
        ("F8_E5M2", [(0x3c, 1.0), (0x7b, 57344.0), (0x01, 2f64.powi(-16)), (0xbc, -1.0), (0x7c, f64::INFINITY)]),
    ] {
        let header = format!(r#"{{"x":{{"dtype":"{dtype}","shape":[5],"data_offsets":[0,5]}}}}"#);
        let bytes: Vec<u8> = values.iter().map(|(byte, _)| *byte).collect();
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat()).unwrap();
        let x = tensors::read(&path).unwrap().0.remove("x").unwrap();
        assert_eq!(x.kind(), Kind::Half);
        let got = Vec::<f64>::try_from(x.to_kind(Kind::Double)).unwrap();
        assert_eq!(got, values.map(|(_, value)| value), "{dtype}");
    }
}

/// ComfyUI's numbers of 8 bits with a scale beside them, and types that nobody can compute with.
#[test]
fn scales_and_strange_types() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let stem = format!("unet.{BLOCK}.attn1.to_q.lora_");
    let header = format!(
        r#"{{"{stem}down.weight":{{"dtype":"F8_E4M3","shape":[1,2],"data_offsets":[0,2]}},
            "{stem}down.scale_weight":{{"dtype":"F32","shape":[],"data_offsets":[2,6]}},
            "{stem}up.weight":{{"dtype":"F8_E4M3","shape":[2,1],"data_offsets":[6,8]}},
            "{stem}up.weight_scale":{{"dtype":"F32","shape":[1],"data_offsets":[8,12]}},
            "scaled_fp8":{{"dtype":"F8_E4M3","shape":[2],"data_offsets":[12,14]}},
            "counted":{{"dtype":"U32","shape":[1],"data_offsets":[14,18]}}}}"#
    );
    let [half, four] = [0.5f32, 4.0].map(f32::to_le_bytes);
    let bytes = [&[0x38u8, 0xb8][..], &half, &[0x38, 0x40], &four, &[0x38, 0x38], &[7, 0, 0, 0]].concat();
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat()).unwrap();
    let file = AdapterFile::read(&path).unwrap();
    assert!(file.foreign.is_empty(), "{:?}", file.foreign);
    let pairs = file.pairs().unwrap();
    let pair = pairs.values().next().unwrap();
    let values = |t: &Tensor| Vec::<f64>::try_from(t.flatten(0, -1).to_kind(Kind::Double)).unwrap();
    assert_eq!((values(&pair.down), values(&pair.up)), (vec![0.5, -0.5], vec![4.0, 8.0]));
}

/// What kind of adapter it is, peft says beside the file.
#[test]
fn other_kinds_of_pefts_adapters_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let key = format!("base_model.model.{BLOCK}.attn1.to_q.something_new");
    tensors::write(&path, &Tensors::from([(key, wave(&[2, 2]))]), HashMap::new()).unwrap();
    for kind in ["BOFT", "HRA", "MISS", "FOURIERFT", "VBLORA", "RANDLORA", "NEWEST"] {
        fs::write(folder.path().join("adapter_config.json"), format!(r#"{{"peft_type": "{kind}"}}"#)).unwrap();
        let error = AdapterFile::read(&path).err().unwrap().to_string();
        assert!(
            error.contains(&format!("adapter_config.json: peft_type is {kind}; only LORA, LOHA and LOKR")),
            "{error}"
        );
    }
}

#[test]
fn what_conversion_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let [path, out] = ["a", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let layer = format!("{BLOCK}.attn1.to_q");
    let error = |all: &Tensors| {
        tensors::write(&path, all, HashMap::new()).unwrap();
        let file = AdapterFile::read(&path).unwrap();
        [Target::Peft, Target::Kohya, Target::Diffusers].map(|target| {
            let error = convert(&file, target, PLAIN, &out).err().map(|e| e.to_string());
            assert!(error.is_none() || !out.exists(), "it is written all the same");
            let _ = fs::remove_file(&out);
            error
        })
    };
    for value in [f64::NAN, f64::INFINITY] {
        for end in ["A", "B"] {
            let mut all = pair_of(&layer);
            let key = format!("unet.{layer}.lora_{end}.weight");
            let _ = all.get_mut(&key).unwrap().get(0).get(1).fill_(value);
            let said = format!("1 value of {key} is NaN or infinite");
            assert!(error(&all).iter().all(|e| e.as_ref().is_some_and(|e| e.contains(&said))), "{value}");
        }
    }
    // dots that are underscores cannot be found again
    let all = pair_of(&format!("{BLOCK}.attn2.to_k_ip"));
    let [peft, kohya, diffusers] = error(&all);
    assert!(peft.is_none() && diffusers.is_none());
    assert!(kohya.is_some_and(|e| e.contains("to_k_ip could not be read back from the new file")));
}
