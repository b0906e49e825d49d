//! The segmenter against transformers: embeddings, logits, scores and masks, however images and boxes are batched.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::{sam::Segmenter, tensors::Tensors};
use serde_json::json;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

fn open(kind: Kind) -> Segmenter {
    Segmenter::open(&fixture("sam"), kind, device()).unwrap()
}

/// The boxes of every image of every case.
fn boxes() -> BTreeMap<String, Vec<Vec<[f64; 4]>>> {
    let text = std::fs::read_to_string(fixture("sam").join("boxes.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn zeros(size: &[i64]) -> Tensor {
    Tensor::zeros(size, (Kind::Float, device()))
}

/// The share of pixels in which two masks differ.
fn difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!((got.kind(), got.size()), (Kind::Bool, expected.size()));
    got.ne_tensor(&expected.to_kind(Kind::Bool)).to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
}

#[test]
fn parity_in_float32_and_float64() {
    let io = io("sam");
    for kind in [Kind::Float, Kind::Double] {
        let segmenter = open(kind);
        for (case, boxes) in boxes() {
            let what = |name: &str| format!("{kind:?} {case} {name}");
            let pixels = segmenter.pixels(&io[&format!("{case}.images")]).unwrap();
            if let Some(expected) = io.get(&format!("{case}.pixel_values")) {
                assert_close(&what("pixels"), &pixels.narrow(0, 0, 1), expected, 1e-5);
            }
            let embeddings = segmenter.embed(&pixels).unwrap();
            assert_close(&what("embeddings"), &embeddings, &io[&format!("{case}.embeddings")], 1e-5);
            for i in (0..boxes.len()).filter(|&i| !boxes[i].is_empty()) {
                let get = |key: &str| io.get(&format!("{case}.{i}.{key}"));
                let decoded =
                    segmenter.decode(&embeddings.narrow(0, i as i64, 1), get("scaled_boxes").unwrap()).unwrap();
                assert_close(&what("scores"), &decoded.iou, get("iou").unwrap(), 1e-5);
                if let Some(expected) = get("low_res") {
                    assert_close(&what("logits"), &decoded.masks, expected, 1e-5);
                }
            }
        }
    }
}

#[test]
fn parity_of_masks() {
    let io = io("sam");
    for kind in [Kind::Float, Kind::Double] {
        let segmenter = open(kind);
        for (case, boxes) in boxes() {
            let images = &io[&format!("{case}.images")];
            let masks = segmenter.masks(images, &boxes).unwrap();
            assert_eq!(masks.len(), boxes.len());
            for (i, masks) in masks.iter().enumerate() {
                assert_eq!(masks.size(), [&[boxes[i].len() as i64], &images.size()[2..]].concat());
                if let Some(expected) = io.get(&format!("{case}.{i}.masks")) {
                    let difference = difference(masks, expected);
                    println!("{kind:?} {case} {i}: {difference:.1e} of the pixels differ");
                    assert!(difference <= 1e-4);
                }
            }
        }
    }
}

#[test]
fn masks_in_half_precision() {
    let io = io("sam");
    for (kind, tolerance) in [(Kind::Half, 0.01), (Kind::BFloat16, 0.05)] {
        let segmenter = open(kind);
        for (case, boxes) in boxes() {
            let images = io[&format!("{case}.images")].to_kind(kind);
            for (i, masks) in segmenter.masks(&images, &boxes).unwrap().iter().enumerate() {
                if let Some(expected) = io.get(&format!("{case}.{i}.masks")) {
                    let difference = difference(masks, expected);
                    println!("{kind:?} {case} {i}: {difference:.1e} of the pixels differ");
                    assert!(difference <= tolerance);
                }
            }
        }
    }
}

/// More boxes than are decoded at a time, and the same ones one by one.
#[test]
fn boxes_do_not_know_of_each_other() {
    let image = io("sam")["wide.images"].narrow(0, 0, 1);
    let boxes: Vec<_> = (0..19).map(|i| [i as f64, 2.0, 20.0 + i as f64, 17.5]).collect();
    let segmenter = open(Kind::Double);
    let all = segmenter.masks(&image, std::slice::from_ref(&boxes)).unwrap().remove(0);
    assert_eq!(all.size(), [19, 28, 44]);
    for (i, one) in boxes.into_iter().enumerate() {
        assert_eq!(segmenter.masks(&image, &[vec![one]]).unwrap()[0].get(0), all.get(i as i64));
    }
}

#[test]
fn images_without_boxes_cost_nothing() {
    let segmenter = open(Kind::Float);
    // An image of NaN would make every mask empty; a batch of a thousand large ones would be felt.
    let images = Tensor::full([1, 1, 1, 1], f64::NAN, (Kind::Float, device())).expand([1000, 3, 500, 700], false);
    let masks = segmenter.masks(&images, &vec![vec![]; 1000]).unwrap();
    assert!(masks.len() == 1000 && masks.iter().all(|m| m.size() == [0, 500, 700] && m.kind() == Kind::Bool));
    assert!(segmenter.masks(&zeros(&[0, 3, 8, 8]), &[]).unwrap().is_empty());
}

/// Checkpoints hold the position matrix under both of its names, under either, or not at all.
#[test]
fn the_position_matrix_has_two_names() {
    let io = io("sam");
    let (one, other) =
        ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding");
    let take = |mut all: Tensors| (all.remove(one).or(all.remove(other)).unwrap(), all);
    for names in [&[one, other][..], &[one], &[other], &[]] {
        let folder = copy(&fixture("sam")).weights(|all| {
            let (matrix, mut all) = take(all);
            names.iter().for_each(|name| drop(all.insert((*name).to_owned(), matrix.copy())));
            all
        });
        let opened = Segmenter::open(folder.path(), Kind::Float, device());
        if names.is_empty() {
            assert_error(opened, &[&format!("{one} is missing")]);
            continue;
        }
        let masks = opened.unwrap().masks(&io["small.images"], &boxes()["small"]).unwrap();
        assert_eq!(difference(&masks[0], &io["small.0.masks"]), 0.0);
    }
}

#[test]
fn tensors_that_are_missing_or_do_not_fit() {
    let folder = copy(&fixture("sam")).weights(|mut all| {
        all.remove("vision_encoder.layers.2.attn.rel_pos_w");
        all.insert("mask_decoder.iou_token.weight".into(), zeros(&[2, 24]));
        all.insert("mask_decoder.pf_mlp.weight".into(), zeros(&[1]));
        all
    });
    assert_error(
        Segmenter::open(folder.path(), Kind::Float, device()),
        &[
            "vision_encoder.layers.2.attn.rel_pos_w is missing",
            "mask_decoder.iou_token.weight has shape [2, 24], expected [1, 24]",
            "mask_decoder.pf_mlp.weight is unexpected",
        ],
    );
}

#[test]
fn folders_of_another_kind() {
    let open = |folder: &std::path::Path| Segmenter::open(folder, Kind::Float, device());
    assert_error(open(&fixture("blip")), &["config.json", "model_type is \"blip\"", "only \"sam\""]);
    assert_error(open(&fixture("nowhere")), &["config.json: no such file or folder"]);
    assert_error(open(copy(&fixture("sam")).remove("model.safetensors").path()), &["model.safetensors: no such file"]);
}

#[test]
fn wrong_inputs_are_errors() {
    let segmenter = open(Kind::Float);
    let boxes = |count: usize| vec![vec![[1.0, 2.0, 3.0, 4.0]]; count];
    let image = zeros(&[1, 3, 8, 8]);
    assert_error(segmenter.masks(&zeros(&[3, 8, 8]), &boxes(3)), &["[3, 8, 8]", "[B, 3, H, W]"]);
    assert_error(segmenter.masks(&zeros(&[1, 4, 8, 8]), &boxes(1)), &["[1, 4, 8, 8]"]);
    assert_error(segmenter.masks(&zeros(&[1, 3, 0, 8]), &boxes(1)), &["[1, 3, 0, 8]"]);
    assert_error(segmenter.masks(&image.to_kind(Kind::Uint8), &boxes(1)), &["Uint8"]);
    assert_error(segmenter.masks(&image, &boxes(2)), &["1 images", "boxes for 2"]);
    assert_error(segmenter.masks(&image, &[vec![[0.0, f64::NAN, 1.0, 1.0]]]), &["NaN"]);
    assert_error(segmenter.masks(&zeros(&[1, 3, 1, 900]), &boxes(1)), &["1x900", "too narrow"]);
    assert_error(segmenter.pixels(&zeros(&[3, 8, 8])), &["libtorch"]);
    assert_error(segmenter.embed(&zeros(&[1, 3, 64, 32])), &["[1, 3, 64, 32]", "64, 64"]);
    assert_error(segmenter.decode(&zeros(&[1, 24, 8, 9]), &zeros(&[1, 4])), &["[1, 24, 8, 9]"]);
    assert_error(segmenter.decode(&zeros(&[1, 24, 8, 8]), &zeros(&[0, 4])), &["[0, 4]"]);
    // Boxes that are empty, turned round or far away are boxes.
    let odd = [[3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 1.0, 1.0], [-1e300, -5.0, 1e300, 90.0]];
    assert_eq!(segmenter.masks(&image, &[odd.to_vec()]).unwrap()[0].size(), [3, 8, 8]);
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    models::config::be_strict(true);
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture("sam")).set("config.json", key, value);
        let words = [&["config.json", key], words].concat();
        assert_error(Segmenter::open(folder.path(), Kind::Float, device()), &words);
    };
    refused("model_type", json!("sam2"), &["sam2"]);
    refused("memory_config", json!({}), &["not known"]);
    refused("vision_config", json!(null), &["missing"]);
    refused("vision_config.model_type", json!("sam_hq_vision_model"), &["sam_hq"]);
    refused("vision_config.num_channels", json!(4), &["only 3"]);
    refused("vision_config.patch_size", json!(7), &["64"]);
    refused("vision_config.image_size", json!([64, 64]), &["[64,64]"]);
    refused("vision_config.window_size", json!(0), &["at least 1"]);
    refused("vision_config.window_size", json!(i64::MAX), &["at most"]);
    refused("vision_config.use_rel_pos", json!(false), &["only true"]);
    refused("vision_config.num_pos_feats", json!(128), &["128", "24"]);
    refused("vision_config.num_attention_heads", json!(5), &["5", "32"]);
    refused("vision_config.unheard_of", json!(1), &["not known"]);
    refused("prompt_encoder_config.hidden_size", json!(256), &["256", "24"]);
    refused("prompt_encoder_config.image_size", json!(1024), &["1024", "64"]);
    refused("prompt_encoder_config.num_point_embeddings", json!(5), &["only 4"]);
    refused("mask_decoder_config.hidden_act", json!("gelu"), &["only \"relu\""]);
    refused("mask_decoder_config.attention_downsample_rate", json!(5), &["4 heads", "24"]);
    refused("mask_decoder_config.unheard_of", json!(1), &["not known"]);
}

/// Published configurations give everything that transformers knew then, and no type for their parts.
#[test]
fn old_configurations_are_read() {
    let mut folder = copy(&fixture("sam"))
        .set("config.json", "vision_config.intermediate_size", json!(6144))
        .set("config.json", "vision_config.projection_dim", json!(512))
        .set("config.json", "vision_config.initializer_factor", json!(1.0))
        .set("config.json", "vision_config.dropout", json!(0.0))
        .set("config.json", "vision_config.mlp_dim", json!(null))
        .set("config.json", "torch_dtype", json!("float32"))
        .remove("preprocessor_config.json");
    for part in ["vision_config", "prompt_encoder_config", "mask_decoder_config"] {
        folder = folder.set("config.json", &format!("{part}.model_type"), json!("")).set(
            "config.json",
            &format!("{part}.top_k"),
            json!(50),
        );
    }
    let segmenter = Segmenter::open(folder.path(), Kind::Float, device()).unwrap();
    let pixels = segmenter.pixels(&io("sam")["tall.images"]).unwrap();
    assert_close("ImageNet's values", &pixels.narrow(0, 0, 1), &io("sam")["tall.pixel_values"], 1e-5);
}

#[test]
fn other_preprocessing_is_refused() {
    let file = "preprocessor_config.json";
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture("sam")).set(file, key, value);
        let words = [&[file, key], words].concat();
        assert_error(Segmenter::open(folder.path(), Kind::Float, device()), &words);
    };
    refused("resample", json!(3), &["only 2"]);
    refused("do_pad", json!(false), &["only true"]);
    refused("size", json!({"longest_edge": 1024}), &["1024", "64"]);
    refused("pad_size", json!({"height": 64, "width": 128}), &["128"]);
    refused("image_std", json!([0.5, 0.0, 0.5]), &["positive"]);
    refused("do_flip", json!(true), &["not known"]);
    let newer = copy(&fixture("sam"))
        .remove(file)
        .write("processor_config.json", r#"{"image_processor": {"pad_size": 65}, "processor_class": "SamProcessor"}"#);
    let words = ["processor_config.json", "image_processor.pad_size is 65"];
    assert_error(Segmenter::open(newer.path(), Kind::Float, device()), &words);
}
