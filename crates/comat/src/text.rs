//! Prompts as the UNet takes them. Every prompt is encoded once.

use anyhow::{Context, Result, bail};
use models::{
    clip::TextEncoder,
    tokenizer::ClipTokenizer,
    unet::{Added, Text},
};
use std::{collections::HashMap, path::Path};
use tch::{Device, Kind, Tensor};

/// The text encoder of SD1 and SD2, or SDXL's two.
pub struct TextEncoders {
    parts: Vec<(ClipTokenizer, TextEncoder)>,
    /// SDXL was trained with zeros in place of an absent negative prompt.
    zeros_for_no_prompt: bool,
    kind: Kind,
    device: Device,
    cache: HashMap<String, Text>,
}

impl TextEncoders {
    /// `folders`: the names of tokenizer and encoder folders in the model's.
    pub fn open(
        model: &Path,
        folders: &[(&str, &str)],
        zeros_for_no_prompt: bool,
        variant: Option<&str>,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let open = |(tokenizer, encoder): &(&str, &str)| {
            let (tokenizer, encoder) = (
                ClipTokenizer::open(&model.join(tokenizer))?,
                TextEncoder::open_variant(&model.join(encoder), variant, kind, device)?,
            );
            Ok((tokenizer, encoder))
        };
        let parts = folders.iter().map(open).collect::<Result<_>>()?;
        Self::new(model, parts, zeros_for_no_prompt, kind, device)
    }

    /// Of encoders that are open, each with its tokenizer. `model` is what to name in errors.
    pub fn new(
        model: &Path,
        parts: Vec<(ClipTokenizer, TextEncoder)>,
        zeros_for_no_prompt: bool,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        for (tokenizer, encoder) in &parts {
            if tokenizer.vocab_size() > encoder.config().vocab_size {
                bail!(
                    "{}: the tokenizer knows {} tokens, the encoder beside it {}; do they belong together?",
                    model.display(),
                    tokenizer.vocab_size(),
                    encoder.config().vocab_size
                );
            }
        }
        Ok(Self { parts, zeros_for_no_prompt, kind, device, cache: HashMap::new() })
    }

    /// The tokenizer whose positions the context and its attention maps have.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.parts[0].0
    }

    /// The width of the context, for comparison with the UNet's `cross_attention_dim`.
    pub fn width(&self) -> i64 {
        self.parts.iter().map(|(_, encoder)| encoder.config().hidden_size).sum()
    }

    /// One row of conditions. Warns once when a prompt is too long, with what is cut off. The sizes of [`Added`] are
    /// filled in by [`Self::guided`].
    fn encode(&mut self, prompt: &str) -> Result<Text> {
        if let Some(text) = self.cache.get(prompt) {
            return Ok(text.map(Tensor::shallow_clone));
        }
        let _guard = tch::no_grad_guard();
        let sdxl = self.parts.len() > 1;
        let mut contexts = vec![];
        let mut pooled = None;
        for (tokenizer, encoder) in &self.parts {
            let encoding = tokenizer.encode(prompt)?;
            if let (Some(cut), true) = (&encoding.cut, contexts.is_empty()) {
                let (limit, shown) = (encoding.ids.len(), cut.chars().take(200).collect::<String>());
                let rest = if shown.len() < cut.len() { "…" } else { "" };
                tracing::warn!("prompt longer than {limit} tokens; the model does not see its end: …{shown}{rest}");
            }
            let ids = Tensor::from_slice(&encoding.ids).unsqueeze(0).to_device(self.device);
            let encoded = encoder.forward(&ids)?;
            contexts.push(if sdxl { encoded.penultimate } else { encoded.last_hidden_state });
            pooled = encoded.text_embeds;
        }
        let context = Tensor::cat(&contexts, -1).to_kind(self.kind);
        let added = if sdxl {
            let pooled = pooled.context("text_encoder_2 has no text_projection: SDXL needs its pooled embedding")?;
            Some(Added {
                pooled: pooled.to_kind(self.kind),
                time_ids: Tensor::zeros([1, 6], (Kind::Float, self.device)),
            })
        } else {
            None
        };
        let text = Text { context, added };
        self.cache.insert(prompt.to_owned(), text.map(Tensor::shallow_clone));
        Ok(text)
    }

    /// Conditions for a batch, with the unconditional half if there is guidance.
    ///
    /// `negative`: `None` is the model's own idea of no prompt. `size`: height and width in pixels, for SDXL.
    pub fn guided(
        &mut self,
        prompts: &[&str],
        negative: Option<&str>,
        guided: bool,
        size: (i64, i64),
    ) -> Result<GuidedText> {
        let rows = |this: &mut Self, prompts: &[&str]| {
            let rows = prompts.iter().map(|p| this.encode(p)).collect::<Result<Vec<_>>>()?;
            let mut text = Text::cat(&rows.iter().collect::<Vec<_>>());
            if let Some(added) = &mut text.added {
                let sizes = [size.0, size.1, 0, 0, size.0, size.1];
                let ids = Tensor::from_slice(&sizes).to_kind(Kind::Float).to_device(this.device);
                added.time_ids = ids.unsqueeze(0).repeat([prompts.len() as i64, 1]);
            }
            Ok::<_, anyhow::Error>(text)
        };
        let cond = rows(self, prompts)?;
        if !guided {
            return Ok(GuidedText::new(cond, None));
        }
        let mut uncond = rows(self, &vec![negative.unwrap_or(""); prompts.len()])?;
        if negative.is_none() && self.zeros_for_no_prompt {
            uncond.context = uncond.context.zeros_like();
            if let Some(added) = &mut uncond.added {
                added.pooled = added.pooled.zeros_like();
            }
        }
        Ok(GuidedText::new(cond, Some(uncond)))
    }
}

/// Conditions of a batch: a row a sample, and both halves on top of each other where there is guidance.
pub struct GuidedText {
    pub cond: Text,
    uncond: Option<Text>,
    /// Unconditional rows, then conditional ones.
    pub both: Option<Text>,
}

impl GuidedText {
    pub fn new(cond: Text, uncond: Option<Text>) -> Self {
        let both = uncond.as_ref().map(|uncond| Text::cat(&[uncond, &cond]));
        Self { cond, uncond, both }
    }

    /// The rows of some samples.
    pub fn narrow(&self, start: i64, length: i64) -> Self {
        Self::new(self.cond.narrow(start, length), self.uncond.as_ref().map(|u| u.narrow(start, length)))
    }
}
