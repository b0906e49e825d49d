//! The word lists: the program's or the user's.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};
use toml::{Table, Value};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    pub things: Vec<String>,
    pub animals: Vec<String>,
    pub people: Vec<String>,
    pub color: Vec<String>,
    pub shape: Vec<String>,
    pub texture: Vec<String>,
    pub relations: Vec<String>,
    pub actions: Vec<String>,
    pub counts: Vec<String>,
    pub scenes: Vec<String>,
    plurals: BTreeMap<String, String>,
}

impl Words {
    /// The program's lists. Lists in the file `own` replace those of the same name; its plurals are added.
    pub fn read(own: Option<&Path>) -> Result<Self> {
        let mut words: Table = toml::from_str(include_str!("words.toml")).context("the program's own words")?;
        let Some(path) = own else { return Ok(words.try_into()?) };
        let text = models::text::read(path)?;
        let theirs: Table = config::parse_table(path, &text)?;
        for (name, list) in theirs {
            match (words.get_mut(&name), list) {
                (Some(Value::Table(ours)), Value::Table(theirs)) => ours.extend(theirs),
                (Some(ours), list) => *ours = list,
                (None, _) => {
                    let known: Vec<&str> = words.keys().map(String::as_str).collect();
                    bail!("{}: unknown list `{name}`; known are {}", path.display(), known.join(", "));
                }
            }
        }
        let words: Self = words.try_into().with_context(|| path.display().to_string())?;
        words.check().with_context(|| path.display().to_string())?;
        Ok(words)
    }

    fn check(&self) -> Result<()> {
        let single = [
            ("things", &self.things),
            ("animals", &self.animals),
            ("people", &self.people),
            ("color", &self.color),
            ("shape", &self.shape),
            ("texture", &self.texture),
        ];
        let free = [
            ("relations", &self.relations),
            ("actions", &self.actions),
            ("counts", &self.counts),
            ("scenes", &self.scenes),
        ];
        for (name, list) in single.iter().chain(&free) {
            if list.is_empty() || list.iter().any(|word| word.trim().is_empty()) {
                bail!("{name}: the list is empty, or a word in it is");
            }
        }
        for (name, list) in single {
            if let Some(word) = list.iter().find(|word| !word.chars().all(char::is_alphabetic)) {
                bail!("{name}: `{word}` is not a single word of letters");
            }
        }
        if let Some(action) =
            self.actions.iter().find(|action| !["THING", "ANIMAL", "PERSON"].iter().any(|n| action.ends_with(n)))
        {
            bail!("actions: `{action}` does not end in THING, ANIMAL or PERSON");
        }
        Ok(())
    }

    pub fn plural(&self, noun: &str) -> String {
        if let Some(plural) = self.plurals.get(noun) {
            return plural.clone();
        }
        let before_y = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
        match before_y {
            Some(stem) => format!("{stem}ies"),
            None if ["s", "x", "z", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
            None if noun.ends_with("to") => format!("{noun}es"), // tomato, potato
            None => format!("{noun}s"),
        }
    }
}

/// The words with `a` or `an` before them.
pub fn article(words: &str) -> String {
    let vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
    let not_spoken = ["uni", "use", "eu", "one"].iter().any(|sound| words.starts_with(sound));
    format!("{} {words}", if vowel && !not_spoken { "an" } else { "a" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_fit_to_use() {
        let words = Words::read(None).unwrap();
        words.check().unwrap();
        for list in [&words.things, &words.animals, &words.people, &words.color, &words.shape, &words.texture] {
            let mut distinct = list.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!(distinct.len(), list.len(), "a word twice in {list:?}");
        }
    }

    #[test]
    fn plurals_and_articles() {
        let words = Words::read(None).unwrap();
        let plurals = ["dog", "butterfly", "toy", "fox", "brush", "mouse", "sheep", "tomato", "watch"];
        let expected = ["dogs", "butterflies", "toys", "foxes", "brushes", "mice", "sheep", "tomatoes", "watches"];
        assert_eq!(plurals.map(|noun| words.plural(noun)), expected);
        assert_eq!(["apple", "unicorn", "red apple"].map(article), ["an apple", "a unicorn", "a red apple"]);
    }
}
