//! BLIP as a captioner. A prefix stands before the lower-cased prompt; like padding, it is not part of the loss.

use super::{Likelihood, rows};
use anyhow::Result;
use models::{
    blip::{Captioner, Nll},
    preprocess::Preprocess,
    tokenizer::BertTokenizer,
};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Tensor};

pub struct Blip {
    captioner: Captioner,
    tokenizer: BertTokenizer,
    preprocess: Preprocess,
    /// Text before every prompt, and its tokens, including the start token.
    prefix: String,
    prefix_tokens: usize,
    max_length: usize,
}

/// Whether the warning about a caption that is too long was given. (An offloaded captioner is opened many times.)
static TOLD: AtomicBool = AtomicBool::new(false);

impl Blip {
    /// # Errors
    /// The folder is missing, or holds another network.
    pub fn open(config: &config::Captioner, kind: Kind, device: Device) -> Result<Self> {
        Self::new(Captioner::open(&config.path, kind, device)?, config)
    }

    /// Uses a network that is already in memory. Tokenizer and preprocessing are read from the configured folder.
    ///
    /// # Errors
    /// Errors of reading them.
    pub fn new(captioner: Captioner, config: &config::Captioner) -> Result<Self> {
        let tokenizer = BertTokenizer::open(&config.path)?;
        let preprocess = Preprocess::open(&config.path)?;
        let max_length = captioner.config().text.max_position_embeddings as usize;
        let prefix_tokens = tokenizer.encode(config.prefix.trim_end(), max_length)?.ids.len() - 1; // without its end token
        Ok(Self { captioner, tokenizer, preprocess, prefix: config.prefix.clone(), prefix_tokens, max_length })
    }

    /// `[B, 3, H, W]` in 0..1 → `[B, N, D]`
    fn embed(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.captioner.embed_image(&self.preprocess.apply(images, self.captioner.image_size())?)?)
    }

    /// Ids, attention mask and labels, each `[B, L]`. Prefix and padding have no labels.
    fn encode(&self, prompts: &[&str], device: Device) -> Result<(Tensor, Tensor, Tensor)> {
        let captions: Vec<String> = prompts.iter().map(|p| format!("{}{}", self.prefix, p.to_lowercase())).collect();
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let batch = self.tokenizer.encode_batch(&captions, self.max_length)?;
        self.tell(prompts, &batch.cut);
        let (ids, mask) = (batch.ids.to_device(device), batch.attention_mask.to_device(device));
        let labels = ids.masked_fill(&mask.eq(0), -100);
        let _ = labels.narrow(1, 0, (self.prefix_tokens as i64).min(labels.size()[1])).fill_(-100);
        Ok((ids, mask, labels))
    }

    /// Warns once about a caption that is too long.
    fn tell(&self, prompts: &[&str], cut: &[Option<String>]) {
        let Some((prompt, cut)) = prompts.iter().zip(cut).find_map(|(prompt, cut)| Some((prompt, cut.as_ref()?)))
        else {
            return;
        };
        if !TOLD.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "prompt longer than the {} tokens that the captioner takes; the caption loss does not see the end of `{prompt}`: \
                 …{cut}. Further ones are not named",
                self.max_length
            );
        }
    }
}

impl Likelihood for Blip {
    fn kind(&self) -> Kind {
        self.captioner.kind()
    }

    fn nll(&self, images: &Tensor, texts: &[&str]) -> Result<Nll> {
        let (ids, mask, labels) = self.encode(texts, images.device())?;
        Ok(self.captioner.nll_of_embedded(&self.embed(images)?, &ids, &mask, &labels)?)
    }

    /// Each image is embedded once.
    fn nll_of(&self, images: &Tensor, of: &[i64], texts: &[&str]) -> Result<Nll> {
        let (ids, mask, labels) = self.encode(texts, images.device())?;
        Ok(self.captioner.nll_of_embedded(&rows(&self.embed(images)?, of)?, &ids, &mask, &labels)?)
    }

    fn tokens(&self, texts: &[&str]) -> Result<Vec<i64>> {
        let labels = self.encode(texts, Device::Cpu)?.2;
        let counted = labels.narrow(1, 1, labels.size()[1] - 1).ne(-100); // nothing predicts the first token
        Ok(Vec::<i64>::try_from(counted.sum_dim_intlist(1, false, Kind::Int64))?)
    }
}
