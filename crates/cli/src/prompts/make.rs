//! Makes a random prompt from the word lists, with its entities and its combinations of words.

use super::words::{Words, article};
use anyhow::{Result, bail};
use models::digest;
use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};
use std::str::FromStr;

/// The categories of T2I-CompBench, with its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    Color,
    Shape,
    Texture,
    Spatial,
    NonSpatial,
    Complex,
    Numeracy,
}

impl Category {
    pub const ALL: [Self; 7] =
        [Self::Color, Self::Shape, Self::Texture, Self::Spatial, Self::NonSpatial, Self::Complex, Self::Numeracy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Texture => "texture",
            Self::Spatial => "spatial",
            Self::NonSpatial => "non-spatial",
            Self::Complex => "complex",
            Self::Numeracy => "numeracy",
        }
    }
}

impl FromStr for Category {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|category| category.name() == name.replace('_', "-"));
        found.ok_or_else(|| format!("there is no category `{name}`; there are {}", known()))
    }
}

#[derive(Debug, Clone)]
pub struct Made {
    pub text: String,
    pub category: Category,
    entities: Vec<(String, Vec<String>)>,
    combinations: Vec<String>,
}

/// One in this many combinations is reserved for held-out prompts.
const HELD_OUT: u64 = 8;

impl Made {
    /// Whether it has a combination that no training prompt has.
    pub fn is_held_out(&self) -> bool {
        let held_out =
            |words: &String| u64::from_str_radix(&digest(words.as_bytes()), 16).is_ok_and(|n| n % HELD_OUT == 0);
        self.combinations.iter().any(held_out)
    }

    pub fn line(&self) -> String {
        let entity = |(noun, attributes): &(String, Vec<String>)| json!({ "noun": noun, "attributes": attributes });
        let entities: Vec<Value> = self.entities.iter().map(entity).collect();
        json!({ "prompt": self.text, "entities": entities, "category": self.category.name() }).to_string()
    }
}

/// A sentence while it is built.
struct Sentence<'a, R> {
    words: &'a Words,
    random: &'a mut R,
    used: Vec<String>,
    entities: Vec<(String, Vec<String>)>,
    combinations: Vec<String>,
}

/// A random prompt of a category.
///
/// # Errors
/// A word list is too short for the sentence.
pub fn one(category: Category, words: &Words, random: &mut impl Rng) -> Result<Made> {
    let mut sentence = Sentence { words, random, used: vec![], entities: vec![], combinations: vec![] };
    let text = match category {
        Category::Color => sentence.attributes(&words.color)?,
        Category::Shape => sentence.attributes(&words.shape)?,
        Category::Texture => sentence.attributes(&words.texture)?,
        Category::Spatial => sentence.spatial()?,
        Category::NonSpatial => sentence.non_spatial()?,
        Category::Complex => sentence.complex()?,
        Category::Numeracy => sentence.numeracy()?,
    };
    let Sentence { entities, combinations, .. } = sentence;
    Ok(Made { text, category, entities, combinations })
}

impl<R: Rng> Sentence<'_, R> {
    /// A random word of the list that is not in the sentence yet, since a repeated word would be ambiguous.
    fn unused(&mut self, list: &[String]) -> Result<String> {
        for _ in 0..100 {
            let Some(word) = list.choose(self.random) else { break };
            if !self.used.contains(word) {
                self.used.push(word.clone());
                return Ok(word.clone());
            }
        }
        let words = if list.is_empty() { "nothing".into() } else { list.join(", ") };
        bail!("a list of words is too short ({words}): give it more, or leave categories out by --categories")
    }

    fn any(&mut self, list: &[String]) -> String {
        list.choose(self.random).cloned().unwrap_or_default()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    /// A thing, or in 25 % of the cases an animal.
    fn object(&mut self) -> Result<String> {
        let words = self.words;
        let (first, second) =
            if self.chance(25) { (&words.animals, &words.things) } else { (&words.things, &words.animals) };
        self.unused(first).or_else(|_| self.unused(second)) // a short list may be used up
    }

    /// The noun with one attribute from each of the lists.
    fn bound(&mut self, noun: String, lists: &[&[String]]) -> Result<String> {
        let attributes = lists.iter().map(|list| self.unused(list)).collect::<Result<Vec<_>>>()?;
        self.combinations.extend(attributes.iter().map(|attribute| format!("{attribute} {noun}")));
        let phrase = article(&format!("{} {noun}", attributes.join(" ")));
        self.entities.push((noun, attributes));
        Ok(phrase)
    }

    fn plain(&mut self, noun: String) -> String {
        let phrase = article(&noun);
        self.entities.push((noun, vec![]));
        phrase
    }

    fn scene(&mut self, percent: u32) -> String {
        let words = self.words;
        if self.chance(percent) { format!(" {}", self.any(&words.scenes)) } else { String::new() }
    }

    /// Objects with one attribute each. Anything can have a color, but only things can have a shape or texture, since a
    /// triangular horse cannot be drawn.
    fn attributes(&mut self, list: &[String]) -> Result<String> {
        let words = self.words;
        let of_anything = std::ptr::eq(list, words.color.as_slice());
        let one = |sentence: &mut Self| {
            let noun = if of_anything { sentence.object()? } else { sentence.unused(&words.things)? };
            sentence.bound(noun, &[list])
        };
        let (first, second) = (one(self)?, one(self)?);
        Ok(match self.random.random_range(0..10) {
            0 => format!("{first}, {second} and {}", one(self)?),
            1..4 => format!("{first} next to {second}{}", self.scene(30)),
            4 => format!("{first} with {second} behind it"),
            _ => format!("{first} and {second}{}", self.scene(30)),
        })
    }

    fn spatial(&mut self) -> Result<String> {
        let words = self.words;
        let (first, relation, second) = (self.object()?, self.any(&words.relations), self.object()?);
        self.combinations.push(format!("{first} {relation} {second}"));
        let first = self.plain(first);
        Ok(format!("{first} {relation} {}{}", self.plain(second), self.scene(25)))
    }

    fn non_spatial(&mut self) -> Result<String> {
        let words = self.words;
        let who = self.unused(&words.people)?;
        let action = self.any(&words.actions);
        let (doing, kind) = action.rsplit_once(' ').unwrap_or(("holding", "THING"));
        let whom = match kind {
            "PERSON" => self.unused(&words.people)?,
            "ANIMAL" => self.unused(&words.animals)?,
            _ => self.unused(&words.things)?,
        };
        self.combinations.push(format!("{who} {doing} {whom}"));
        let who = self.plain(who);
        Ok(format!("{who} is {doing} {}{}", self.plain(whom), self.scene(35)))
    }

    fn complex(&mut self) -> Result<String> {
        let words = self.words;
        let (color, shape, texture) = (words.color.as_slice(), words.shape.as_slice(), words.texture.as_slice());
        let pairs: [&[&[String]]; 4] = [&[shape, color], &[color, texture], &[shape, texture], &[color]];
        let (one, other) =
            (*pairs.choose(self.random).unwrap_or(&pairs[0]), *pairs.choose(self.random).unwrap_or(&pairs[1]));
        let first = self.unused(&words.things)?;
        let first = self.bound(first, one)?;
        let second = self.unused(&words.things)?;
        let second = self.bound(second, other)?;
        let relation = self.any(&words.relations);
        Ok(match self.random.random_range(0..3) {
            0 => format!("{first} {relation} {second}{}", self.scene(70)),
            1 => {
                let animal = self.unused(&words.animals)?;
                let animal = self.bound(animal, &[color])?;
                format!("{animal} {relation} {first} and {second}")
            }
            _ => {
                let who = self.unused(&words.people)?;
                let who = self.plain(who);
                format!("{who} with {first} and {second}{}", self.scene(70))
            }
        })
    }

    fn counted(&mut self) -> Result<String> {
        let words = self.words;
        let (count, noun) = (self.any(&words.counts), self.object()?);
        let plural = words.plural(&noun);
        let phrase = format!("{count} {plural}");
        self.combinations.push(phrase.clone());
        self.entities.push((plural, vec![]));
        Ok(phrase)
    }

    fn numeracy(&mut self) -> Result<String> {
        let first = self.counted()?;
        Ok(match self.random.random_range(0..4) {
            0 => format!("{first}{}", self.scene(100)),
            1 => {
                let noun = self.object()?;
                format!("{first} and {}{}", self.plain(noun), self.scene(40))
            }
            _ => format!("{first} and {}{}", self.counted()?, self.scene(30)),
        })
    }
}
