//! Finds in the text the entities that a prompt file names.

use crate::{Entity, Error};
use std::ops::Range;

/// Finds each noun and its attributes in the text, as whole words, in any case.
///
/// If a noun is named twice, the second one is searched for after the first. If an attribute occurs several times, the
/// nearest one before its noun counts, else the nearest one after it.
///
/// # Errors
/// A noun or an attribute that is not in the text.
pub fn explicit(text: &str, entities: &[(&str, Vec<&str>)]) -> Result<Vec<Entity>, Error> {
    let missing = |word: &str| Error::Missing { word: word.to_owned(), text: text.to_owned() };
    let mut found: Vec<Entity> = vec![];
    for (noun, attributes) in entities {
        let places = places(text, noun);
        let is_taken = |place: &Range<usize>| found.iter().any(|e| e.whole() == *place);
        let place = places.iter().find(|p| !is_taken(p)).or(places.last()).cloned().ok_or_else(|| missing(noun))?;
        let attribute = |word: &&str| {
            let places = self::places(text, word);
            let before = places.iter().rfind(|p| p.end <= place.start);
            before.or(places.iter().find(|p| p.start >= place.end)).cloned().ok_or_else(|| missing(word))
        };
        let attributes = attributes.iter().map(attribute).collect::<Result<_, _>>()?;
        // the words before the last word of a compound
        let head = text[place.clone()].rfind(char::is_whitespace).map_or(place.start, |at| place.start + at + 1);
        let compounds = words(text, place.start..head);
        found.push(Entity { head: head..place.end, compounds, attributes });
    }
    Ok(found)
}

/// Places where a text has a word or phrase, not inside other words.
fn places(text: &str, phrase: &str) -> Vec<Range<usize>> {
    let phrase: Vec<char> = phrase.trim().chars().flat_map(char::to_lowercase).collect();
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut places = vec![];
    for (start, _) in text.char_indices() {
        if phrase.is_empty() || is_word(text[..start].chars().next_back()) {
            continue;
        }
        // character by character, because a character may have more bytes in the other case
        let mut rest = text[start..].char_indices();
        let mut left = phrase.as_slice();
        let mut end = start;
        while let (false, Some((at, c))) = (left.is_empty(), rest.next()) {
            let lower: Vec<char> = c.to_lowercase().collect();
            match left.strip_prefix(lower.as_slice()) {
                Some(after) => (left, end) = (after, start + at + c.len_utf8()),
                None => break,
            }
        }
        if left.is_empty() && !is_word(text[end..].chars().next()) {
            places.push(start..end);
        }
    }
    places
}

fn words(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let base = range.start;
    let mut words: Vec<Range<usize>> = vec![];
    let mut start = None;
    for (i, c) in text[range.clone()].char_indices().chain([(range.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(i),
            (true, Some(from)) => {
                words.push(base + from..base + i);
                start = None;
            }
            _ => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(text: &str, entities: &[(&str, Vec<&str>)]) -> Vec<(String, Vec<usize>)> {
        let found = explicit(text, entities).unwrap();
        found.iter().map(|e| (e.noun(text), e.attributes.iter().map(|a| a.start).collect())).collect()
    }

    #[test]
    fn each_noun_takes_the_attribute_before_it() {
        let text = "a red dog and a red cat, both Red";
        assert_eq!(
            words_of(text, &[("dog", vec!["red"]), ("cat", vec!["red"])]),
            [("dog".into(), vec![2]), ("cat".into(), vec![16])]
        );
        assert_eq!(words_of("a car that is RED", &[("Car", vec!["red"])]), [("car".into(), vec![14])]);
    }

    #[test]
    fn the_same_noun_twice_is_two_places() {
        let found = explicit("a red dog and a blue dog", &[("dog", vec!["red"]), ("dog", vec!["blue"])]).unwrap();
        assert_eq!((found[0].head.clone(), found[1].head.clone()), (6..9, 21..24));
    }

    #[test]
    fn whole_words_of_any_alphabet() {
        assert!(explicit("a caterpillar", &[("cat", vec![])]).is_err());
        assert_eq!(words_of("ein GRÜNES haus", &[("Haus", vec!["grünes"])]), [("haus".into(), vec![4])]);
        let found = explicit("an old fire extinguisher", &[("fire extinguisher", vec!["old"])]).unwrap();
        assert_eq!((found[0].compounds.len(), found[0].whole(), found[0].head.clone()), (1, 7..24, 12..24));
        assert!(explicit("x", &[("", vec![])]).is_err());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = explicit("a red dog", &[("dog", vec!["blue"])]).unwrap_err().to_string();
        assert!(error.contains("blue") && error.contains("a red dog"), "{error}");
    }
}
