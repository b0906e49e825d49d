//! Wrong captions for the contrastive loss: the same words, but two things have each other's attributes.

use anyhow::Result;
use diffusion::prompts::Prompt;
use entities::{Entity, Mode, Parser};
use std::{collections::HashMap, ops::Range};

/// The wrong caption of every prompt that has one.
#[derive(Debug, Default)]
pub struct Contrast(HashMap<String, String>);

impl Contrast {
    /// The wrong captions of these prompts, by the entities that the prompt file names, else by those that the parser
    /// finds.
    pub fn of(prompts: &[Prompt], mode: Mode) -> Result<Self> {
        let mut parser = None;
        let mut wrong = HashMap::new();
        for prompt in prompts {
            let entities = match prompt.found()? {
                Some(entities) => entities,
                None => {
                    let parser = match &parser {
                        Some(parser) => parser,
                        None => parser.insert(Parser::shipped()?),
                    };
                    parser.entities(&prompt.text, mode)
                }
            };
            if let Some(text) = exchanged(&prompt.text, &entities) {
                wrong.insert(prompt.text.clone(), text);
            }
        }
        Ok(Self(wrong))
    }

    pub fn get(&self, prompt: &str) -> Option<&str> {
        self.0.get(prompt).map(String::as_str)
    }
}

/// The text with the attributes of two things exchanged. They are the first two whose attributes differ and are equally
/// many.
fn exchanged(text: &str, entities: &[Entity]) -> Option<String> {
    let words = |e: &Entity| e.attributes.iter().map(|place| text[place.clone()].to_lowercase()).collect::<Vec<_>>();
    let fit = |a: &Entity, b: &Entity| {
        !a.attributes.is_empty() && a.attributes.len() == b.attributes.len() && words(a) != words(b)
    };
    let pairs = entities.iter().enumerate().flat_map(|(i, a)| entities[i + 1..].iter().map(move |b| (a, b)));
    let (a, b) = pairs.into_iter().find(|(a, b)| fit(a, b))?;
    let mut swaps: Vec<(Range<usize>, Range<usize>)> = vec![];
    for (one, other) in a.attributes.iter().zip(&b.attributes) {
        swaps.extend([(one.clone(), other.clone()), (other.clone(), one.clone())]);
    }
    swaps.sort_by_key(|(place, _)| place.start);
    if swaps.windows(2).any(|two| two[0].0.end > two[1].0.start) {
        return None; // one word is an attribute of both
    }
    let (mut out, mut end) = (String::new(), 0);
    for (place, from) in swaps {
        out += &text[end..place.start];
        out += &text[from];
        end = place.end;
    }
    Some(out + &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::prompts::Entity as Named;

    fn wrong(text: &str, entities: &[(&str, &[&str])]) -> Option<String> {
        let named = |(noun, attributes): &(&str, &[&str])| Named {
            noun: (*noun).into(),
            attributes: attributes.iter().map(|a| (*a).into()).collect(),
        };
        let prompt = Prompt { entities: Some(entities.iter().map(named).collect()), ..text.into() };
        Contrast::of(&[prompt], Mode::Repaired).unwrap().get(text).map(str::to_owned)
    }

    #[test]
    fn attributes_change_places() {
        let one = wrong("a red star and a blue heart", &[("star", &["red"]), ("heart", &["blue"])]);
        assert_eq!(one.as_deref(), Some("a blue star and a red heart"));
        let two = wrong(
            "a red solid star to the left of a blue striped heart",
            &[("star", &["red", "solid"]), ("heart", &["blue", "striped"])],
        );
        assert_eq!(two.as_deref(), Some("a blue striped star to the left of a red solid heart"));
        let third = wrong("a star, a red cat and a blue dog", &[("star", &[]), ("cat", &["red"]), ("dog", &["blue"])]);
        assert_eq!(third.as_deref(), Some("a star, a blue cat and a red dog"));
        assert_eq!(wrong("two red stars", &[("stars", &["red"])]), None);
        assert_eq!(wrong("a red star and a red heart", &[("star", &["red"]), ("heart", &["red"])]), None);
    }
}
