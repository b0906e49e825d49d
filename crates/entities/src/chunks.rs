//! Noun chunks: a noun with all the words that lead up to it, by spaCy's rules for English.

use crate::token::Token;
use std::ops::Range;

/// Dependency labels of nouns that form a chunk of their own.
const LABELS: [&str; 10] = ["oprd", "nsubj", "dobj", "nsubjpass", "pcomp", "pobj", "dative", "appos", "attr", "ROOT"];

/// The noun chunks as ranges of tokens, from left to right; they do not overlap.
pub fn chunks(tokens: &[Token]) -> Vec<Range<usize>> {
    let first = leftmost(tokens);
    let stands = |token: &Token| LABELS.contains(&token.dep.as_str());
    let mut chunks: Vec<Range<usize>> = vec![];
    for (i, token) in tokens.iter().enumerate() {
        let is_free = chunks.last().is_none_or(|last| first[i] >= last.end);
        if !matches!(token.pos.as_str(), "NOUN" | "PROPN" | "PRON") || !is_free {
            continue;
        }
        let mut head = token;
        if token.dep == "conj" {
            head = &tokens[token.head];
            while head.dep == "conj" && tokens[head.head].span.start < head.span.start {
                head = &tokens[head.head];
            }
        }
        if stands(head) {
            chunks.push(first[i]..i + 1);
        }
    }
    chunks
}

/// For each token, the first token of its subtree.
fn leftmost(tokens: &[Token]) -> Vec<usize> {
    let mut first: Vec<usize> = (0..tokens.len()).collect();
    for _ in 0..tokens.len() {
        let mut changed = false;
        for (i, token) in tokens.iter().enumerate() {
            if first[i] < first[token.head] {
                first[token.head] = first[i];
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    first
}
