//! Grounding DINO's boxes in the form that the scoring rules use.

use anyhow::Result;
use benchmarks::boxes::{BoundingBox, Detection};
use models::grounding_dino::Detector;
use tch::Tensor;

/// Boxes of the same label that overlap more than this (intersection over union) are one object: several queries of the
/// detector may find the same object.
const SAME: f64 = 0.8;

/// Detects in each image `[3, H, W]` (0..1) the names given for it. The boxes are in pixels of the image, sorted by
/// confidence, the highest first. A box that fits several names counts for each of them.
pub fn detect(detector: &Detector, images: &[Tensor], names: &[Vec<String>]) -> Result<Vec<Vec<Detection>>> {
    let found = detector.detect_each(images, names)?;
    let detections = found.into_iter().zip(names).map(|(found, names)| {
        let of = found.into_iter().filter_map(|found| {
            let [left, top, right, bottom] = found.box_;
            let bounds = BoundingBox::new(left, top, right, bottom);
            Some(Detection { label: names.get(found.noun)?.clone(), score: found.score, bounds })
        });
        distinct(of.collect())
    });
    Ok(detections.collect())
}

fn distinct(mut detections: Vec<Detection>) -> Vec<Detection> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = vec![];
    for detection in detections {
        let same = |other: &Detection| other.label == detection.label && other.bounds.iou(&detection.bounds) > SAME;
        if !kept.iter().any(same) {
            kept.push(detection);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_once() {
        let found = |label: &str, score: f64, left: f64| Detection {
            label: label.into(),
            score,
            bounds: BoundingBox::new(left, 0.0, left + 100.0, 100.0),
        };
        let kept = distinct(vec![
            found("dog", 0.5, 5.0),
            found("cat", 0.4, 5.0),
            found("dog", 0.6, 0.0),
            found("dog", 0.3, 50.0),
        ]);
        assert_eq!(kept, [found("dog", 0.6, 0.0), found("cat", 0.4, 5.0), found("dog", 0.3, 50.0)]);
    }
}
