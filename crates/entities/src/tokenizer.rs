//! Splits a text into words and punctuation marks, as spaCy's tokenizer does: at white space, then affix by affix, with
//! a list of exceptions ("don't" is "do" and "n't").

use crate::{
    hash::murmur2,
    rules::{Exception, Rules},
    token::Token,
};
use fancy_regex::Regex;
use std::{cmp::Reverse, collections::HashMap, ops::Range};

pub struct Tokenizer {
    prefix: Regex,
    suffix: Regex,
    infix: Regex,
    url: Regex,
    exceptions: HashMap<String, Vec<Exception>>,
    norms: HashMap<u64, String>,
    /// Exceptions that the affix rules would split: all their pieces, by the first piece; the longest first.
    cut: HashMap<String, Vec<Vec<String>>>,
}

impl Tokenizer {
    pub fn new(rules: &mut Rules) -> Result<Self, Box<fancy_regex::Error>> {
        let mut this = Self {
            prefix: Regex::new(&rules.prefix)?,
            suffix: Regex::new(&rules.suffix)?,
            infix: Regex::new(&rules.infix)?,
            url: Regex::new(&rules.url)?,
            exceptions: std::mem::take(&mut rules.exceptions),
            norms: std::mem::take(&mut rules.norms),
            cut: HashMap::new(),
        };
        let mut cut: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for text in this.exceptions.keys() {
            let has_affix = length(&this.prefix, text) != 0
                || length(&this.suffix, text) != 0
                || this.infix.is_match(text).unwrap_or(false);
            if has_affix && !text.contains(char::is_whitespace) {
                let mut tokens = vec![];
                this.cut_word(text, 0..text.len(), false, &mut tokens);
                let pieces: Vec<String> = tokens.into_iter().map(|t| t.text).collect();
                cut.entry(pieces[0].clone()).or_default().push(pieces);
            }
        }
        cut.values_mut().for_each(|pieces| pieces.sort_by_key(|p| Reverse(p.len())));
        this.cut = cut;
        Ok(this)
    }

    pub fn tokenize(&self, text: &str) -> Vec<Token> {
        let mut tokens: Vec<Token> = vec![];
        let mut start = 0;
        let mut in_space = text.starts_with(char::is_whitespace);
        for (i, c) in text.char_indices() {
            if c.is_whitespace() == in_space {
                continue;
            }
            if start < i {
                self.cut_word(text, start..i, true, &mut tokens);
            }
            start = i;
            if c == ' ' {
                // one space belongs to the token before it
                if let Some(last) = tokens.last_mut() {
                    last.space = true;
                }
                start += 1;
            }
            in_space = !in_space;
        }
        if start < text.len() {
            self.cut_word(text, start..text.len(), true, &mut tokens);
            if let Some(last) = tokens.last_mut() {
                last.space = text.ends_with(' ') && !in_space;
            }
        }
        self.join_exceptions(text, &mut tokens);
        for token in &mut tokens {
            if token.norm.is_empty() {
                let known = self.norms.get(&murmur2(token.text.as_bytes(), 1));
                token.norm = known.cloned().unwrap_or_else(|| token.text.to_lowercase());
            }
        }
        tokens
    }

    fn exception(&self, text: &str, span: Range<usize>, tokens: &mut Vec<Token>) -> bool {
        let Some(parts) = self.exceptions.get(&text[span.clone()]) else { return false };
        let mut start = span.start;
        for Exception(part, norm) in parts {
            let end = start + part.len();
            let norm = norm.clone().unwrap_or_default();
            tokens.push(Token { text: part.clone(), span: start..end, norm, ..Token::default() });
            start = end;
        }
        true
    }

    /// Splits text without spaces: affixes from both ends until an exception or nothing more is found, then at infixes.
    fn cut_word(&self, text: &str, word: Range<usize>, exceptions: bool, tokens: &mut Vec<Token>) {
        let is_exception = |span: Range<usize>| exceptions && self.exceptions.contains_key(&text[span]);
        if exceptions && self.exception(text, word.clone(), tokens) {
            return;
        }
        let Range { mut start, mut end } = word;
        let mut suffixes = vec![];
        let mut before = usize::MAX;
        while start < end && end - start != before && !is_exception(start..end) {
            before = end - start;
            let prefix = length(&self.prefix, &text[start..end]);
            if prefix != 0 && start + prefix < end && is_exception(start + prefix..end) {
                tokens.push(Token::new(text, start..start + prefix));
                start += prefix;
                break;
            }
            let suffix = length(&self.suffix, &text[start + prefix..end]);
            if suffix != 0 && end - suffix > start && is_exception(start..end - suffix) {
                suffixes.push(end - suffix..end);
                end -= suffix;
                break;
            }
            if prefix != 0 {
                tokens.push(Token::new(text, start..start + prefix));
                start += prefix;
            }
            if suffix != 0 {
                suffixes.push(end - suffix..end);
                end -= suffix;
            }
        }
        if start < end && !(exceptions && self.exception(text, start..end, tokens)) {
            self.cut_at_infixes(text, start..end, tokens);
        }
        tokens.extend(suffixes.into_iter().rev().map(|span| Token::new(text, span)));
    }

    fn cut_at_infixes(&self, text: &str, word: Range<usize>, tokens: &mut Vec<Token>) {
        let rest = &text[word.clone()];
        if self.url.find(rest).ok().flatten().is_some_and(|m| m.start() == 0) {
            return tokens.push(Token::new(text, word));
        }
        let mut done = 0;
        // an error is the regex engine's limit on backtracking: the rest is not split
        for infix in self.infix.find_iter(rest).map_while(Result::ok) {
            if infix.start() == 0 {
                continue;
            }
            for span in [done..infix.start(), infix.start()..infix.end()] {
                if !span.is_empty() {
                    tokens.push(Token::new(text, word.start + span.start..word.start + span.end));
                }
            }
            done = infix.end();
        }
        if done < rest.len() {
            tokens.push(Token::new(text, word.start + done..word.end));
        }
    }

    /// Joins exceptions that were split at their affixes; of those that overlap, the longest.
    fn join_exceptions(&self, text: &str, tokens: &mut Vec<Token>) {
        let mut candidates = vec![];
        for (i, token) in tokens.iter().enumerate() {
            for pieces in self.cut.get(&token.text).into_iter().flatten() {
                let end = i + pieces.len();
                if end <= tokens.len() && pieces.iter().zip(&tokens[i..end]).all(|(piece, t)| *piece == t.text) {
                    candidates.push(i..end);
                }
            }
        }
        if candidates.is_empty() {
            return;
        }
        candidates.sort_by_key(|c| (Reverse(c.len()), c.start));
        let mut taken = vec![false; tokens.len()];
        let mut chosen = vec![];
        for candidate in candidates {
            if !taken[candidate.start] && !taken[candidate.end - 1] {
                chosen.push(candidate.clone());
            }
            taken[candidate].fill(true);
        }
        chosen.sort_by_key(|c| c.start);
        let mut joined = vec![];
        let mut done = 0;
        for span in chosen {
            joined.extend_from_slice(&tokens[done..span.start]);
            let (first, last) = (&tokens[span.start], &tokens[span.end - 1]);
            if self.exception(text, first.span.start..last.span.end, &mut joined) {
                if let Some(token) = joined.last_mut() {
                    token.space = last.space;
                }
            } else {
                joined.extend_from_slice(&tokens[span.clone()]);
            }
            done = span.end;
        }
        joined.extend_from_slice(&tokens[done..]);
        *tokens = joined;
    }
}

/// Length of the first match in bytes, 0 if there is none.
fn length(regex: &Regex, text: &str) -> usize {
    regex.find(text).ok().flatten().map_or(0, |m| m.end() - m.start())
}
