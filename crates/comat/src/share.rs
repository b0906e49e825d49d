//! What of a batch is computed here.

use std::ops::Range;

/// A batch, and which of its samples are computed here: all of them, or those of a rank. Losses are means over the whole batch,
/// so the ranks' losses and gradients add up to those of the batch.
pub struct Share<'a> {
    pub batch: Vec<&'a str>,
    pub(crate) mine: Range<usize>,
}

impl<'a> Share<'a> {
    pub fn whole(prompts: &[&'a str]) -> Self {
        Self { batch: prompts.to_vec(), mine: 0..prompts.len() }
    }

    /// The prompts of what is computed here.
    pub fn prompts(&self) -> &[&'a str] {
        &self.batch[self.mine.clone()]
    }
}
