//! Checks the detected objects against the clauses of a prompt.

use super::{Colour, Metadata, Relation};
use crate::boxes::{BoundingBox, Detection};
use anyhow::{Result, bail};
use std::{cmp::Ordering, collections::BTreeMap};

/// Minimum confidence of the detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub present: f64,
    /// Minimum confidence in the task `counting`.
    pub counted: f64,
}

impl Thresholds {
    /// Thresholds of the original's detector, Mask2Former. Other detectors need other values.
    pub const PUBLISHED: Self = Self { present: 0.3, counted: 0.9 };
}

/// Maximum number of objects of a class; those with the highest confidence are kept.
const MOST_OBJECTS: usize = 16;
/// Share of the sum of the two boxes' widths, or heights, that does not count as a distance.
const SLACK: f64 = 0.1;

/// Classifies the colours of objects. The original uses CLIP ViT-L/14 on the box, with everything but the object
/// painted `#999`.
pub trait Colours {
    /// One colour for each object; all objects are of this class.
    ///
    /// # Errors
    /// Errors of the network.
    fn colours(&self, class: &str, objects: &[&Detection]) -> Result<Vec<Colour>>;
}

/// Whether an image is correct; if not, the reasons: a phrase for each clause that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub correct: bool,
    pub reasons: Vec<String>,
}

/// The texts that CLIP compares for a colour; the three embeddings are averaged.
pub fn colour_prompts(class: &str, colour: Colour) -> [String; 3] {
    let colour = colour.name();
    [
        format!("a photo of a {colour} {class}"),
        format!("a photo of a {colour}-colored {class}"),
        format!("a photo of a {colour} object"),
    ]
}

/// The objects above the threshold by class, those with the highest confidence first. `tag` is the task.
pub fn select<'a>(
    detections: &'a [Detection],
    tag: &str,
    thresholds: Thresholds,
) -> BTreeMap<&'a str, Vec<&'a Detection>> {
    let threshold = if tag == "counting" { thresholds.counted } else { thresholds.present };
    let mut objects: BTreeMap<&str, Vec<&Detection>> = BTreeMap::new();
    for detection in detections.iter().filter(|d| d.score > threshold) {
        objects.entry(&detection.label).or_default().push(detection);
    }
    for of_class in objects.values_mut() {
        of_class.sort_by(|a, b| b.score.total_cmp(&a.score));
        of_class.truncate(MOST_OBJECTS);
    }
    objects
}

/// Checks an image's detections against the clauses. Colour and position are checked on the objects with the highest
/// confidence, as many as the clause asks for: each of them must have the colour, and the position relative to each
/// object of the other clause.
///
/// # Errors
/// Errors of `colours`.
pub fn judge(
    metadata: &Metadata,
    detections: &[Detection],
    thresholds: Thresholds,
    colours: &dyn Colours,
) -> Result<Verdict> {
    let objects = select(detections, &metadata.tag, thresholds);
    let of_class = |class: &str| objects.get(class).map_or(&[][..], Vec::as_slice);
    let mut reasons = vec![];
    // the objects of each clause so far; `None` if the clause failed
    let mut groups: Vec<Option<&[&Detection]>> = vec![];
    for clause in &metadata.include {
        let (class, count) = (clause.class.as_str(), clause.count);
        let all = of_class(class);
        let Some(found) = all.get(..count) else {
            reasons.push(format!("{} of {count} {class}", all.len()));
            groups.push(None);
            continue;
        };
        let mut holds = true;
        if let Some(colour) = clause.color {
            let seen = colours.colours(class, found)?;
            if seen.len() != found.len() {
                bail!("{} colours of {} objects", seen.len(), found.len());
            }
            let right = seen.iter().filter(|c| **c == colour).count();
            if right < count {
                let seen: Vec<_> = seen.into_iter().map(Colour::name).collect();
                reasons.push(format!("{class}: {} instead of {}", seen.join(", "), colour.name()));
                holds = false;
            }
        }
        if holds && let Some((relation, target)) = clause.position {
            let targets = groups.get(target).copied().flatten();
            let lies = |targets: &[&Detection]| {
                let pairs = found.iter().flat_map(|object| targets.iter().map(move |target| (object, target)));
                pairs.into_iter().all(|(object, target)| relations(&object.bounds, &target.bounds).contains(&relation))
            };
            if !targets.is_some_and(lies) {
                let why = if targets.is_some() { "lies otherwise" } else { "has nothing to lie at" };
                reasons.push(format!("{class}: {why}, not {}", relation.name()));
                holds = false;
            }
        }
        groups.push(holds.then_some(found));
    }
    for clause in &metadata.exclude {
        let number = of_class(&clause.class).len();
        if number >= clause.count {
            reasons.push(format!("{number} {}, fewer than {} wanted", clause.class, clause.count));
        }
    }
    Ok(Verdict { correct: reasons.is_empty(), reasons })
}

/// Position of the first box relative to the second: none, one or two relations.
pub fn relations(first: &BoundingBox, second: &BoundingBox) -> Vec<Relation> {
    let ((xa, ya), (xb, yb)) = (first.centre(), second.centre());
    let (x, y) = (xa - xb, ya - yb);
    let width = |b: &BoundingBox| (b.right - b.left).abs();
    let height = |b: &BoundingBox| (b.bottom - b.top).abs();
    let beyond = |offset: f64, size: f64| (offset.abs() - SLACK * size).max(0.0).copysign(offset);
    let (dx, dy) = (beyond(x, width(first) + width(second)), beyond(y, height(first) + height(second)));
    if dx.abs() < 1e-3 && dy.abs() < 1e-3 {
        return vec![];
    }
    // divided by the full distance between the centres, without the slack taken off
    let distance = x.hypot(y);
    let along = |d: f64, before, behind| match (d / distance).partial_cmp(&0.0) {
        Some(Ordering::Less) if d / distance < -0.5 => Some(before),
        Some(Ordering::Greater) if d / distance > 0.5 => Some(behind),
        _ => None,
    };
    [along(dx, Relation::Left, Relation::Right), along(dy, Relation::Above, Relation::Below)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geneval::Clause;

    /// The colour is given by the last digit of the left edge.
    struct Edge;

    impl Colours for Edge {
        fn colours(&self, _: &str, objects: &[&Detection]) -> Result<Vec<Colour>> {
            Ok(objects.iter().map(|o| Colour::ALL[o.bounds.left as usize % 10]).collect())
        }
    }

    /// A box 20 pixels wide and high.
    fn at(x: f64, y: f64) -> BoundingBox {
        BoundingBox::new(x, y, x + 20.0, y + 20.0)
    }

    fn found(label: &str, score: f64, x: f64, y: f64) -> Detection {
        Detection { label: label.into(), score, bounds: at(x, y) }
    }

    fn clause(class: &str, count: usize) -> Clause {
        Clause { class: class.into(), count, color: None, position: None }
    }

    fn metadata(tag: &str, include: Vec<Clause>, exclude: Vec<Clause>) -> Metadata {
        Metadata { tag: tag.into(), include, exclude, prompt: String::new() }
    }

    fn reasons(metadata: &Metadata, detections: &[Detection]) -> Vec<String> {
        let verdict = judge(metadata, detections, Thresholds::PUBLISHED, &Edge).unwrap();
        assert_eq!(verdict.correct, verdict.reasons.is_empty());
        verdict.reasons
    }

    #[test]
    fn objects_that_count() {
        let pairs = [("dog", 0.3), ("dog", 0.31), ("cat", 0.95), ("dog", 0.9)];
        let detections = pairs.map(|(label, score)| found(label, score, 0.0, 0.0));
        let scores = |tag: &str, class: &str| -> Vec<f64> {
            select(&detections, tag, Thresholds::PUBLISHED)
                .get(class)
                .map(|all| all.iter().map(|d| d.score).collect())
                .unwrap_or_default()
        };
        assert_eq!(scores("colors", "dog"), [0.9, 0.31]); // exactly 0.3 is not enough; sorted by confidence
        assert_eq!(scores("counting", "dog"), [0.0; 0]); // nor exactly 0.9 in the task `counting`
        assert_eq!(scores("counting", "cat"), [0.95]);
        let many: Vec<Detection> = (0..20).map(|i| found("dog", 0.5, f64::from(i), 0.0)).collect();
        assert_eq!(select(&many, "", Thresholds::PUBLISHED)["dog"].len(), 16);
    }

    #[test]
    fn counts() {
        let two = metadata("counting", vec![clause("dog", 2)], vec![clause("dog", 3)]);
        let dogs = |n: usize, score| vec![found("dog", score, 0.0, 0.0); n];
        assert_eq!(reasons(&two, &dogs(2, 0.95)), [""; 0]);
        assert_eq!(reasons(&two, &dogs(1, 0.95)), ["1 of 2 dog"]);
        assert_eq!(reasons(&two, &dogs(3, 0.95)), ["3 dog, fewer than 3 wanted"]);
        assert_eq!(reasons(&two, &[dogs(2, 0.95), dogs(5, 0.8)].concat()), [""; 0]);
        // except in `counting`, more objects than asked for are fine
        let both = metadata("two_object", vec![clause("dog", 1), clause("cat", 1)], vec![]);
        assert_eq!(reasons(&both, &[dogs(3, 0.4), vec![found("cat", 0.4, 0.0, 0.0)]].concat()), [""; 0]);
        assert_eq!(reasons(&both, &dogs(1, 0.4)), ["0 of 1 cat"]);
    }

    #[test]
    fn colours_are_those_of_the_surest() {
        let red = |count| Clause { color: Some(Colour::Red), ..clause("dog", count) };
        let one = metadata("colors", vec![red(1)], vec![]);
        let (red_dog, blue_dog) = (found("dog", 0.8, 10.0, 0.0), found("dog", 0.6, 14.0, 0.0));
        assert_eq!(reasons(&one, &[blue_dog.clone(), red_dog.clone()]), [""; 0]);
        let surer = Detection { score: 0.9, ..blue_dog.clone() };
        assert_eq!(reasons(&one, &[surer, red_dog.clone()]), ["dog: blue instead of red"]);
        let two = metadata("colors", vec![red(2)], vec![]);
        assert_eq!(reasons(&two, &[blue_dog, red_dog]), ["dog: red, blue instead of red"]);
        assert_eq!(colour_prompts("dog", Colour::Red)[1], "a photo of a red-colored dog");
    }

    #[test]
    fn positions() {
        let left = |target| Clause { position: Some((Relation::Left, target)), ..clause("dog", 1) };
        let asked = metadata("position", vec![clause("cat", 1), left(0)], vec![]);
        let (dog, cat) = (found("dog", 0.8, 0.0, 0.0), found("cat", 0.8, 100.0, 0.0));
        assert_eq!(reasons(&asked, &[dog.clone(), cat.clone()]), [""; 0]);
        let behind = found("dog", 0.9, 200.0, 0.0);
        assert_eq!(reasons(&asked, &[dog.clone(), behind, cat.clone()]), ["dog: lies otherwise, not left of"]);
        assert_eq!(
            reasons(&asked, std::slice::from_ref(&dog)),
            ["0 of 1 cat", "dog: has nothing to lie at, not left of"]
        );
        // relative to each object of the other clause
        let two = metadata("position", vec![clause("cat", 2), left(0)], vec![]);
        assert_eq!(reasons(&two, &[dog.clone(), cat.clone(), found("cat", 0.7, 50.0, 0.0)]), [""; 0]);
        let other = found("cat", 0.7, -50.0, 0.0);
        assert_eq!(reasons(&two, &[dog, cat, other]), ["dog: lies otherwise, not left of"]);
    }

    #[test]
    fn how_boxes_lie() {
        use Relation::{Above, Below, Left, Right};
        let of = |x, y| relations(&at(x, y), &at(0.0, 0.0));
        // 0.1 * (20 + 20) = 4 pixels of the distance do not count
        assert_eq!(of(10.0, 0.0), [Right]); // 6 / 10
        assert_eq!(of(8.0, 0.0), []); // 4 / 8 is not more than a half
        assert_eq!(of(8.1, 0.0), [Right]);
        assert_eq!(of(4.0, 4.0), []);
        assert_eq!((of(-100.0, 10.0), of(3.0, 100.0), of(0.0, -9.0)), (vec![Left], vec![Below], vec![Above]));
        assert_eq!(of(100.0, -100.0), [Right, Above]); // 96 / 141.4 each
        assert_eq!(of(12.0, 12.0), []); // 8 / 17.0 each
        assert_eq!(of(0.0, 0.0), []);
        assert_eq!(of(f64::NAN, 0.0), []);
    }
}
