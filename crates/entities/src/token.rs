//! Words of a text and the parser's results for them.

use std::ops::Range;

/// A word or a punctuation mark. Tags and labels are those of spaCy's English models.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Token {
    pub text: String,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// Whether a space follows.
    pub(crate) space: bool,
    /// The norm of the word: lower case, with some spellings unified.
    pub(crate) norm: String,
    /// Fine-grained part of speech, for example `NN` or `JJ`.
    pub tag: String,
    /// Part of speech, for example `NOUN` or `ADJ`.
    pub pos: String,
    /// Dependency label, for example `amod` or `nsubj`; `ROOT` if it has no head.
    pub dep: String,
    /// Index of its head; its own index if it has no head.
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

/// The dependents of each token, from left to right.
pub(crate) fn children(tokens: &[Token]) -> Vec<Vec<usize>> {
    let mut children = vec![vec![]; tokens.len()];
    for (i, token) in tokens.iter().enumerate() {
        if token.head != i {
            children[token.head].push(i);
        }
    }
    children
}
