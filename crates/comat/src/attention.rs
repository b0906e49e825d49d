//! What the attention losses need besides maps: which tokens of a prompt belong together, and where in the image their
//! object is.

use crate::{
    config::{self, Form},
    loss::attention::Target,
    prompts::{Entity, Prompt},
    segment::Segmenter,
};
use anyhow::Result;
use models::tokenizer::{ClipTokenizer, Encoding};
use std::collections::HashMap;
use std::ops::Range;
use tch::Tensor;

/// A noun with its attributes, as the text encoder sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub noun: String,
    /// Positions in the padded sequence of tokens, noun and attributes together.
    pub tokens: Vec<i64>,
}

/// Section 3 of the method, ready to be used on a batch.
pub struct Attention {
    pub config: config::Attention,
    segmenter: Box<dyn Segmenter>,
    /// By the text of the prompt.
    subjects: HashMap<String, Vec<Subject>>,
    explicit: HashMap<String, Vec<Entity>>,
}

/// What the losses found to work on in a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub subjects: usize,
    /// Of them, those that the segmenter did not find in their image.
    pub not_found: usize,
    /// Prompts without a subject: they take no part.
    pub without: usize,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.subjects += other.subjects;
        self.not_found += other.not_found;
        self.without += other.without;
    }
}

impl Attention {
    pub fn new(config: config::Attention, segmenter: Box<dyn Segmenter>) -> Self {
        Self { config, segmenter, subjects: HashMap::new(), explicit: HashMap::new() }
    }

    pub fn form(&self) -> Form {
        self.config.form
    }

    /// Prompts whose file names their entities: those are taken, nothing is parsed.
    pub fn take_explicit(&mut self, prompts: &[Prompt]) {
        for prompt in prompts {
            if let Some(entities) = &prompt.entities {
                self.explicit.insert(prompt.text.clone(), entities.clone());
            }
        }
    }

    /// Segments the images `[B, 3, H, W]` (0..1, not clamped), each by the nouns of its prompt.
    pub fn targets(
        &mut self,
        images: &Tensor,
        prompts: &[&str],
        tokenizer: &ClipTokenizer,
    ) -> Result<(Vec<Vec<Target>>, Counts)> {
        let _guard = tch::no_grad_guard();
        let subjects: Vec<Vec<Subject>> =
            prompts.iter().map(|prompt| self.subjects(prompt, tokenizer)).collect::<Result<_>>()?;
        let nouns: Vec<Vec<String>> = subjects.iter().map(|s| s.iter().map(|s| s.noun.clone()).collect()).collect();
        let mut counts = Counts::default();
        let masks = self.segmenter.segment(&images.clamp(0.0, 1.0), &nouns)?;
        let targets = subjects.into_iter().zip(masks).map(|(subjects, masks)| {
            counts.without += usize::from(subjects.is_empty());
            counts.subjects += subjects.len();
            let target = |(i, subject): (usize, Subject)| {
                let mask = masks.get(i as i64);
                counts.not_found += usize::from(!bool::try_from(mask.any()).unwrap_or(false));
                Target { tokens: subject.tokens, mask }
            };
            subjects.into_iter().enumerate().map(target).collect()
        });
        Ok((targets.collect(), counts))
    }

    fn subjects(&mut self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Vec<Subject>> {
        if let Some(known) = self.subjects.get(prompt) {
            return Ok(known.clone());
        }
        let entities = self.explicit.get(prompt).cloned().unwrap_or_default();
        let encoding = tokenizer.encode(prompt)?;
        let found = subjects(prompt, &entities, &encoding);
        self.subjects.insert(prompt.to_owned(), found.clone());
        Ok(found)
    }
}

/// The entities that the losses can use: a noun that stands for two entities cannot tell them apart, so both are dropped;
/// so is a noun that the text encoder does not see because the prompt is too long.
fn subjects(prompt: &str, entities: &[Entity], encoding: &Encoding) -> Vec<Subject> {
    let text = prompt.to_lowercase();
    let find = |word: &str, from: usize| text[from..].find(word).map(|at| from + at..from + at + word.len());
    let tokens = |range: Range<usize>| {
        encoding.spans.iter().enumerate().filter_map(move |(i, span)| {
            span.as_ref().filter(|s| s.start < range.end && s.end > range.start).map(|_| i as i64)
        })
    };
    let mut found = vec![];
    for entity in entities {
        let Some(noun) = find(&entity.noun, 0) else { continue };
        let mut positions: Vec<i64> = tokens(noun.clone()).collect();
        if positions.is_empty() {
            continue;
        }
        for attribute in &entity.attributes {
            if let Some(at) = text[..noun.start].rfind(attribute.as_str()) {
                positions.extend(tokens(at..at + attribute.len()));
            }
        }
        positions.sort_unstable();
        positions.dedup();
        found.push(Subject { noun: entity.noun.clone(), tokens: positions });
    }
    let once = |noun: &str| entities.iter().filter(|e| e.noun == noun).count() == 1;
    found.retain(|s| once(&s.noun));
    found
}
