//! Detections of an object detector.

use serde::{Deserialize, Serialize};

/// Edges of a box in pixels, from the upper left corner of the image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// A detected object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    pub label: String,
    /// Confidence of the detector (0 to 1).
    pub score: f64,
    pub bounds: BoundingBox,
}

impl BoundingBox {
    pub fn new(left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self { left, top, right, bottom }
    }

    /// Centre (x, y).
    pub fn centre(&self) -> (f64, f64) {
        ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0)
    }

    /// Intersection over union of two boxes (0 to 1); 0 if the union is empty.
    pub fn iou(&self, other: &Self) -> f64 {
        let shared = self.shared(other, 0.0);
        quotient(shared, self.area(0.0) + other.area(0.0) - shared)
    }

    /// Area of the box with each side `extra` pixels longer.
    pub(crate) fn area(&self, extra: f64) -> f64 {
        (self.right - self.left + extra) * (self.bottom - self.top + extra)
    }

    /// Area of the intersection of two boxes, with each side `extra` pixels longer.
    pub(crate) fn shared(&self, other: &Self, extra: f64) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left) + extra;
        let height = self.bottom.min(other.bottom) - self.top.max(other.top) + extra;
        width.max(0.0) * height.max(0.0)
    }
}

/// `a / b`, or 0 if `b` is not positive.
pub(crate) fn quotient(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersection_over_union() {
        let a = BoundingBox::new(0.0, 0.0, 10.0, 10.0);
        let iou = |l, t, r, b| a.iou(&BoundingBox::new(l, t, r, b));
        assert_eq!(iou(5.0, 0.0, 15.0, 10.0), 50.0 / 150.0);
        assert_eq!(iou(2.0, 2.0, 4.0, 6.0), 8.0 / 100.0);
        assert_eq!((iou(10.0, 0.0, 20.0, 10.0), iou(0.0, 20.0, 10.0, 30.0)), (0.0, 0.0));
        let nothing = BoundingBox::new(3.0, 3.0, 3.0, 3.0);
        assert_eq!(nothing.iou(&nothing), 0.0);
        assert_eq!(a.centre(), (5.0, 5.0));
    }
}
