//! The interface of a denoising network for samplers, replay and losses; independent of the architecture.

mod conditions;
mod projected;
mod recorder;

use crate::error::Result;
use tch::Tensor;

pub use conditions::{CONTEXT, Conditions};
pub use projected::Projected;
pub(crate) use recorder::Tap;
pub use recorder::{Layer, Place, Recorder};

/// A denoising network. Threads may use it at the same time, each with its own rows.
pub trait Network: Sync {
    /// The model's output (noise or velocity) for noisy latents, in their precision; differentiable with respect to
    /// latents and trainable weights.
    ///
    /// `latents`: `[B, C, h, w]`; `times`: `[B]` in training steps (0 to 1000). The recorder gets the cross-attention
    /// maps, if the network has any. Returns `[B, C, h, w]`.
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

    /// Like [`Network::predict`], without gradients, for repeated passes with the same conditions. `projected` may
    /// cache values that depend only on the conditions; use it with the same weights and conditions only.
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
