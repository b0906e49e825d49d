//! Encoded prompts, as input of the denoising network.

use anyhow::Result;
use models::{lora::AdapterFile, network::Conditions, tokenizer::Encoding};
use tch::Tensor;

/// Encodes prompts for a family's network.
pub trait PromptEncoder {
    /// Conditions for a batch, with the unconditional half if there is guidance.
    ///
    /// `negative`: with `None` the model's own default for an empty prompt is used. `size`: height and width in pixels,
    /// for networks that are conditioned on it.
    ///
    /// # Errors
    /// Errors of opening the encoders; prompts that cannot be tokenised.
    fn guided(
        &mut self,
        prompts: &[&str],
        negative: Option<&str>,
        guided: bool,
        size: (i64, i64),
    ) -> Result<GuidedText>;

    /// The tokens of a prompt, at the positions that they have in the context and its attention maps.
    ///
    /// # Errors
    /// A text that cannot be tokenised.
    fn tokens(&self, prompt: &str) -> Result<Encoding>;

    /// Adds the adapters' updates of the encoders to their weights, in place of earlier adapters.
    ///
    /// # Errors
    /// A file belongs to another base model.
    fn adapt(&mut self, adapters: Vec<Adapter>) -> Result<()>;

    /// Unloads the encoders whenever they are not in use.
    fn offload(&mut self);
}

/// A LoRA file with its strength.
pub struct Adapter {
    pub file: AdapterFile,
    pub scale: f64,
}

/// Conditions of a batch: one row per sample; with guidance, the unconditional and conditional rows are stacked.
pub struct GuidedText {
    pub cond: Conditions,
    uncond: Option<Conditions>,
    /// Unconditional rows, then conditional ones.
    pub both: Option<Conditions>,
    /// How often the tokens of each conditional row are repeated, so that all contexts have the same length.
    repeats: Vec<i64>,
}

impl GuidedText {
    pub fn new(cond: Conditions, uncond: Option<Conditions>, repeats: Vec<i64>) -> Self {
        let both = uncond.as_ref().map(|uncond| Conditions::cat(&[uncond, &cond]));
        Self { cond, uncond, both, repeats }
    }

    /// `None` without guidance.
    pub fn uncond(&self) -> Option<&Conditions> {
        self.uncond.as_ref()
    }

    /// Attention maps `[B, heads, h·w, L]` of the conditional rows. The attention to all copies of a token is summed at
    /// its first position.
    pub fn fold(&self, maps: Tensor) -> Tensor {
        if self.repeats.iter().all(|times| *times == 1) {
            return maps;
        }
        let length = maps.size()[3];
        let row = |(i, times): (usize, &i64)| {
            let sum =
                maps.get(i as i64).unflatten(2, [*times, length / times]).sum_dim_intlist([2].as_slice(), false, None);
            sum.constant_pad_nd([0, length - length / times])
        };
        Tensor::stack(&self.repeats.iter().enumerate().map(row).collect::<Vec<_>>(), 0)
    }

    /// The rows of some samples.
    pub fn narrow(&self, start: i64, length: i64) -> Self {
        let repeats = self.repeats[start as usize..][..length as usize].to_vec();
        Self::new(self.cond.narrow(start, length), self.uncond.as_ref().map(|u| u.narrow(start, length)), repeats)
    }
}
