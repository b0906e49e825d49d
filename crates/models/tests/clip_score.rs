//! Both towers of CLIP against transformers, and the whole way from images and prompts to cosines.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::{
    clip::{CentreCrop, Clip, ClipScore},
    tokenizer::ClipTokenizer,
};
use serde_json::json;
use std::{collections::BTreeMap, path::Path};
use tch::{Kind, Tensor};

const NAME: &str = "clip_score";
const CASES: [&str; 4] = ["wide", "tall", "small", "whole"];

fn open(folder: &Path) -> models::Result<Clip> {
    Clip::open(folder, Kind::Float, device())
}

fn score(folder: &Path) -> models::Result<ClipScore> {
    ClipScore::open(folder, Kind::Float, device())
}

fn prompts(case: &str) -> Vec<String> {
    let text = std::fs::read_to_string(fixture(NAME).join("prompts.json")).unwrap();
    serde_json::from_str::<BTreeMap<String, Vec<String>>>(&text).unwrap().remove(case).unwrap()
}

fn cosines(score: &ClipScore, case: &str) -> Tensor {
    let prompts = prompts(case);
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    Tensor::from_slice(&score.cosines(&io(NAME)[&format!("{case}.images")], &prompts).unwrap())
}

fn compare(clip: &Clip, tolerance: f64) {
    let io = io(NAME);
    for case in CASES {
        let get = |key: &str| &io[&format!("{case}.{key}")];
        let image = clip.image_embeds(get("pixel_values")).unwrap();
        let text = clip.text_embeds(get("input_ids")).unwrap();
        assert_close(&format!("{case} image_embeds"), &image, get("image_embeds"), tolerance);
        assert_close(&format!("{case} text_embeds"), &text, get("text_embeds"), tolerance);
        let cosines = (image * text).sum_dim_intlist(1, false, Kind::Double);
        assert_close(&format!("{case} cosines"), &cosines, get("cosines"), tolerance);
    }
}

#[test]
fn parity_in_float32_and_float64() {
    for kind in [Kind::Float, Kind::Double] {
        let clip = Clip::open(&fixture(NAME), kind, device()).unwrap();
        assert_eq!(clip.image_size(), (16, 16));
        assert_eq!(clip.image_embeds(&io(NAME)["wide.pixel_values"]).unwrap().kind(), kind);
        compare(&clip, 1e-5);
    }
}

/// The length of an embedding stays in float32 where the network does not.
#[test]
fn half_precision_comes_near() {
    for (kind, tolerance) in [(Kind::Half, 2e-2), (Kind::BFloat16, 1e-1)] {
        let clip = Clip::open(&fixture(NAME), kind, device()).unwrap();
        let embeds = clip.image_embeds(&io(NAME)["wide.pixel_values"]).unwrap();
        assert_eq!(embeds.kind(), Kind::Float);
        let length = embeds.square().sum_dim_intlist(1, false, Kind::Float);
        assert_close("length", &length, &length.ones_like(), 1e-6);
        compare(&clip, tolerance);
    }
}

/// What PIL makes of an image's bytes. A value half-way between two of them may fall to either.
#[test]
fn images_become_pixels_as_upstream() {
    let (io, norm) = (io(NAME), models::preprocess::Preprocess::default());
    let preprocess = CentreCrop::open(&fixture(NAME), 16).unwrap();
    let level = 1.0 / (255.0 * norm.std[1]);
    for case in CASES {
        let pixels = preprocess.apply(&io[&format!("{case}.images")]).unwrap();
        let wrong = (&pixels - &io[&format!("{case}.pixel_values")]).abs();
        let most = wrong.max().double_value(&[]) / level;
        let share = wrong.gt(level / 2.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        println!("{case}: at most {most:.1e} of 255 levels, {share:.1e} of the values by more than half a level");
        assert!(most < 1.01 && share < 1e-2, "{case}: {most} levels, {share} of the values");
    }
}

#[test]
fn the_whole_way() {
    for kind in [Kind::Float, Kind::Double] {
        let score = ClipScore::open(&fixture(NAME), kind, device()).unwrap();
        for case in CASES {
            let expected = &io(NAME)[&format!("{case}.cosines")];
            assert_close(&format!("{case} {kind:?}"), &cosines(&score, case), expected, 1e-4);
        }
    }
}

/// Without the rounding: values, and their gradient with respect to the image, which no micro-batch changes.
#[test]
fn similarities_have_a_gradient() {
    let io = models::tensors::read(&fixture(NAME).join("reward.safetensors")).unwrap().0;
    for (kind, tolerance) in [(Kind::Double, 1e-5), (Kind::Float, 1e-4)] {
        let score = ClipScore::open(&fixture(NAME), kind, device()).unwrap();
        for case in CASES {
            let get = |key: &str| io[&format!("{case}.{key}")].to_device(device()).to_kind(kind);
            let (images, prompts) = (get("images").set_requires_grad(true), prompts(case));
            let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
            let cosines = score.similarities(&images, &prompts).unwrap();
            assert_eq!(cosines.kind(), kind);
            assert_close(&format!("{case} {kind:?}"), &cosines, &get("cosines"), tolerance);
            let gradient = torch_ext::vjp(&[&cosines], &[&images], &[&get("weights")]).unwrap().remove(0).unwrap();
            assert_close(&format!("{case} {kind:?} gradient"), &gradient, &get("gradient"), tolerance);
        }
    }
    let score = score(&fixture(NAME)).unwrap();
    let zeros = Tensor::zeros([2, 3, 16, 16], (Kind::Float, device()));
    assert_error(score.similarities(&zeros, &["a cat"]), &["2 images for 1 prompts"]);
    assert_error(score.similarities(&zeros, &[]), &["empty"]);
}

/// Values outside of 0..1 and between two bytes count as what a file would hold of them; half precision is widened.
#[test]
fn images_count_as_their_bytes() {
    let score = score(&fixture(NAME)).unwrap();
    let images = &io(NAME)["whole.images"];
    let near = (images + 0.3 / 255.0) * images.lt(0.5) + images * images.ge(0.5);
    let beyond = images.masked_fill(&images.lt(0.1), -0.2).masked_fill(&images.gt(0.9), 1.3);
    let cut = beyond.clamp(0.0, 1.0);
    let of = |images: &Tensor| score.image_embeds(images).unwrap();
    assert_close("between", &of(&near), &of(images), 1e-6);
    assert_close("beyond", &of(&beyond), &of(&cut), 1e-6);
    let half = of(&images.to_kind(Kind::Half));
    assert_eq!(half.kind(), Kind::Float);
    assert_close("half", &half, &of(images), 1e-6);
}

#[test]
fn the_tokenizer_beside_it() {
    let tokenizer = ClipTokenizer::open(&fixture(NAME)).unwrap();
    for case in CASES {
        let rows = prompts(case).iter().flat_map(|p| tokenizer.encode(p).unwrap().ids).collect::<Vec<_>>();
        assert_eq!(
            Tensor::from_slice(&rows).view([-1, 16]).to_device(device()),
            io(NAME)[&format!("{case}.input_ids")]
        );
    }
}

/// openai/clip-vit-base-patch32 has buffers in its file, everything that transformers 4.16 knew in its configuration, and
/// numbers for sizes in its preprocessing.
#[test]
fn old_folders_are_read() {
    let positions = |count: i64| Tensor::arange(count, (Kind::Int64, device())).unsqueeze(0);
    let mut folder = copy(&fixture(NAME))
        .weights(|mut tensors| {
            tensors.insert("text_model.embeddings.position_ids".into(), positions(16));
            tensors.insert("vision_model.embeddings.position_ids".into(), positions(17));
            tensors
        })
        .set("config.json", "text_config_dict", json!(null))
        .set("config.json", "vision_config_dict", json!(null))
        .set("preprocessor_config.json", "size", json!(16))
        .set("preprocessor_config.json", "crop_size", json!(16))
        .set("preprocessor_config.json", "feature_extractor_type", json!("CLIPFeatureExtractor"));
    for tower in ["text_config", "vision_config"] {
        for (key, value) in [
            ("add_cross_attention", json!(false)),
            ("id2label", json!({"0": "LABEL_0"})),
            ("is_decoder", json!(false)),
            ("pruned_heads", json!({})),
            ("tie_word_embeddings", json!(true)),
            ("top_k", json!(50)),
        ] {
            folder = folder.set("config.json", &format!("{tower}.{key}"), value);
        }
    }
    let score = score(folder.path()).unwrap();
    compare(score.clip(), 1e-5);
    assert_close("wide", &cosines(&score, "wide"), &io(NAME)["wide.cosines"], 1e-4);
}

/// As in openai/clip-vit-large-patch14: the second description is whole, and wins.
#[test]
fn towers_described_twice() {
    let config = std::fs::read_to_string(fixture(NAME).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let mut folder = copy(&fixture(NAME));
    for tower in ["text_config", "vision_config"] {
        folder = folder.set("config.json", &format!("{tower}_dict"), config[tower].clone());
        folder = folder.set("config.json", &format!("{tower}.num_hidden_layers"), json!(12));
    }
    compare(&open(folder.path()).unwrap(), 1e-5);
    let folder = folder.set("config.json", "text_config_dict.num_hidden_layers", json!(null));
    assert_error(open(folder.path()), &["text_model.encoder.layers.2", "missing"]);
}

/// With the end token's true id the first of them counts, with the old 2 the largest id: here the same.
#[test]
fn either_way_to_find_the_end() {
    compare(
        &open(copy(&fixture(NAME)).set("config.json", "text_config.eos_token_id", json!(598)).path()).unwrap(),
        1e-5,
    );
}

#[test]
fn other_models_are_refused() {
    assert_error(open(&fixture("blip")), &["config.json", "model_type", "blip", "only \"clip\""]);
    assert_error(open(&fixture("clip_sdxl2")), &["config.json", "model_type", "clip_text_model", "only \"clip\""]);
    assert_error(open(&fixture("vae")), &["config.json"]);
    assert_error(open(&fixture("no_such_folder")), &["no_such_folder", "config.json", "no such file"]);
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    models::config::be_strict(true);
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture(NAME)).set("config.json", key, value);
        assert_error(open(folder.path()), &[&["config.json", key], words].concat());
    };
    refused("rope_theta", json!(10000), &["not known"]);
    refused("projection_dim", json!(0), &["at least 1"]);
    refused("vision_config", json!(null), &["missing"]);
    refused("text_config_dict", json!(3), &["missing"]);
    refused("text_config.model_type", json!("xlm"), &["xlm", "clip_text_model"]);
    refused("text_config.num_attention_heads", json!(3), &["3", "16"]);
    refused("text_config.use_rope", json!(true), &["not known"]);
    refused("vision_config.model_type", json!("siglip_vision_model"), &["siglip", "clip_vision_model"]);
    refused("vision_config.num_channels", json!(4), &["only 3"]);
    refused("vision_config.patch_size", json!(17), &["image_size"]);
    refused("vision_config.image_size", json!([16, 32]), &["[16,32]"]);
    refused("vision_config.hidden_act", json!("relu"), &["relu"]);
    refused("vision_config.pruned_heads", json!({"1": [0]}), &["only {}"]);
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let missing = [
        "text_projection.weight",
        "visual_projection.weight",
        "text_model.encoder.layers.1.mlp.fc2.weight",
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.bias",
    ];
    for key in missing {
        let folder = copy(&fixture(NAME)).weights(|mut tensors| {
            let _ = tensors.remove(key).unwrap();
            tensors
        });
        assert_error(open(folder.path()), &["model.safetensors", &format!("{key} is missing")]);
    }
    let wider = copy(&fixture(NAME)).set("config.json", "projection_dim", json!(21));
    assert_error(open(wider.path()), &["text_projection.weight", "[20, 16]", "[21, 16]", "visual_projection.weight"]);
    let larger = copy(&fixture(NAME)).set("config.json", "vision_config.image_size", json!(24));
    assert_error(open(larger.path()), &["vision_model.embeddings.position_embedding.weight", "[17, 24]", "[37, 24]"]);
    let more = copy(&fixture(NAME)).weights(|mut tensors| {
        tensors.insert("classifier.weight".into(), Tensor::zeros([2, 24], (Kind::Float, device())));
        tensors
    });
    assert_error(open(more.path()), &["classifier.weight is unexpected"]);
}

#[test]
fn preprocessing_of_other_models_is_refused() {
    let file = "preprocessor_config.json";
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture(NAME)).set(file, key, value);
        assert_error(score(folder.path()), &[&[file, key], words].concat());
    };
    refused("resample", json!(2), &["only 3"]);
    refused("do_center_crop", json!(false), &["only true"]);
    refused("do_pad", json!(true), &["only false"]);
    refused("default_to_square", json!(true), &["only false"]);
    refused("size", json!({"height": 16, "width": 16}), &["unsupported"]);
    refused("size", json!(15), &["15", "crop_size 16"]);
    refused("crop_size", json!({"height": 16, "width": 20}), &["16x20", "image_size", "16"]);
    refused("crop_size", json!(224), &["224x224", "16"]);
    refused("image_std", json!([0.5, 0.0, 0.5]), &["positive"]);
    refused("do_flip", json!(true), &["not known"]);
    let none = copy(&fixture(NAME)).remove(file);
    assert_eq!(CentreCrop::open(none.path(), 16).unwrap(), CentreCrop::open(&fixture(NAME), 16).unwrap());
}

#[test]
fn tokenizers_of_other_models_are_refused() {
    let long = copy(&fixture(NAME)).set("tokenizer_config.json", "model_max_length", json!(77));
    assert_error(score(long.path()), &["model_max_length is 77", "max_position_embeddings is 16"]);
    let words = copy(&fixture(NAME)).set("vocab.json", "zebra</w>", json!(700));
    assert_error(score(words.path()), &["701 tokens", "vocab_size is 599"]);
    let none = copy(&fixture(NAME)).remove("vocab.json");
    assert_error(score(none.path()), &["tokenizer.json", "vocab.json"]);
}

#[test]
fn wrong_inputs_are_errors() {
    let (clip, score) = (open(&fixture(NAME)).unwrap(), score(&fixture(NAME)).unwrap());
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    assert_error(clip.image_embeds(&zeros(&[1, 3, 16, 20])), &["[1, 3, 16, 20]", "16, 16"]);
    assert_error(clip.image_embeds(&zeros(&[0, 3, 16, 16])), &["CLIP"]);
    assert_error(clip.image_embeds(&zeros(&[3, 16, 16])), &["CLIP"]);
    assert_error(clip.image_embeds(&zeros(&[1, 3, 16, 16]).to_kind(Kind::Uint8)), &["Uint8"]);
    assert_error(
        clip.text_embeds(&Tensor::from_slice(&[599i64]).view([1, 1]).to_device(device())),
        &["599", "vocabulary"],
    );
    assert_error(clip.text_embeds(&zeros(&[1, 4])), &["Float", "Int64"]);
    assert_error(score.cosines(&zeros(&[1, 3, 16, 16]), &[]), &["1 images for 0 prompts"]);
    assert_error(score.cosines(&zeros(&[0, 3, 16, 16]), &[]), &["[0, 3, 16, 16]"]);
    assert_error(score.cosines(&Tensor::from(0.5), &[]), &["[]"]);
    assert_error(score.cosines(&zeros(&[1, 3, 0, 16]), &["a cat"]), &["[1, 3, 0, 16]"]);
    assert_error(score.cosines(&zeros(&[1, 4, 16, 16]), &["a cat"]), &["[1, 4, 16, 16]"]);
    assert_error(score.cosines(&zeros(&[1, 3, 16, 16]).to_kind(Kind::Uint8), &["a cat"]), &["Uint8"]);
    assert_error(score.text_embeds(&[]), &["empty"]);
    let broken = Tensor::full([1, 3, 16, 16], f64::NAN, (Kind::Float, device()));
    assert_error(score.cosines(&broken, &["a cat"]), &["image 1", "a cat", "not a number"]);
    assert!(score.cosines(&zeros(&[1, 3, 1, 40]), &[""]).unwrap()[0].abs() <= 1.0);
}
