//! A denoising network, as samplers, replay and losses see it: whatever its layers are.

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
    /// Shapes that do not fit.
    fn predict(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        recorder: Option<&Recorder>,
    ) -> Result<Tensor>;

    /// As [`Network::predict`], without gradients: one of many passes with the same conditions. What depends on them alone may be kept
    /// in `projected`, which is of these weights and conditions.
    ///
    /// # Errors
    /// As of [`Network::predict`].
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
