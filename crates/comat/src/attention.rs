//! Inputs of the attention losses besides the maps: which tokens of a prompt belong together, and where in the image
//! their object is.

use crate::loss::attention::Target;
use anyhow::{Context, Result};
use config::{self, Form};
use diffusion::{conditions::PromptEncoder, prompts::Prompt, resident::Resident, segment::Segmenter};
use entities::{Entity, Mode, Parser};
use models::tokenizer::Encoding;
use std::{collections::HashMap, ops::Range};
use tch::Tensor;

/// A noun with its attributes, as the text encoder sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub noun: String,
    /// Positions in the padded sequence of tokens, noun and attributes together.
    pub tokens: Vec<i64>,
}

/// The attention losses (section 3 of the method), ready for use on a batch.
pub struct Attention {
    pub config: config::Attention,
    segmenter: Resident<Box<dyn Segmenter>>,
    /// Subjects by the text of the prompt.
    subjects: HashMap<String, Vec<Subject>>,
    explicit: HashMap<String, Vec<Entity>>,
    parser: Option<Parser>,
    /// Totals so far. A warning is logged for the first prompt without a subject, and for the first noun that was not
    /// found.
    told: Counts,
}

/// Counts of what the losses could use in a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub subjects: usize,
    /// Subjects that the segmenter did not find in their image.
    pub not_found: usize,
    /// Prompts without a subject; the attention losses ignore them.
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
    pub fn new(config: config::Attention, segmenter: Resident<Box<dyn Segmenter>>) -> Self {
        Self {
            config,
            segmenter,
            subjects: HashMap::new(),
            explicit: HashMap::new(),
            parser: None,
            told: Counts::default(),
        }
    }

    /// Unloads the segmenter whenever it is not in use.
    pub fn offload(&mut self) {
        self.segmenter.unload();
    }

    pub fn form(&self) -> Form {
        self.config.form
    }

    /// Registers the entities that the prompt file names. Those prompts are not parsed.
    pub fn take_explicit(&mut self, prompts: &[Prompt]) -> Result<()> {
        for prompt in prompts {
            if let Some(entities) = prompt.found()? {
                self.explicit.insert(prompt.text.clone(), entities);
            }
        }
        Ok(())
    }

    /// Segments the images `[B, 3, H, W]` (0..1, not clamped); each image by the nouns of its prompt.
    pub fn targets(
        &mut self,
        images: &Tensor,
        prompts: &[&str],
        encoder: &dyn PromptEncoder,
    ) -> Result<(Vec<Vec<Target>>, Counts)> {
        let _guard = tch::no_grad_guard();
        let subjects: Vec<Vec<Subject>> =
            prompts.iter().map(|prompt| self.subjects(prompt, encoder)).collect::<Result<_>>()?;
        let nouns: Vec<Vec<String>> = subjects.iter().map(|s| s.iter().map(|s| s.noun.clone()).collect()).collect();
        let mut counts = Counts::default();
        let masks = self.segmenter.with(|segmenter| segmenter.segment(&images.clamp(0.0, 1.0), &nouns))?;
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
        let targets = targets.collect();
        self.tell(prompts, &nouns, counts);
        Ok((targets, counts))
    }

    /// Warns once of each kind of problem; later ones are only counted in the log.
    fn tell(&mut self, prompts: &[&str], nouns: &[Vec<String>], counts: Counts) {
        if counts.without > 0 && self.told.without == 0 {
            let prompt = prompts.iter().zip(nouns).find(|(_, nouns)| nouns.is_empty()).map_or("", |(prompt, _)| prompt);
            tracing::warn!(
                "`{prompt}` has no noun that the attention losses can use; it only has the caption loss. \
                 Further ones are counted in events.jsonl (prompts_without_subjects)"
            );
        }
        if counts.not_found > 0 && self.told.not_found == 0 {
            tracing::warn!(
                "{} of {} nouns were not found in their images. Further ones are counted in events.jsonl (not_found)",
                counts.not_found,
                counts.subjects
            );
        }
        self.told.add(counts);
    }

    fn subjects(&mut self, prompt: &str, encoder: &dyn PromptEncoder) -> Result<Vec<Subject>> {
        if let Some(known) = self.subjects.get(prompt) {
            return Ok(known.clone());
        }
        let mode = self.config.entities;
        let entities = match self.explicit.remove(prompt) {
            Some(entities) => entities,
            None => self.parser()?.entities(prompt, mode),
        };
        let found = subjects(prompt, &entities, mode, &encoder.tokens(prompt)?);
        self.subjects.insert(prompt.to_owned(), found.clone());
        Ok(found)
    }

    /// The parser; it is opened for the first prompt that names no entities.
    fn parser(&mut self) -> Result<&Parser> {
        if self.parser.is_none() {
            self.parser = Some(Parser::shipped()?);
        }
        self.parser.as_ref().context("the parser was opened")
    }
}

/// The entities that the losses can use. Dropped are: two entities with the same noun, since the noun cannot tell them
/// apart; nouns of the scene, which have no outline; and words of a long prompt that the text encoder does not see.
fn subjects(prompt: &str, entities: &[Entity], mode: Mode, encoding: &Encoding) -> Vec<Subject> {
    let tokens = |part: &Range<usize>| encoding.tokens_of(part);
    let noun = |entity: &Entity| entity.noun(prompt);
    let is_alone = |entity: &&Entity| entities.iter().filter(|e| noun(e) == noun(entity)).count() == 1;
    let usable = entities.iter().filter(is_alone).filter(|e| {
        let name = prompt.get(e.head.clone()).unwrap_or_default();
        !entities::is_scenery(name, mode) && !tokens(&e.head).is_empty()
    });
    let subject = |entity: &Entity| {
        let mut positions: Vec<i64> = entity.parts().flat_map(tokens).collect();
        positions.sort_unstable();
        positions.dedup();
        Subject { noun: noun(entity), tokens: positions }
    };
    usable.map(subject).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An encoding with one token per word, of which the text encoder sees the first `seen`.
    fn words(prompt: &str, seen: usize) -> Encoding {
        let mut spans = vec![None];
        let mut at = 0;
        for word in prompt.split(' ').take(seen) {
            spans.push(Some(at..at + word.len()));
            at += word.len() + 1;
        }
        spans.resize(20, None);
        Encoding { ids: vec![0; 20], spans, cut: None }
    }

    fn found_by(mode: Mode, prompt: &str, seen: usize) -> Vec<(String, Vec<i64>)> {
        let entities = Parser::shipped().unwrap().entities(prompt, mode);
        subjects(prompt, &entities, mode, &words(prompt, seen)).into_iter().map(|s| (s.noun, s.tokens)).collect()
    }

    fn found(prompt: &str, seen: usize) -> Vec<(String, Vec<i64>)> {
        found_by(Mode::Repaired, prompt, seen)
    }

    fn expected(all: &[(&str, &[i64])]) -> Vec<(String, Vec<i64>)> {
        all.iter().map(|(noun, tokens)| (noun.to_string(), tokens.to_vec())).collect()
    }

    #[test]
    fn nouns_with_their_attributes() {
        assert_eq!(found("a red dog and a blue cat", 99), expected(&[("dog", &[2, 3]), ("cat", &[6, 7])]));
        assert_eq!(found("a large coffee table", 99), expected(&[("coffee table", &[2, 3, 4])]));
    }

    /// The authors' rule: at least one modifier, fewer than four words, only the head noun, and their own word list.
    #[test]
    fn the_authors_take_fewer() {
        let reference = |prompt| found_by(Mode::Reference, prompt, 99);
        assert_eq!(reference("a red dog and a cat"), expected(&[("dog", &[2, 3])]));
        assert_eq!(reference("a wooden coffee table"), expected(&[("table", &[2, 3, 4])]));
        assert_eq!(reference("a large wooden coffee table"), [], "four words");
        assert_eq!(reference("a very large wooden coffee table"), []);
        assert_eq!(reference("a red dog on the green grass"), expected(&[("dog", &[2, 3])]));
        assert_eq!(found("a red dog on the green grass", 99), expected(&[("dog", &[2, 3]), ("grass", &[6, 7])]));
    }

    #[test]
    fn two_of_a_name_are_both_dropped() {
        assert_eq!(found("a red dog and a blue dog and a cat", 99), expected(&[("cat", &[10])]));
    }

    #[test]
    fn the_scene_has_no_outline() {
        assert_eq!(found("a red dog in a dark street", 99), expected(&[("dog", &[2, 3])]));
    }

    #[test]
    fn what_the_text_encoder_does_not_see_takes_no_part() {
        assert_eq!(found("a red dog and a blue cat", 6), expected(&[("dog", &[2, 3])]));
    }

    #[test]
    fn a_prompt_without_nouns_has_no_subjects() {
        assert_eq!(found("very slowly", 99), []);
        assert_eq!(found("", 99), []);
    }
}
