//! The captioner against transformers, and its loss however a batch is cut.

use crate::common;

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::{
    blip::{Captioner, IGNORED, Nll},
    tensors::Tensors,
    tokenizer::BertTokenizer,
};
use serde_json::json;
use tch::{Kind, Tensor};

fn open(kind: Kind) -> Captioner {
    Captioner::open(&fixture("blip"), kind, device()).unwrap()
}

fn logits(captioner: &Captioner, io: &Tensors) -> Tensor {
    captioner
        .logits(&captioner.embed_image(&io["pixel_values"]).unwrap(), &io["input_ids"], &io["attention_mask"])
        .unwrap()
}

fn nll(captioner: &Captioner, io: &Tensors) -> Nll {
    captioner.nll(&io["pixel_values"], &io["input_ids"], &io["attention_mask"], &io["labels"]).unwrap()
}

fn mean(nll: &Nll) -> Tensor {
    let kind = nll.sum.kind();
    nll.sum.sum(kind) / nll.tokens.sum(Kind::Int64).to_kind(kind)
}

fn row(io: &Tensors, i: i64) -> Tensors {
    ["pixel_values", "input_ids", "attention_mask", "labels"].map(|k| (k.to_owned(), io[k].narrow(0, i, 1))).into()
}

#[test]
fn parity_in_float32_and_float64() {
    let io = io("blip");
    for kind in [Kind::Float, Kind::Double] {
        let captioner = open(kind);
        let embeds = captioner.embed_image(&io["pixel_values"]).unwrap();
        assert_close(&format!("{kind:?} image_embeds"), &embeds, &io["image_embeds"], 1e-5);
        assert_close(&format!("{kind:?} logits"), &logits(&captioner, &io), &io["logits"], 1e-5);
        assert_close(&format!("{kind:?} loss"), &mean(&nll(&captioner, &io)), &io["loss"], 1e-5);
        for i in 0..2 {
            let loss = mean(&nll(&captioner, &row(&io, i)));
            assert_close(&format!("{kind:?} loss.{i}"), &loss, &io[&format!("loss.{i}")], 1e-5);
        }
    }
}

#[test]
fn gradient_with_respect_to_the_image() {
    let mut io = io("blip");
    let pixels = io["pixel_values"].copy().set_requires_grad(true);
    io.insert("pixel_values".into(), pixels.shallow_clone());
    for kind in [Kind::Float, Kind::Double] {
        let loss = mean(&nll(&open(kind), &io));
        let grads = torch_ext::vjp(&[&loss], &[&pixels], &[&loss.ones_like()]).unwrap();
        let grad = grads[0].as_ref().unwrap();
        assert_close(&format!("{kind:?} gradient"), grad, &io["grad.pixel_values"], 1e-5);
    }
}

/// transformers 4.31, which the CoMat authors pin, smooths the labels by 0.1 (`tools/reference/label_smoothing.py`).
#[test]
fn the_published_loss_has_smoothed_labels() {
    let (io, expected) = (io("blip"), common::io("blip_smoothed"));
    for kind in [Kind::Float, Kind::Double] {
        let captioner = open(kind);
        let check = |rows: Tensors, name: &str| {
            let pixels = rows["pixel_values"].copy().set_requires_grad(true);
            let rows = rows.into_iter().chain([("pixel_values".to_owned(), pixels.shallow_clone())]).collect();
            let nll = nll(&captioner, &rows);
            let loss = nll.smoothed(0.1).sum(nll.sum.kind()) / nll.tokens.sum(Kind::Int64);
            assert_close(&format!("{kind:?} loss{name}"), &loss, &expected[&format!("loss{name}")], 1e-5);
            let grad = torch_ext::vjp(&[&loss], &[&pixels], &[&loss.ones_like()]).unwrap().remove(0).unwrap();
            assert_close(
                &format!("{kind:?} gradient{name}"),
                &grad,
                &expected[&format!("grad.pixel_values{name}")],
                1e-5,
            );
        };
        (0..2).for_each(|i| check(row(&io, i), &format!(".{i}")));
        check(io.iter().map(|(k, t)| (k.clone(), t.shallow_clone())).collect(), "");
    }
    assert!((&expected["loss"] - &io["loss"]).abs().double_value(&[]) > 0.01, "smoothing makes a difference");
}

/// The sums of a batch are those of its rows, and the counts make them the mean over all tokens.
#[test]
fn a_batch_may_be_cut() {
    let io = io("blip");
    let captioner = open(Kind::Double);
    let whole = nll(&captioner, &io);
    let parts = [0, 1].map(|i| nll(&captioner, &row(&io, i)));
    let joined = Nll {
        sum: Tensor::cat(&[&parts[0].sum, &parts[1].sum], 0),
        uniform: Tensor::cat(&[&parts[0].uniform, &parts[1].uniform], 0),
        tokens: Tensor::cat(&[&parts[0].tokens, &parts[1].tokens], 0),
        end: [0, 1].map(|i| Tensor::cat(&[&parts[0].end[i], &parts[1].end[i]], 0)),
    };
    assert_close("ends", &joined.end[0], &whole.end[0], 1e-12);
    assert_close("sums", &joined.sum, &whole.sum, 1e-12);
    assert_close("smoothed sums", &joined.smoothed(0.1), &whole.smoothed(0.1), 1e-12);
    assert_eq!(joined.tokens, whole.tokens);
    assert_eq!(whole.tokens, io["labels"].narrow(1, 1, 13).ne(IGNORED).sum_dim_intlist(1, false, Kind::Int64));
    assert_close("mean", &mean(&joined), &io["loss"], 1e-5);
}

/// A row as long as its text gives what it gives with padding behind it.
#[test]
fn padding_makes_no_difference() {
    let io = io("blip");
    let captioner = open(Kind::Double);
    let length = io["attention_mask"].get(1).sum(Kind::Int64).int64_value(&[]);
    assert!(length < io["input_ids"].size()[1]);
    let padded = row(&io, 1);
    let mut bare = row(&io, 1);
    for key in ["input_ids", "attention_mask", "labels"] {
        bare.insert(key.into(), padded[key].narrow(1, 0, length));
    }
    assert_close("sum", &nll(&captioner, &bare).sum, &nll(&captioner, &padded).sum, 1e-12);
}

/// The loss stays in float32 where the network does not.
#[test]
fn half_precision_comes_near() {
    let io = io("blip");
    for (kind, tolerance) in [(Kind::Half, 1e-2), (Kind::BFloat16, 1e-1)] {
        let captioner = open(kind);
        assert_close(&format!("{kind:?} logits"), &logits(&captioner, &io), &io["logits"], tolerance);
        let mut io = row(&io, 0);
        let pixels = io["pixel_values"].set_requires_grad(true);
        io.insert("pixel_values".into(), pixels.shallow_clone());
        let nll = nll(&captioner, &io);
        assert_eq!(nll.sum.kind(), Kind::Float);
        let grads = torch_ext::vjp(&[&nll.sum], &[&pixels], &[&nll.sum.ones_like()]).unwrap();
        let grad = grads[0].as_ref().unwrap();
        assert_eq!(grad.kind(), Kind::Float);
        assert!(grad.isfinite().all().int64_value(&[]) == 1 && grad.abs().max().double_value(&[]) > 0.0);
    }
}

/// The text of the fixture through this program's tokenizer gives its ids and mask.
#[test]
fn the_tokenizer_beside_it() {
    let io = io("blip");
    let texts = std::fs::read_to_string(fixture("blip").join("texts.json")).unwrap();
    let texts: Vec<String> = serde_json::from_str(&texts).unwrap();
    let tokenizer = BertTokenizer::open(&fixture("blip")).unwrap();
    let batch = tokenizer.encode_batch(&texts.iter().map(String::as_str).collect::<Vec<_>>(), 24).unwrap();
    assert_eq!(batch.ids.to_device(device()), io["input_ids"]);
    assert_eq!(batch.attention_mask.to_device(device()), io["attention_mask"]);
    assert!(tokenizer.vocab_size() <= open(Kind::Float).config().text.vocab_size);
}

/// Checkpoints hold the tied output layer, old buffers, or neither.
#[test]
fn tied_weights_may_be_in_the_file() {
    let io = io("blip");
    let head = "text_decoder.cls.predictions";
    let written_out = copy(&fixture("blip")).weights(|mut tensors| {
        let words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"].copy();
        let bias = tensors[&format!("{head}.bias")].copy();
        tensors.insert(format!("{head}.decoder.weight"), words);
        tensors.insert(format!("{head}.decoder.bias"), bias);
        let positions = Tensor::arange(24, (Kind::Int64, device())).unsqueeze(0);
        tensors.insert("text_decoder.bert.embeddings.position_ids".into(), positions);
        tensors
    });
    let one_name = copy(&fixture("blip")).weights(|mut tensors| {
        let bias = tensors.remove(&format!("{head}.bias")).unwrap();
        tensors.insert(format!("{head}.decoder.bias"), bias);
        tensors
    });
    for folder in [written_out, one_name] {
        let captioner = Captioner::open(folder.path(), Kind::Float, device()).unwrap();
        assert_close("logits", &logits(&captioner, &io), &io["logits"], 1e-5);
    }
}

/// A model trained with an output layer of its own.
#[test]
fn untied_weights_are_used_or_missed() {
    let io = io("blip");
    let key = "text_decoder.cls.predictions.decoder.weight";
    let untied = copy(&fixture("blip")).set("config.json", "text_config.tie_word_embeddings", json!(false));
    assert_error(Captioner::open(untied.path(), Kind::Float, device()), &[&format!("{key} is missing")]);
    let untied = untied.weights(|mut tensors| {
        tensors.insert(key.into(), Tensor::zeros([39, 24], (Kind::Float, device())));
        tensors
    });
    let captioner = Captioner::open(untied.path(), Kind::Float, device()).unwrap();
    let bias = models::tensors::read(&fixture("blip").join("model.safetensors")).unwrap().0;
    let bias = bias["text_decoder.cls.predictions.bias"].expand([2, 14, 39], false);
    assert_close("logits", &logits(&captioner, &io), &bias, 1e-6);
}

#[test]
fn texts_without_labels_count_nothing() {
    let mut io = io("blip");
    let captioner = open(Kind::Float);
    let labels = io["labels"].copy();
    let _ = labels.get(1).fill_(IGNORED);
    io.insert("labels".into(), labels);
    let result = nll(&captioner, &io);
    assert_eq!(result.tokens.int64_value(&[1]), 0);
    assert_eq!((result.sum.double_value(&[1]), result.smoothed(0.1).double_value(&[1])), (0.0, 0.0));
    assert!(result.sum.double_value(&[0]) > 0.0);
    for key in ["input_ids", "attention_mask", "labels"] {
        io.insert(key.into(), io[key].narrow(1, 0, 1));
    }
    assert_eq!(nll(&captioner, &io).sum, Tensor::zeros([2], (Kind::Float, device())));
}

#[test]
fn wrong_inputs_are_errors() {
    let io = io("blip");
    let captioner = open(Kind::Float);
    assert_eq!(captioner.image_size(), (32, 32));
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    assert_error(captioner.embed_image(&zeros(&[1, 3, 32, 40])), &["[1, 3, 32, 40]", "32, 32"]);
    assert_error(captioner.embed_image(&zeros(&[0, 3, 32, 32])), &["captioner"]);
    assert_error(captioner.embed_image(&zeros(&[3, 32, 32])), &["captioner"]);
    let refused = |key: &str, value: Tensor, words: &[&str]| {
        let get = |k: &str| if k == key { value.shallow_clone() } else { io[k].shallow_clone() };
        let result = captioner.nll(&get("pixel_values"), &get("input_ids"), &get("attention_mask"), &get("labels"));
        assert_error(result, words);
    };
    let ones = |size: &[i64]| Tensor::ones(size, (Kind::Int64, device()));
    refused("input_ids", ones(&[2, 25]), &["25", "max_position_embeddings"]);
    refused("input_ids", ones(&[2, 14]) * 39, &["39", "vocabulary"]);
    refused("input_ids", ones(&[3, 14]), &["image embeddings"]);
    refused("attention_mask", ones(&[2, 13]), &["attention mask", "[2, 13]"]);
    refused("attention_mask", ones(&[2, 14]) - 1, &["padding belongs behind"]);
    refused("labels", ones(&[2, 13]), &["labels", "[2, 13]"]);
    refused("labels", ones(&[2, 14]) * 39, &["labels", "39"]);
    refused("labels", ones(&[2, 14]) * -1, &["labels", "-100"]);
    refused("labels", zeros(&[2, 14]), &["labels", "Float"]);
}

#[test]
fn configurations_that_mean_something_else_are_refused() {
    models::config::be_strict(true);
    let refused = |key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture("blip")).set("config.json", key, value);
        assert_error(Captioner::open(folder.path(), Kind::Float, device()), &[&["config.json", key], words].concat());
    };
    refused("model_type", json!("blip-2"), &["blip-2"]);
    refused("qformer_config", json!({}), &["not known"]);
    refused("vision_config", json!(null), &["missing"]);
    refused("vision_config.num_channels", json!(4), &["only 3"]);
    refused("vision_config.patch_size", json!(64), &["image_size"]);
    refused("vision_config.use_rope", json!(true), &["not known"]);
    refused("text_config.is_decoder", json!(false), &["only true"]);
    refused("text_config.label_smoothing", json!(0.1), &["0.1"]);
    refused("text_config.position_embedding_type", json!("relative_key"), &["relative_key"]);
    refused("text_config.hidden_act", json!("relu"), &["relu"]);
    refused("text_config.num_attention_heads", json!(7), &["7", "24"]);
    refused("text_config.unheard_of", json!(1), &["not known"]);
}

/// Published configurations give everything that transformers knew then, and a width of the image that is not used.
#[test]
fn old_configurations_are_read() {
    let folder = copy(&fixture("blip"))
        .set("config.json", "text_config.encoder_hidden_size", json!(768))
        .set("config.json", "text_config.top_k", json!(50))
        .set("config.json", "text_config.pruned_heads", json!({}))
        .set("config.json", "vision_config.id2label", json!({"0": "LABEL_0"}))
        .set("config.json", "torch_dtype", json!("float32"));
    Captioner::open(folder.path(), Kind::Float, device()).unwrap();
}
