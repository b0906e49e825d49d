//! Benchmarks from prompts to tables, on tiny networks with random weights: every number in the files is worked out again here.

use crate::common;

use crate::common::{Done, Folder, SD1, fixture};
use benchmarks::records::{Image, Metric, Subject, read};

use models::{blip::Vqa, clip::ClipScore, sentence::SentenceEmbedder};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const DRAW: &str = "--out eval --steps 2 --size 32 --guidance-scale 2 --batch 3";

/// Prompts of four categories; a run whose LoRA changes the images.
fn folder() -> Folder {
    let folder = Folder::of_run();
    let write = |name: &str, text: &str| folder.write(&format!("prompts/{name}"), text);
    fs::create_dir_all(folder.path("prompts")).unwrap();
    write("color_val.txt", "a red dog and a blue cat\na small green bird\n");
    write("spatial_val.txt", "a dog on the left of a cat\n");
    write("numeracy_val.txt", "two dogs and a bird\n");
    write("new_objects.txt", "dog - dogs\nbird - birds\n");
    write("non_spatial_val.txt", "a dog looks at a cat\n");
    folder
}

fn with_lora(folder: &Folder) {
    folder.train("train.steps=1 optimizer.learning_rate=0.5 optimizer.max_grad_norm=100").ok();
}

fn evaluate(folder: &Folder, bench: &str, words: &str) -> Done {
    let place = |name: &str| fixture(name).display().to_string();
    let (vqa, clip) = (place("vqa"), place("clip_score"));
    let (detector, sentences) = (place("grounding_dino"), place("sentence_mpnet"));
    let mut all = vec!["evaluate", "--bench", bench, "--prompts", "prompts"];
    for judge in [["--vqa", &vqa], ["--clip", &clip], ["--detector", &detector], ["--sentences", &sentences]] {
        if !words.contains(judge[0]) {
            all.extend(judge);
        }
    }
    all.extend(["--detector-threshold", "0.1"]);
    all.extend(words.split_whitespace());
    folder.comat(&all)
}

fn drawn(words: &str) -> String {
    format!("--model {} {DRAW} {words}", fixture(SD1).display())
}

fn scores(folder: &Folder, place: &str) -> Vec<Image> {
    let read = read(&folder.path(&format!("{place}/scores.jsonl"))).unwrap();
    assert_eq!(read.warning, None);
    read.images
}

fn tensor(path: PathBuf) -> Tensor {
    images::Image::open(&path).unwrap().tensor().unwrap().unsqueeze(0)
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-4, "{a} {b}");
}

#[test]
fn a_lora_beside_its_base() {
    let folder = folder();
    with_lora(&folder);
    let words = drawn("--lora out/adapter/out.safetensors --seeds 42-43");
    let done = evaluate(&folder, "t2i-compbench", &words).ok();
    for variant in ["base", "lora"] {
        assert_eq!(
            folder.names(&format!("eval/{variant}/color")),
            [
                "a red dog and a blue cat_000000.png",
                "a red dog and a blue cat_000001.png",
                "a small green bird_000010.png",
                "a small green bird_000011.png",
            ]
        );
    }
    let image = "color/a small green bird_000011.png";
    let [one, other] = ["base", "lora"].map(|v| folder.bytes(&format!("eval/{v}/{image}")));
    assert!(one != other, "the LoRA changes the image");
    // as `comat generate` draws it
    let how = "--out g --steps 2 --size 32 --guidance-scale 2 --seed 43";
    folder.generate(SD1, &["a small green bird"], how).ok();
    let same = common::Image::open(&folder.path("g/00000-a-small-green-bird-seed43.png"));
    assert!(same.difference(&common::Image::open(&folder.path(&format!("eval/base/{image}")))) <= 1);

    // what the networks say of it
    let vqa = Vqa::open(&fixture("vqa"), Kind::Float, device()).unwrap();
    let clip = ClipScore::open(&fixture("clip_score"), Kind::Float, device()).unwrap();
    let all = scores(&folder, "eval/lora");
    let of = |metric: Metric, file: &str| {
        all.iter()
            .find(|p| p.metric() == metric && p.subject().file == file)
            .unwrap_or_else(|| panic!("{metric}, {file}"))
    };
    let dogs = of(Metric::BlipVqa, "color/a red dog and a blue cat_000001.png");
    let pixels = tensor(folder.path("eval/lora/color/a red dog and a blue cat_000001.png"));
    let asked: Vec<&str> = dogs.lines().iter().map(|line| line.answer.question.as_deref().unwrap()).collect();
    assert_eq!(asked, ["a red dog?", "a blue cat?"]);
    let said = vqa.yes_no(&pixels, &asked).unwrap();
    dogs.lines().iter().zip(said).for_each(|(line, p)| near(line.answer.probability.unwrap(), p));
    let cosine = clip.cosines(&pixels, &["a red dog and a blue cat"]).unwrap()[0];
    near(of(Metric::Clip, "color/a red dog and a blue cat_000001.png").score(), cosine);
    assert_eq!((dogs.subject().seed, dogs.subject().index), (Some(43), 1));
    // every prompt has a score of each metric that applies, and CLIP's
    let mut counts = BTreeMap::new();
    all.iter().for_each(|p| *counts.entry((p.subject().category.clone(), p.metric().name())).or_insert(0) += 1);
    let expected = [
        (("color", "blip-vqa"), 4),
        (("color", "clip"), 4),
        (("non_spatial", "clip"), 2),
        (("numeracy", "clip"), 2),
        (("numeracy", "numeracy"), 2),
        (("spatial", "2d-spatial"), 2),
        (("spatial", "clip"), 2),
    ];
    assert_eq!(counts, expected.into_iter().map(|((c, m), n)| ((c.to_owned(), m), n)).collect());

    // the table: means and differences of the lines
    let table: Value = serde_json::from_str(&folder.read("eval/table.json")).unwrap();
    let row = |category: &str, metric: &str| {
        let rows = table["rows"].as_array().unwrap();
        rows.iter().find(|row| row["category"] == category && row["metric"] == metric).unwrap().clone()
    };
    let mean = |place: &str, metric: Metric| {
        let of: Vec<f64> = scores(&folder, place)
            .iter()
            .filter(|p| p.metric() == metric && p.subject().category == "color")
            .map(Image::score)
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    for (name, metric) in [("blip-vqa", Metric::BlipVqa), ("clip", Metric::Clip)] {
        let (tuned, base) = (mean("eval/lora", metric), mean("eval/base", metric));
        let row = row("color", name);
        let number = |pointer: &str| row.pointer(pointer).unwrap().as_f64().unwrap();
        assert!((number("/mean/value") - tuned).abs() < 1e-12);
        assert!((number("/against/difference/value") - (tuned - base)).abs() < 1e-12);
        assert!(number("/against/difference/low") <= number("/against/difference/value"));
    }
    let text = folder.read("eval/table.txt");
    assert!(done.stdout.ends_with(&text) && text.contains("difference"), "{}", done.stdout);
    assert!(done.stdout.contains("eval/lora: 10 images scored in"), "{}", done.stdout);
    // the same LoRA with other settings, beside the first base
    let other = "--lora out/adapter/out.safetensors --seeds 43-44 --guidance-rescale 0.5 --categories color --base eval/base --out two";
    let done = evaluate(&folder, "t2i-compbench", &drawn(other).replace("--out eval ", ""));
    assert!(done.code == Some(0) && !folder.exists("two/base"), "{done:?}");
    for warning in [
        "--base eval/base: sampling.guidance_rescale was",
        "a seed was one of [42, 43] there and is one of [43, 44] here",
    ] {
        assert!(done.stderr.contains(warning), "{done:?}");
    }
    folder.assert_no_leftovers();
}

#[test]
fn nothing_is_drawn_or_scored_twice() {
    let folder = folder();
    let words = drawn("--categories color,spatial --seeds 42");
    evaluate(&folder, "t2i-compbench", &words).ok();
    let before = folder.bytes("eval");
    let done = evaluate(&folder, "t2i-compbench", &words).ok();
    assert!(done.stdout.starts_with("eval/base: 3 images, all scored before\n"), "{}", done.stdout);
    assert!(folder.bytes("eval") == before, "nothing is written again");
    // stopped before an image
    let image = folder.path("eval/base/color/a small green bird_000010.png");
    let drawn_first = common::Image::open(&image);
    fs::remove_file(&image).unwrap();
    let done = evaluate(&folder, "t2i-compbench", &words).ok();
    assert!(done.stdout.starts_with("eval/base: 3 images, all scored before\n"), "{}", done.stdout);
    assert!(drawn_first.difference(&common::Image::open(&image)) <= 1);
    // stopped within a line
    let whole = folder.read("eval/base/scores.jsonl");
    folder.write("eval/base/scores.jsonl", &whole[..whole.len() - 30]);
    let done = evaluate(&folder, "t2i-compbench", &words);
    assert!(done.code == Some(0) && done.stderr.contains("cut off; its image will be scored again"), "{done:?}");
    assert!(done.stdout.contains("1 image scored"), "{}", done.stdout);
    // an image that is looked at alone differs in the last digits
    let again = folder.read("eval/base/scores.jsonl");
    assert_eq!(again.lines().count(), whole.lines().count());
    let kept = whole.trim_end().rfind('\n').unwrap();
    assert_eq!(again[..kept], whole[..kept]);
    let score = |text: &str| serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()["score"].as_f64();
    near(score(&again).unwrap(), score(&whole).unwrap());
    // more of everything
    let more = drawn("--categories color,spatial,numeracy --seeds 42-43");
    let done = evaluate(&folder, "t2i-compbench", &more).ok();
    assert!(done.stdout.contains("5 images scored") && done.stdout.contains("(3 before)"), "{}", done.stdout);
    assert!(folder.read("eval/base/scores.jsonl").starts_with(&again));

    // another image by the same name, noticed whatever is asked for, and whatever was written since
    let image = "eval/base/color/a small green bird_000010.png";
    fs::copy(folder.path("eval/base/spatial/a dog on the left of a cat_000000.png"), folder.path(image)).unwrap();
    let scored = folder.read("eval/base/scores.jsonl");
    folder.write("eval/base/scores.jsonl", &scored);
    let others = evaluate(&folder, "t2i-compbench", &drawn("--categories spatial --seeds 42-43"));
    assert!(others.stderr.contains("2 scores are of images that were replaced"), "{others:?}");
    let done = evaluate(&folder, "t2i-compbench", &more).ok();
    assert!(done.stdout.contains("1 image scored"), "{}", done.stdout);
    let again = folder.read("eval/base/scores.jsonl");
    assert_eq!(again.lines().count(), scored.lines().count());
    assert_eq!(again.lines().filter(|line| !scored.contains(line)).count(), 2);
    // touched, but the same
    let copy = fs::read(folder.path(image)).unwrap();
    fs::write(folder.path(image), copy).unwrap();
    assert!(evaluate(&folder, "t2i-compbench", &more).ok().stdout.contains("8 images, all scored before"));

    // of the images alone, in another folder, the same scores
    fs::create_dir_all(folder.path("alone")).unwrap();
    for category in ["color", "spatial", "numeracy"] {
        fs::rename(folder.path(&format!("eval/base/{category}")), folder.path(&format!("alone/{category}"))).unwrap();
    }
    let words = "--images alone --categories color,spatial,numeracy --score-batch 3";
    evaluate(&folder, "t2i-compbench", words).ok();
    let sorted = |place: &str| {
        let mut all = scores(&folder, place);
        all.sort_by_key(Image::key);
        all
    };
    let (there, alone) = (sorted("eval/base"), sorted("alone"));
    assert_eq!(there.len(), alone.len());
    for (a, b) in there.iter().zip(&alone) {
        assert_eq!(a.subject(), b.subject());
        near(a.score(), b.score());
    }
    assert_eq!(there.len(), 4 * 2 + 2 * 2 + 2 * 2);
}

#[test]
fn ranks_share_the_work() {
    let folder = folder();
    evaluate(&folder, "t2i-compbench", &drawn("--seeds 42-43")).ok();
    fs::rename(folder.path("eval"), folder.path("alone")).unwrap();
    let done = evaluate(&folder, "t2i-compbench", &drawn("--seeds 42-43 --processes 3")).ok();
    assert_eq!(done.stdout.matches("images scored").count(), 1, "{}", done.stdout);
    assert_eq!(folder.names("eval/base"), folder.names("alone/base"));
    let sorted = |place: &str| {
        let mut all = scores(&folder, place);
        all.sort_by_key(Image::key);
        all
    };
    let (together, alone) = (sorted("eval/base"), sorted("alone/base"));
    assert_eq!(together.len(), 4 * 2 + 3 * 2 * 2 - 2);
    assert_eq!(together.len(), alone.len());
    for (a, b) in together.iter().zip(&alone) {
        // drawn among others, an image may differ by a rounding
        let [a_subject, b_subject] = [a, b].map(|p| Subject { digest: None, ..p.subject().clone() });
        assert_eq!(a_subject, b_subject);
        near(a.score(), b.score());
    }
    // what a rank had scored when it was stopped
    let whole = folder.read("eval/base/scores.jsonl");
    let (first, last) = whole.split_at(whole.trim_end().rfind('\n').unwrap() + 1);
    folder.write("eval/base/scores.jsonl", first);
    folder.write("eval/base/scores.rank-2.jsonl", last);
    let done = evaluate(&folder, "t2i-compbench", &drawn("--seeds 42-43")).ok();
    assert!(done.stdout.contains("10 images, all scored before"), "{}", done.stdout);
    assert!(folder.read("eval/base/scores.jsonl") == whole && !folder.exists("eval/base/scores.rank-2.jsonl"));
}

#[test]
fn questions_with_choices() {
    let folder = folder();
    let question = |id: &str, text: &str, choices: &str, answer: &str, kind: &str| {
        format!(
            r#"{{"id": "{id}", "caption": "a red dog", "question": "{text}", "choices": [{choices}], "answer": "{answer}", "element_type": "{kind}"}}"#
        )
    };
    let lines = [
        question("coco_1", "is there a dog?", r#""yes", "no""#, "yes", "object"),
        question("coco_1", "what color is the dog?", r#""red", "blue", "green""#, "red", "color"),
        question("drawbench_2", "a cat?", r#""no", "yes""#, "no", "object"),
    ];
    folder.write("prompts/mine_question_answers.json", format!("[{}]", lines.join(",")));
    evaluate(&folder, "tifa", &drawn("")).ok();
    assert_eq!(folder.names("eval/base"), ["coco_1_00.png", "drawbench_2_00.png", "scores.jsonl"]);
    let all = scores(&folder, "eval/base");
    let vqa = Vqa::open(&fixture("vqa"), Kind::Float, device()).unwrap();
    let sentences = SentenceEmbedder::open(&fixture("sentence_mpnet"), Kind::Float, device()).unwrap();
    let choices = [vec!["yes", "no"], vec!["red", "blue", "green"], vec!["no", "yes"]];
    let images = ["coco_1_00.png", "coco_1_00.png", "drawbench_2_00.png"];
    let right = ["yes", "red", "no"];
    let lines: Vec<_> =
        all.iter().filter(|p| p.metric() == Metric::Questions).flat_map(|p| p.lines().to_vec()).collect();
    assert_eq!(lines.len(), 3);
    for (i, line) in lines.iter().enumerate() {
        let image = tensor(folder.path(&format!("eval/base/{}", images[i])));
        let free = vqa.answer(&image, &[line.answer.question.as_deref().unwrap()]).unwrap().remove(0);
        let likeness = sentences.similarities(&free, &choices[i]).unwrap();
        let most = likeness.iter().copied().fold(f64::MIN, f64::max);
        let best = likeness.iter().position(|v| *v == most).unwrap();
        let choice = choices[i].iter().find(|c| **c == free).copied().unwrap_or(choices[i][best]);
        assert_eq!(line.answer.score, f64::from(choice == right[i]), "{line:?}");
        assert!(line.answer.answer.as_ref().unwrap().ends_with(choice), "{line:?}");
    }
    let text = folder.read("eval/table.txt");
    for row in ["all         questions", "all: color  questions", "drawbench   clip", "all         clip"] {
        assert!(text.contains(row), "`{row}` is not in\n{text}");
    }
}

#[test]
fn questions_that_depend_on_each_other_and_clauses() {
    let folder = folder();
    folder.write(
        "prompts/dsg-1k-anns.csv",
        "item_id,text,proposition_id,dependency,category_broad,tuple,question_natural_language\n\
         whoops_1,a red dog,1,0,entity,entity - whole (dog),Is there a dog?\n\
         whoops_1,a red dog,2,1,attribute,\"attribute - color (dog, red)\",Is the dog red?\n",
    );
    evaluate(&folder, "dsg", &drawn("")).ok();
    let all = scores(&folder, "eval/base");
    let lines = all.iter().find(|p| p.metric() == Metric::Questions).unwrap().lines();
    let raw: Vec<f64> = lines.iter().map(|line| line.answer.raw.unwrap()).collect();
    for line in lines {
        assert_eq!(line.answer.raw, Some(f64::from(line.answer.answer.as_deref() == Some("yes"))));
    }
    assert_eq!(lines[1].answer.score, if raw[0] == 1.0 { raw[1] } else { 0.0 });
    assert!(folder.read("eval/table.txt").contains("defying"));
    evaluate(&folder, "dsg", &drawn("")).ok();
    folder.edit_text("prompts/dsg-1k-anns.csv", |text| text.replace("Is the dog red?", "Is the dog very red?"));
    evaluate(&folder, "dsg", &drawn("")).error(&[
        "scores.jsonl",
        "questions",
        "what is asked about `a red dog` has changed",
    ]);

    let metadata = [
        r#"{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}"#,
        r#"{"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"}"#,
    ];
    folder.write("prompts/evaluation_metadata.jsonl", metadata.join("\n"));
    fs::remove_dir_all(folder.path("eval")).unwrap();
    evaluate(&folder, "geneval", &drawn("--seeds 42-43")).ok();
    assert_eq!(folder.names("eval/base/00001/samples"), ["0000.png", "0001.png"]);
    assert_eq!(folder.read("eval/base/00001/metadata.jsonl").replace([' ', '\n'], ""), metadata[1].replace(' ', ""));
    let all = scores(&folder, "eval/base");
    let verdicts: Vec<f64> = all.iter().filter(|p| p.metric() == Metric::Correct).map(Image::score).collect();
    assert!(verdicts.len() == 4 && verdicts.iter().all(|v| *v == 0.0 || *v == 1.0), "{verdicts:?}");
    let found =
        all.iter().filter(|p| p.metric() == Metric::Correct).map(|p| p.lines()[0].answer.answer.clone().unwrap());
    found.for_each(|found| assert!(found.contains("found "), "{found}"));
    // several ranks have images of one prompt
    fs::rename(folder.path("eval"), folder.path("alone")).unwrap();
    evaluate(&folder, "geneval", &drawn("--seeds 42-45 --processes 2")).ok();
    assert_eq!(folder.names("eval/base/00001/samples").len(), 4);
    assert_eq!(folder.read("eval/base/00001/metadata.jsonl"), folder.read("alone/base/00001/metadata.jsonl"));
    // the folder of another prompt file
    folder.write("prompts/evaluation_metadata.jsonl", [metadata[1], metadata[0]].join("\n"));
    evaluate(&folder, "geneval", "--images eval/base").error(&["prompt 00000 is `a photo of a dog` there"]);
}

#[test]
fn what_cannot_be_evaluated() {
    let folder = folder();
    let t2i = |words: &str| evaluate(&folder, "t2i-compbench", words);
    t2i("--images none").error(&["none: there is no such folder"]);
    fs::create_dir_all(folder.path("empty")).unwrap();
    t2i("--images empty")
        .error(&["empty: there are no images of these prompts in it", "`color/a red dog and a blue cat_000000.png`"]);
    t2i("--images empty --categories shape").error(&["shape_val.txt: no such file"]);
    t2i("--images empty --categories colour").error(&["`colour` is not a category"]);
    t2i("").usage(&["--model <DIR|ID>"]);
    t2i("--images empty --out x").usage(&["--images <DIR>", "--out <DIR>"]);
    t2i(&drawn("--seeds 3-1")).usage(&["the smaller first"]);
    t2i(&drawn("--seeds 1-11 --categories color")).error(&["at most 10 images of a prompt"]);
    t2i(&drawn("--guidance-rescale 3")).error(&["evaluate", "guidance_rescale"]);
    t2i(&drawn("--base empty")).error(&["give --lora, or leave --base out"]);
    t2i("--images empty --endpoint http://localhost:1").usage(&["--endpoint-model"]);
    t2i("--images empty --bench coco").usage(&["--bench"]);
    evaluate(&folder, "geneval", "--images empty").error(&["there is no evaluation_metadata.jsonl in it"]);

    // before anything is drawn
    t2i(&drawn("--vqa none/such")).error(&["--vqa", "none/such"]);
    let nobody = "--endpoint http://127.0.0.1:9/v1 --endpoint-model m";
    t2i(&drawn(nobody)).error(&["--endpoint http://127.0.0.1:9/v1: nobody answers"]);
    assert!(!folder.exists("eval/base/color") && !folder.exists("eval/evaluation.json"));

    t2i(&drawn("--categories non_spatial --seeds 1")).ok();
    assert!(folder.exists("eval/table.non_spatial.txt") && !folder.exists("eval/table.txt"));
    t2i(&drawn("--categories non_spatial --seeds 2")).error(&["eval: the seeds was [1] there and is [2] now"]);
    t2i(&drawn("--categories non_spatial --seeds 1 --eta 0.5"))
        .error(&["eval: sampling.eta was", "choose another folder"]);
    evaluate(&folder, "geneval", &drawn("--prompts prompts/x")).usage(&["--prompts"]);
    folder.edit_text("eval/base/scores.jsonl", |text| text.replace("000000.png", "000007.png"));
    t2i("--images eval/base --categories non_spatial").error(&["it has the scores of `a dog looks at a cat`"]);
    // a judge that is none is not written down, though all images are there
    t2i(&drawn("--categories non_spatial --seeds 1 --endpoint ftp://x --endpoint-model typo")).error(&["000007.png"]);
    assert!(!folder.read("eval/evaluation.json").contains("typo"));
    folder.edit_text("eval/base/scores.jsonl", |text| text.replace("000007.png", "000000.png"));
    folder.write("eval/base/non_spatial/a dog looks at a cat_000001.png", "no image");
    t2i("--images eval/base --categories non_spatial").error(&["a dog looks at a cat_000001.png cannot be read"]);
    let refused = "--images eval/base --categories non_spatial --endpoint http://127.0.0.1:9/v1 --endpoint-model m --endpoint-retries 0";
    fs::remove_file(folder.path("eval/base/non_spatial/a dog looks at a cat_000001.png")).unwrap();
    t2i(refused).error(&["http://127.0.0.1:9/v1/chat/completions", "1 times; what was answered is kept"]);
}
