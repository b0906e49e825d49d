//! Prompts as the UNet takes them. Every prompt is encoded once.

use crate::resident::Resident;
use anyhow::{Context, Result, bail};
use models::{
    clip::{TextConfig, TextEncoder},
    tokenizer::ClipTokenizer,
    unet::{Added, Text},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// What the rows that are kept may take, in bytes.
const MOST_KEPT: usize = 1 << 30;

/// The text encoder of SD1 and SD2, or SDXL's two.
pub struct TextEncoders {
    tokenizers: Vec<ClipTokenizer>,
    encoders: Resident<Vec<TextEncoder>>,
    /// Of the context.
    width: i64,
    /// SDXL was trained with zeros in place of an absent negative prompt.
    zeros_for_no_prompt: bool,
    kind: Kind,
    device: Device,
    cache: Cache,
}

/// Rows of prompts, in the host's memory: of 20,000 prompts they are gigabytes.
#[derive(Default)]
struct Cache {
    rows: HashMap<String, Text>,
    bytes: usize,
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
        let open = |(name, _): &(&str, &str)| Ok(ClipTokenizer::open(&model.join(name))?);
        let tokenizers: Vec<ClipTokenizer> = folders.iter().map(open).collect::<Result<_>>()?;
        let places: Vec<PathBuf> = folders.iter().map(|(_, encoder)| model.join(encoder)).collect();
        let variant = variant.map(str::to_owned);
        let encoders = Resident::open(move || {
            let open = |place: &PathBuf| Ok(TextEncoder::open_variant(place, variant.as_deref(), kind, device)?);
            places.iter().map(open).collect()
        })?;
        Self::new(model, tokenizers, encoders, zeros_for_no_prompt, kind, device)
    }

    /// Of encoders, each with its tokenizer. `model` is what to name in errors.
    pub fn new(
        model: &Path,
        tokenizers: Vec<ClipTokenizer>,
        encoders: Resident<Vec<TextEncoder>>,
        zeros_for_no_prompt: bool,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let configs: Vec<TextConfig> =
            encoders.with(|encoders| Ok(encoders.iter().map(|encoder| encoder.config().clone()).collect()))?;
        for (tokenizer, config) in tokenizers.iter().zip(&configs) {
            if tokenizer.vocab_size() > config.vocab_size {
                bail!(
                    "{}: the tokenizer knows {} tokens, the encoder beside it {}; do they belong together?",
                    model.display(),
                    tokenizer.vocab_size(),
                    config.vocab_size
                );
            }
        }
        let width = configs.iter().map(|config| config.hidden_size).sum();
        Ok(Self { tokenizers, encoders, width, zeros_for_no_prompt, kind, device, cache: Cache::default() })
    }

    /// Lets the encoders go whenever they have nothing to do.
    pub fn offload(&mut self) {
        self.encoders.let_go();
    }

    /// The tokenizer whose positions the context and its attention maps have.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizers[0]
    }

    /// The width of the context, for comparison with the UNet's `cross_attention_dim`.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Rows of conditions. The sizes of [`Added`] are filled in by [`Self::guided`].
    fn encode(&mut self, prompts: &[&str]) -> Result<Vec<Text>> {
        let mut new: Vec<&str> = prompts.iter().copied().filter(|p| !self.cache.rows.contains_key(*p)).collect();
        new.sort_unstable();
        new.dedup();
        let mut fresh = HashMap::new();
        if !new.is_empty() {
            let _guard = tch::no_grad_guard();
            self.encoders.with(|encoders| {
                for prompt in &new {
                    fresh.insert((*prompt).to_owned(), self.encode_by(encoders, prompt)?);
                }
                Ok(())
            })?;
        }
        let row = |prompt: &&str| fresh.get(*prompt).or_else(|| self.cache.rows.get(*prompt));
        let rows = prompts
            .iter()
            .map(|prompt| Ok(row(prompt).context("a prompt was encoded")?.map(|t| t.to_device(self.device))))
            .collect::<Result<_>>()?;
        self.cache.add(fresh);
        Ok(rows)
    }

    /// One row. Warns when a prompt is too long, with what is cut off.
    fn encode_by(&self, encoders: &[TextEncoder], prompt: &str) -> Result<Text> {
        let sdxl = encoders.len() > 1;
        let mut contexts = vec![];
        let mut pooled = None;
        for (tokenizer, encoder) in self.tokenizers.iter().zip(encoders) {
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
        Ok(Text { context, added })
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
            let rows = this.encode(prompts)?;
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

impl Cache {
    /// Keeps rows; when there are too many, the old ones go.
    fn add(&mut self, rows: HashMap<String, Text>) {
        let bytes = |text: &Text| {
            let tensors =
                std::iter::once(&text.context).chain(text.added.iter().flat_map(|a| [&a.pooled, &a.time_ids]));
            tensors.map(|t| t.numel() * t.kind().elt_size_in_bytes()).sum::<usize>()
        };
        let more: usize = rows.values().map(bytes).sum();
        if self.bytes + more > MOST_KEPT {
            *self = Self::default();
        }
        self.bytes += more;
        self.rows.extend(rows.into_iter().map(|(prompt, row)| (prompt, row.map(|t| t.to_device(Device::Cpu)))));
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
