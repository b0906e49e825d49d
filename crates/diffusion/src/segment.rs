//! Finds the pixels of nouns in images: a detector finds the boxes, a segmenter the objects in them.

use anyhow::{Context, Result};
use models::{grounding_dino::Detector, sam};
use std::path::Path;
use tch::{Device, Kind, Tensor};

pub use models::grounding_dino::Detection;

/// Finds the pixels of nouns in images.
pub trait Segmenter {
    /// Images `[B, 3, H, W]` in 0..1; one list of nouns per image → per image a bool mask `[nouns, H, W]`; the mask of
    /// a noun that was not found is all false.
    fn segment(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Tensor>>;
}

/// Boxes by Grounding DINO, and in each of them the object that SAM finds (Ren et al. 2024, "Grounded SAM").
pub struct Grounded {
    pub detector: Detector,
    pub segmenter: sam::Segmenter,
}

/// What was found in one image.
pub struct Found {
    /// All boxes, each with its noun.
    pub detections: Vec<Detection>,
    /// The mask of each noun, the union over its boxes: `[nouns, H, W]`, bool.
    pub masks: Tensor,
}

impl Grounded {
    pub fn open(detector: &Path, segmenter: &Path, kind: Kind, device: Device) -> Result<Self> {
        Ok(Self {
            detector: Detector::open(detector, kind, device).context("detector")?,
            segmenter: sam::Segmenter::open(segmenter, kind, device).context("segmenter")?,
        })
    }

    /// Like [`Segmenter::segment`], with the boxes. Each network runs once per image for all nouns; the segmenter skips
    /// images in which nothing was found.
    pub fn find(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Found>> {
        let detections = self.detector.detect(images, nouns)?;
        let boxes: Vec<Vec<[f64; 4]>> =
            detections.iter().map(|of_image| of_image.iter().map(|d| d.box_).collect()).collect();
        let masks = self.segmenter.masks(images, &boxes)?;
        let unite = |((detections, masks), nouns): ((Vec<Detection>, Tensor), &Vec<String>)| {
            let owners: Vec<usize> = detections.iter().map(|d| d.noun).collect();
            Found { masks: united(&masks, &owners, nouns.len()), detections }
        };
        Ok(detections.into_iter().zip(masks).zip(nouns).map(unite).collect())
    }
}

impl Segmenter for Grounded {
    fn segment(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Tensor>> {
        Ok(self.find(images, nouns)?.into_iter().map(|found| found.masks).collect())
    }
}

/// Masks `[boxes, H, W]` and the noun of every box → `[nouns, H, W]`, true where any of the noun's masks is.
fn united(masks: &Tensor, owners: &[usize], nouns: usize) -> Tensor {
    let size = masks.size();
    let united = Tensor::zeros([nouns as i64, size[1], size[2]], (Kind::Bool, masks.device()));
    for (mask, &noun) in (0..).zip(owners) {
        let _ = united.get(noun as i64).logical_or_(&masks.get(mask));
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::testing::device;

    #[test]
    fn masks_of_one_noun_are_united() {
        let masks = Tensor::from_slice(&[true, false, false, false, false, true, false, true, true]).view([3, 1, 3]);
        let expected = [[true, false, true], [false; 3], [false, true, true]].concat();
        assert_eq!(united(&masks, &[0, 0, 2], 3), Tensor::from_slice(&expected).view([3, 1, 3]));
        assert_eq!(united(&masks.narrow(0, 0, 0), &[], 2), Tensor::from_slice(&[false; 6]).view([2, 1, 3]));
        assert_eq!(united(&masks.narrow(0, 0, 0), &[], 0).size(), [0, 1, 3]);
    }

    /// A batch of two images, one of them without nouns or with unknown ones, gives the same as each image alone.
    #[test]
    fn images_do_not_know_of_each_other() {
        let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name);
        let open = || Grounded::open(&fixture("grounding_dino"), &fixture("sam"), Kind::Double, device());
        let mut grounded = open().unwrap();
        grounded.detector.box_threshold = 0.1;
        let images = Tensor::arange(2 * 3 * 30 * 40, (Kind::Double, device())).view([2, 3, 30, 40]).sin().square();
        let nouns = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut boxes = 0;
        for lists in [["dog", ""], ["house dog", "tree dog"], ["", ""], ["zzz", "cat cat"]].map(|l| l.map(nouns)) {
            let found = grounded.find(&images, &lists).unwrap();
            let masks = grounded.segment(&images, &lists).unwrap();
            for (i, list) in lists.iter().enumerate() {
                let image = images.narrow(0, i as i64, 1);
                assert_eq!(masks[i].size(), [list.len() as i64, 30, 40]);
                assert_eq!(masks[i], found[i].masks);
                assert_eq!(masks[i], grounded.segment(&image, std::slice::from_ref(list)).unwrap()[0]);
                for (noun, mask) in masks[i].unbind(0).into_iter().enumerate() {
                    let of_noun = found[i].detections.iter().filter(|d| d.noun == noun).map(|d| d.box_).collect();
                    let alone = grounded.segmenter.masks(&image, &[of_noun]).unwrap().remove(0);
                    assert_eq!(mask, alone.any_dim(0, false));
                }
                boxes += found[i].detections.len();
            }
        }
        assert!(boxes > 0);
        assert!(grounded.find(&images, &[vec![]]).is_err());
    }
}
