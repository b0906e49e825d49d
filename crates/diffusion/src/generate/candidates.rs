//! Generates several candidates for each image and keeps the best.

use anyhow::Result;
use tch::Tensor;

/// Generates several candidates for each image and keeps the one with the smallest loss.
pub struct Best<'a> {
    /// Number of candidates for each image that is kept; 1 or more.
    pub of: usize,
    /// Losses of images `[B, 3, H, W]` (0..1, not clamped), each for its prompt.
    pub loss: &'a Loss<'a>,
    /// Identifies whose losses these are.
    pub of_captioner: &'a str,
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
    /// Whether it is better than the other one; a NaN of either sign always loses.
    fn beats(&self, other: &Self) -> bool {
        let of = |drawn: &Self| drawn.loss.filter(|loss| !loss.is_nan()).unwrap_or(f64::INFINITY);
        of(self) < of(other)
    }

    /// Replaces a job's best so far, if it is better.
    pub fn challenge(self, best: &mut Option<Self>) {
        if best.as_ref().is_none_or(|best| self.beats(best)) {
            *best = Some(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_loss_wins_and_no_nan_does() {
        let drawn = |seed, loss| Drawn { seed, loss: Some(loss), latents: Tensor::new(), image: Tensor::new() };
        let mut best = None;
        let losses = [f64::NAN, -f64::NAN, 2.0, -f64::NAN, 1.0, f64::NAN, 1.0];
        for (seed, loss) in losses.into_iter().enumerate() {
            drawn(seed as u64, loss).challenge(&mut best);
        }
        assert_eq!(best.unwrap().seed, 4);
    }
}
