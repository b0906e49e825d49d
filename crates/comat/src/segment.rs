//! Where in an image a noun is.

use anyhow::Result;
use tch::Tensor;

/// Finds the pixels of nouns in images.
pub trait Segmenter {
    /// images `[B, 3, H, W]` in 0..1, and nouns for each of them → for each image a mask for every noun, bool
    /// `[nouns, H, W]`. A noun that is not found has an empty mask.
    fn segment(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Tensor>>;
}
