//! The parse is spaCy's, to the last label, and nothing that is typed can make it fail.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use entities::{Mode, Parser};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use std::{fs, path::PathBuf};

#[derive(Deserialize)]
struct Parse {
    prompt: String,
    tokens: Vec<(String, usize, usize, String, String, String, usize)>,
    chunks: Vec<(usize, usize)>,
}

/// Made by `tools/reference/entities.py`; another file of that kind may be named in PARSES.
fn parses() -> Vec<Parse> {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parses.jsonl");
    let path = std::env::var_os("PARSES").map_or(committed, PathBuf::from);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn tokens_tags_heads_labels_and_chunks_are_those_of_spacy() {
    let (parser, parses) = (Parser::shipped().unwrap(), parses());
    assert!(parses.len() >= 300);
    let mut different = vec![];
    let mut tokens = 0;
    for expected in &parses {
        let parsed = parser.parse(&expected.prompt);
        tokens += parsed.len();
        let all: Vec<_> =
            parsed.into_iter().map(|t| (t.text, t.span.start, t.span.end, t.tag, t.pos, t.dep, t.head)).collect();
        let chunks: Vec<_> = parser.noun_chunks(&expected.prompt).into_iter().map(|c| (c.start, c.end)).collect();
        if all != expected.tokens {
            let which = all.iter().zip(&expected.tokens).find(|(a, b)| a != b);
            different.push(format!("{:?}: {which:?}", expected.prompt));
        } else if chunks != expected.chunks {
            different.push(format!("{:?}: chunks {chunks:?}, not {:?}", expected.prompt, expected.chunks));
        }
    }
    println!("{} prompts, {tokens} tokens, {} differ", parses.len(), different.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Letters, marks, spaces and symbols of many alphabets, in no order at all.
#[test]
fn any_text_is_parsed() {
    let parser = Parser::shipped().unwrap();
    let pieces = [
        "a",
        "red",
        "dog",
        " ",
        "  ",
        "\t",
        "\n",
        "'",
        "\"",
        "n't",
        ".",
        "...",
        ",",
        "(",
        ")",
        "-",
        "/",
        "§",
        "ß",
        "İ",
        "é",
        "e\u{301}",
        "🐎",
        "👩‍🚀",
        "中文",
        "ش",
        "½",
        "①",
        "\0",
        "\u{feff}",
        "\u{200b}",
        "http://",
        "@",
        "#",
        "%",
        "$",
        "US$",
        "o'clock",
        "J.",
        "xX",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let long = "very ".repeat(300) + "long";
    let texts = (0..150).map(|_| (0..rng.random_range(0..12)).map(|_| *pieces.choose(&mut rng).unwrap()).collect());
    for text in texts.chain([long, "x".repeat(2000), "(".repeat(500), String::new()]).collect::<Vec<String>>() {
        let tokens = parser.parse(&text);
        for token in &tokens {
            assert_eq!(text[token.span.clone()], token.text, "{text:?}");
            assert!(token.head < tokens.len());
        }
        for mode in [Mode::Reference, Mode::Repaired] {
            for entity in parser.entities(&text, mode) {
                assert!(entity.parts().all(|part| text.get(part.clone()).is_some()));
            }
        }
        parser.noun_chunks(&text);
    }
}
