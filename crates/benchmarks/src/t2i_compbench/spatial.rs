//! Positions left, right, above, below and beside, from boxes (T2I-CompBench, UniDet_eval/2D_spatial_eval.py).

use super::surest;
use crate::boxes::{BoundingBox, Detection};

/// Boxes that overlap more than this (IoU) get a lower score.
const IOU: f64 = 0.1;
/// Distance that still counts as near, in pixels of the resized image.
const NEAR: f64 = 150.0;
/// Size of the resized image: shorter side, and maximum of the longer side.
const FRAME: (f64, f64) = (479.0, 480.0);
/// Scores below this become 0.
const CUT: f64 = 0.5;

/// The position that a prompt states for two objects: the first of these that it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    OnSideOf,
    NextTo,
    Near,
    Left,
    Right,
    Bottom,
    Top,
    /// "on top of": the original reads it but has no rule for it, so the position is never right.
    OnTopOf,
}

impl Locality {
    const WORDS: [(&str, Self); 8] = [
        ("on side of", Self::OnSideOf),
        ("next to", Self::NextTo),
        ("near", Self::Near),
        ("on the left of", Self::Left),
        ("on the right of", Self::Right),
        ("on the bottom of", Self::Bottom),
        ("on the top of", Self::Top),
        ("on top of", Self::OnTopOf),
    ];

    pub fn of(prompt: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(words, _)| prompt.contains(words)).map(|(_, locality)| *locality)
    }
}

/// Distance, in pixels of an image, up to which two objects are near each other. The original resizes images to 479
/// pixels and uses 150 of those; boxes in the image's own pixels need this value scaled by the size of the image.
pub fn near(width: f64, height: f64) -> f64 {
    let (short, long) = (width.min(height), width.max(height));
    NEAR / (FRAME.0 / short).min(FRAME.1 / long)
}

/// Score of the stated position of the first box relative to the second, 0 to 1. `near` is in pixels of the boxes.
pub fn position(locality: Locality, first: &BoundingBox, second: &BoundingBox, near: f64) -> f64 {
    let ((x1, y1), (x2, y2)) = (first.centre(), second.centre());
    let (dx, dy) = (x2 - x1, y2 - y1);
    let (across, down) = (dx.abs(), dy.abs());
    let lies = match locality {
        Locality::OnSideOf | Locality::NextTo | Locality::Near => {
            return if across < near || down < near { 1.0 } else { near / across.max(down) };
        }
        Locality::Left => dx > 0.0 && across > down,
        Locality::Right => dx < 0.0 && across > down,
        Locality::Top => dy > 0.0 && down > across,
        Locality::Bottom => dy < 0.0 && down > across,
        Locality::OnTopOf => false,
    };
    let iou = first.iou(second);
    match lies {
        false => 0.0,
        true if iou < IOU => 1.0,
        true => IOU / iou,
    }
}

/// The score of an image (0 to 1): a quarter of the confidence of each object, and half for their position. A total
/// below one half becomes 0, so that objects without the position, or the position of uncertain objects, do not count.
/// `objects` are the two names (`nouns`); detections count if their confidence is above `threshold`; `near` is in
/// pixels of the boxes.
pub fn score(
    objects: Option<&[String; 2]>,
    locality: Option<Locality>,
    detections: &[Detection],
    threshold: f64,
    near: f64,
) -> f64 {
    let Some([first, second]) = objects else { return 0.0 };
    let [first, second] = [first, second].map(|name| surest(detections, threshold, |label| label == name));
    let sure: f64 = [first, second].into_iter().flatten().map(|d| 0.25 * d.score).sum();
    let position = match (first, second, locality) {
        (Some(first), Some(second), Some(locality)) => position(locality, &first.bounds, &second.bounds, near),
        _ => 0.0,
    };
    let score = sure + position / 2.0;
    if score < CUT { 0.0 } else { score }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::t2i_compbench::DETECTION_THRESHOLD;

    fn square(x: f64, y: f64) -> BoundingBox {
        BoundingBox::new(x, y, x + 100.0, y + 100.0)
    }

    fn found(label: &str, score: f64, x: f64, y: f64) -> Detection {
        Detection { label: label.into(), score, bounds: square(x, y) }
    }

    #[test]
    fn the_first_words_that_the_prompt_contains() {
        assert_eq!(Locality::of("a bird on side of an airplane"), Some(Locality::OnSideOf));
        assert_eq!(Locality::of("a cat on the top of a sofa"), Some(Locality::Top));
        assert_eq!(Locality::of("The mug is on top of the tray."), Some(Locality::OnTopOf));
        assert_eq!(Locality::of("a cat on the left of a sofa near a dog"), Some(Locality::Near)); // the list's order
        assert_eq!(Locality::of("a cat on a sofa"), None);
    }

    #[test]
    fn near_grows_with_the_image() {
        assert_eq!(near(479.0, 479.0), 150.0);
        assert_eq!(near(958.0, 958.0), 300.0);
        assert_eq!(near(960.0, 480.0), 300.0); // the longer side decides: 480 / 960
        assert!((near(512.0, 512.0) / 512.0 - 150.0 / 479.0).abs() < 1e-12);
    }

    #[test]
    fn beside() {
        for locality in [Locality::OnSideOf, Locality::NextTo, Locality::Near] {
            let of = |x, y| position(locality, &square(0.0, 0.0), &square(x, y), 150.0);
            assert_eq!(of(149.0, 300.0), 1.0); // near in one direction is enough
            assert_eq!(of(-300.0, 149.0), 1.0);
            assert_eq!(of(150.0, 150.0), 1.0); // 150 / 150
            assert_eq!(of(300.0, -200.0), 0.5); // 150 / 300
        }
    }

    #[test]
    fn left_right_top_bottom() {
        let of = |locality, x, y| position(locality, &square(0.0, 0.0), &square(x, y), 150.0);
        let all = [Locality::Left, Locality::Right, Locality::Top, Locality::Bottom];
        // position of the second box relative to the first
        for (x, y, right) in [(200.0, 0.0, 0), (-200.0, 50.0, 1), (0.0, 200.0, 2), (-50.0, -200.0, 3)] {
            for (i, locality) in all.into_iter().enumerate() {
                assert_eq!(of(locality, x, y), f64::from(i == right), "{locality:?} {x} {y}");
            }
        }
        // on the diagonal, no relation holds
        assert!(all.into_iter().all(|locality| of(locality, 200.0, 200.0) == 0.0));
        assert_eq!(of(Locality::OnTopOf, 0.0, 200.0), 0.0);
    }

    #[test]
    fn boxes_that_overlap_count_less() {
        let of = |x| position(Locality::Left, &square(0.0, 0.0), &square(x, 0.0), 150.0);
        assert!((of(50.0) - 0.3).abs() < 1e-12); // IoU 50 / 150 = 1/3; 0.1 / (1/3)
        assert!((of(80.0) - 0.9).abs() < 1e-12); // 20 / 180 = 1/9; 0.1 * 9
        assert_eq!(of(82.0), 1.0); // 18 / 182 < 0.1
    }

    #[test]
    fn half_for_the_objects_and_half_for_the_position() {
        let names = ["dog".to_owned(), "cat".to_owned()];
        let of = |detections: &[Detection]| {
            score(Some(&names), Some(Locality::Left), detections, DETECTION_THRESHOLD, 150.0)
        };
        let (dog, cat) = (found("dog", 0.8, 0.0, 0.0), found("cat", 0.6, 200.0, 0.0));
        assert!((of(&[dog.clone(), cat.clone()]) - 0.85).abs() < 1e-12); // 0.2 + 0.15 + 0.5
        // found, but in the wrong position: 0.35 is below the limit
        assert_eq!(of(&[dog.clone(), found("cat", 0.6, -200.0, 0.0)]), 0.0);
        assert_eq!(of(&[found("dog", 1.0, 0.0, 0.0), found("cat", 1.0, -200.0, 0.0)]), 0.5); // exactly at the limit
        assert_eq!(of(std::slice::from_ref(&dog)), 0.0);
        assert_eq!(of(&[]), 0.0);
        // the highest confidence of a name counts, in any order; labels must be equal; 0.5 and less does not count
        let better = found("dog", 0.9, 300.0, 0.0);
        assert_eq!(of(&[dog.clone(), cat.clone(), better]), 0.0);
        assert_eq!(of(&[dog.clone(), found("wild cat", 0.9, 200.0, 0.0)]), 0.0);
        assert_eq!(of(&[dog.clone(), found("cat", 0.5, 200.0, 0.0)]), 0.0);
        // without names or a position there is nothing to find
        assert_eq!(score(None, Some(Locality::Left), &[dog.clone(), cat.clone()], DETECTION_THRESHOLD, 150.0), 0.0);
        assert_eq!(score(Some(&names), None, &[dog, cat], DETECTION_THRESHOLD, 150.0), 0.0);
    }
}
