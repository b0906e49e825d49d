//! Generates several candidates for each image and keeps the best.

use anyhow::Result;
use tch::Tensor;

/// Generates several candidates for each image and keeps the one with the smallest loss.
pub struct Best<'a> {
    /// Number of candidates for each image that is kept; 1 or more.
    pub of: usize,
    /// Losses of images `[B, 3, H, W]` (0..1, not clamped), each for its prompt.
    pub loss: &'a Loss<'a>,
}

pub type Loss<'a> = dyn Fn(&Tensor, &[&str]) -> Result<Vec<f64>> + 'a;

/// One of the candidates of a job.
pub(super) struct Drawn {
    pub seed: u64,
    /// Its loss, if candidates are compared.
    pub loss: Option<f64>,
    /// `[C, h, w]`
    pub latents: Tensor,
    /// `[3, H, W]` in 0..1, not clamped
    pub image: Tensor,
}

impl Drawn {
    /// Whether it is better than the other one; a NaN always loses.
    fn beats(&self, other: &Self) -> bool {
        self.loss.unwrap_or(f64::INFINITY).total_cmp(&other.loss.unwrap_or(f64::INFINITY)).is_lt()
    }

    /// Replaces a job's best so far, if it is better.
    pub fn challenge(self, best: &mut Option<Self>) {
        if best.as_ref().is_none_or(|best| self.beats(best)) {
            *best = Some(self);
        }
    }
}
