//! Several images in place of one, of which the best is kept.

use anyhow::Result;
use tch::Tensor;

/// Draws several images in place of one, and keeps the one with the least loss.
pub struct Best<'a> {
    /// Images drawn for each that is kept; 1 or more.
    pub of: usize,
    /// Of images `[B, 3, H, W]` (0..1, not clamped), each of its prompt.
    pub loss: &'a Loss<'a>,
}

pub type Loss<'a> = dyn Fn(&Tensor, &[&str]) -> Result<Vec<f64>> + 'a;

/// One of the images drawn for a job.
pub(super) struct Drawn {
    pub seed: u64,
    /// Where candidates are compared.
    pub loss: Option<f64>,
    /// `[C, h, w]`
    pub latents: Tensor,
    /// `[3, H, W]` in 0..1, not clamped
    pub image: Tensor,
}

impl Drawn {
    /// Whether it is to be kept rather than the other one; what is not a number loses.
    fn beats(&self, other: &Self) -> bool {
        self.loss.unwrap_or(f64::INFINITY).total_cmp(&other.loss.unwrap_or(f64::INFINITY)).is_lt()
    }

    /// Takes the place of a job's best so far, if it is better.
    pub fn challenge(self, best: &mut Option<Self>) {
        if best.as_ref().is_none_or(|best| self.beats(best)) {
            *best = Some(self);
        }
    }
}
