//! From nouns to a caption, "noun1 . noun2 .", and from tokens back to phrases.
//!
//! Source: transformers `GroundingDinoProcessor`, and the network's own splitting of a caption.

use crate::{
    error::{Error, Result},
    tokenizer::BertTokenizer,
};
use std::path::Path;
use tch::Tensor;

/// Makes captions from nouns, and finds the noun of a phrase.
pub struct Phrases {
    tokenizer: BertTokenizer,
    start: i64,
    end: i64,
    pad: i64,
    stop: i64,
    /// Tokens that separate phrases: start, end, full stop, question mark.
    delimiters: Vec<i64>,
}

/// The nouns of one image as input of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Caption {
    /// Start token, each noun followed by a full stop, end token.
    pub ids: Vec<i64>,
    /// Token ids of each noun, without full stops; empty for an empty noun.
    nouns: Vec<Vec<i64>>,
}

/// Captions of different lengths as tensors, padded to the longest; on the CPU.
pub struct Captions {
    /// `[B, L]`, int64
    pub ids: Tensor,
    /// `[B, L]`, false for padding
    pub tokens: Tensor,
    /// True for two tokens of the same phrase `[B, L, L]`, booleans
    pub phrases: Tensor,
    /// Positions within the phrase `[B, L]`, int64
    pub positions: Tensor,
}

impl Phrases {
    /// Reads the tokenizer of the folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let tokenizer = BertTokenizer::open(folder)?;
        let [start, end, pad] = tokenizer.specials();
        let Some(stop) = tokenizer.id(".") else {
            return Err(Error::file(folder, "the tokenizer has no full stop, which separates the nouns of a caption"));
        };
        let delimiters = [Some(start), Some(end), Some(stop), tokenizer.id("?")].into_iter().flatten().collect();
        Ok(Self { tokenizer, start, end, pad, stop, delimiters })
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> i64 {
        self.tokenizer.vocab_size()
    }

    /// Makes a caption from nouns. A repeated noun is in the caption once.
    pub fn caption(&self, nouns: &[String]) -> Result<Caption> {
        let mut written: Vec<Vec<i64>> = vec![];
        let mut ids = vec![self.start];
        let mut found = vec![];
        for noun in nouns {
            let encoding = self.tokenizer.encode(&noun.trim().to_lowercase(), usize::MAX)?;
            let noun = encoding.ids[1..encoding.ids.len() - 1].to_vec(); // without start and end
            let content = self.without_stops(&noun);
            if !content.is_empty() && !written.contains(&noun) {
                ids.extend(noun.iter().chain([&self.stop]));
                written.push(noun);
            }
            found.push(content);
        }
        ids.push(self.end);
        Ok(Caption { ids, nouns: found })
    }

    /// A batch of captions as input of the network.
    pub fn batch(&self, captions: &[&Caption]) -> Captions {
        let length = captions.iter().map(|caption| caption.ids.len()).max().unwrap_or(0);
        let (mut all, mut tokens, mut phrases, mut positions) = (vec![], vec![], vec![], vec![]);
        for caption in captions {
            let mut ids = caption.ids.clone();
            ids.resize(length, self.pad);
            let (of_phrase, places) = self.split(&ids);
            tokens.extend((0..length).map(|i| i < caption.ids.len()));
            phrases.extend(
                (0..length)
                    .flat_map(|i| (0..length).map(move |j| (i, j)))
                    .map(|(i, j)| i == j || (of_phrase[i].is_some() && of_phrase[i] == of_phrase[j])),
            );
            positions.extend(places);
            all.extend(ids);
        }
        let (rows, length) = (captions.len() as i64, length as i64);
        Captions {
            ids: Tensor::from_slice(&all).view([rows, length]),
            tokens: Tensor::from_slice(&tokens).view([rows, length]),
            phrases: Tensor::from_slice(&phrases).view([rows, length, length]),
            positions: Tensor::from_slice(&positions).view([rows, length]),
        }
    }

    /// For every token the delimiter that ends its phrase (and is part of it), and its position in the phrase. A token
    /// with no delimiter after it, or only the very last or first of the row, stands alone at position 0.
    fn split(&self, ids: &[i64]) -> (Vec<Option<usize>>, Vec<i64>) {
        let (mut of_phrase, mut places) = (vec![None; ids.len()], vec![0; ids.len()]);
        let mut from = 0;
        for (i, id) in ids.iter().enumerate() {
            if self.delimiters.contains(id) {
                if i > 0 && i + 1 < ids.len() {
                    for (place, token) in (0..).zip(from..=i) {
                        (of_phrase[token], places[token]) = (Some(i), place);
                    }
                }
                from = i + 1;
            }
        }
        (of_phrase, places)
    }

    /// The tokens of a caption that belong to a box: more probable than the threshold, without the start token.
    pub fn phrase(&self, caption: &Caption, probabilities: &[f64], threshold: f64) -> Vec<i64> {
        let fits = caption.ids.iter().zip(probabilities).skip(1).filter(|(_, p)| **p > threshold);
        fits.map(|(&id, _)| id).collect()
    }

    /// The phrase in words.
    pub fn spell(&self, phrase: &[i64]) -> Result<String> {
        self.tokenizer.decode(phrase)
    }

    /// Indices of the nouns that equal the phrase. Full stops are ignored, as in the original program.
    pub fn nouns<'a>(&self, caption: &'a Caption, phrase: &[i64]) -> impl Iterator<Item = usize> + 'a {
        let phrase = self.without_stops(phrase);
        let equal = move |noun: &Vec<i64>| !noun.is_empty() && *noun == phrase;
        caption.nouns.iter().enumerate().filter(move |(_, noun)| equal(noun)).map(|(index, _)| index)
    }

    fn without_stops(&self, ids: &[i64]) -> Vec<i64> {
        ids.iter().copied().filter(|&id| id != self.stop).collect()
    }
}

impl Caption {
    /// Whether there are no nouns.
    pub fn is_empty(&self) -> bool {
        self.nouns.iter().all(Vec::is_empty)
    }
}
