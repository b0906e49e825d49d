//! The detector Grounding DINO: where in an image are the things that a text names?
//!
//! Paper: Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection" (2023).
//! Weights and names: transformers `GroundingDinoForObjectDetection`.

mod config;
mod decoder;
mod deformable;
mod encoder;
mod network;
mod parts;
mod phrases;
mod preprocess;
mod swin;

use crate::{
    error::{Error, Result},
    weights::Weights,
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

pub use crate::bert::Config as TextConfig;
pub use config::{BackboneConfig, Config, LayersConfig};
pub use network::{Inputs, Network, Outputs};
pub use phrases::{Caption, Captions, Phrases};
pub use preprocess::{Pixels, Resize};

/// Network, tokenizer and preprocessing.
pub struct Detector {
    pub network: Network,
    pub phrases: Phrases,
    pub resize: Resize,
    /// A box counts if it fits some token of the caption better than this.
    pub box_threshold: f64,
    /// A token is part of a box's phrase if it fits the box better than this.
    pub text_threshold: f64,
}

/// A box around something that was looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Which of the image's nouns; a box counts for a noun only when its phrase is exactly that noun.
    pub noun: usize,
    /// x0, y0, x1, y1 in pixels of the image; may reach a little over its edge
    pub box_: [f64; 4],
    /// How well the box fits its best token, 0 to 1
    pub score: f64,
}

/// A box and all that it fits, whether a noun or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The tokens of the phrase.
    pub phrase: Vec<i64>,
    /// x0, y0, x1, y1 in pixels of the image
    pub box_: [f64; 4],
    pub score: f64,
}

impl Detector {
    /// Reads `config.json`, `model.safetensors`, the tokenizer's files and `preprocessor_config.json` from the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let phrases = Phrases::open(folder)?;
        let (words, vocabulary) = (phrases.vocab_size(), config.text.vocab_size);
        if words > vocabulary {
            let message = format!("the tokenizer has {words} tokens, but text_config.vocab_size is {vocabulary}");
            return Err(Error::file(folder, message));
        }
        Ok(Self {
            network: Network::new(&config, &Weights::open(folder, "model", kind, device)?)?,
            phrases,
            resize: Resize::open(folder)?,
            box_threshold: 0.3,
            text_threshold: 0.25,
        })
    }

    /// images `[B, 3, H, W]` in 0..1, and the nouns to look for in each → what was found in each.
    ///
    /// All nouns of an image are looked for at once. A box whose noun is there twice counts for both. A noun of no letters
    /// is nowhere.
    pub fn detect(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Vec<Detection>>> {
        let size = images.size();
        if size.len() != 4 {
            return Err(Error::Input(format!("detector: images {size:?} are not [B, 3, H, W]")));
        }
        self.detect_each(&images.unbind(0), nouns)
    }

    /// The same for images of different sizes, `[3, H, W]` each.
    pub fn detect_each(&self, images: &[Tensor], nouns: &[Vec<String>]) -> Result<Vec<Vec<Detection>>> {
        let captions = nouns.iter().map(|nouns| self.phrases.caption(nouns)).collect::<Result<Vec<_>>>()?;
        let found = self.find(images, &captions)?;
        let detections = |(found, caption): (Vec<Found>, &Caption)| {
            let of = |found: Found| {
                let nouns: Vec<_> = self.phrases.nouns(caption, &found.phrase).collect();
                nouns.into_iter().map(move |noun| Detection { noun, box_: found.box_, score: found.score })
            };
            found.into_iter().flat_map(of).collect()
        };
        Ok(found.into_iter().zip(&captions).map(detections).collect())
    }

    /// All boxes above the threshold, in the order of the decoder's queries.
    pub fn find(&self, images: &[Tensor], captions: &[Caption]) -> Result<Vec<Vec<Found>>> {
        let _guard = tch::no_grad_guard();
        if images.len() != captions.len() {
            let message = format!("detector: {} images and {} lists of nouns", images.len(), captions.len());
            return Err(Error::Input(message));
        }
        let limit = self.network.config().max_text_len;
        for (i, caption) in captions.iter().enumerate() {
            if caption.ids.len() > limit {
                let tokens = caption.ids.len();
                let message = format!("the nouns of image {i} take {tokens} tokens, but max_text_len is {limit}");
                return Err(Error::Input(format!("detector: {message}; look for fewer at once")));
            }
        }
        // Where there is nothing to look for, nothing is looked at.
        let some: Vec<usize> = (0..captions.len()).filter(|&i| !captions[i].is_empty()).collect();
        let mut found: Vec<_> = captions.iter().map(|_| vec![]).collect();
        if some.is_empty() {
            return Ok(found);
        }
        let device = self.network.options().1;
        let looked_at: Vec<_> = some.iter().map(|&i| images[i].to_device(device)).collect();
        let pixels = self.resize.apply(&looked_at)?;
        let Captions { ids, tokens, phrases, positions } =
            self.phrases.batch(&some.iter().map(|&i| &captions[i]).collect::<Vec<_>>());
        let inputs = Inputs { pixels: pixels.values, pixel_mask: pixels.mask, ids, tokens, phrases, positions };
        let Outputs { logits, boxes, .. } = self.network.forward(&inputs)?;
        let (probabilities, boxes) = (rows(&logits.sigmoid())?, rows(&boxes)?);
        for (row, &i) in some.iter().enumerate() {
            let size = images[i].size();
            let of_image = probabilities[row].iter().zip(&boxes[row]);
            found[i] = self.above(&captions[i], of_image, (size[1] as f64, size[2] as f64));
        }
        Ok(found)
    }

    /// For each query its probability by token, and its box as shares of an image of that height and width.
    fn above<'a>(
        &self,
        caption: &Caption,
        queries: impl Iterator<Item = (&'a Vec<f64>, &'a Vec<f64>)>,
        (height, width): (f64, f64),
    ) -> Vec<Found> {
        let found = |(probabilities, shares): (&Vec<f64>, &Vec<f64>)| {
            let score = probabilities.iter().copied().fold(0.0, f64::max);
            let [x, y, w, h] = shares[..] else { return None };
            (score > self.box_threshold).then(|| Found {
                phrase: self.phrases.phrase(caption, probabilities, self.text_threshold),
                box_: [(x - w / 2.0) * width, (y - h / 2.0) * height, (x + w / 2.0) * width, (y + h / 2.0) * height],
                score,
            })
        };
        queries.filter_map(found).collect()
    }
}

/// The numbers of `[B, N, M]`.
fn rows(x: &Tensor) -> Result<Vec<Vec<Vec<f64>>>> {
    Ok(Vec::try_from(x.to_device(Device::Cpu).to_kind(Kind::Double))?)
}
