//! BLIP's question answering against transformers: yes or no, and free answers.

use crate::common::{assert_close, device, fixture, io};
use crate::edited::{assert_error, copy};
use models::{
    blip::{Question, QuestionAnswering, Vqa, prepare},
    tensors::Tensors,
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::Path};
use tch::{Kind, Tensor};

const NAME: &str = "vqa";

fn open(folder: &Path) -> models::Result<Vqa> {
    Vqa::open(folder, Kind::Float, device())
}

fn network(folder: &Path) -> models::Result<QuestionAnswering> {
    QuestionAnswering::open(folder, Kind::Float, device())
}

/// Questions of a sort, with what upstream made of them, in the order of the fixture's rows.
fn questions(sort: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(fixture(NAME).join("questions.json")).unwrap();
    let all: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text).unwrap();
    let mut pairs: Vec<_> = all[sort].clone().into_iter().collect();
    pairs.sort_by_key(|(question, _)| text.find(&format!("{question:?}")).unwrap());
    pairs
}

fn asked(pairs: &[(String, String)]) -> Vec<&str> {
    pairs.iter().map(|(question, _)| question.as_str()).collect()
}

fn read(network: &QuestionAnswering, io: &Tensors) -> Question {
    let embeds = network.embed_image(&io["pixel_values"]).unwrap();
    network.read(&embeds, &io["input_ids"], &io["attention_mask"]).unwrap()
}

fn compare(network: &QuestionAnswering, tolerance: f64) {
    let (io, kind) = (io(NAME), network.embed_image(&io(NAME)["pixel_values"]).unwrap().kind());
    let embeds = network.embed_image(&io["pixel_values"]).unwrap();
    assert_close(&format!("{kind:?} image_embeds"), &embeds, &io["image_embeds"], tolerance);
    let question = read(network, &io);
    let states = question.states() * question.mask().unsqueeze(-1);
    assert_close(&format!("{kind:?} question_states"), &states, &io["question_states"], tolerance);
    assert_close(&format!("{kind:?} logits"), &network.first_token(&question), &io["logits"], tolerance);
}

#[test]
fn parity_in_float32_and_float64() {
    for kind in [Kind::Float, Kind::Double] {
        compare(&QuestionAnswering::open(&fixture(NAME), kind, device()).unwrap(), 1e-5);
    }
}

#[test]
fn half_precision_comes_near() {
    let half = QuestionAnswering::open(&fixture(NAME), Kind::BFloat16, device()).unwrap();
    let io = io(NAME);
    assert_close("logits", &half.first_token(&read(&half, &io)), &io["logits"], 1e-1);
}

#[test]
fn questions_become_tokens_as_upstream() {
    let (io, pairs) = (io(NAME), questions("yes_no"));
    for (question, prepared) in &pairs {
        assert_eq!(prepare(question), *prepared);
        assert_eq!(prepare(prepared), *prepared);
    }
    assert_eq!(prepare("The \"Red\" (big) dog: #1*; ~x.!? "), "the red big dog 1 x?");
    assert_eq!(prepare(&"a ".repeat(60)).split(' ').count(), 50);
    let batch = open(&fixture(NAME)).unwrap().tokens(&asked(&pairs)).unwrap();
    assert_eq!(batch.ids.to_device(device()), io["input_ids"]);
    assert_eq!(batch.attention_mask.to_device(device()), io["attention_mask"]);
    assert_eq!(batch.ids.size(), [4, 35]); // the longest of them is cut
}

/// A value half-way between two bytes may fall to either.
#[test]
fn images_become_pixels_as_upstream() {
    let (io, std) = (io(NAME), models::preprocess::Preprocess::default().std);
    let level = 1.0 / (255.0 * std[1]);
    let wrong = (open(&fixture(NAME)).unwrap().pixels(&io["images"]).unwrap() - &io["pixel_values"]).abs();
    let most = wrong.max().double_value(&[]) / level;
    let share = wrong.gt(level / 2.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    println!("at most {most:.1e} of 255 levels, {share:.1e} of the values by more than half a level");
    assert!(most < 1.01 && share < 1e-2, "{most} levels, {share} of the values");
}

#[test]
fn yes_or_no_from_image_and_question() {
    let (io, pairs) = (io(NAME), questions("yes_no"));
    for kind in [Kind::Float, Kind::Double] {
        let vqa = Vqa::open(&fixture(NAME), kind, device()).unwrap();
        let yes_no = vqa.yes_no(&io["images"], &asked(&pairs)).unwrap();
        assert_close(&format!("{kind:?} yes_no"), &Tensor::from_slice(&yes_no), &io["yes_no"], 1e-4);
        let probabilities = vqa.probabilities(&io["images"], &asked(&pairs)).unwrap();
        let flat: Vec<f64> = probabilities.iter().flat_map(|(yes, no)| [*yes, *no]).collect();
        let flat = Tensor::from_slice(&flat).view([4, 2]);
        assert_close(&format!("{kind:?} probabilities"), &flat, &io["probabilities"], 1e-4);
        for ((yes, no), share) in probabilities.iter().zip(&yes_no) {
            assert!((yes / (yes + no) - share).abs() < 1e-12);
        }
    }
}

/// The same tokens and pixels as upstream's give its probabilities within 1e-5.
#[test]
fn probabilities_of_the_two_words() {
    let io = io(NAME);
    let network = network(&fixture(NAME)).unwrap();
    let all = network.first_token(&read(&network, &io)).to_kind(Kind::Double).softmax(1, Kind::Double);
    let vocabulary = fs::read_to_string(fixture(NAME).join("vocab.txt")).unwrap();
    let id = |word| vocabulary.lines().position(|line| line == word).unwrap() as i64;
    let both = all.index_select(1, &Tensor::from_slice(&[id("yes"), id("no")]).to_device(device()));
    assert_close("probabilities", &both, &io["probabilities"], 1e-5);
}

#[test]
fn free_answers() {
    let (io, pairs) = (io(NAME), questions("free"));
    let expected: Vec<&str> = pairs.iter().map(|(_, answer)| answer.as_str()).collect();
    let lengths: Vec<i64> = (0..4).map(|i| io[&format!("answer.{i}")].size()[0]).collect();
    assert!(lengths.contains(&2) && lengths.contains(&21), "{lengths:?}: one that is empty, one that is cut");
    for kind in [Kind::Float, Kind::Double] {
        let vqa = Vqa::open(&fixture(NAME), kind, device()).unwrap();
        assert_eq!(vqa.answer(&io["images"], &asked(&pairs)).unwrap(), expected);
        for (i, question) in asked(&pairs).into_iter().enumerate() {
            let image = io["images"].narrow(0, i as i64, 1);
            assert_eq!(vqa.answer(&image, &[question]).unwrap(), [expected[i]]);
        }
    }
}

/// What is said of a question does not depend on those beside it, and one image may be asked about many times.
/// Images of several sizes, one of them without questions, as each of them alone.
#[test]
fn several_images_at_once() {
    let vqa = Vqa::open(&fixture(NAME), Kind::Double, device()).unwrap();
    let image = |height: i64, width: i64| {
        Tensor::arange(3 * height * width, (Kind::Double, device())).view([3, height, width]).sin().square()
    };
    let images = [image(20, 30), image(16, 16), image(33, 9)];
    let asked = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let lists = [asked(&["a red dog?", "cat?"]), vec![], asked(&["the house of a dog?"])];
    let (numbers, answers) =
        (vqa.probabilities_each(&images, &lists).unwrap(), vqa.answer_each(&images, &lists).unwrap());
    for (i, list) in lists.iter().enumerate() {
        assert_eq!((numbers[i].len(), answers[i].len()), (list.len(), list.len()));
        for (j, question) in list.iter().enumerate() {
            let image = images[i].unsqueeze(0);
            let alone = vqa.probabilities(&image, &[question]).unwrap()[0];
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b;
            assert!(near(numbers[i][j].0, alone.0) && near(numbers[i][j].1, alone.1), "{question}");
            assert_eq!(answers[i][j], vqa.answer(&image, &[question]).unwrap()[0]);
        }
    }
    assert!(vqa.probabilities_each(&images, &lists[..2]).is_err());
    assert_eq!(vqa.answer_each(&images[..1], &[vec![]]).unwrap(), [vec![""; 0]]);
}

#[test]
fn a_batch_may_be_cut() {
    let (io, pairs) = (io(NAME), questions("yes_no"));
    let vqa = Vqa::open(&fixture(NAME), Kind::Double, device()).unwrap();
    let image = io["images"].narrow(0, 1, 1);
    let together = vqa.yes_no(&image, &asked(&pairs)).unwrap();
    let copies = vqa.yes_no(&image.expand([4, -1, -1, -1], false), &asked(&pairs)).unwrap();
    for (i, question) in asked(&pairs).into_iter().enumerate() {
        let alone = vqa.yes_no(&image, &[question]).unwrap()[0];
        assert!((alone - together[i]).abs() < 1e-12 && (alone - copies[i]).abs() < 1e-12, "{question}");
    }
    assert!((together[1] - io["yes_no"].double_value(&[1])).abs() < 1e-5);
}

/// A tokenizer that has [ENC] says itself which token that is.
#[test]
fn the_token_before_a_question() {
    let vocabulary = fs::read_to_string(fixture(NAME).join("vocab.txt")).unwrap();
    let swapped = copy(&fixture(NAME)).write("vocab.txt", &(vocabulary + "[ENC]\n[DEC]\n"));
    let batch = open(swapped.path()).unwrap().tokens(&["a dog?"]).unwrap();
    let enc = io(NAME)["input_ids"].int64_value(&[0, 0]);
    assert_eq!(batch.ids.int64_value(&[0, 0]), enc - 1);
    let elsewhere = copy(&fixture(NAME)).set("config.json", "text_config.bos_token_id", json!(2));
    assert_error(open(elsewhere.path()), &["[ENC]", "bos_token_id"]);
}

/// Salesforce/blip-vqa-base has buffers, and the output layer a second time.
#[test]
fn old_folders_are_read() {
    let folder = copy(&fixture(NAME)).weights(|mut tensors| {
        let positions = || Tensor::arange(40, (Kind::Int64, device())).unsqueeze(0);
        tensors.insert("text_encoder.embeddings.position_ids".into(), positions());
        tensors.insert("text_decoder.bert.embeddings.position_ids".into(), positions());
        let words = tensors["text_decoder.bert.embeddings.word_embeddings.weight"].copy();
        tensors.insert("text_decoder.cls.predictions.decoder.weight".into(), words);
        let bias = tensors["text_decoder.cls.predictions.bias"].copy();
        tensors.insert("text_decoder.cls.predictions.decoder.bias".into(), bias);
        tensors
    });
    compare(&network(folder.path()).unwrap(), 1e-5);
}

#[test]
fn other_models_are_refused() {
    assert_error(open(&fixture("blip")), &["text_encoder", "not a BLIP that answers questions"]);
    assert_error(open(&fixture("clip_score")), &["config.json", "model_type", "clip", "only \"blip\""]);
    assert_error(open(&fixture("no_such_folder")), &["no_such_folder", "config.json", "no such file"]);
    let retrieval = copy(&fixture(NAME)).weights(|mut tensors| {
        tensors.retain(|key, _| !key.starts_with("text_decoder."));
        tensors
    });
    assert_error(open(retrieval.path()), &["text_decoder", "not a BLIP that answers questions"]);
    let captioner = models::blip::Captioner::open(&fixture(NAME), Kind::Float, device());
    assert_error(captioner, &["vqa", "answers questions and is no captioner"]);
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let missing = [
        "text_encoder.encoder.layer.1.crossattention.self.key.weight",
        "text_encoder.embeddings.LayerNorm.bias",
        "text_decoder.bert.encoder.layer.0.output.dense.weight",
        "vision_model.post_layernorm.bias",
    ];
    for key in missing {
        let folder = copy(&fixture(NAME)).weights(|mut tensors| {
            let _ = tensors.remove(key).unwrap();
            tensors
        });
        assert_error(open(folder.path()), &["model.safetensors", &format!("{key} is missing")]);
    }
    let refused = |file: &str, key: &str, value: serde_json::Value, words: &[&str]| {
        assert_error(open(copy(&fixture(NAME)).set(file, key, value).path()), words);
    };
    let config = "config.json";
    refused(config, "text_config.intermediate_size", json!(30), &["text_encoder", "[28, 16]", "[30, 16]"]);
    refused(config, "text_config.hidden_size", json!(20), &["hidden_size", "20", "16"]);
    refused(config, "text_config.sep_token_id", json!(900), &["sep_token_id", "900", "vocab_size"]);
    refused(config, "text_config.bos_token_id", json!(-1), &["bos_token_id", "-1"]);
    let processor = "preprocessor_config.json";
    refused(processor, "size", json!({"height": 480, "width": 480}), &["480x480", "image_size", "16"]);
    refused(processor, "do_center_crop", json!(true), &["do_center_crop"]);
    let vocabulary = fs::read_to_string(fixture(NAME).join("vocab.txt")).unwrap();
    let words = copy(&fixture(NAME)).write("vocab.txt", &(vocabulary.clone() + "a1\na2\na3\n"));
    assert_error(open(words.path()), &["tokens", "vocab_size"]);
    let silent = copy(&fixture(NAME)).write("vocab.txt", &vocabulary.replace("\nyes\n", "\nyea\n"));
    assert_error(open(silent.path()), &["does not know the word yes"]);
}

#[test]
fn wrong_inputs_are_errors() {
    let (vqa, io) = (open(&fixture(NAME)).unwrap(), io(NAME));
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, device()));
    let images = zeros(&[2, 3, 20, 20]);
    for result in [vqa.yes_no(&images, &[]).map(|_| ()), vqa.answer(&images, &[]).map(|_| ())] {
        assert_error(result, &["no questions"]);
    }
    assert_error(vqa.yes_no(&images, &["a?", "b?", "c?"]), &["2 images for 3 questions"]);
    assert_error(vqa.answer(&images, &["a?"]), &["2 images for 1 questions"]);
    assert_error(vqa.yes_no(&zeros(&[0, 3, 20, 20]), &["a?"]), &["0 images"]);
    assert_error(vqa.yes_no(&Tensor::from(0.5), &["a?"]), &["0 images"]);
    assert_error(vqa.yes_no(&zeros(&[1, 4, 20, 20]), &["a?"]), &["[1, 4, 20, 20]"]);
    assert_error(vqa.yes_no(&zeros(&[1, 3, 0, 20]), &["a?"]), &["[1, 3, 0, 20]"]);
    assert_error(vqa.answer(&zeros(&[1, 3, 20, 20]).to_kind(Kind::Uint8), &["a?"]), &["Uint8"]);
    let long = "a big dog ".repeat(13);
    assert_error(vqa.answer(&zeros(&[1, 3, 20, 20]), &[&long]), &["a big dog", "max_position_embeddings 40"]);
    assert!(vqa.yes_no(&zeros(&[1, 3, 20, 20]), &[&long]).is_ok());
    assert!(vqa.yes_no(&zeros(&[1, 3, 1, 90]), &[""]).unwrap()[0].is_finite());
    let network = vqa.network();
    let embeds = network.embed_image(&io["pixel_values"]).unwrap();
    let ones = |size: &[i64]| Tensor::ones(size, (Kind::Int64, device()));
    let read = |embeds: &Tensor, ids: &Tensor, mask: &Tensor| network.read(embeds, ids, mask);
    assert_error(network.embed_image(&zeros(&[1, 3, 16, 20])), &["VQA", "[1, 3, 16, 20]", "16, 16"]);
    assert_error(read(&embeds, &ones(&[4, 41]), &ones(&[4, 41])), &["41", "max_position_embeddings"]);
    assert_error(read(&embeds, &(ones(&[4, 5]) * 900), &ones(&[4, 5])), &["900", "vocabulary"]);
    assert_error(read(&embeds, &ones(&[3, 5]), &ones(&[3, 5])), &["image embeddings", "[4, 17, 16]"]);
    assert_error(read(&zeros(&[4, 17, 24]), &ones(&[4, 5]), &ones(&[4, 5])), &["image embeddings"]);
    assert_error(read(&embeds, &ones(&[4, 5]), &ones(&[4, 6])), &["attention mask", "[4, 6]"]);
    assert_error(read(&embeds, &ones(&[4, 5]), &(ones(&[4, 5]) - 1)), &["padding belongs behind"]);
}

#[test]
fn weights_that_are_no_numbers_are_noticed() {
    let folder = copy(&fixture(NAME)).weights(|mut tensors| {
        let bias = tensors["text_decoder.cls.predictions.bias"].copy();
        let _ = bias.get(7).fill_(f64::NAN);
        tensors.insert("text_decoder.cls.predictions.bias".into(), bias);
        tensors
    });
    let vqa = open(folder.path()).unwrap();
    let image = &io(NAME)["images"].narrow(0, 0, 1);
    assert_error(vqa.yes_no(image, &["a dog?"]), &["question 1", "a dog?", "not numbers"]);
    assert_error(vqa.answer(image, &["a dog?"]), &["not numbers"]);
}
