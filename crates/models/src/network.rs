//! A denoising network as samplers, replay and losses use it, for any architecture.

mod conditions;
mod projected;
mod recorder;

use crate::error::Result;
use tch::Tensor;

pub use conditions::{CONTEXT, Conditions};
pub use projected::Projected;
pub(crate) use recorder::Tap;
pub use recorder::{Layer, Place, Recorder};

pub trait Network {
    /// The model's output (noise or velocity) for noisy latents, in their precision; differentiable with respect to latents and
    /// trainable weights.
    ///
    /// `latents` `[B, C, h, w]`, `times` `[B]` in training steps (0 to 1000); a recorder gets the cross-attention maps, where
    /// the network has any → `[B, C, h, w]`
    ///
    /// # Errors
    /// If shapes do not fit.
    fn predict(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        recorder: Option<&Recorder>,
    ) -> Result<Tensor>;

    /// As [`Network::predict`], without gradients, for repeated passes with the same conditions. `projected` may cache
    /// what depends on the conditions alone; it belongs to these weights and conditions.
    ///
    /// # Errors
    /// The same as [`Network::predict`].
    fn predict_again(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        projected: &Projected,
    ) -> Result<Tensor> {
        let _ = projected;
        tch::no_grad(|| self.predict(latents, times, conditions, None))
    }
}
