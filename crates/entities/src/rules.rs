//! The rules of the model: exceptions, patterns, tags, the parser's moves.

use crate::token::Token;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
pub struct Rules {
    /// Regular expressions of the tokenizer.
    pub prefix: String,
    pub suffix: String,
    pub infix: String,
    pub url: String,
    pub exceptions: HashMap<String, Vec<Exception>>,
    /// The norm of a word (the form that the model knows), by the word's hash.
    pub norms: HashMap<u64, String>,
    /// Strings that have a number of their own instead of their hash.
    pub symbols: HashMap<String, u64>,
    pub tags: Vec<String>,
    /// Moves such as `L-amod`: the move, and the label of its arc.
    pub moves: Vec<String>,
    pub attributes: Vec<Attribute>,
}

/// A piece of an exception, and its norm if it has one of its own.
#[derive(Deserialize)]
pub struct Exception(pub String, pub Option<String>);

/// A rule that sets attributes of the token at `index` wherever the pattern matches.
#[derive(Deserialize)]
pub struct Attribute {
    pattern: Vec<Pattern>,
    index: usize,
    pos: Option<String>,
    tag: Option<String>,
    dep: Option<String>,
}

/// Conditions on one token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    #[serde(rename = "TAG")]
    tag: Option<Condition>,
    #[serde(rename = "LOWER")]
    lower: Option<Condition>,
    #[serde(rename = "DEP")]
    dep: Option<Condition>,
    #[serde(rename = "IS_SPACE")]
    is_space: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, IN with texts, or NOT_IN with texts")]
enum Condition {
    Is(String),
    OneOf {
        #[serde(rename = "IN")]
        words: Vec<String>,
    },
    NoneOf {
        #[serde(rename = "NOT_IN")]
        words: Vec<String>,
    },
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Is(word) => word == value,
            Self::OneOf { words } => words.iter().any(|word| word == value),
            Self::NoneOf { words } => !words.iter().any(|word| word == value),
        }
    }
}

impl Pattern {
    fn fits(&self, token: &Token) -> bool {
        let holds = |condition: &Option<Condition>, value: &str| condition.as_ref().is_none_or(|c| c.holds(value));
        holds(&self.tag, &token.tag)
            && holds(&self.dep, &token.dep)
            && self.is_space.is_none_or(|space| space == token.is_space())
            && self.lower.as_ref().is_none_or(|c| c.holds(&token.text.to_lowercase()))
    }
}

/// Sets parts of speech from tags, and some exceptions. All patterns are matched against the tokens as they were
/// before.
pub fn set_attributes(rules: &[Attribute], tokens: &mut [Token]) {
    let before = tokens.to_vec();
    for rule in rules {
        for (start, window) in before.windows(rule.pattern.len()).enumerate() {
            if !rule.pattern.iter().zip(window).all(|(pattern, token)| pattern.fits(token)) {
                continue;
            }
            let Some(token) = tokens.get_mut(start + rule.index) else { continue };
            for (target, value) in
                [(&mut token.pos, &rule.pos), (&mut token.tag, &rule.tag), (&mut token.dep, &rule.dep)]
            {
                if let Some(value) = value {
                    target.clone_from(value);
                }
            }
        }
    }
}
