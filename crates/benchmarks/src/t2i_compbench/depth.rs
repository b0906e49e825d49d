//! Positions in front, behind and hidden, from boxes and a depth map (T2I-CompBench, the metric of `3d_spatial`;
//! written from a description of its rule).

use super::surest;
use crate::boxes::{BoundingBox, Detection};
use anyhow::{Result, bail};

/// Boxes that overlap more than this (IoU) get the full score for their order; a smaller overlap counts in proportion.
const IOU: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    InFront,
    /// "behind" and "hidden by"
    Behind,
}

impl Order {
    pub fn of(prompt: &str) -> Option<Self> {
        match prompt {
            p if p.contains("in front of") => Some(Self::InFront),
            p if p.contains("behind") || p.contains("hidden") => Some(Self::Behind),
            _ => None,
        }
    }
}

/// How a box is cut out of the depth map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Axes {
    #[default]
    Straight,
    /// Rows and columns swapped, as the original does by mistake; for comparison with published values.
    Transposed,
}

/// Depth of each pixel; larger is nearer.
#[derive(Debug, Clone, PartialEq)]
pub struct DepthMap {
    width: usize,
    /// Values row by row, 0 to 1.
    values: Vec<f32>,
}

impl DepthMap {
    /// Rescales the values so that the farthest pixel is 0 and the nearest is 1. `values` are row by row, for the same
    /// pixels that boxes are given in.
    ///
    /// # Errors
    /// A number of values that does not fit the width.
    pub fn new(width: usize, values: &[f32]) -> Result<Self> {
        if width == 0 || values.is_empty() || !values.len().is_multiple_of(width) {
            bail!("{} values make no depth map of width {width}", values.len());
        }
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let span = if high > low { high - low } else { 1.0 };
        Ok(Self { width, values: values.iter().map(|v| (v - low) / span).collect() })
    }

    /// The mean within a box, whose edges are truncated to whole pixels; `None` if the box has no pixel.
    pub fn mean(&self, bounds: &BoundingBox, axes: Axes) -> Option<f64> {
        let pixels = |from: f64, to: f64, size: usize| {
            let from = (from.max(0.0) as usize).min(size);
            from..(to.max(0.0) as usize).clamp(from, size)
        };
        let (across, down) = ((bounds.left, bounds.right), (bounds.top, bounds.bottom));
        let (across, down) = if axes == Axes::Straight { (across, down) } else { (down, across) };
        let columns = pixels(across.0, across.1, self.width);
        let rows = pixels(down.0, down.1, self.values.len() / self.width);
        let number = (rows.len() * columns.len()) as f64;
        let sum: f64 =
            rows.flat_map(|row| &self.values[row * self.width..][columns.clone()]).map(|v| f64::from(*v)).sum();
        (number > 0.0).then(|| sum / number)
    }
}

/// The score of an image (0 to 1): a quarter of the confidence of each object, and half for their order. `objects` are
/// the two names (`nouns::simple`); a label matches a name that it contains. Unlike in `spatial`, small scores are
/// kept.
pub fn score(
    objects: Option<&[String; 2]>,
    order: Option<Order>,
    detections: &[Detection],
    threshold: f64,
    depth: &DepthMap,
    axes: Axes,
) -> f64 {
    let Some([first, second]) = objects else { return 0.0 };
    let [first, second] =
        [first, second].map(|name| surest(detections, threshold, |label| label.contains(name.as_str())));
    let sure: f64 = [first, second].into_iter().flatten().map(|d| 0.25 * d.score).sum();
    let placed = match (first, second, order) {
        (Some(first), Some(second), Some(order)) => placed(order, &first.bounds, &second.bounds, depth, axes),
        _ => 0.0,
    };
    sure + placed / 2.0
}

fn placed(order: Order, first: &BoundingBox, second: &BoundingBox, depth: &DepthMap, axes: Axes) -> f64 {
    let (Some(one), Some(other)) = (depth.mean(first, axes), depth.mean(second, axes)) else { return 0.0 };
    let holds = match order {
        Order::InFront => one > other,
        Order::Behind => one < other,
    };
    match first.iou(second) {
        iou if holds && iou > IOU => 1.0,
        iou if holds && iou < IOU => iou / IOU,
        _ => 0.0, // also for exactly one half, as in the original
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::t2i_compbench::DETECTION_THRESHOLD;

    /// 8 x 4 pixels; the left half is near.
    fn map() -> DepthMap {
        let row = [9.0, 9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0];
        DepthMap::new(8, &[row; 4].concat()).unwrap()
    }

    fn found(label: &str, score: f64, left: f64, right: f64) -> Detection {
        Detection { label: label.into(), score, bounds: BoundingBox::new(left, 0.0, right, 4.0) }
    }

    #[test]
    fn words() {
        assert_eq!(Order::of("a dog in front of a desk"), Some(Order::InFront));
        assert_eq!(Order::of("a cat behind a boy"), Some(Order::Behind));
        assert_eq!(Order::of("a chair hidden by a mouse"), Some(Order::Behind));
        assert_eq!(Order::of("a chair"), None);
    }

    #[test]
    fn means_of_boxes() {
        let mean = |l, t, r, b, axes| map().mean(&BoundingBox::new(l, t, r, b), axes);
        assert_eq!(mean(0.0, 0.0, 4.0, 4.0, Axes::Straight), Some(1.0));
        assert_eq!(mean(3.9, 0.0, 5.9, 1.0, Axes::Straight), Some(0.5)); // columns 3 and 4
        assert_eq!(mean(-5.0, 0.0, 100.0, 100.0, Axes::Straight), Some(0.5));
        assert_eq!(mean(4.0, 0.0, 8.0, 4.0, Axes::Straight), Some(0.0));
        assert_eq!(mean(0.0, 3.0, 1.0, 5.0, Axes::Transposed), Some(0.5)); // columns 3 and 4 of row 0
        assert_eq!(mean(4.0, 0.0, 8.0, 4.0, Axes::Transposed), None); // these rows do not exist
        assert_eq!(mean(2.0, 2.0, 2.5, 2.5, Axes::Straight), None);
        assert_eq!(mean(3.0, 0.0, 1.0, 4.0, Axes::Straight), None); // edges in the wrong order
        assert_eq!(mean(f64::NAN, 0.0, f64::INFINITY, 4.0, Axes::Straight), Some(0.5));
        assert_eq!(DepthMap::new(2, &[3.0, 3.0]).unwrap().values, [0.0, 0.0]);
        assert!(DepthMap::new(3, &[1.0, 2.0]).unwrap_err().to_string().contains("2 values"));
        assert!(DepthMap::new(0, &[1.0]).is_err() && DepthMap::new(1, &[]).is_err());
    }

    #[test]
    fn the_nearer_of_two_that_overlap() {
        let names = ["dog".to_owned(), "cat".to_owned()];
        let of = |order, dog: (f64, f64), cat: (f64, f64)| {
            let found = [found("dog", 0.8, dog.0, dog.1), found("wild cat", 0.6, cat.0, cat.1)];
            score(Some(&names), Some(order), &found, DETECTION_THRESHOLD, &map(), Axes::Straight)
        };
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        // the dog 0..5 (mean 0.8), the cat 1..6 (0.6): IoU 4 / 6 > 0.5
        near(of(Order::InFront, (0.0, 5.0), (1.0, 6.0)), 0.2 + 0.15 + 0.5);
        near(of(Order::Behind, (0.0, 5.0), (1.0, 6.0)), 0.35);
        near(of(Order::Behind, (1.0, 6.0), (0.0, 5.0)), 0.85);
        // 0..4 and 3..7: IoU 1 / 7; (1/7) / 0.5 = 2/7, half of it
        near(of(Order::InFront, (0.0, 4.0), (3.0, 7.0)), 0.35 + 1.0 / 7.0);
        // 0..3 and 1..4: IoU exactly one half, and equally near: 0 either way
        near(of(Order::InFront, (0.0, 3.0), (1.0, 4.0)), 0.35);
        near(of(Order::InFront, (2.0, 5.0), (3.0, 6.0)), 0.35); // one half, and nearer
        near(of(Order::InFront, (0.0, 3.0), (5.0, 8.0)), 0.35); // no overlap
        // one object alone
        near(
            score(
                Some(&names),
                Some(Order::Behind),
                &[found("dog", 0.8, 0.0, 4.0)],
                DETECTION_THRESHOLD,
                &map(),
                Axes::Straight,
            ),
            0.2,
        );
        assert_eq!(score(None, Some(Order::Behind), &[], DETECTION_THRESHOLD, &map(), Axes::Straight), 0.0);
    }
}
