//! The part of a batch that this rank computes.

use std::ops::Range;

/// A batch, and which of its samples this rank computes: all of them, or a part. Losses are means over the whole batch,
/// so the ranks' losses and gradients add up to those of the batch.
pub struct Share<'a> {
    pub batch: Vec<&'a str>,
    pub mine: Range<usize>,
}

impl<'a> Share<'a> {
    pub fn whole(prompts: &[&'a str]) -> Self {
        Self { batch: prompts.to_vec(), mine: 0..prompts.len() }
    }

    /// The prompts of the samples that this rank computes.
    pub fn prompts(&self) -> &[&'a str] {
        &self.batch[self.mine.clone()]
    }
}
