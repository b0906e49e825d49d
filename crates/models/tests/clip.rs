//! CLIP's text encoders against transformers.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::clip::{Encoded, TextConfig, TextEncoder};
use serde_json::json;
use tch::{Kind, Tensor};

const FIXTURES: [&str; 3] = ["clip_sd1", "clip_sd2", "clip_sdxl2"];

fn open(folder: &std::path::Path) -> models::Result<TextEncoder> {
    TextEncoder::open(folder, Kind::Float, device())
}

fn compare(name: &str, got: &Encoded, tolerance: f64) {
    let io = io(name);
    let check = |key: &str, tensor: &Tensor| assert_close(&format!("{name} {key}"), tensor, &io[key], tolerance);
    check("last_hidden_state", &got.last_hidden_state);
    check("penultimate", &got.penultimate);
    check("pooled", &got.pooled);
    assert_eq!(got.text_embeds.is_some(), io.contains_key("text_embeds"));
    if let Some(embeds) = &got.text_embeds {
        check("text_embeds", embeds);
    }
}

#[test]
fn parity_in_float32_and_float64() {
    for name in FIXTURES {
        for kind in [Kind::Float, Kind::Double] {
            let encoder = TextEncoder::open(&fixture(name), kind, device()).unwrap();
            let encoded = encoder.forward(&io(name)["input_ids"]).unwrap();
            assert_eq!(encoded.last_hidden_state.kind(), kind);
            compare(name, &encoded, 1e-5);
        }
    }
}

#[test]
fn half_precision_comes_near() {
    for name in FIXTURES {
        for (kind, tolerance) in [(Kind::Half, 2e-2), (Kind::BFloat16, 1e-1)] {
            let encoder = TextEncoder::open(&fixture(name), kind, device()).unwrap();
            let encoded = encoder.forward(&io(name)["input_ids"]).unwrap();
            assert_eq!(encoded.pooled.kind(), kind);
            compare(name, &encoded, tolerance);
        }
    }
}

/// The fixture of SD1 has the prefix and a buffer, that of SD2 has neither: each also works the other way round.
#[test]
fn keys_with_the_prefix_and_without() {
    let without = copy(&fixture("clip_sd1")).weights(|tensors| {
        let bare = |(key, tensor): (String, Tensor)| (key.replace("text_model.", ""), tensor);
        tensors.into_iter().map(bare).collect()
    });
    let with = copy(&fixture("clip_sd2"))
        .weights(|tensors| tensors.into_iter().map(|(key, tensor)| (format!("text_model.{key}"), tensor)).collect());
    for (name, folder) in [("clip_sd1", without), ("clip_sd2", with)] {
        compare(name, &open(folder.path()).unwrap().forward(&io(name)["input_ids"]).unwrap(), 1e-5);
    }
}

/// The variant with two letters' name, as hub folders have it beside or instead of the full one.
#[test]
fn the_fp16_variant_is_found() {
    let folder = copy(&fixture("clip_sd2"));
    std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("model.fp16.safetensors")).unwrap();
    open(folder.path()).unwrap();
}

/// The end token is that of the first end, not of the padding after it; with the old id 2, the largest of the row.
#[test]
fn pooled_at_the_end_token() {
    for name in FIXTURES {
        let encoded = open(&fixture(name)).unwrap().forward(&io(name)["input_ids"]).unwrap();
        for (row, end) in [(0, 6), (1, 9), (2, 15)] {
            let expected = encoded.last_hidden_state.get(row).get(end);
            assert_close("pooled", &encoded.pooled.get(row), &expected, 0.0);
        }
    }
}

/// A token sees those before it only.
#[test]
fn attention_is_causal() {
    let encoder = open(&fixture("clip_sd1")).unwrap();
    let ids = &io("clip_sd1")["input_ids"];
    let changed = ids.copy();
    let _ = changed.narrow(1, 10, 6).fill_(7);
    let (before, after) = (encoder.forward(ids).unwrap(), encoder.forward(&changed).unwrap());
    let start = |e: &Encoded| e.last_hidden_state.narrow(1, 0, 10);
    assert_close("start", &start(&after), &start(&before), 1e-6);
}

#[test]
fn shorter_prompts_are_taken() {
    let encoder = open(&fixture("clip_sd1")).unwrap();
    let io = io("clip_sd1");
    let short = encoder.forward(&io["input_ids"].narrow(0, 0, 1).narrow(1, 0, 8)).unwrap();
    let expected = io["last_hidden_state"].narrow(0, 0, 1).narrow(1, 0, 8);
    assert_close("short", &short.last_hidden_state, &expected, 1e-5);
}

#[test]
fn wrong_ids_are_errors() {
    let encoder = open(&fixture("clip_sd2")).unwrap();
    let ids = |size: &[i64], id: i64| Tensor::full(size, id, (Kind::Int64, device()));
    let refused = |ids: &Tensor, words: &[&str]| assert_error(encoder.forward(ids), words);
    refused(&ids(&[16], 59), &["[B, L]"]);
    refused(&ids(&[0, 16], 59), &["empty"]);
    refused(&ids(&[2, 0], 59), &["empty"]);
    refused(&ids(&[1, 17], 59), &["17", "max_position_embeddings", "16"]);
    refused(&ids(&[1, 4], 60), &["60", "vocabulary"]);
    refused(&ids(&[1, 4], -1), &["-1", "vocabulary"]);
    refused(&ids(&[1, 4], 3), &["no end token", "59"]);
    refused(&ids(&[1, 4], 59).to_kind(Kind::Float), &["Float", "Int64"]);
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture("clip_sd1")).set("config.json", key, value);
        assert_error(open(folder.path()), &[&["config.json", key], words].concat());
    };
    refused("model_type", json!("t5"), &["t5", "clip_text_model"]);
    refused("hidden_act", json!("relu"), &["relu", "quick_gelu"]);
    refused("num_attention_heads", json!(5), &["5", "24"]);
    refused("num_hidden_layers", json!(0), &["at least 1"]);
    refused("hidden_size", json!("wide"), &["wide"]);
    refused("eos_token_id", json!([2, 3]), &["[2,3]"]);
    refused("use_attention_mask", json!(true), &["use_attention_mask is true; only false is supported"]);
    for (key, value) in [("eos_token_id", json!([2])), ("use_attention_mask", json!(false))] {
        let same = copy(&fixture("clip_sd1")).set("config.json", key, value);
        let [same, usual] =
            [same.path(), &fixture("clip_sd1")].map(|f| TextConfig::read(&f.join("config.json")).unwrap());
        assert_eq!(same, usual, "{key}");
    }
}

/// A key of a version that we have not seen: most likely housekeeping.
#[test]
fn unknown_keys_are_refused_on_demand() {
    let folder = copy(&fixture("clip_sd1")).set("config.json", "brand_new", json!(10000));
    models::config::be_strict(true);
    assert_error(open(folder.path()), &["config.json", "brand_new is not known", "10000"]);
}

/// "Clip skip": 1 is the last layer, and what is left out makes no difference to the rest.
#[test]
fn layers_from_the_end() {
    let (encoder, io) = (open(&fixture("clip_sd1")).unwrap(), io("clip_sd1"));
    let (encoded, normed) = encoder.forward_to(&io["input_ids"], 1).unwrap();
    assert_close("last", &normed, &io["last_hidden_state"], 1e-5);
    let (skipped, normed) = encoder.forward_to(&io["input_ids"], 2).unwrap();
    assert_close("raw", &skipped.penultimate, &io["penultimate"], 1e-5);
    assert_close("pooled", &skipped.pooled, &io["pooled"], 1e-5);
    let deviation = normed.std_dim([-1].as_slice(), false, true);
    assert!(normed.mean_dim([-1].as_slice(), true, Kind::Float).size() == deviation.size());
    assert!((normed - encoded.last_hidden_state).abs().max().double_value(&[]) > 1e-3);
    assert_error(encoder.forward_to(&io["input_ids"], 0).map(|_| ()), &["clip_skip is 0"]);
    assert_error(encoder.forward_to(&io["input_ids"], 99).map(|_| ()), &["clip_skip is 99"]);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let missing = copy(&fixture("clip_sd2")).weights(|mut tensors| {
        let _ = tensors.remove("encoder.layers.1.mlp.fc2.weight").unwrap();
        tensors
    });
    assert_error(open(missing.path()), &["model.safetensors", "encoder.layers.1.mlp.fc2.weight is missing"]);
    let wider = copy(&fixture("clip_sdxl2")).set("config.json", "projection_dim", json!(21));
    assert_error(open(wider.path()), &["text_projection.weight", "[20, 24]", "[21, 24]"]);
    let none = copy(&fixture("clip_sd2")).remove("model.safetensors");
    assert_error(open(none.path()), &["model.safetensors", "no such file"]);
}

/// Names that other tools give the file are read; of others the error says what lies there.
#[test]
fn weights_under_other_names() {
    let named = |name: &str| {
        let folder = copy(&fixture("clip_sd2")).remove("io.safetensors");
        std::fs::rename(folder.path().join("model.safetensors"), folder.path().join(name)).unwrap();
        folder
    };
    for name in ["model.SAFETENSORS", "pytorch_model.safetensors", "pytorch_model.fp16.safetensors"] {
        open(named(name).path()).unwrap();
    }
    for (name, said) in [
        ("model.non_ema.safetensors", "of the variant non_ema: set model.variant"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json, which names them, is missing"),
        ("weights.safetensors", "if weights.safetensors beside it holds these weights, rename it"),
        ("pytorch_model.fp16.bin", "pytorch_model.fp16.bin beside it is a pickle"),
        ("flax_model.msgpack", "flax_model.msgpack beside it is of another library"),
    ] {
        assert_error(open(named(name).path()), &["model.safetensors: no such file", said]);
    }
    let folder = copy(&fixture("clip_sd2")).remove("model.safetensors");
    std::os::unix::fs::symlink("gone/blob", folder.path().join("model.safetensors")).unwrap();
    assert_error(open(folder.path()), &["it is a link to gone/blob, which is not there"]);
}

/// As saved from within `torch.compile` and parallel training.
#[test]
fn keys_with_the_prefix_of_a_wrapper() {
    for prefix in ["_orig_mod.", "module.", "module._orig_mod."] {
        let wrapped = |(key, tensor): (String, Tensor)| (format!("{prefix}{key}"), tensor);
        let folder = copy(&fixture("clip_sd2")).weights(|tensors| tensors.into_iter().map(wrapped).collect());
        let encoder = open(folder.path()).unwrap();
        compare("clip_sd2", &encoder.forward(&io("clip_sd2")["input_ids"]).unwrap(), 1e-5);
    }
    let one = copy(&fixture("clip_sd2")).weights(|mut tensors| {
        let (key, tensor) = tensors.pop_first().unwrap();
        tensors.insert(format!("module.{key}"), tensor);
        tensors
    });
    assert_error(open(one.path()), &["is missing", "is unexpected"]);
}
