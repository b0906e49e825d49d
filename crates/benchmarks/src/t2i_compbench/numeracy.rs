//! Counts (T2I-CompBench, UniDet_eval/numeracy_eval.py).

use crate::{
    boxes::{BoundingBox, Detection, quotient},
    files,
};
use anyhow::Result;
use entities::Parser;
use std::path::Path;

/// Boxes of the same label that overlap more than this are one object.
const OVERLAP: f64 = 0.9;
const NUMBERS: [(&str, usize); 10] = [
    ("a", 1),
    ("an", 1),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
];

/// The nouns that are counted, singular and plural (`examples/dataset/new_objects.txt` of the benchmark).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nouns(Vec<(String, String)>);

/// An object that a prompt asks for, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub number: usize,
    /// The detector's name of the object, singular.
    pub object: String,
}

impl Nouns {
    /// Reads lines of the form `mouse - mice`.
    ///
    /// # Errors
    /// A file that cannot be read; a line in another format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let pair = |(i, line): (usize, &str)| {
            let (one, many) = line
                .split_once(" - ")
                .ok_or_else(|| files::at(path, i + 1, format!("`{line}` is not of the form `mouse - mice`")))?;
            Ok((one.trim().to_lowercase(), many.trim().to_lowercase()))
        };
        Ok(Self(files::not_empty(path, lines.map(pair).collect::<Result<_>>()?, "nouns")?))
    }

    /// The objects that a prompt asks for, in order: number words directly before a noun of one or two words. An
    /// article before a plural counts, too; the original cannot score such a prompt.
    pub fn wanted(&self, parser: &Parser, prompt: &str) -> Vec<Wanted> {
        let tokens = parser.parse(prompt);
        let text = |i: usize| tokens.get(i).map(|token| token.text.as_str());
        let of = |(i, token): (usize, &entities::Token)| {
            let (_, number) = *NUMBERS.iter().find(|(word, _)| *word == token.text)?;
            let two = text(i + 2).and_then(|second| self.singular(&format!("{} {second}", text(i + 1)?)));
            let noun = two.or_else(|| self.singular(text(i + 1)?))?;
            Some(Wanted { number, object: rename(noun).to_owned() })
        };
        tokens.iter().enumerate().filter_map(of).collect()
    }

    fn singular(&self, word: &str) -> Option<&str> {
        self.0.iter().find(|(one, many)| one == word || many == word).map(|(one, _)| one.as_str())
    }
}

/// The detector's name for a noun.
fn rename(noun: &str) -> &str {
    match noun {
        "boy" | "girl" | "man" | "woman" => "person",
        "ship" => "boat",
        "telivision" => "tv", // sic; `television` is not renamed
        "goldfish" => "fish",
        "painting" => "picture",
        other => other,
    }
}

/// The score of an image (0 to 1): every wanted object has the same share, half of it for being found, half for the
/// exact number. 0 if nothing is wanted; the original cannot score such a prompt. Detections count if their confidence
/// is above `threshold`.
pub fn score(wanted: &[Wanted], detections: &[Detection], threshold: f64) -> f64 {
    let mut labels = distinct(detections, threshold);
    let mut sum = 0.0;
    for Wanted { number, object } in wanted {
        // if no label equals the name, labels that contain it match; they are renamed to it from then on
        if !labels.contains(&object.as_str()) {
            labels.iter_mut().filter(|label| label.contains(object.as_str())).for_each(|label| *label = object);
        }
        let found = labels.iter().filter(|label| *label == object).count();
        sum += 0.5 * f64::from(found > 0) + 0.5 * f64::from(found > 0 && found == *number);
    }
    quotient(sum, wanted.len() as f64)
}

/// Labels of the detections, without boxes covered by a box of the same label and higher confidence.
fn distinct(detections: &[Detection], threshold: f64) -> Vec<&str> {
    let mut there: Vec<&Detection> = detections.iter().filter(|d| d.score > threshold).collect();
    there.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<&Detection> = vec![];
    for detection in there {
        if !kept.iter().any(|k| k.label == detection.label && covers(&k.bounds, &detection.bounds)) {
            kept.push(detection);
        }
    }
    kept.into_iter().map(|d| d.label.as_str()).collect()
}

/// Whether two boxes overlap too much. Edges count as pixels of the box: a box from 0 to 9 is 10 wide.
fn covers(a: &BoundingBox, b: &BoundingBox) -> bool {
    let (one, other, shared) = (a.area(1.0), b.area(1.0), a.shared(b, 1.0));
    [one + other - shared, one, other].into_iter().any(|area| quotient(shared, area) > OVERLAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::t2i_compbench::DETECTION_THRESHOLD;

    fn score(wanted: &[Wanted], detections: &[Detection]) -> f64 {
        super::score(wanted, detections, DETECTION_THRESHOLD)
    }

    fn nouns() -> Nouns {
        let pairs = [("fish", "fish"), ("mouse", "mice"), ("boy", "boys"), ("tea cup", "tea cups"), ("ship", "ships")];
        Nouns(pairs.map(|(one, many)| (one.into(), many.into())).to_vec())
    }

    fn wanted(pairs: &[(usize, &str)]) -> Vec<Wanted> {
        pairs.iter().map(|(number, object)| Wanted { number: *number, object: (*object).into() }).collect()
    }

    /// Detections of the same size, side by side.
    fn found(labels: &[&str]) -> Vec<Detection> {
        let at = |(i, label): (usize, &&str)| {
            let left = 100.0 * i as f64;
            Detection { label: (*label).into(), score: 0.9, bounds: BoundingBox::new(left, 0.0, left + 50.0, 50.0) }
        };
        labels.iter().enumerate().map(at).collect()
    }

    #[test]
    fn what_a_prompt_asks_for() {
        let parser = Parser::shipped().unwrap();
        let of = |prompt| nouns().wanted(&parser, prompt);
        assert_eq!(of("two mice and a fish"), wanted(&[(2, "mouse"), (1, "fish")]));
        assert_eq!(of("seven fish"), wanted(&[(7, "fish")]));
        assert_eq!(of("three boys, one ship and four tea cups"), wanted(&[(3, "person"), (1, "boat"), (4, "tea cup")]));
        assert_eq!(of("nine mice, three big boys and a"), []);
    }

    #[test]
    fn half_for_being_there_and_half_for_the_number() {
        let two = wanted(&[(2, "dog"), (1, "cat")]);
        assert_eq!(score(&two, &found(&["dog", "cat", "dog"])), 1.0);
        assert_eq!(score(&two, &found(&["dog", "cat"])), 0.75); // 0.25 + 0.5
        assert_eq!(score(&two, &found(&["dog", "dog", "dog"])), 0.25);
        assert_eq!(score(&two, &found(&["cow"])), 0.0);
        assert_eq!(score(&[], &found(&["cow"])), 0.0);
        let mut doubtful = found(&["dog"]);
        doubtful[0].score = 0.5;
        assert_eq!(score(&wanted(&[(1, "dog")]), &doubtful), 0.0);
    }

    #[test]
    fn labels_that_contain_the_name_stand_in() {
        assert_eq!(score(&wanted(&[(2, "bird")]), &found(&["wild bird", "bird cage"])), 1.0);
        // not if one label equals the name
        assert_eq!(score(&wanted(&[(2, "bird")]), &found(&["wild bird", "bird"])), 0.5);
        // a label that was used for one object cannot be used for another
        let both = wanted(&[(1, "bird"), (1, "wild bird")]);
        assert_eq!(score(&both, &found(&["wild bird"])), 0.5);
    }

    #[test]
    fn one_object_is_counted_once() {
        let one = |label: &str, right: f64, bottom: f64, score| Detection {
            label: label.into(),
            score,
            bounds: BoundingBox::new(0.0, 0.0, right, bottom),
        };
        let of = |second| score(&wanted(&[(1, "dog")]), &[one("dog", 99.0, 99.0, 0.9), second]);
        assert_eq!(of(one("dog", 90.0, 99.0, 0.8)), 1.0); // IoU 91 / 100
        assert_eq!(of(one("dog", 9.0, 9.0, 0.8)), 1.0); // entirely inside the first
        assert_eq!(of(one("dog", 199.0, 99.0, 0.95)), 1.0); // the first is entirely inside this one
        assert_eq!(of(one("cat", 99.0, 99.0, 0.8)), 1.0); // another label
        let beside = |left: f64| {
            let bounds = BoundingBox::new(left, 0.0, left + 99.0, 99.0);
            of(Detection { bounds, ..one("dog", 0.0, 0.0, 0.8) })
        };
        assert_eq!(beside(9.0), 1.0); // shares 91 of its 100 columns; IoU only 91 / 109
        assert_eq!(beside(10.0), 0.5); // 90 of 100 is not more than 0.9: two dogs
    }

    #[test]
    fn the_list_of_nouns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new_objects.txt");
        std::fs::write(&path, "fish - fish\n\nMouse - mice").unwrap();
        let read = Nouns::read(&path).unwrap();
        assert_eq!(
            (read.singular("mice"), read.singular("fish"), read.singular("dog")),
            (Some("mouse"), Some("fish"), None)
        );
        std::fs::write(&path, "fish - fish\nmouse").unwrap();
        assert!(Nouns::read(&path).unwrap_err().to_string().contains("new_objects.txt:2: `mouse` is not of the form"));
    }
}
