//! What users read keeps to docs/STYLE.md: prose ends at 100 characters, and things have the names of the list there.

use std::{
    fs,
    path::{Path, PathBuf},
};

const WIDTH: usize = 100;

/// Pages that are made from the code. Their lines are as long as the program makes them.
const MADE: [&str; 2] = ["docs/commands.md", "docs/config.md"];

/// What docs/STYLE.md has another word for. Words that have a plain meaning, too (draw, figure, judge, pull, round, world), are not here.
const NOT_OURS: [&str; 18] = [
    "picture",
    "pictures",
    "spelling",
    "spellings",
    "spelt",
    "leg",
    "legs",
    "let go",
    "lets go",
    "how much of it",
    "how sure",
    "surer",
    "unseen",
    "room",
    "sitting",
    "sittings",
    "for ever",
    "slip of the finger",
];

/// The files of a folder of this repository with such an ending, by their names from its top.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let there =
        fs::read_dir(top().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = there.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names.into_iter().map(|name| if folder.is_empty() { name } else { format!("{folder}/{name}") }).collect()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    fs::read_to_string(top().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn documents() -> Vec<String> {
    let others = ["fuzz", "tools/gpu", "tools/reference", "weights/world"].map(|folder| format!("{folder}/README.md"));
    [files("", ".md"), files("docs", ".md"), others.to_vec()].concat()
}

fn configurations() -> Vec<String> {
    [files("configs", ".toml"), files("configs/world", ".toml")].concat()
}

/// The lines of a Markdown text that can be wrapped, with their numbers: not tables, images, and fenced or indented code.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut fenced) = (vec![], false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !["    ", "|", "!["].iter().any(|start| line.starts_with(*start)) {
            found.push((number, line));
        }
    }
    found
}

/// The lines of a TOML text with a comment in them, with their numbers.
fn comments(text: &str) -> Vec<(usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| line.starts_with('#') || line.contains(" #")).collect()
}

/// Whether a line is too long and has a place to break it: a space that is not in code.
fn is_too_long(line: &str) -> bool {
    let text = line.trim_start_matches([' ', '>', '-']);
    line.chars().count() > WIDTH && text.split('`').step_by(2).any(|part| part.contains(' '))
}

/// Words in lower case, each with the number of its line.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let parts = line.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
        found.extend(parts.map(|part| (number, part.to_lowercase())));
    }
    found
}

/// Each of [`NOT_OURS`] in a text, after the number of its line. A line may end within one.
fn not_ours(text: &str) -> Vec<(usize, &'static str)> {
    let words = words(text);
    let mut found = vec![];
    for term in NOT_OURS {
        let parts: Vec<&str> = term.split(' ').collect();
        let here = words.windows(parts.len()).filter(|window| window.iter().map(|(_, word)| word).eq(&parts));
        found.extend(here.map(|window| (window[0].0, term)));
    }
    found
}

#[test]
fn prose_is_wrapped() {
    let mut long = vec![];
    let mut look = |name: &str, lines: Vec<(usize, &str)>| {
        let too_long = lines.into_iter().filter(|(_, line)| is_too_long(line));
        long.extend(too_long.map(|(number, line)| format!("{name}:{number}: {} characters", line.chars().count())));
    };
    let documents = documents();
    assert!(documents.len() > 20, "{documents:?}");
    for name in documents.iter().filter(|name| !MADE.contains(&name.as_str())) {
        look(name, prose(&read(name)));
    }
    for name in configurations() {
        look(&name, comments(&read(&name)));
    }
    assert!(long.is_empty(), "prose is wrapped at {WIDTH} characters (docs/STYLE.md):\n{}", long.join("\n"));
}

#[test]
fn things_have_one_name() {
    let mut wrong = vec![];
    let names = [documents(), configurations(), vec!["crates/cli/tests/errors.txt".to_owned()]].concat();
    // the list itself, and what names had before
    for name in names.iter().filter(|name| !["docs/STYLE.md", "CHANGELOG.md"].contains(&name.as_str())) {
        wrong.extend(not_ours(&read(name)).into_iter().map(|(line, term)| format!("{name}:{line}: {term}")));
    }
    assert!(wrong.is_empty(), "docs/STYLE.md has other words for these:\n{}", wrong.join("\n"));
}

#[test]
fn what_is_wrong_is_found() {
    let long = format!("{} end", "x".repeat(WIDTH));
    let text = format!("{long}\n| {long} |\n    {long}\n```\n{long}\n```\n- {long}\n- `{long}`\n");
    let too_long = |lines: Vec<(usize, &str)>| -> Vec<usize> {
        lines.into_iter().filter(|(_, line)| is_too_long(line)).map(|(number, _)| number).collect()
    };
    assert_eq!(too_long(prose(&text)), [1, 7]);
    let text = format!("key = \"{long}\"\nkey = 1 # {long}\n# {long}\n");
    assert_eq!(too_long(comments(&text)), [2, 3]);
    assert_eq!(not_ours("Pictures\nwe let\ngo; no legend, no classroom"), [(1, "pictures"), (2, "let go")]);
}
