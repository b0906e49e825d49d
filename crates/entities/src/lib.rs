//! Finds the nouns of a prompt, each with its attributes: "a red dog and a blue cat" → dog: red, cat: blue.
//!
//! A port of the small English model of spaCy (`en_core_web_sm` 3.8): the same tokens, tags, heads and noun chunks.
//! Nouns and attributes are taken from its tree as the CoMat authors do, or, by default, with their and the parser's
//! systematic errors repaired. It needs no Python and no tensor library; the weights are part of the program.

mod chunks;
mod explicit;
mod extract;
mod hash;
mod network;
mod parser;
mod repairs;
mod rules;
mod scenery;
mod tags;
mod token;
mod tokenizer;

pub use explicit::explicit;
pub use scenery::is_scenery;
pub use token::Token;

use extract::Group;
use network::{Encoder, Matrix, Tensors, WIDTH};
use rules::{Attribute, Rules};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A noun and its attributes, as byte ranges of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entity {
    pub head: Range<usize>,
    /// Words before the head that are part of its name: "fire" of "fire extinguisher".
    pub compounds: Vec<Range<usize>>,
    pub attributes: Vec<Range<usize>>,
}

impl Entity {
    /// The noun's name in lower case, as given to a detector: compounds and head.
    pub fn noun(&self, text: &str) -> String {
        let parts = self.compounds.iter().chain([&self.head]);
        parts.filter_map(|part| text.get(part.clone())).collect::<Vec<_>>().join(" ").to_lowercase()
    }

    /// Byte range from the first word of the name to the last.
    pub fn whole(&self) -> Range<usize> {
        self.compounds.first().map_or(self.head.start, |first| first.start.min(self.head.start))..self.head.end
    }

    /// All its words: name and attributes.
    pub fn parts(&self) -> impl Iterator<Item = &Range<usize>> {
        self.compounds.iter().chain([&self.head]).chain(&self.attributes)
    }
}

/// How entities are taken from a parsed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As the authors' program does, with its faults: nouns with at least one modifier, at most three words together; the segmenter
    /// is asked for the head noun alone.
    Reference,
    /// Ours: nouns without a modifier take part, too, and the segmenter is asked for their whole name.
    #[default]
    Repaired,
    /// For prompts that are lists of tags, as anime models are trained with: each tag by itself.
    Tags,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the parser's model: {0}")]
    Model(String),
    #[error("`{word}` is not a word of the prompt `{text}`")]
    Missing { word: String, text: String },
}

/// Finds the entities of English texts.
pub struct Parser {
    tokenizer: tokenizer::Tokenizer,
    encoder: Encoder,
    tags: Vec<String>,
    tagger: Matrix,
    tagger_bias: Matrix,
    parser: parser::Parser,
    attributes: Vec<Attribute>,
}

impl Parser {
    /// A parser with the weights that are part of the program.
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn shipped() -> Result<Self, Error> {
        Self::new(include_bytes!("../model/weights.safetensors"), include_str!("../model/rules.json"))
    }

    fn new(weights: &[u8], rules: &str) -> Result<Self, Error> {
        let mut tensors = Tensors::read(weights).map_err(Error::Model)?;
        let mut rules: Rules = serde_json::from_str(rules).map_err(|e| Error::Model(e.to_string()))?;
        let tags = std::mem::take(&mut rules.tags);
        let take = |e: String| Error::Model(e);
        Ok(Self {
            tokenizer: tokenizer::Tokenizer::new(&mut rules).map_err(|e| Error::Model(e.to_string()))?,
            encoder: Encoder::take(&mut tensors, &mut rules).map_err(take)?,
            tagger: tensors.take("tagger.weight", tags.len(), WIDTH).map_err(take)?,
            tagger_bias: tensors.take("tagger.bias", 1, tags.len()).map_err(take)?,
            tags,
            parser: parser::Parser::take(&mut tensors, &rules.moves).map_err(take)?,
            attributes: rules.attributes,
        })
    }

    /// The words with their parts of speech and their dependencies.
    pub fn parse(&self, text: &str) -> Vec<Token> {
        let mut tokens = self.tokenizer.tokenize(text);
        if tokens.is_empty() {
            return tokens;
        }
        let encoded = self.encoder.encode(&tokens);
        let scores = self.tagger.apply(&encoded, Some(&self.tagger_bias));
        for (token, scores) in tokens.iter_mut().zip(scores.chunks_exact(self.tags.len())) {
            let mut best = 0;
            for (i, score) in scores.iter().enumerate() {
                if *score > scores[best] {
                    best = i;
                }
            }
            token.tag.clone_from(&self.tags[best]);
        }
        self.parser.parse(&mut tokens, &encoded);
        rules::set_attributes(&self.attributes, &mut tokens);
        tokens
    }

    /// The nouns with their attributes, in the order of the text.
    pub fn entities(&self, text: &str, mode: Mode) -> Vec<Entity> {
        if mode == Mode::Tags {
            return tags::entities(self, text);
        }
        let tokens = self.parse(text);
        let groups = match mode {
            Mode::Reference => extract::reference_groups(&tokens),
            Mode::Repaired | Mode::Tags => {
                let mut groups = extract::groups(&tokens);
                repairs::repair(&tokens, &mut groups);
                groups
            }
        };
        groups.into_iter().map(|group| entity(&tokens, &group, mode)).collect()
    }

    /// Noun chunks ("the big red dog"), as byte ranges of the text.
    pub fn noun_chunks(&self, text: &str) -> Vec<Range<usize>> {
        let tokens = self.parse(text);
        let bytes = |chunk: Range<usize>| tokens[chunk.start].span.start..tokens[chunk.end - 1].span.end;
        chunks::chunks(&tokens).into_iter().map(bytes).collect()
    }
}

/// Turns a group of tokens into an entity. With [`Mode::Repaired`], compounds directly before the noun are part of its
/// name.
fn entity(tokens: &[Token], group: &Group, mode: Mode) -> Entity {
    let mut first = group.noun;
    if mode == Mode::Repaired {
        while let Some(before) = first.checked_sub(1)
            && group.attributes.contains(&before)
            && tokens[before].dep == "compound"
            && (first..=group.noun).contains(&tokens[before].head)
        {
            first = before;
        }
    }
    let span = |i: usize| tokens[i].span.clone();
    let is_name = |i: &usize| (first..group.noun).contains(i);
    Entity {
        head: span(group.noun),
        compounds: (first..group.noun).map(span).collect(),
        attributes: group.attributes.iter().copied().filter(|i| !is_name(i)).map(span).collect(),
    }
}
