//! `comat prompts`: prompts to train on.

use crate::common::{Done, Folder};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

fn prompts(folder: &Folder, line: &str) -> Done {
    let words: Vec<&str> = ["prompts"].into_iter().chain(line.split_whitespace()).collect();
    folder.comat(&words)
}

fn lines(folder: &Folder, file: &str) -> Vec<Value> {
    folder.read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(line: &Value) -> String {
    line["prompt"].as_str().unwrap().to_owned()
}

/// "attribute noun" of every entity.
fn bindings(lines: &[Value], category: &str) -> HashSet<String> {
    let of = |line: &Value| -> Vec<String> {
        let entities = line["entities"].as_array().unwrap().clone();
        let words = |entity: &Value| -> Vec<String> {
            let attributes = entity["attributes"].as_array().unwrap().iter();
            attributes.map(|a| format!("{} {}", a.as_str().unwrap(), entity["noun"].as_str().unwrap())).collect()
        };
        entities.iter().flat_map(words).collect()
    };
    lines.iter().filter(|line| line["category"] == category).flat_map(of).collect()
}

#[test]
fn twenty_thousand_prompts() {
    let folder = Folder::new();
    let done = prompts(&folder, "--held-out prompts/held_out.jsonl").ok();
    assert!(done.stdout.starts_with("20000 prompts in prompts/train.jsonl: color 285"), "{}", done.stdout);
    let (train, held_out) = (lines(&folder, "prompts/train.jsonl"), lines(&folder, "prompts/held_out.jsonl"));
    assert_eq!((train.len(), held_out.len()), (20_000, 300));
    let distinct: HashSet<String> = train.iter().chain(&held_out).map(text).collect();
    assert_eq!(distinct.len(), 20_300);
    let mut categories: BTreeMap<String, usize> = BTreeMap::new();
    train.iter().for_each(|line| *categories.entry(line["category"].as_str().unwrap().into()).or_default() += 1);
    assert!(categories.len() == 7 && categories.values().all(|count| *count >= 2_857), "{categories:?}");
    for category in ["color", "shape", "texture"] {
        let known = bindings(&train, category);
        for line in held_out.iter().filter(|line| line["category"] == category) {
            let own = bindings(std::slice::from_ref(line), category);
            assert!(own.iter().any(|binding| !known.contains(binding)), "{line}");
        }
    }

    prompts(&folder, "").error(&["prompts/train.jsonl exists", "--overwrite"]);
    for same in ["same.jsonl", "./same.jsonl", "prompts/../same.jsonl"] {
        prompts(&folder, &format!("--out same.jsonl --held-out {same}")).error(&["it is the file of --out"]);
        assert!(!folder.path("same.jsonl").exists());
    }
    prompts(&folder, "--out again.jsonl").ok();
    assert_eq!(folder.read("again.jsonl"), folder.read("prompts/train.jsonl"), "the same seed, the same prompts");
    prompts(&folder, "--out other.jsonl --seed 1").ok();
    assert_ne!(folder.read("other.jsonl"), folder.read("prompts/train.jsonl"));
}

/// The file that a preset names is the one that is made.
#[test]
fn a_run_reads_them() {
    let folder = Folder::of_run();
    folder
        .train("prompts.train=prompts/train.jsonl --dry-run")
        .error(&["no such file", "comat prompts --out prompts/train.jsonl"]);
    prompts(&folder, "--count 50").ok();
    let done = folder.train("prompts.train=prompts/train.jsonl --dry-run"); // the tiny model finds them long
    assert!(done.code == Some(0) && done.stdout.contains("prompts      50 to train on"), "{done:?}");
}

#[test]
fn words_and_categories_of_ones_own() {
    let folder = Folder::new();
    folder.write(
        "words.toml",
        "things = ['sock', 'spade', 'violet']\ncolor = ['teal', 'mauve', 'ochre']\nanimals = ['newt']\n",
    );
    prompts(&folder, "--words words.toml --categories color --count 30 --out a.txt").ok();
    let text = folder.read("a.txt");
    assert!(
        text.lines().count() == 30
            && text.lines().all(|line| line.contains("teal") || line.contains("mauve") || line.contains("ochre"))
    );
    let wrong = |words: &str, parts: &[&str]| {
        folder.write("wrong.toml", words);
        prompts(&folder, "--words wrong.toml --out b.txt").error(parts);
    };
    wrong("thing = ['sock']", &["wrong.toml: unknown list `thing`; known are ", "things"]);
    wrong("things = []", &["wrong.toml", "things: the list is empty"]);
    wrong("things = 3", &["wrong.toml"]);
    wrong("color = ['light blue']", &["color: `light blue` is not a single word"]);
    wrong("actions = ['sleeping']", &["actions: `sleeping` does not end in THING, ANIMAL or PERSON"]);
    wrong("things = ['sock']", &["a list of words is too short (sock)"]);
    prompts(&folder, "--categories colour").usage(&["no category `colour`", "color, shape"]);
    prompts(&folder, "--out a.csv").error(&["a.csv: a prompt file ends in .txt or .jsonl"]);
    prompts(&folder, "--exclude gone.txt --out c.txt").error(&["--exclude", "gone.txt: no such file"]);
}

#[test]
fn a_benchmarks_prompts_are_left_out() {
    let folder = Folder::new();
    prompts(&folder, "--count 500 --out all.txt").ok();
    let all = folder.read("all.txt");
    let some: Vec<String> = all.lines().take(100).map(|line| format!("{}.", line.to_uppercase())).collect();
    folder.write("benchmark.txt", some.join("\n"));
    let done = prompts(&folder, "--count 500 --out without.txt --exclude benchmark.txt").ok();
    assert!(done.stdout.contains("100 prompts left out, which --exclude names"), "{}", done.stdout);
    let without = folder.read("without.txt");
    let kept: HashSet<&str> = without.lines().collect();
    assert!(kept.len() == 500 && all.lines().take(100).all(|line| !kept.contains(line)));
}

#[test]
fn captions_of_a_folder() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("captions/more")).unwrap();
    folder.write("captions/a.txt", "a dog on a sofa\n\nA dog on a sofa.\n");
    folder.write("captions/more/b.caption", "two cats\n");
    folder.write("captions/a.png", [0]);
    let mut command = folder.command(&["prompts", "--captions", "captions", "--out", "c.jsonl", "--count", "2"]);
    let done: Done = command.output().unwrap().into();
    done.ok();
    assert_eq!(lines(&folder, "c.jsonl").iter().map(text).collect::<Vec<_>>(), ["a dog on a sofa", "two cats"]);
    // endings in capitals; what is not held out for lack of space is trained on; no empty file
    std::fs::create_dir(folder.path("many")).unwrap();
    std::fs::create_dir(folder.path("one")).unwrap();
    let many: String = (0..40).map(|i| format!("{i} dogs\n")).collect();
    folder.write("many/A.TXT", many);
    let held_out = "--held-out h.txt --held-out-count 1 --count 100";
    prompts(&folder, &format!("--captions many --out m.txt {held_out}"));
    assert_eq!([folder.read("h.txt"), folder.read("m.txt")].map(|text| text.lines().count()), [1, 39]);
    folder.write("one/a.txt", "two cats\n");
    let few = "--captions one --out o.txt --held-out p.txt";
    prompts(&folder, few).error(&["no prompt is left for", "one caption in ten is held out"]);
    assert!(!folder.exists("o.txt") && !folder.exists("p.txt"));
    std::fs::create_dir(folder.path("empty")).unwrap();
    prompts(&folder, "--captions empty --out d.txt").error(&["empty: no .txt or .caption file in it"]);
    prompts(&folder, "--captions gone --out d.txt").error(&["gone"]);
}
