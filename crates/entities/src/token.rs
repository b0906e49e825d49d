//! Words of a text, and what the parser says of them.

use std::ops::Range;

/// A word or a mark. Tags and labels are those of spaCy's English models.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Token {
    pub text: String,
    /// Bytes of the text.
    pub span: Range<usize>,
    /// Whether a space follows.
    pub(crate) space: bool,
    /// The word as the model knows it: lower case, some spellings made one.
    pub(crate) norm: String,
    /// Fine-grained part of speech, as `NN` or `JJ`.
    pub tag: String,
    /// Part of speech, as `NOUN` or `ADJ`.
    pub pos: String,
    /// How it hangs on its head, as `amod` or `nsubj`; `ROOT` where it hangs on none.
    pub dep: String,
    /// Index of the token it hangs on; its own where it hangs on none.
    pub head: usize,
}

impl Token {
    pub(crate) fn new(text: &str, span: Range<usize>) -> Self {
        Self { text: text[span.clone()].to_owned(), span, ..Self::default() }
    }

    pub(crate) fn is_space(&self) -> bool {
        self.text.chars().all(char::is_whitespace)
    }

    pub(crate) fn is_noun(&self) -> bool {
        matches!(self.pos.as_str(), "NOUN" | "PROPN")
    }
}

/// For each token those that hang on it, from left to right.
pub(crate) fn children(tokens: &[Token]) -> Vec<Vec<usize>> {
    let mut children = vec![vec![]; tokens.len()];
    for (i, token) in tokens.iter().enumerate() {
        if token.head != i {
            children[token.head].push(i);
        }
    }
    children
}
