//! Token ids against transformers.

use crate::edited;

use crate::common::fixture;
use crate::edited::{assert_error, copy};
use models::tokenizer::{BertTokenizer, ClipTokenizer, Encoding};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Deserialize)]
struct Row {
    text: String,
    /// Cut and padded
    ids: Vec<i64>,
    /// Whole
    all_ids: Vec<i64>,
}

fn rows(file: &str, key: Option<&str>) -> Vec<Row> {
    let json: Value = serde_json::from_str(&std::fs::read_to_string(fixture(file)).unwrap()).unwrap();
    let rows: Vec<Row> = serde_json::from_value(key.map_or(&json, |key| &json[key]).clone()).unwrap();
    assert!(rows.len() > 20);
    rows
}

/// Spans run through the text, on character boundaries, and what they leave over was cut or is no letter or digit.
fn check_spans(text: &str, encoding: &Encoding) {
    let spans: Vec<_> = encoding.spans.iter().flatten().collect();
    assert!(spans.iter().all(|span| text.get((*span).clone()).is_some()), "{text:?}: {spans:?}");
    assert!(spans.is_sorted_by_key(|span| span.start), "{text:?}: {spans:?}");
    let read = spans.last().map_or(0, |span| span.end);
    match &encoding.cut {
        Some(cut) => assert!(text.trim_end().ends_with(cut.as_str()) && !cut.is_empty()),
        None => assert!(!text[read..].contains(char::is_alphanumeric), "{text:?} read to {read}"),
    }
}

fn check_clip(tokenizer: &ClipTokenizer, rows: &[Row]) {
    assert_eq!(tokenizer.max_length(), 16);
    for row in rows {
        let encoding = tokenizer.encode(&row.text).unwrap();
        assert_eq!(encoding.ids, row.ids, "{:?}", row.text);
        assert_eq!(encoding.spans.len(), 16);
        assert_eq!(encoding.cut.is_some(), row.all_ids.len() > 16, "{:?}", row.text);
        check_spans(&row.text, &encoding);
    }
}

fn clip(folder: &Path) -> ClipTokenizer {
    ClipTokenizer::open(folder).unwrap()
}

#[test]
fn clip_from_vocabulary_and_merges() {
    check_clip(&clip(&fixture("pipeline_sd1/tokenizer")), &rows("pipeline_sd1/tokens.json", Some("tokenizer")));
    check_clip(&clip(&fixture("pipeline_sdxl/tokenizer")), &rows("pipeline_sdxl/tokens.json", Some("tokenizer")));
}

/// SDXL's second tokenizer, which pads with an exclamation mark and so knows it as a token of its own.
#[test]
fn clip_from_one_file() {
    check_clip(&clip(&fixture("pipeline_sdxl/tokenizer_2")), &rows("pipeline_sdxl/tokens.json", Some("tokenizer_2")));
}

/// The two kinds of files mean the same tokenizer.
#[test]
fn clip_whole_texts() {
    for (folder, file, key) in [
        ("pipeline_sd1/tokenizer", "pipeline_sd1/tokens.json", "tokenizer"),
        ("pipeline_sdxl/tokenizer_2", "pipeline_sdxl/tokens.json", "tokenizer_2"),
    ] {
        let long = copy(&fixture(folder)).set("tokenizer_config.json", "model_max_length", json!(200));
        let tokenizer = clip(long.path());
        for row in rows(file, Some(key)) {
            let encoding = tokenizer.encode(&row.text).unwrap();
            assert_eq!(encoding.ids[..row.all_ids.len()], row.all_ids, "{:?}", row.text);
            assert_eq!(encoding.cut, None);
            check_spans(&row.text, &encoding);
        }
    }
}

#[test]
fn what_was_cut_is_told_as_it_was_written() {
    let tokenizer = clip(&fixture("pipeline_sd1/tokenizer"));
    let text = "a Red dog, a red dog, a red dog, a red dog And the SMALL Caf\u{e9} ";
    let encoding = tokenizer.encode(text).unwrap();
    assert_eq!(encoding.cut.as_deref(), Some("dog And the SMALL Caf\u{e9}"));
    assert_eq!(encoding.ids.len(), 16);
    assert_eq!(&text[encoding.spans[2].clone().unwrap()], "Red");
    assert_eq!((&encoding.spans[0], &encoding.spans[15]), (&None, &None));
    assert_eq!(tokenizer.encode("a dog").unwrap().cut, None);
}

/// Each chunk has its own part of the tokens between start and end, and positions go on.
#[test]
fn long_texts_in_chunks() {
    let folder = fixture("pipeline_sdxl/tokenizer_2");
    let (one, three) = (clip(&folder), clip(&folder).in_chunks(3));
    let text = "a red dog and a blue cat on the grass next to a big green tree and a small round house, two black birds above it";
    let whole = copy(&folder).set("tokenizer_config.json", "model_max_length", json!(500));
    let whole = clip(whole.path()).encode(text).unwrap();
    let count = whole.spans.iter().flatten().count();
    assert!((29..=42).contains(&count), "{count} tokens are three chunks of 14");
    let encoding = three.encode(text).unwrap();
    assert_eq!((encoding.ids.len(), encoding.spans.len(), &encoding.cut), (48, 48, &None));
    let [start, end] = [whole.ids[0], whole.ids[count + 1]];
    for chunk in 0..3 {
        let content = &whole.ids[1 + chunk * 14..(1 + chunk * 14 + 14).min(1 + count)];
        let mut expected = [&[start], content, &[end]].concat();
        expected.resize(16, *one.encode("").unwrap().ids.last().unwrap());
        assert_eq!(encoding.ids[chunk * 16..][..16], expected, "{chunk}");
    }
    let place = |word: &str| text.find(word).map(|at| encoding.tokens_of(&(at..at + word.len()))).unwrap();
    assert_eq!(encoding.spans[place("birds")[0] as usize].clone().map(|span| &text[span]), Some("birds"));
    assert!(place("birds")[0] > 32);
    check_spans(text, &encoding);

    let cut = clip(&folder).in_chunks(2).encode(text).unwrap();
    assert_eq!((cut.ids.len(), cut.ids[..32] == encoding.ids[..32]), (32, true));
    assert!(text.ends_with(&cut.cut.unwrap()));
    assert_eq!(three.encode("a dog").unwrap(), one.encode("a dog").unwrap());
    let padded = three.encode_in("a dog", 2).unwrap();
    assert_eq!(padded.ids[16..], one.encode("").unwrap().ids);
}

/// Offsets are those of the prompt, also where normalisation shortens or lengthens what is before them.
#[test]
fn spans_are_of_the_prompt_as_written() {
    let tokenizer = clip(&fixture("pipeline_sd1/tokenizer"));
    for text in ["\u{130} Red  \n dog", "cafe\u{301}\u{a0}\u{3000} Red dog", "\u{1f436}\u{fe0f} Red dog"] {
        let encoding = tokenizer.encode(text).unwrap();
        let words: Vec<&str> = encoding.spans.iter().flatten().map(|span| &text[span.clone()]).collect();
        assert_eq!(words[words.len() - 2..], ["Red", "dog"], "{text:?}: {words:?}");
    }
}

#[test]
fn special_tokens_as_text_or_as_object() {
    let file = "special_tokens_map.json";
    let object = |content: &str| json!({"content": content, "lstrip": false, "normalized": true, "rstrip": false, "single_word": false});
    let folder = copy(&fixture("pipeline_sd1/tokenizer")).set(file, "bos_token", object("<|startoftext|>")).set(
        file,
        "eos_token",
        object("<|endoftext|>"),
    );
    check_clip(&clip(folder.path()), &rows("pipeline_sd1/tokens.json", Some("tokenizer")));
    let bare = copy(&fixture("pipeline_sd1/tokenizer")).remove(file).remove("tokenizer_config.json");
    assert_eq!(clip(bare.path()).max_length(), 77);
    let unlimited =
        copy(&fixture("pipeline_sd1/tokenizer")).set("tokenizer_config.json", "model_max_length", json!(1e30));
    assert_eq!(clip(unlimited.path()).max_length(), 77);
    assert_eq!(clip(unlimited.path()).within(16).encode("a red dog").unwrap().ids.len(), 16);
    assert_eq!(clip(&fixture("pipeline_sd1/tokenizer")).within(8).max_length(), 16, "what a file says holds");
}

/// Where two files disagree the special tokens' own is right; a list of added tokens makes the other one right.
#[test]
fn which_padding_token_counts() {
    let pad = |folder: &Path| *clip(folder).encode("").unwrap().ids.last().unwrap();
    let older = copy(&fixture("pipeline_sd1/tokenizer")).set("special_tokens_map.json", "pad_token", json!("!"));
    assert_eq!(pad(older.path()), 0);
    let newer = older.set(
        "tokenizer_config.json",
        "added_tokens_decoder",
        json!({"598": {"content": "<|endoftext|>", "special": true}}),
    );
    assert_eq!(pad(newer.path()), 598);
}

#[test]
fn added_tokens() {
    let added = |id: &str| json!({id: {"content": "<cat-toy>", "special": false}});
    let file = "tokenizer_config.json";
    let folder = copy(&fixture("pipeline_sd1/tokenizer")).set(file, "added_tokens_decoder", added("599"));
    let tokenizer = clip(folder.path());
    assert_eq!(tokenizer.encode("a <cat-toy>").unwrap().ids[..4], [597, 320, 599, 598]);
    assert_eq!(tokenizer.vocab_size(), 600);
    let ours = |id: &str| copy(&fixture("pipeline_sd1/tokenizer")).set(file, "added_tokens_decoder", added(id));
    for id in ["5", "4000000000"] {
        let folder = ours(id);
        let parts = [file, "added_tokens_decoder", "<cat-toy>", id, "the next free id is 599"];
        assert_error(ClipTokenizer::open(folder.path()), &parts);
    }
}

/// Ids that nothing was given between those of added tokens stay free, as in transformers.
#[test]
fn gaps_between_added_tokens() {
    let check = |folder: &Path| {
        let tokenizer = clip(folder);
        assert_eq!(tokenizer.encode("a <cat-toy> <sks>").unwrap().ids[..5], [597, 320, 700, 603, 598]);
        assert_eq!(tokenizer.vocab_size(), 701);
        check_clip(&tokenizer, &rows("pipeline_sd1/tokens.json", Some("tokenizer")));
    };
    let from = || copy(&fixture("pipeline_sd1/tokenizer"));
    let listed = json!({"700": {"content": "<cat-toy>"}, "603": {"content": "<sks>"}});
    check(from().set("tokenizer_config.json", "added_tokens_decoder", listed).path());
    check(from().write("added_tokens.json", r#"{"<cat-toy>": 700, "<sks>": 603}"#).path());
}

/// A folder of before transformers 4.34, as transformers itself reads it today.
#[test]
fn added_tokens_in_a_file_of_their_own() {
    let folder = fixture("tokenizer_clip_added");
    let tokenizer = clip(&folder);
    for row in rows("tokenizer_clip_added/tokens.json", None) {
        let encoding = tokenizer.encode(&row.text).unwrap();
        assert_eq!(encoding.ids, row.ids, "{:?}", row.text);
        check_spans(&row.text, &encoding);
    }
    assert_eq!(tokenizer.vocab_size(), 603);
    // newer folders list the tokens elsewhere, and that counts alone
    let ids = |folder: &Path| clip(folder).encode("a <sks>").unwrap().ids;
    let newer = copy(&folder).set("tokenizer_config.json", "added_tokens_decoder", json!({}));
    assert_ne!(ids(newer.path()), ids(&folder));
    let taken = copy(&folder).write("added_tokens.json", r#"{"<sks>": 7}"#);
    assert_error(ClipTokenizer::open(taken.path()), &["added_tokens.json", "<sks>", "7", "the next free id is 599"]);
    let text = copy(&folder).write("added_tokens.json", r#"{"<sks>": "x"}"#);
    assert_error(ClipTokenizer::open(text.path()), &["added_tokens.json", "<sks>"]);
}

/// As diffusers' pipelines convert the prompt: the name of an embedding stands for all its vectors.
#[test]
fn embeddings_of_several_vectors() {
    let tokenizer = clip(&fixture("tokenizer_clip_vectors"));
    for row in rows("tokenizer_clip_vectors/tokens.json", None) {
        let encoding = tokenizer.encode(&row.text).unwrap();
        assert_eq!(encoding.ids, row.ids, "{:?}", row.text);
        check_spans(&row.text, &encoding);
    }
    let text = "a <sks> dog";
    let encoding = tokenizer.encode(text).unwrap();
    assert_eq!(encoding.ids[..6], [597, 320, 599, 600, 601, 552]);
    assert_eq!(encoding.tokens_of(&(2..7)), [2, 3, 4], "an attribute has the maps of all vectors");
    assert_eq!(tokenizer.encode_in(text, 2).unwrap().ids[..24], encoding.ids);
    assert_eq!(tokenizer.encode("a <sks> <sks>_1 <sks>_2 dog").unwrap().ids, encoding.ids, "written out by hand");
}

/// Special tokens without a role get their ids behind the others, and a file may come from Windows.
#[test]
fn special_tokens_without_a_role() {
    let file = "tokenizer_config.json";
    let folder = copy(&fixture("pipeline_sd1/tokenizer")).set(file, "additional_special_tokens", json!(["<sks>"]));
    assert_eq!(clip(folder.path()).encode("<sks>").unwrap().ids[..3], [597, 599, 598]);
    let named =
        copy(&fixture("pipeline_sd1/tokenizer")).set(file, "extra_special_tokens", json!({"sks_token": "<sks>"}));
    assert_eq!(clip(named.path()).encode("<sks>").unwrap().ids[..3], [597, 599, 598]);
    let mut windows = copy(&fixture("pipeline_sd1/tokenizer"));
    for name in ["merges.txt", "vocab.json", file] {
        let text = std::fs::read_to_string(windows.path().join(name)).unwrap();
        windows = windows.write(name, &format!("\u{feff}{}", text.replace('\n', "\r\n")));
    }
    check_clip(&clip(windows.path()), &rows("pipeline_sd1/tokens.json", Some("tokenizer")));
    let endless = copy(&fixture("pipeline_sd1/tokenizer")).write(file, r#"{"model_max_length": Infinity}"#);
    assert_eq!(clip(endless.path()).max_length(), 77);
}

/// Words that no merge makes are no damage: vocabularies of small models are filled up with them.
#[test]
fn vocabularies_with_words_that_no_merge_makes() {
    let folder = fixture("pipeline_sd1/tokenizer");
    let text = std::fs::read_to_string(folder.join("vocab.json")).unwrap();
    let mut words: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    words.extend((599..2000).map(|id| (format!("zzfiller{id}</w>"), json!(id))));
    let filled = copy(&folder).write("vocab.json", &Value::from(words).to_string());
    check_clip(&clip(filled.path()), &rows("pipeline_sd1/tokens.json", Some("tokenizer")));
    assert_eq!(clip(filled.path()).vocab_size(), 2000);
}

#[test]
fn vocabulary_sizes() {
    assert_eq!(clip(&fixture("pipeline_sd1/tokenizer")).vocab_size(), 599);
    assert_eq!(clip(&fixture("pipeline_sdxl/tokenizer_2")).vocab_size(), 599);
    let words = std::fs::read_to_string(fixture("tokenizer_bert/vocab.txt")).unwrap().lines().count();
    assert_eq!(BertTokenizer::open(&fixture("tokenizer_bert")).unwrap().vocab_size(), words as i64);
}

#[test]
fn bert_from_vocabulary() {
    let tokenizer = BertTokenizer::open(&fixture("tokenizer_bert")).unwrap();
    assert_eq!(tokenizer.max_length(), Some(24));
    for row in rows("tokenizer_bert/tokens.json", None) {
        let length = row.all_ids.len().min(24);
        let encoding = tokenizer.encode(&row.text, 24).unwrap();
        assert_eq!(encoding.ids, row.ids[..length], "{:?}", row.text);
        assert_eq!(encoding.cut.is_some(), row.all_ids.len() > 24);
        check_spans(&row.text, &encoding);
        assert_eq!(tokenizer.encode(&row.text, 500).unwrap().ids, row.all_ids, "{:?}", row.text);
    }
}

#[test]
fn bert_batches_are_padded_to_the_longest() {
    let tokenizer = BertTokenizer::open(&fixture("tokenizer_bert")).unwrap();
    let rows = rows("tokenizer_bert/tokens.json", None);
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let batch = tokenizer.encode_batch(&texts, 24).unwrap();
    let ids = Vec::<Vec<i64>>::try_from(&batch.ids).unwrap();
    let mask = Vec::<Vec<i64>>::try_from(&batch.attention_mask).unwrap();
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(ids[i], row.ids);
        let length = row.all_ids.len().min(24);
        assert!(mask[i].iter().enumerate().all(|(k, &m)| (m == 1) == (k < length)));
    }
    assert_eq!(tokenizer.encode_batch(&["a red dog", "a"], 24).unwrap().ids.size(), [2, 5]);
    assert_error(tokenizer.encode_batch(&[], 24).map(|_| ()), &["no texts"]);
    assert_error(tokenizer.encode("a", 1), &["length of 1"]);
}

#[test]
fn bert_with_case() {
    let file = "tokenizer_config.json";
    let cased = copy(&fixture("tokenizer_bert")).set(file, "do_lower_case", json!(false));
    let ids = |folder: &Path, text: &str| BertTokenizer::open(folder).unwrap().encode(text, 24).unwrap().ids;
    assert_eq!(ids(cased.path(), "a Dog"), [3, 41, 2, 4]); // [UNK]
    assert_eq!(ids(cased.path(), "a dog"), [3, 41, 103, 4]);
    let unsaid = copy(&fixture("tokenizer_bert")).remove(file);
    assert_eq!(ids(unsaid.path(), "a Dog"), [3, 41, 103, 4]);
}

#[test]
fn missing_and_malformed_files_are_named() {
    let clip = |copy: &edited::Copy| ClipTokenizer::open(copy.path()).map(|_| ());
    let bert = |copy: &edited::Copy| BertTokenizer::open(copy.path()).map(|_| ());
    let from = |name: &str| copy(&fixture(name));
    let (sd1, words) = ("pipeline_sd1/tokenizer", "tokenizer_bert");
    assert_error(clip(&from(sd1).remove("merges.txt")), &["tokenizer.json", "vocab.json", "merges.txt"]);
    assert_error(bert(&from(words).remove("vocab.txt")), &["tokenizer.json", "vocab.txt"]);
    assert_error(clip(&from(sd1).write("tokenizer.json", "{}")), &["tokenizer.json"]);
    assert_error(clip(&from(sd1).write("vocab.json", "[1]")), &["vocab.json"]);
    assert_error(clip(&from(sd1).write("merges.txt", "#version: 0.2\na b\nabc\n")), &["merges.txt", "line 3", "abc"]);
    let whole = std::fs::read_to_string(fixture(sd1).join("merges.txt")).unwrap();
    assert_error(clip(&from(sd1).write("merges.txt", &(whole.clone() + "q unheard\n"))), &["merges.txt", "unheard"]);
    assert_error(clip(&from(sd1).write("merges.txt", "#version: 0.2\n")), &["merges.txt", "are made by no pair"]);
    assert_error(clip(&from(sd1).write("merges.txt", &(whole.clone() + "q"))), &["merges.txt", "is not a pair"]);
    let page = "<!DOCTYPE html>\n<html></html>\n";
    assert_error(clip(&from(sd1).write("merges.txt", page)), &["merges.txt", "this is a web page"]);
    assert_error(clip(&from(sd1).write("tokenizer_config.json", "{")), &["tokenizer_config.json"]);
    let unknown = from(sd1).set("special_tokens_map.json", "pad_token", json!("[PAD]"));
    assert_error(clip(&unknown), &["padding token [PAD]", "vocabulary"]);
    let short = from(sd1).set("tokenizer_config.json", "model_max_length", json!(1));
    assert_error(clip(&short), &["tokenizer_config.json", "model_max_length"]);
    let odd = from(sd1).set("special_tokens_map.json", "pad_token", json!(7));
    assert_error(clip(&odd), &["special_tokens_map.json", "pad_token", "7"]);
    assert_error(bert(&from(words).write("vocab.txt", "[PAD]\n[CLS]\n[SEP]\n")), &["unknown token [UNK]"]);
}
