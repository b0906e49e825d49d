//! The segmenter SAM: finds the pixels of the object in a box.
//!
//! Paper: Kirillov et al., "Segment Anything" (2023). Weights and names: transformers `SamModel`, for example
//! `facebook/sam-vit-base`.

mod config;
mod decoder;
mod frame;
mod prompt;
mod vision;

use crate::{
    error::{Error, Result},
    weights::Weights,
};
use decoder::MaskDecoder;
use frame::{Frame, precise};
use prompt::PromptEncoder;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use vision::VisionEncoder;

pub use config::{Config, DecoderConfig, VisionConfig};
pub use decoder::Decoded;

pub struct Segmenter {
    config: Config,
    frame: Frame,
    vision_encoder: VisionEncoder,
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
}

/// Number of masks decoded at a time; at full size each needs some tens of megabytes for a short time.
const BOXES_AT_A_TIME: usize = 16;

/// Weights that encode points and masks as prompts.
const UNUSED_WEIGHTS: &[&str] = &[
    "prompt_encoder.mask_embed.conv1.weight",
    "prompt_encoder.mask_embed.conv1.bias",
    "prompt_encoder.mask_embed.conv2.weight",
    "prompt_encoder.mask_embed.conv2.bias",
    "prompt_encoder.mask_embed.conv3.weight",
    "prompt_encoder.mask_embed.conv3.bias",
    "prompt_encoder.mask_embed.layer_norm1.weight",
    "prompt_encoder.mask_embed.layer_norm1.bias",
    "prompt_encoder.mask_embed.layer_norm2.weight",
    "prompt_encoder.mask_embed.layer_norm2.bias",
    "prompt_encoder.not_a_point_embed.weight",
    "prompt_encoder.point_embed.0.weight",
    "prompt_encoder.point_embed.1.weight",
];

impl Segmenter {
    /// Reads `config.json`, `model.safetensors` and the preprocessing settings in the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let frame = Frame::open(folder, config.vision.image_size)?;
        let weights = Weights::open(folder, "model", kind, device)?;
        weights.build(UNUSED_WEIGHTS, |root| Self {
            vision_encoder: VisionEncoder::new(&root / "vision_encoder", &config.vision),
            prompt_encoder: PromptEncoder::new(&root, &config.vision),
            mask_decoder: MaskDecoder::new(&root / "mask_decoder", &config.decoder),
            frame,
            config: config.clone(),
        })
    }

    /// The mask of the object in every box: for each image `[boxes, H, W]` of booleans, on the segmenter's device.
    ///
    /// `images`: `[B, 3, H, W]` in 0..1, in any precision and on any device. `boxes`: (x0, y0, x1, y1) in pixels of the
    /// image, one list per image.
    ///
    /// The decoder's single mask is used, not the best of its three: a box is an unambiguous prompt, and the paper's
    /// authors trained and recommend the single mask for such a prompt (`multimask_output=False`). An image is encoded
    /// once for all its boxes, and not at all if it has none.
    pub fn masks(&self, images: &Tensor, boxes: &[Vec<[f64; 4]>]) -> Result<Vec<Tensor>> {
        let size = check(images, boxes)?;
        let _guard = tch::no_grad_guard();
        let busy: Vec<i64> = (0..).zip(boxes).filter(|(_, boxes)| !boxes.is_empty()).map(|(i, _)| i).collect();
        let (_, device) = self.vision_encoder.options();
        let none = || Tensor::zeros([0, size.0, size.1], (Kind::Bool, device));
        if busy.is_empty() {
            return Ok(boxes.iter().map(|_| none()).collect());
        }
        let busy = Tensor::from_slice(&busy).to_device(images.device());
        let embeddings = self.embed(&self.pixels(&images.index_select(0, &busy))?)?;
        let mut row = 0;
        let mut masks_of = |boxes: &Vec<[f64; 4]>| {
            if boxes.is_empty() {
                return Ok(none());
            }
            let embedding = embeddings.narrow(0, row, 1);
            row += 1;
            let mut masks = vec![];
            for few in boxes.chunks(BOXES_AT_A_TIME) {
                let single = self.decode(&embedding, &self.frame.boxes(few, size)?)?.masks.select(1, 0);
                masks.push(self.frame.take(&single, size)?);
            }
            Ok(Tensor::cat(&masks, 0))
        };
        boxes.iter().map(&mut masks_of).collect()
    }

    /// images `[B, 3, H, W]` in 0..1 → the network's input `[B, 3, S, S]`
    pub fn pixels(&self, images: &Tensor) -> Result<Tensor> {
        let (kind, device) = self.vision_encoder.options();
        self.frame.put(&images.to_device(device).to_kind(precise(kind)))
    }

    /// Embeds the output of [`Self::pixels`]: `[B, 3, S, S]` → `[B, D, s, s]`.
    pub fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (size, side) = (pixels.size(), self.config.vision.image_size);
        if size.len() != 4 || size[0] < 1 || size[1..] != [3, side, side] {
            return Err(Error::Input(format!("segmenter: image {size:?} is not [B, 3, {side}, {side}]")));
        }
        let (kind, device) = self.vision_encoder.options();
        Ok(self.vision_encoder.forward(&pixels.to_device(device).to_kind(kind)))
    }

    /// Decodes masks: embedding `[1, D, s, s]` of one image, boxes `[N, 4]` in pixels of the network's input.
    pub fn decode(&self, embedding: &Tensor, boxes: &Tensor) -> Result<Decoded> {
        let (side, channels) = (self.config.vision.patches(), self.config.vision.output_channels);
        if embedding.size() != [1, channels, side, side] {
            let size = embedding.size();
            return Err(Error::Input(format!("segmenter: embedding {size:?} is not [1, {channels}, {side}, {side}]")));
        }
        if !matches!(boxes.size()[..], [count, 4] if count > 0) {
            return Err(Error::Input(format!("segmenter: boxes {:?} are not [N, 4]", boxes.size())));
        }
        let (kind, device) = self.vision_encoder.options();
        let prompt = &self.prompt_encoder;
        let image = embedding.to_device(device).to_kind(kind) + prompt.no_mask();
        Ok(self.mask_decoder.forward(&image, &prompt.image_places(), &prompt.boxes(&boxes.to_device(device))))
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Checks images and boxes, and returns height and width of the images.
fn check(images: &Tensor, boxes: &[Vec<[f64; 4]>]) -> Result<(i64, i64)> {
    let fail = |what: String| Err(Error::Input(format!("segmenter: {what}")));
    let size = images.size();
    let (rows, height, width) = match size[..] {
        [rows, 3, height, width] if height > 0 && width > 0 => (rows, height, width),
        _ => return fail(format!("images {size:?} are not [B, 3, H, W]")),
    };
    if !images.is_floating_point() {
        return fail(format!("images are {:?}, not numbers in 0..1", images.kind()));
    }
    if rows != boxes.len() as i64 {
        return fail(format!("{rows} images, but lists of boxes for {}", boxes.len()));
    }
    if let Some(bad) = boxes.iter().flatten().find(|b| !b.iter().all(|x| x.is_finite())) {
        return fail(format!("a box at {bad:?}"));
    }
    Ok((height, width))
}
