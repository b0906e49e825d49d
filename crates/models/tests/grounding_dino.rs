//! The detector against transformers: network, preprocessing, phrases.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

mod common;
mod edited;

use common::{assert_close, device, fixture, io};
use edited::{assert_error, copy};
use models::{
    grounding_dino::{Caption, Config, Detection, Detector, Found, Inputs, Network, Outputs, Resize},
    tensors::Tensors,
    weights::Weights,
};
use serde::Deserialize;
use serde_json::json;
use tch::{Kind, Tensor};

const NAME: &str = "grounding_dino";

fn open(kind: Kind) -> Detector {
    Detector::open(&fixture(NAME), kind, device()).unwrap()
}

fn read<T: for<'a> Deserialize<'a>>(file: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(fixture(NAME).join(file)).unwrap()).unwrap()
}

fn nouns() -> Vec<Vec<String>> {
    read("nouns.json")
}

fn captions(detector: &Detector) -> Vec<Caption> {
    nouns().iter().map(|nouns| detector.phrases.caption(nouns).unwrap()).collect()
}

fn images(io: &Tensors) -> [Tensor; 2] {
    [0, 1].map(|i| io[&format!("image.{i}")].shallow_clone())
}

/// The processor's inputs of the fixture, made here.
fn inputs(detector: &Detector, io: &Tensors) -> Inputs {
    let pixels = detector.resize.apply(&images(io)).unwrap();
    let captions = captions(detector);
    let text = detector.phrases.batch(&captions.iter().collect::<Vec<_>>());
    Inputs {
        pixels: pixels.values,
        pixel_mask: pixels.mask,
        ids: text.ids,
        tokens: text.tokens,
        phrases: text.phrases,
        positions: text.positions,
    }
}

fn assert_outputs(what: &str, outputs: &Outputs, io: &Tensors, tolerance: f64) {
    for (i, map) in outputs.feature_maps.iter().enumerate() {
        assert_close(&format!("{what} feature map {i}"), map, &io[&format!("feature_map.{i}")], tolerance);
    }
    assert_close(&format!("{what} vision"), &outputs.vision, &io["vision"], tolerance);
    assert_close(&format!("{what} text"), &outputs.text, &io["text"], tolerance);
    assert_close(&format!("{what} proposals"), &outputs.proposals, &io["proposals"], tolerance);
    assert_decoded(what, outputs, io, "", tolerance);
}

fn assert_decoded(what: &str, outputs: &Outputs, io: &Tensors, prefix: &str, tolerance: f64) {
    let expected = &io[&format!("{prefix}logits")];
    let hidden = expected.le(-9999.0);
    assert_eq!(outputs.logits.isinf(), hidden, "{what}: padding");
    let visible = |x: &Tensor| x.masked_fill(&hidden, 0.0);
    assert_close(&format!("{what} logits"), &visible(&outputs.logits), &visible(expected), tolerance);
    assert_close(&format!("{what} boxes"), &outputs.boxes, &io[&format!("{prefix}boxes")], tolerance);
}

#[test]
fn parity_in_float32_and_float64() {
    let io = io(NAME);
    for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::Double, 1e-5)] {
        let detector = open(kind);
        let inputs = Inputs { pixels: io["pixel_values"].to_kind(kind), ..inputs(&detector, &io) };
        assert_outputs(&format!("{kind:?}"), &detector.network.forward(&inputs).unwrap(), &io, tolerance);
    }
}

#[test]
fn preprocessing() {
    let io = io(NAME);
    for kind in [Kind::Float, Kind::Double] {
        let pixels = open(kind).resize.apply(&images(&io).map(|x| x.to_kind(kind))).unwrap();
        assert_close(&format!("{kind:?} pixels"), &pixels.values, &io["pixel_values"], 1e-5);
        let mask = pixels.mask.unwrap();
        let sizes = Vec::<Vec<i64>>::try_from(&io["sizes"]).unwrap();
        for (i, size) in sizes.iter().enumerate() {
            let mask = mask.get(i as i64);
            assert_eq!(mask.sum(Kind::Int64).int64_value(&[]), size[0] * size[1]);
            assert_eq!(mask.narrow(0, 0, size[0]).narrow(1, 0, size[1]).all().int64_value(&[]), 1);
        }
    }
}

/// Sizes that transformers' `get_size_with_aspect_ratio` gives with 800 and 1333.
#[test]
fn sizes() {
    let resize = Resize::default();
    let cases = [
        ((512, 512), (800, 800)),
        ((768, 512), (1200, 800)),
        ((480, 640), (800, 1066)),
        ((427, 640), (800, 1199)),
        ((1080, 1920), (750, 1333)),
        ((1920, 1080), (1333, 750)),
        ((800, 1000), (800, 1000)),
        ((333, 1000), (444, 1333)),
        ((100, 3000), (44, 1333)),
        ((1, 5000), (0, 1333)),
        ((551, 2332), (315, 1333)),
        ((1842, 1935), (800, 840)),
        ((1555, 860), (1333, 737)),
        ((1773, 2489), (800, 1123)),
        ((2422, 419), (1333, 231)),
    ];
    for (size, expected) in cases {
        assert_eq!(resize.size(size), expected, "{size:?}");
    }
}

/// Newer folders have the settings in `processor_config.json`; without any the published ones hold.
#[test]
fn settings_of_the_processor() {
    let settings: serde_json::Value = read("preprocessor_config.json");
    let folder = copy(&fixture(NAME)).remove("preprocessor_config.json");
    assert_eq!(Resize::open(folder.path()).unwrap(), Resize::default());
    let newer = json!({"image_processor": settings, "processor_class": "GroundingDinoProcessor"});
    let folder = folder.write("processor_config.json", &newer.to_string());
    assert_eq!(Resize::open(folder.path()).unwrap(), Resize::open(&fixture(NAME)).unwrap());
    assert_ne!(Resize::open(folder.path()).unwrap(), Resize::default());
}

/// The processor's token ids, and the split that the network makes of them.
#[test]
fn captions_and_phrases() {
    let io = io(NAME);
    let detector = open(Kind::Float);
    let inputs = inputs(&detector, &io);
    assert_eq!(inputs.ids, io["input_ids"]);
    assert_eq!(inputs.tokens, io["attention_mask"].ne(0));
    assert_eq!(inputs.positions, io["positions"]);
    assert_eq!(inputs.phrases, io["phrases"].ne(0));
}

#[derive(Deserialize)]
struct Expected {
    phrase: String,
    score: f64,
    #[serde(rename = "box")]
    box_: [f64; 4],
}

fn near(a: &[f64; 4], b: &[f64; 4], tolerance: f64) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

/// What the processor makes of the network's output: the same boxes in the same order with the same phrases.
#[test]
fn boxes_and_phrases() {
    let detector = open(Kind::Float);
    let found = detector.find(&images(&io(NAME)), &captions(&detector)).unwrap();
    let expected: Vec<Vec<Expected>> = read("detections.json");
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(detector.phrases.spell(&found.phrase).unwrap(), expected.phrase);
            assert!((found.score - expected.score).abs() < 1e-4, "{found:?}");
            assert!(near(&found.box_, &expected.box_, 1e-2), "{found:?} {:?}", expected.box_);
        }
    }
}

/// Nouns count where they are the whole phrase.
#[test]
fn nouns_are_whole_phrases() {
    let nouns = nouns();
    let detections = open(Kind::Float).detect_each(&images(&io(NAME)), &nouns).unwrap();
    let expected: Vec<Vec<Expected>> = read("detections.json");
    for ((detections, expected), nouns) in detections.iter().zip(expected).zip(&nouns) {
        let named = |e: &Expected| nouns.iter().position(|noun| noun.to_lowercase() == e.phrase.trim_end_matches('.'));
        let expected: Vec<_> = expected.iter().filter_map(|e| Some((named(e)?, e))).collect();
        println!("{} of them are nouns", expected.len());
        assert!(!expected.is_empty() && expected.len() == detections.len());
        for (detection, (noun, expected)) in detections.iter().zip(expected) {
            assert_eq!(detection.noun, noun);
            assert!(near(&detection.box_, &expected.box_, 1e-2));
        }
    }
}

fn assert_same(a: &[Detection], b: &[Detection]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!(a.noun == b.noun && (a.score - b.score).abs() < 1e-6 && near(&a.box_, &b.box_, 1e-4), "{a:?} {b:?}");
    }
}

/// An image gives the same in a batch with another, longer caption, of which it gets the padding.
#[test]
fn a_batch_is_its_images() {
    let io = io(NAME);
    let detector = open(Kind::Double);
    let same_size = Tensor::stack(&[&io["image.1"], &io["image.1"].flip([2])], 0).to_kind(Kind::Double);
    let whole = detector.detect(&same_size, &nouns()).unwrap();
    for (i, (whole, nouns)) in whole.iter().zip(nouns()).enumerate() {
        let alone = detector.detect(&same_size.narrow(0, i as i64, 1), &[nouns]).unwrap();
        assert_same(&alone[0], whole);
    }
    assert!(whole.iter().any(|detections| !detections.is_empty()));
}

/// Images with nothing to look for are not looked at, a noun that comes twice is found twice, an empty one never.
#[test]
fn lists_of_nouns() {
    let io = io(NAME);
    let mut detector = open(Kind::Float);
    let image = io["image.1"].unsqueeze(0);
    let detect = |detector: &Detector, nouns: &[&str]| {
        let nouns = nouns.iter().map(|noun| noun.to_string()).collect::<Vec<_>>();
        detector.detect(&Tensor::cat(&[&image, &image], 0), &[vec![], nouns]).unwrap()
    };
    // A threshold that lets some phrase be a noun.
    let mut usual = vec![vec![], vec![]];
    while usual[1].is_empty() && detector.text_threshold < 1.0 {
        detector.text_threshold += 0.02;
        usual = detect(&detector, &["dog", "small black cat", "tree"]);
    }
    println!("{usual:?}");
    assert!(usual[0].is_empty() && !usual[1].is_empty());
    let twice = detect(&detector, &["", "dog", " Small  Black CAT", "tree", "small black cat", ".", "Dog", "tree"]);
    let index = |d: &Detection| ([1, 2, 3][d.noun], [6, 4, 7][d.noun]);
    let expected: Vec<_> = usual[1]
        .iter()
        .flat_map(|d| {
            let (a, b) = index(d);
            [a.min(b), a.max(b)].map(|noun| Detection { noun, ..d.clone() })
        })
        .collect();
    assert_same(&twice[1], &expected);
    assert_eq!(detect(&detector, &["", " ", "."]), [vec![], vec![]]);
}

/// Full stops are no part of a noun.
#[test]
fn matching() {
    let detector = open(Kind::Float);
    let nouns = ["cat", "black cat", "cat", "house", "houses"].map(String::from);
    let caption = detector.phrases.caption(&nouns).unwrap();
    let ids = |text: &str| detector.phrases.caption(&[text.into()]).unwrap().ids;
    let of = |text: &str| {
        let ids = ids(text);
        detector.phrases.nouns(&caption, &ids[1..ids.len() - 2]).collect::<Vec<_>>()
    };
    assert_eq!(of("cat"), [0, 2]);
    assert_eq!(of("cat ."), [0, 2]);
    assert_eq!(of("black cat"), [1]);
    assert_eq!(of("black"), [0; 0]);
    assert_eq!(of("cat black"), [0; 0]);
    assert_eq!(of("house"), [3]);
    assert_eq!(of("houses"), [4]);
    assert_eq!(detector.phrases.nouns(&caption, &[]).count(), 0);
}

/// Thresholds decide which boxes and which tokens count.
#[test]
fn thresholds() {
    let io = io(NAME);
    let mut detector = open(Kind::Float);
    let captions = captions(&detector);
    let find = |detector: &Detector| detector.find(&images(&io), &captions).unwrap();
    let count = |found: &[Vec<Found>]| found.iter().map(Vec::len).sum::<usize>();
    let usual = count(&find(&detector));
    (detector.box_threshold, detector.text_threshold) = (0.0, 0.0);
    let all = find(&detector);
    assert!(usual < count(&all));
    assert_eq!(count(&all), 2 * 20);
    assert!(all.iter().zip(&captions).all(|(found, c)| found.iter().all(|f| f.phrase == c.ids[1..])));
    detector.box_threshold = 1.0;
    assert_eq!(count(&find(&detector)), 0);
}

/// Coordinates and probabilities stay in float32 where the network does not.
#[test]
fn half_precision_comes_near() {
    let io = io(NAME);
    for (kind, tolerance) in [(Kind::Half, 0.05), (Kind::BFloat16, 0.3)] {
        let detector = open(kind);
        let outputs = detector.network.forward(&inputs(&detector, &io)).unwrap();
        assert_eq!((outputs.logits.kind(), outputs.boxes.kind()), (Kind::Float, Kind::Float));
        for (i, map) in outputs.feature_maps.iter().enumerate() {
            assert_close(&format!("{kind:?} map {i}"), map, &io[&format!("feature_map.{i}")], tolerance);
        }
        assert_close(&format!("{kind:?} vision"), &outputs.vision, &io["vision"], tolerance);
        assert_close(&format!("{kind:?} text"), &outputs.text, &io["text"], tolerance);
        assert_eq!(outputs.boxes.isfinite().all().int64_value(&[]), 1);
        detector.detect_each(&images(&io), &nouns()).unwrap();
    }
}

/// Files hold the shared box head once, or under every name that it has; and old buffers.
#[test]
fn shared_heads_may_have_other_names() {
    let io = io(NAME);
    let heads = |tensors: &Tensors| -> Vec<(String, Tensor)> {
        let heads = tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix("bbox_embed.0.")?.into(), t.copy())));
        heads.collect()
    };
    let everywhere = copy(&fixture(NAME)).weights(|mut tensors| {
        for (key, t) in heads(&tensors) {
            for place in ["bbox_embed.1", "model.decoder.bbox_embed.0", "model.decoder.bbox_embed.1"] {
                tensors.insert(format!("{place}.{key}"), t.copy());
            }
        }
        let buffer = Tensor::zeros([9, 9], (Kind::Int64, device()));
        let attention = "model.backbone.conv_encoder.model.encoder.layers.0.blocks.0.attention.self";
        tensors.insert(format!("{attention}.relative_position_index"), buffer.copy());
        tensors.insert("model.text_backbone.embeddings.position_ids".into(), buffer);
        tensors
    });
    let other_name = copy(&fixture(NAME)).weights(|mut tensors| {
        for (key, t) in heads(&tensors) {
            tensors.remove(&format!("bbox_embed.0.{key}"));
            tensors.insert(format!("model.decoder.bbox_embed.1.{key}"), t);
        }
        tensors
    });
    for folder in [everywhere, other_name] {
        let detector = Detector::open(folder.path(), Kind::Float, device()).unwrap();
        assert_outputs("renamed", &detector.network.forward(&inputs(&detector, &io)).unwrap(), &io, 1e-4);
    }
}

#[test]
fn every_layer_may_have_its_own_box_head() {
    let io = io(NAME);
    for place in ["", "model.decoder."] {
        let folder = copy(&fixture(NAME)).set("config.json", "decoder_bbox_embed_share", json!(false));
        let message = "bbox_embed.1.layers.0.weight is missing";
        assert_error(Detector::open(folder.path(), Kind::Float, device()), &[message]);
        let folder = folder.weights(|mut tensors| {
            tensors.retain(|key, _| !key.starts_with("bbox_embed."));
            for (key, t) in io.iter().filter_map(|(key, t)| Some((key.strip_prefix("unshared.bbox_embed.")?, t))) {
                tensors.insert(format!("{place}bbox_embed.{key}"), t.copy());
            }
            tensors
        });
        let detector = Detector::open(folder.path(), Kind::Float, device()).unwrap();
        let outputs = detector.network.forward(&inputs(&detector, &io)).unwrap();
        assert_close("proposals", &outputs.proposals, &io["unshared.proposals"], 1e-4);
        assert_decoded("unshared", &outputs, &io, "unshared.", 1e-4);
    }
}

/// What a network is said to be made of is what it takes.
#[test]
fn layout() {
    let config = Config::read(&fixture(NAME).join("config.json")).unwrap();
    let (tensors, _) = models::tensors::read(&fixture(NAME).join("model.safetensors")).unwrap();
    let mut layout = Network::layout(&config);
    layout.retain(|key, _| tensors.contains_key(key));
    let held = tensors.iter().filter(|(key, _)| !key.contains("swin.layernorm"));
    assert_eq!(layout, held.map(|(key, t)| (key.clone(), t.size())).collect());
}

#[test]
fn wrong_inputs_are_errors() {
    let io = io(NAME);
    let detector = open(Kind::Float);
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    let dog = || vec![vec!["dog".to_string()]];
    assert_error(detector.detect(&zeros(&[3, 32, 32]), &dog()), &["[3, 32, 32]", "[B, 3, H, W]"]);
    assert_error(detector.detect(&zeros(&[2, 3, 32, 32]), &dog()), &["2 images", "1 lists"]);
    assert_error(detector.detect(&zeros(&[1, 4, 32, 32]), &dog()), &["[4, 32, 32]"]);
    assert_error(detector.detect(&zeros(&[1, 3, 0, 32]), &dog()), &["empty"]);
    assert_error(detector.detect(&zeros(&[1, 3, 1, 900]), &dog()), &["too narrow"]);
    assert_error(detector.detect(&zeros(&[1, 3, 32, 32]).to_kind(Kind::Uint8), &dog()), &["Uint8"]);
    assert!(detector.detect(&zeros(&[0, 3, 32, 32]), &[]).unwrap().is_empty());
    let many = "dog cat bird car tree house red blue green black white orange".split(' ').map(String::from).collect();
    assert_error(
        detector.detect(&zeros(&[1, 3, 32, 32]), &[many]),
        &["image 0 take 26 tokens", "max_text_len is 24", "fewer"],
    );
    let long = vec!["dog ".repeat(20)];
    assert_error(detector.detect(&zeros(&[1, 3, 32, 32]), &[long]), &["21 tokens", "max_position_embeddings is 16"]);

    let refused = |change: &dyn Fn(&mut Inputs), words: &[&str]| {
        let mut inputs = inputs(&detector, &io);
        change(&mut inputs);
        assert_error(detector.network.forward(&inputs).map(|_| ()), words);
    };
    refused(&|i| i.pixels = zeros(&[2, 1, 8, 8]), &["[2, 1, 8, 8]"]);
    refused(&|i| i.ids = &i.ids + 100, &["vocabulary"]);
    refused(&|i| i.ids = i.ids.narrow(0, 0, 1), &["1 captions for 2 images"]);
    refused(&|i| i.tokens = i.tokens.narrow(1, 0, 2), &["the shape of tokens"]);
    refused(&|i| i.phrases = i.phrases.narrow(1, 0, 2), &["the shape of phrases"]);
    refused(&|i| i.positions = i.positions.narrow(1, 0, 2), &["the shape of positions"]);
    refused(&|i| i.positions = &i.positions - 1, &["max_position_embeddings"]);
    refused(&|i| i.pixel_mask = Some(zeros(&[2, 4, 4])), &["the shape of pixel_mask"]);
}

/// Fewer cells than there are queries.
#[test]
fn tiny_images() {
    let folder =
        copy(&fixture(NAME)).set("preprocessor_config.json", "size", json!({"shortest_edge": 4, "longest_edge": 9}));
    let mut detector = Detector::open(folder.path(), Kind::Float, device()).unwrap();
    detector.box_threshold = 0.0;
    let captions = captions(&detector);
    let found = detector.find(&images(&io(NAME)), &captions).unwrap();
    assert!(found.iter().all(|found| (1..20).contains(&found.len())));
}

#[test]
fn folders_of_another_kind_are_refused() {
    let error = |folder: &std::path::Path, words: &[&str]| {
        assert_error(Detector::open(folder, Kind::Float, device()), words);
    };
    error(&fixture("blip"), &["config.json", "model_type", "blip", "grounding-dino"]);
    error(&fixture("vae"), &["config.json", "model_type", "missing"]);
    error(&fixture("no_such_folder"), &["config.json", "no such file"]);
    error(copy(&fixture(NAME)).remove("vocab.txt").path(), &["vocab.txt"]);
    error(copy(&fixture(NAME)).remove("model.safetensors").path(), &["model.safetensors", "no such file"]);
    let words = std::fs::read_to_string(fixture(NAME).join("vocab.txt")).unwrap();
    let no_stop = words.replacen("\n.\n", "\n:\n", 1);
    error(copy(&fixture(NAME)).write("vocab.txt", &no_stop).path(), &["full stop"]);
    error(copy(&fixture(NAME)).write("vocab.txt", &(words + "more\n")).path(), &["vocab_size", "tokens"]);
    let folder = copy(&fixture(NAME)).weights(|mut tensors| {
        tensors.remove("model.level_embed");
        tensors
    });
    error(folder.path(), &["model.level_embed is missing"]);
    let folder = copy(&fixture(NAME)).weights(|mut tensors| {
        tensors.insert("model.reference_points.weight".into(), Tensor::zeros([20, 4], (Kind::Float, device())));
        tensors
    });
    error(folder.path(), &["model.reference_points.weight is unexpected"]);
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture(NAME)).set("config.json", key, value);
        let words = [&["config.json", key], words].concat();
        assert_error(Detector::open(folder.path(), Kind::Float, device()), &words);
    };
    refused("two_stage", json!(false), &["only true"]);
    refused("two_stage_bbox_embed_share", json!(true), &["only false"]);
    refused("embedding_init_target", json!(false), &["only true"]);
    refused("position_embedding_type", json!("learned"), &["learned"]);
    refused("activation_function", json!("gelu"), &["gelu"]);
    refused("query_dim", json!(2), &["only 4"]);
    refused("num_feature_levels", json!(1), &["2 feature maps"]);
    refused("d_model", json!(40), &["multiple of 32"]);
    refused("encoder_attention_heads", json!(1), &["even"]);
    refused("decoder_attention_heads", json!(5), &["divide"]);
    refused("num_queries", json!(0), &["at least 1"]);
    refused("backbone", json!("resnet50"), &["only null"]);
    refused("backbone_config", json!(null), &["missing"]);
    refused("backbone_config.model_type", json!("resnet"), &["resnet"]);
    refused("backbone_config.use_absolute_embeddings", json!(true), &["only false"]);
    refused("backbone_config.out_indices", json!([1, 2]), &["out_features"]);
    refused("backbone_config.num_heads", json!([2, 2]), &["3 stages"]);
    refused("backbone_config.depths", json!([]), &["0 levels"]);
    refused("backbone_config.window_size", json!(1000000), &["at most 32"]);
    refused("text_config.model_type", json!("roberta"), &["roberta"]);
    refused("text_config.num_attention_heads", json!(7), &["7", "12"]);
    let preprocessor = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture(NAME)).set("preprocessor_config.json", key, value);
        let words = [&["preprocessor_config.json", key], words].concat();
        assert_error(Detector::open(folder.path(), Kind::Float, device()), &words);
    };
    preprocessor("resample", json!(3), &["only 2"]);
    preprocessor("size", json!({"height": 800, "width": 800}), &["height"]);
    preprocessor("size", json!({"shortest_edge": 0, "longest_edge": 9}), &["at least 1"]);
    preprocessor("image_std", json!([1, 0, 1]), &["positive"]);
}

/// Published configurations leave out what upstream has as a default, and name things of other uses.
#[test]
fn published_configurations_are_read() {
    // grounding-dino-tiny's
    let tiny = r#"{
        "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["GroundingDinoForObjectDetection"],
        "attention_dropout": 0.0, "auxiliary_loss": false, "backbone": null,
        "backbone_config": {"depths": [2, 2, 6, 2], "model_type": "swin", "num_heads": [3, 6, 12, 24],
            "out_features": ["stage2", "stage3", "stage4"], "out_indices": [2, 3, 4]},
        "backbone_kwargs": null, "bbox_cost": 5.0, "bbox_loss_coefficient": 5.0, "class_cost": 1.0, "d_model": 256,
        "decoder_attention_heads": 8, "decoder_bbox_embed_share": true, "decoder_ffn_dim": 2048, "decoder_layers": 6,
        "decoder_n_points": 4, "disable_custom_kernels": false, "dropout": 0.1, "embedding_init_target": true,
        "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "encoder_layers": 6, "encoder_n_points": 4,
        "focal_alpha": 0.25, "fusion_dropout": 0.0, "fusion_droppath": 0.1, "giou_cost": 2.0,
        "giou_loss_coefficient": 2.0, "init_std": 0.02, "is_encoder_decoder": true, "layer_norm_eps": 1e-05,
        "max_text_len": 256, "model_type": "grounding-dino", "num_feature_levels": 4, "num_queries": 900,
        "position_embedding_type": "sine", "positional_embedding_temperature": 20, "query_dim": 4,
        "text_config": {"model_type": "bert"}, "text_enhancer_dropout": 0.0, "torch_dtype": "float32",
        "transformers_version": "4.40.0.dev0", "two_stage": true, "two_stage_bbox_embed_share": false,
        "use_pretrained_backbone": false, "use_timm_backbone": false
    }"#;
    let tiny: serde_json::Value = serde_json::from_str(tiny).unwrap();
    let read = |config: &serde_json::Value| {
        let folder = copy(&fixture(NAME)).write("config.json", &config.to_string());
        Config::read(&folder.path().join("config.json")).unwrap()
    };
    let config = read(&tiny);
    assert_eq!((config.backbone.embed_dim, config.backbone.window_size, config.text.vocab_size), (96, 7, 30522));
    let count =
        |config: &Config| Network::layout(config).values().map(|size| size.iter().product::<i64>()).sum::<i64>();
    assert_eq!(count(&config), 172_249_090);
    let mut base = tiny;
    base["backbone_config"] = json!({"attention_probs_dropout_prob": 0.0, "depths": [2, 2, 18, 2], "drop_path_rate": 0.1,
        "embed_dim": 128, "encoder_stride": 32, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 1024,
        "image_size": 384, "initializer_range": 0.02, "layer_norm_eps": 1e-05, "mlp_ratio": 4.0, "model_type": "swin",
        "num_channels": 3, "num_heads": [4, 8, 16, 32], "num_layers": 4, "out_features": ["stage2", "stage3", "stage4"],
        "out_indices": [2, 3, 4], "patch_size": 4, "qkv_bias": true, "use_absolute_embeddings": false, "window_size": 12});
    assert_eq!(read(&base).backbone.width(3), 1024);
}

/// `cargo test --release -p models --test grounding_dino -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: a pass at the size of grounding-dino-tiny with random weights"]
fn seconds_of_a_full_pass() {
    tch::set_num_threads(1);
    let text = json!({"model_type": "grounding-dino", "backbone_config": {"model_type": "swin", "out_indices": [2, 3, 4]},
        "text_config": {"model_type": "bert"}});
    let folder = copy(&fixture(NAME)).write("config.json", &text.to_string());
    let config = Config::read(&folder.path().join("config.json")).unwrap();
    let mut detector = open(Kind::Float);
    let tensor = |size: &[i64]| Tensor::randn(size, (Kind::Float, device())) * 0.02;
    let tensors = Network::layout(&config).iter().map(|(key, size)| (key.clone(), tensor(size))).collect();
    let weights = Weights::new(tensors, "random".into(), Kind::Float, device()).unwrap();
    detector.network = Network::new(&config, &weights).unwrap();
    detector.resize = Resize::default();
    let image = Tensor::rand([1, 3, 512, 512], (Kind::Float, device()));
    for _ in 0..3 {
        let start = std::time::Instant::now();
        detector.detect(&image, &[vec!["red bird".into(), "house".into()]]).unwrap();
        println!("{:.2} s", start.elapsed().as_secs_f64());
    }
}
