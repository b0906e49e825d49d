//! Sentence embeddings against transformers, from BERT and from MPNet.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::sentence::SentenceEmbedder;
use serde_json::json;
use std::{fs, path::Path};
use tch::{Kind, Tensor};

const BERT: &str = "sentence_bert";
const MPNET: &str = "sentence_mpnet";

fn open(folder: &Path) -> models::Result<SentenceEmbedder> {
    SentenceEmbedder::open(folder, Kind::Float, device())
}

fn texts(name: &str) -> Vec<String> {
    serde_json::from_str(&fs::read_to_string(fixture(name).join("texts.json")).unwrap()).unwrap()
}

fn embed(embedder: &SentenceEmbedder, name: &str) -> Tensor {
    embedder.embed(&texts(name).iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[test]
fn parity_in_float32_and_float64() {
    for (name, length) in [(BERT, 16), (MPNET, 40)] {
        let io = io(name);
        for kind in [Kind::Float, Kind::Double] {
            let embedder = SentenceEmbedder::open(&fixture(name), kind, device()).unwrap();
            assert_eq!(embedder.max_length(), length);
            let embeddings = embedder.embed_ids(&io["input_ids"], &io["attention_mask"]).unwrap();
            assert_eq!(embeddings.kind(), kind);
            assert_close(&format!("{name} {kind:?}"), &embeddings, &io["embeddings"], 1e-5);
            assert_close(&format!("{name} {kind:?} texts"), &embed(&embedder, name), &io["embeddings"], 1e-5);
        }
    }
}

#[test]
fn half_precision_comes_near() {
    for name in [BERT, MPNET] {
        let embedder = SentenceEmbedder::open(&fixture(name), Kind::BFloat16, device()).unwrap();
        let embeddings = embed(&embedder, name);
        assert_eq!(embeddings.kind(), Kind::Float);
        assert_close(name, &embeddings, &io(name)["embeddings"], 1e-1);
    }
}

/// The last text is cut, and padding goes by the tokenizer's own id.
#[test]
fn texts_become_tokens_as_upstream() {
    for name in [BERT, MPNET] {
        let (embedder, texts) = (open(&fixture(name)).unwrap(), texts(name));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let batch = embedder.tokenizer().encode_batch(&texts, embedder.max_length()).unwrap();
        assert_eq!(batch.ids.to_device(device()), io(name)["input_ids"]);
        assert_eq!(batch.attention_mask.to_device(device()), io(name)["attention_mask"]);
    }
}

/// An embedding does not depend on the texts beside it.
#[test]
fn a_batch_may_be_cut() {
    for name in [BERT, MPNET] {
        let embedder = SentenceEmbedder::open(&fixture(name), Kind::Double, device()).unwrap();
        let together = embed(&embedder, name);
        for (i, text) in texts(name).iter().enumerate() {
            assert_close(text, &embedder.embed(&[text]).unwrap().get(0), &together.get(i as i64), 1e-12);
        }
    }
}

#[test]
fn cosines() {
    for name in [BERT, MPNET] {
        let embedder = open(&fixture(name)).unwrap();
        let (texts, expected) = (texts(name), &io(name)["embeddings"]);
        let others: Vec<&str> = texts.iter().map(String::as_str).collect();
        let cosines = embedder.similarities(&texts[1], &others).unwrap();
        let expected = expected.to_kind(Kind::Double).matmul(&expected.to_kind(Kind::Double).get(1));
        assert_close(name, &Tensor::from_slice(&cosines), &expected, 1e-5);
        assert!((cosines[1] - 1.0).abs() < 1e-6 && cosines.iter().all(|c| *c < 1.0 + 1e-6), "{cosines:?}");
    }
}

/// all-MiniLM-L6-v2 has its buffer in the file; other checkpoints have a prefix, and no pooler.
#[test]
fn other_layouts_are_read() {
    let buffers = copy(&fixture(BERT)).weights(|mut tensors| {
        let positions = Tensor::arange(24, (Kind::Int64, device())).unsqueeze(0);
        tensors.insert("embeddings.position_ids".into(), positions);
        tensors
    });
    let prefixed = copy(&fixture(BERT)).weights(|tensors| {
        let bare = tensors.into_iter().filter(|(key, _)| !key.starts_with("pooler"));
        bare.map(|(key, tensor)| (format!("bert.{key}"), tensor)).collect()
    });
    for folder in [buffers, prefixed] {
        assert_close("embeddings", &embed(&open(folder.path()).unwrap(), BERT), &io(BERT)["embeddings"], 1e-5);
    }
}

/// A network without the files of sentence-transformers takes all that its positions allow, or its tokenizer says.
#[test]
fn networks_alone() {
    let alone = copy(&fixture(BERT)).remove("modules.json").remove("sentence_bert_config.json");
    let embedder = open(alone.path()).unwrap();
    assert_eq!(embedder.max_length(), 24);
    let short = embedder.embed(&["a red dog"]).unwrap();
    assert_close("short", &short, &open(&fixture(BERT)).unwrap().embed(&["a red dog"]).unwrap(), 1e-6);
    assert_eq!(open(copy(&fixture(MPNET)).remove("sentence_bert_config.json").path()).unwrap().max_length(), 44);
    assert_error(open(&fixture("tokenizer_bert")), &["config.json", "no such file"]);
}

#[test]
fn other_models_are_refused() {
    models::config::be_strict(true);
    assert_error(open(&fixture("blip")), &["config.json", "model_type is blip", "bert and mpnet"]);
    let roberta = copy(&fixture(BERT)).set("config.json", "model_type", json!("xlm-roberta"));
    assert_error(open(roberta.path()), &["xlm-roberta", "bert and mpnet"]);
    let refused = |name: &str, file: &str, key: &str, value: serde_json::Value, words: &[&str]| {
        let folder = copy(&fixture(name)).set(file, key, value);
        assert_error(open(folder.path()), &[&[file, key], words].concat());
    };
    refused(BERT, "config.json", "position_embedding_type", json!("relative_key"), &["relative_key"]);
    refused(BERT, "config.json", "is_decoder", json!(true), &["only false"]);
    refused(MPNET, "config.json", "relative_attention_num_buckets", json!(64), &["64", "only 32"]);
    refused(MPNET, "config.json", "max_position_embeddings", json!(3), &["no space"]);
    refused(MPNET, "config.json", "rope_theta", json!(1), &["not known"]);
    let pooling = "1_Pooling/config.json";
    refused(BERT, pooling, "pooling_mode_mean_tokens", json!(false), &["only true"]);
    refused(BERT, pooling, "pooling_mode_cls_token", json!(true), &["only false"]);
    refused(BERT, pooling, "word_embedding_dimension", json!(384), &["384", "hidden_size is 24"]);
    refused(BERT, "sentence_bert_config.json", "max_seq_length", json!(1), &["no space"]);
    refused(BERT, "sentence_bert_config.json", "do_lower_case", json!(true), &["only false"]);
    let dense = r#"[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}, {"path": "2", "type": "x.Dense"}]"#;
    assert_error(open(copy(&fixture(BERT)).write("modules.json", dense).path()), &["modules.json", "Dense"]);
    assert_error(open(copy(&fixture(BERT)).write("modules.json", "{}").path()), &["modules.json"]);
    let missing = copy(&fixture(BERT)).remove("1_Pooling/config.json");
    assert_error(open(missing.path()), &["1_Pooling/config.json", "no such file"]);
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let keys = [
        (BERT, "embeddings.token_type_embeddings.weight"),
        (BERT, "encoder.layer.1.attention.self.query.weight"),
        (MPNET, "encoder.relative_attention_bias.weight"),
        (MPNET, "encoder.layer.0.attention.attn.o.weight"),
    ];
    for (name, key) in keys {
        let missing = copy(&fixture(name)).weights(|mut tensors| {
            let _ = tensors.remove(key).unwrap();
            tensors
        });
        assert_error(open(missing.path()), &["model.safetensors", &format!("{key} is missing")]);
        let other = copy(&fixture(name)).weights(|mut tensors| {
            tensors.insert(key.into(), Tensor::zeros([2, 5], (Kind::Float, device())));
            tensors
        });
        assert_error(open(other.path()), &["model.safetensors", &format!("{key} has shape [2, 5]")]);
    }
    let more = copy(&fixture(BERT)).weights(|mut tensors| {
        tensors.insert("classifier.weight".into(), Tensor::zeros([2, 24], (Kind::Float, device())));
        tensors
    });
    assert_error(open(more.path()), &["classifier.weight is unexpected"]);
    let long = copy(&fixture(BERT)).set("sentence_bert_config.json", "max_seq_length", json!(256));
    assert_error(open(long.path()), &["256", "24"]);
    let vocabulary = fs::read_to_string(fixture(BERT).join("vocab.txt")).unwrap();
    let words = copy(&fixture(BERT)).write("vocab.txt", &(vocabulary + "zebra\n"));
    assert_error(open(words.path()), &["tokens", "vocab_size"]);
}

#[test]
fn wrong_inputs_are_errors() {
    for name in [BERT, MPNET] {
        let embedder = open(&fixture(name)).unwrap();
        let length = embedder.max_length() as i64;
        let ones = |size: &[i64]| Tensor::ones(size, (Kind::Int64, device()));
        assert_error(embedder.embed(&[]), &["no texts"]);
        assert_error(embedder.similarities("a dog", &[]), &["no texts to compare"]);
        assert_error(embedder.embed_ids(&ones(&[1, length + 1]), &ones(&[1, length + 1])), &[&length.to_string()]);
        assert_error(embedder.embed_ids(&(ones(&[1, 3]) * 900), &ones(&[1, 3])), &["900", "vocabulary"]);
        assert_error(embedder.embed_ids(&(ones(&[1, 3]) * -1), &ones(&[1, 3])), &["-1", "vocabulary"]);
        assert_error(embedder.embed_ids(&ones(&[3]), &ones(&[3])), &["[3]", "[B, L]"]);
        assert_error(embedder.embed_ids(&ones(&[0, 3]), &ones(&[0, 3])), &["empty"]);
        assert_error(embedder.embed_ids(&ones(&[1, 3]).to_kind(Kind::Float), &ones(&[1, 3])), &["Float"]);
        assert_error(embedder.embed_ids(&ones(&[1, 3]), &ones(&[1, 4])), &["attention mask", "[1, 4]"]);
        assert_error(embedder.embed_ids(&ones(&[1, 3]), &(ones(&[1, 3]) - 1)), &["padding belongs behind"]);
        let broken = copy(&fixture(name)).weights(|mut tensors| {
            let mut words = tensors["embeddings.word_embeddings.weight"].copy();
            let _ = words.fill_(f64::NAN);
            tensors.insert("embeddings.word_embeddings.weight".into(), words);
            tensors
        });
        assert_error(open(broken.path()).unwrap().embed(&["a dog"]), &["text 1", "a dog", "not a number"]);
    }
}
