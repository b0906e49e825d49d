//! The detector Grounding DINO: finds the things in an image that a text names.
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
    /// Minimum score of a box with its best token of the caption.
    pub box_threshold: f64,
    /// Minimum score of a token with a box, to be part of the box's phrase.
    pub text_threshold: f64,
}

/// A detected box of a noun.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// Index of the noun among the image's nouns; a box counts for a noun only if its phrase is exactly that noun.
    pub noun: usize,
    /// x0, y0, x1, y1 in pixels of the image; may reach a little over its edge
    pub box_: [f64; 4],
    /// Score of the box with its best token, 0 to 1
    pub score: f64,
}

/// A box and its phrase, which need not be one of the nouns.
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

    /// images `[B, 3, H, W]` in 0..1, and the nouns to look for in each → detections for each image.
    ///
    /// All nouns of an image are searched at once. If a noun is listed twice, its boxes count for both. A noun without
    /// letters has no boxes.
    pub fn detect(&self, images: &Tensor, nouns: &[Vec<String>]) -> Result<Vec<Vec<Detection>>> {
        let size = images.size();
        if size.len() != 4 {
            return Err(Error::Input(format!("detector: images {size:?} are not [B, 3, H, W]")));
        }
        self.detect_each(&images.unbind(0), nouns)
    }

    /// As [`Detector::detect`], for images of different sizes, `[3, H, W]` each.
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
        // Images without nouns are skipped.
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

    /// Queries above the threshold: their probabilities by token, and their boxes as shares of an image of that height
    /// and width.
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

/// The values of `[B, N, M]`.
fn rows(x: &Tensor) -> Result<Vec<Vec<Vec<f64>>>> {
    Ok(Vec::try_from(x.to_device(Device::Cpu).to_kind(Kind::Double))?)
}
