//! Prompts that are lists of tags, as used to train anime models: "1girl, red hair, blue_eyes". Each tag is a phrase of
//! its own, so words of one tag never belong to a noun of another; tags with the same noun describe the same object.

use crate::{Entity, Mode, Parser};
use std::ops::Range;

/// Tags, and last words of tags, that describe the image, its quality or an action, not an object.
const NO_THINGS: &[&str] = &[
    "absurdres",
    "background",
    "breasts",
    "closeup",
    "cowboy shot",
    "depth of field",
    "detail",
    "details",
    "explicit",
    "expression",
    "focus",
    "full body",
    "general",
    "grin",
    "highres",
    "illustration",
    "indoors",
    "laughing",
    "lighting",
    "looking at viewer",
    "lowres",
    "lying",
    "masterpiece",
    "monochrome",
    "newest",
    "night",
    "nsfw",
    "oldest",
    "open mouth",
    "outdoors",
    "photo",
    "portrait",
    "pose",
    "profile",
    "quality",
    "questionable",
    "realistic",
    "resolution",
    "running",
    "safe",
    "score",
    "sensitive",
    "shot",
    "sitting",
    "sketch",
    "smile",
    "smiling",
    "solo",
    "standing",
    "style",
    "text",
    "upper body",
    "view",
    "viewer",
    "walking",
    "wallpaper",
    "watermark",
];

/// The entities in the order of the tags; each noun once.
pub fn entities(parser: &Parser, text: &str) -> Vec<Entity> {
    let mut all: Vec<Entity> = vec![];
    for tag in tags(text) {
        // of the same length, so that byte positions stay valid
        let words = text[tag.clone()].replace(['_', '\\'], " ");
        for entity in of_tag(parser, &words) {
            let entity = moved(&entity, tag.start);
            let noun = |e: &Entity| e.noun(text).replace('_', " ");
            match all.iter_mut().find(|known| noun(known) == noun(&entity)) {
                Some(known) => known.attributes.extend(entity.attributes),
                None => all.push(entity),
            }
        }
    }
    all
}

/// The tags: the parts between commas, semicolons, bars and line ends, without the brackets and numbers of weights.
fn tags(text: &str) -> Vec<Range<usize>> {
    let mut found = vec![];
    let mut start = 0;
    for part in text.split_inclusive([',', ';', '\n', '|']) {
        let tag = part.trim_end_matches([',', ';', '\n', '|']);
        let is_outside = |c: char| c.is_whitespace() || "([{<>}])\"".contains(c);
        let inner = tag.trim_matches(is_outside);
        let inner = match inner.rsplit_once(':') {
            Some((name, weight)) if weight.trim().parse::<f64>().is_ok() => name.trim_end_matches(is_outside),
            _ => inner,
        };
        let from = start + (tag.len() - tag.trim_start_matches(is_outside).len());
        if !inner.is_empty() && !inner.contains(':') {
            found.push(from..from + inner.len());
        }
        start += part.len();
    }
    found
}

fn of_tag(parser: &Parser, tag: &str) -> Vec<Entity> {
    let lower = tag.to_lowercase();
    let last = lower.split_whitespace().next_back().unwrap_or_default().trim_matches(|c: char| !c.is_alphanumeric());
    if [lower.trim(), last].iter().any(|name| NO_THINGS.contains(name)) {
        return vec![];
    }
    if let Some(counted) = counted(tag) {
        return vec![Entity { head: counted, compounds: vec![], attributes: vec![] }];
    }
    let found = parser.entities(tag, Mode::Repaired);
    let words: Vec<Range<usize>> = words(tag);
    match (&found[..], &words[..]) {
        // the parser is made for sentences: it may take one of two words for a verb, but the second word is the object
        ([], [describing, thing]) => {
            vec![Entity { head: thing.clone(), compounds: vec![], attributes: vec![describing.clone()] }]
        }
        _ => found,
    }
}

/// The noun in `1girl`, `2boys`, `6+girls`.
fn counted(tag: &str) -> Option<Range<usize>> {
    let word = tag.trim_end();
    let noun = word.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('+');
    let is_noun = noun.len() < word.len() && !noun.is_empty() && noun.chars().all(char::is_alphabetic);
    is_noun.then(|| word.len() - noun.len()..word.len())
}

fn words(tag: &str) -> Vec<Range<usize>> {
    let mut at = 0;
    let mut found = vec![];
    for part in tag.split_inclusive(char::is_whitespace) {
        let word = part.trim_end();
        if word.chars().any(char::is_alphabetic) {
            found.push(at..at + word.len());
        }
        at += part.len();
    }
    found
}

fn moved(entity: &Entity, by: usize) -> Entity {
    let shift = |range: &Range<usize>| range.start + by..range.end + by;
    let all = |ranges: &[Range<usize>]| ranges.iter().map(shift).collect();
    Entity { head: shift(&entity.head), compounds: all(&entity.compounds), attributes: all(&entity.attributes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let parser = Parser::shipped().unwrap();
        let of = |e: &Entity| {
            let attributes: Vec<&str> = e.attributes.iter().map(|range| &text[range.clone()]).collect();
            format!("{}: {}", e.noun(text), attributes.join(" ")).trim_end_matches([' ', ':']).to_owned()
        };
        parser.entities(text, Mode::Tags).iter().map(of).collect()
    }

    #[test]
    fn tags_of_anime_models() {
        assert_eq!(found("1girl, red hair, blue eyes"), ["girl", "hair: red", "eyes: blue"]);
        assert_eq!(
            found("masterpiece, best quality, 2boys, black_shirt, white background, standing, solo"),
            ["boys", "shirt: black"]
        );
        assert_eq!(found("(red hair:1.2), [long hair], 6+girls, score_9, rating:safe"), ["hair: red long", "girls"]);
        assert_eq!(found("a red dog, green car"), ["dog: red", "car: green"]);
        assert_eq!(found(""), Vec::<String>::new());
        assert_eq!(
            found(", ,((,)),_,\\,::,1,é,日本"),
            found(", ,((,)),_,\\,::,1,é,日本"),
            "whatever it is, it is no panic"
        );
    }

    /// Unlike the rules for sentences: the hair does not belong to the eyes.
    #[test]
    fn nothing_crosses_a_comma() {
        let all = "1girl, blue, hat, red shoes";
        assert!(found(all).contains(&"shoes: red".to_owned()));
        assert!(found(all).iter().all(|entity| !entity.contains("blue")), "{:?}", found(all));
    }
}
