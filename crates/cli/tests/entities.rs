//! `comat entities`: nouns and what is said of them, on the terminal and as JSON.

use crate::common::Folder;
use serde_json::Value;
use std::process::Stdio;

#[test]
fn a_prompt_is_taken_apart() {
    let folder = Folder::new();
    let shown = folder.comat(&["entities", "a red dog and a fluffy blue cat"]).ok().stdout;
    assert_eq!(shown, "dog  red\ncat  fluffy, blue\n");
    assert_eq!(folder.comat(&["entities", "very slowly"]).ok().stdout, "no nouns found\n");
    let several = folder.comat(&["entities", "the car is red", "a cat"]).ok().stdout;
    assert_eq!(several, "the car is red\n  car  red\na cat\n  cat\n");
}

#[test]
fn as_json_with_explicit_entities_winning() {
    let folder = Folder::new();
    folder.write(
        "p.jsonl",
        "{\"prompt\": \"ein roter Hund\", \"entities\": [{\"noun\": \"Hund\", \"attributes\": [\"roter\"]}]}\n{\"prompt\": \"a red dog\"}\n",
    );
    let shown = folder.comat(&["entities", "--prompts", "p.jsonl", "--json"]).ok().stdout;
    let lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["entities"][0]["noun"], "hund");
    assert_eq!(lines[0]["entities"][0]["attributes"][0], "roter");
    assert_eq!(lines[1]["entities"][0]["head"]["start"], 6);
    let reference = folder.comat(&["entities", "the car is red", "--mode", "reference", "--json"]).ok().stdout;
    assert!(reference.contains("\"noun\":\"red\""), "the authors' quirk: {reference}");
}

/// `comat … | head -1`
#[test]
fn a_reader_may_go_away() {
    let folder = Folder::new();
    let many: String = (0..50).map(|i| format!("{i} red dogs and a blue cat\n")).collect();
    folder.write("p.txt", many);
    for words in [&["entities", "--prompts", "p.txt"][..], &["world", "prompts", "--split", "train", "--count", "200"]]
    {
        let mut child = folder.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{words:?}: {done:?}");
    }
}

#[test]
fn bad_input_is_one_line() {
    let folder = Folder::new();
    folder.comat(&["entities"]).usage(&["<TEXT"]);
    folder.comat(&["entities", "--prompts", "none.txt"]).error(&["none.txt"]);
    folder.write("p.jsonl", "{\"prompt\": \"a dog\", \"entities\": [{\"noun\": \"cat\"}]}\n");
    folder.comat(&["entities", "--prompts", "p.jsonl"]).error(&["p.jsonl:1", "`cat` is not a word of the prompt"]);
}
