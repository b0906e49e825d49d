use super::{CentreCrop, Clip};
use crate::{
    error::{Error, Result},
    tokenizer::ClipTokenizer,
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// CLIP with its preprocessing: images and prompts in, cosines out.
///
/// Paper: Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (2021), without its factor
/// of 2.5 and its cut at 0: the cosine itself, as T2I-CompBench reports it.
pub struct ClipScore {
    clip: Clip,
    tokenizer: ClipTokenizer,
    preprocess: CentreCrop,
}

impl ClipScore {
    /// Reads the network, its tokenizer and its preprocessing from a transformers folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let clip = Clip::open(folder, kind, device)?;
        let text = &clip.config().text;
        let tokenizer = ClipTokenizer::open(folder)?.within(text.max_position_embeddings);
        let (tokens, words) = (tokenizer.max_length() as i64, tokenizer.vocab_size());
        if tokens > text.max_position_embeddings {
            let most = text.max_position_embeddings;
            let message =
                format!("the tokenizer's model_max_length is {tokens}, but max_position_embeddings is {most}");
            return Err(Error::file(folder, message));
        }
        if words > text.vocab_size {
            let known = text.vocab_size;
            let message =
                format!("the tokenizer has {words} tokens, but vocab_size is {known}; is it another model's?");
            return Err(Error::file(folder, message));
        }
        let preprocess = CentreCrop::open(folder, clip.image_size().0)?;
        Ok(Self { clip, tokenizer, preprocess })
    }

    /// The cosine between each image and its prompt. images `[B, 3, H, W]` in 0..1, and B prompts
    pub fn cosines(&self, images: &Tensor, prompts: &[&str]) -> Result<Vec<f64>> {
        let count = images.size().first().copied().unwrap_or(0);
        if count != prompts.len() as i64 {
            return Err(Error::Input(format!("CLIP: {count} images for {} prompts", prompts.len())));
        }
        let _guard = tch::no_grad_guard();
        let cosines = (self.image_embeds(images)? * self.text_embeds(prompts)?).sum_dim_intlist(1, false, Kind::Double);
        let cosines = Vec::<f64>::try_from(cosines)?;
        if let Some(i) = cosines.iter().position(|cosine| !cosine.is_finite()) {
            return Err(Error::Input(format!(
                "CLIP: the score of image {} for {:?} is not a number; are the image and the weights finite? In half \
                 precision, try float32",
                i + 1,
                prompts[i]
            )));
        }
        Ok(cosines)
    }

    /// As [`Self::cosines`] `[B]`, but differentiable with respect to the images, which are not rounded to bytes and not clamped.
    /// Kind: float32 or better.
    pub fn similarities(&self, images: &Tensor, prompts: &[&str]) -> Result<Tensor> {
        let text = tch::no_grad(|| self.text_embeds(prompts))?;
        let image = self.clip.image_embeds(&self.preprocess.smooth(images)?)?;
        if image.size() != text.size() {
            return Err(Error::Input(format!("CLIP: {} images for {} prompts", image.size()[0], prompts.len())));
        }
        Ok((image * text).sum_dim_intlist(1, false, None::<Kind>))
    }

    /// Images `[B, 3, H, W]` in 0..1 → `[B, P]` of length 1
    pub fn image_embeds(&self, images: &Tensor) -> Result<Tensor> {
        self.clip.image_embeds(&self.preprocess.apply(images)?)
    }

    /// `[B, P]` of length 1. A prompt is cut after the tokenizer's limit (77 tokens).
    pub fn text_embeds(&self, prompts: &[&str]) -> Result<Tensor> {
        let mut ids = vec![];
        for prompt in prompts {
            ids.extend(self.tokenizer.encode(prompt)?.ids);
        }
        self.clip
            .text_embeds(&Tensor::from_slice(&ids).view([prompts.len() as i64, self.tokenizer.max_length() as i64]))
    }

    pub fn clip(&self) -> &Clip {
        &self.clip
    }
}
