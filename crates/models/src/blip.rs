//! BLIP: the likelihood of a text given an image, and answers to questions about an image.
//!
//! Paper: Li et al., "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and
//! Generation" (2022). Weights and names: transformers `BlipForConditionalGeneration` ([`Captioner`]) and
//! `BlipForQuestionAnswering` ([`QuestionAnswering`]).

mod config;
mod question_answering;
mod text;
mod vision;
mod vqa;

use crate::{
    error::{Error, Result},
    transformers::check_ids,
    weights::{Layout, Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Reduction, Tensor};
use text::TextDecoder;
use vision::VisionModel;

pub use config::{Config, TextConfig, VisionConfig};
pub use question_answering::{Question, QuestionAnswering};
pub use vqa::{Vqa, prepare};

/// Label of a token that is left out of the loss.
pub const IGNORED: i64 = -100;

/// Negative log-likelihood of texts, a row for each. The mean over the tokens of a batch is `Σ sum / Σ tokens`, however
/// the batch was cut.
pub struct Nll {
    /// Sum of -log p over the tokens that count `[B]`, float32 or better
    pub sum: Tensor,
    /// Mean of -log p over the whole vocabulary, summed over the same tokens `[B]`
    pub uniform: Tensor,
    /// Number of those tokens `[B]`, int64
    pub tokens: Tensor,
    /// The parts of the last of these tokens, which says that the text ends, in `sum` and in `uniform`, each `[B]`
    pub end: [Tensor; 2],
}

impl Nll {
    /// With the last token counted so many times.
    pub fn with_end(self, times: f64) -> Self {
        let [sum, uniform] = &self.end;
        let more = |all: &Tensor, of_end: &Tensor| all + of_end * (times - 1.0);
        Self { sum: more(&self.sum, sum), uniform: more(&self.uniform, uniform), ..self }
    }

    /// The sum with label smoothing `[B]`: this part (0 to 1) of each token's label is spread evenly over the
    /// vocabulary.
    pub fn smoothed(&self, label_smoothing: f64) -> Tensor {
        match label_smoothing {
            0.0 => self.sum.shallow_clone(),
            part => &self.sum * (1.0 - part) + &self.uniform * part,
        }
    }
}

pub struct Captioner {
    config: Config,
    vision_model: VisionModel,
    text_decoder: TextDecoder,
}

impl Captioner {
    /// Reads `config.json` and `model.safetensors` from the folder.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        let weights = Weights::open(folder, "model", kind, device)?;
        if weights.get("text_encoder.embeddings.word_embeddings.weight").is_some() {
            return Err(Error::file(
                folder,
                "this BLIP answers questions and is no captioner; name one that captions images",
            ));
        }
        Self::new(&config, &weights)
    }

    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        weights.build(&["position_ids"], |root| Self::at(root, config))
    }

    /// Tensor shapes of a captioner with this configuration; the output layer is tied to the word embedding.
    pub fn layout(config: &Config) -> Layout {
        let absent =
            |key: &str| key.ends_with("predictions.decoder.weight") || key.ends_with("predictions.decoder.bias");
        Weights::layout(&absent, |root| Self::at(root, config))
    }

    fn at(root: Scope, config: &Config) -> Self {
        Self {
            vision_model: VisionModel::new(&root / "vision_model", &config.vision),
            text_decoder: TextDecoder::new(&root / "text_decoder", &config.text),
            config: config.clone(),
        }
    }

    /// Height and width of the input images.
    pub fn image_size(&self) -> (i64, i64) {
        (self.config.vision.image_size, self.config.vision.image_size)
    }

    /// Precision of the computation.
    pub fn kind(&self) -> Kind {
        self.vision_model.options().0
    }

    /// pixels `[B, 3, H, W]`, normalised, in any precision → `[B, N, D]`
    pub fn embed_image(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision_model.embed("captioner", pixels)
    }

    /// image_embeds `[B, N, D]`; input_ids and attention_mask `[B, L]` int64, padding behind the text → `[B, L, V]`
    ///
    /// The logits at position i are those of token i + 1.
    pub fn logits(&self, image_embeds: &Tensor, input_ids: &Tensor, attention_mask: &Tensor) -> Result<Tensor> {
        let text = &self.config.text;
        let (rows, length) = check_ids("captioner", input_ids, text.vocab_size, text.max_position_embeddings)?;
        let fail = |what: String| Err(Error::Input(format!("captioner: {what}")));
        let embeds = image_embeds.size();
        if embeds.len() != 3 || embeds[0] != rows || embeds[1] < 1 || embeds[2] != text.image_width {
            return fail(format!(
                "image embeddings {embeds:?} do not fit [{rows}, N, hidden_size {}]",
                text.image_width
            ));
        }
        if attention_mask.size() != [rows, length] {
            return fail(format!("attention mask {:?} for token ids [{rows}, {length}]", attention_mask.size()));
        }
        let mask = attention_mask.ne(0);
        if mask.select(1, 0).all().int64_value(&[]) == 0 {
            return fail("the attention mask of a text begins with 0; padding belongs behind the text".into());
        }
        let (kind, device) = self.vision_model.options();
        let image = image_embeds.to_device(device).to_kind(kind);
        Ok(self.text_decoder.forward(&input_ids.to_device(device), &mask.to_device(device), &image, None))
    }

    /// pixels `[B, 3, H, W]`, normalised; the others `[B, L]` int64. Labels of tokens that do not count are
    /// [`IGNORED`].
    ///
    /// Differentiable with respect to the pixels.
    pub fn nll(&self, pixels: &Tensor, input_ids: &Tensor, attention_mask: &Tensor, labels: &Tensor) -> Result<Nll> {
        self.nll_of_embedded(&self.embed_image(pixels)?, input_ids, attention_mask, labels)
    }

    /// Like [`Captioner::nll`], of images that [`Captioner::embed_image`] has embedded, `[B, N, D]`.
    pub fn nll_of_embedded(
        &self,
        image_embeds: &Tensor,
        input_ids: &Tensor,
        attention_mask: &Tensor,
        labels: &Tensor,
    ) -> Result<Nll> {
        let logits = self.logits(image_embeds, input_ids, attention_mask)?;
        self.check_labels(labels, input_ids)?;
        let (rows, length, words) = logits.size3()?;
        let targets = labels.narrow(1, 1, length - 1).to_device(logits.device());
        let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let logits = logits.narrow(1, 0, length - 1).to_kind(kind).reshape([rows * (length - 1), words]);
        let log_p = logits.log_softmax(-1, kind);
        let nll = log_p.g_nll_loss(&targets.flatten(0, 1), None::<&Tensor>, Reduction::None, IGNORED);
        let counted = targets.ne(IGNORED);
        let uniform = -log_p.mean_dim(-1, false, kind).view([rows, length - 1]);
        let values = [nll.view([rows, length - 1]), uniform.masked_fill(&counted.logical_not(), 0.0)];
        let from_here = counted.flip([1]).cumsum(1, Kind::Int64).flip([1]);
        let last = counted.logical_and(&from_here.eq(1));
        let end = values.each_ref().map(|of| (of * &last).sum_dim_intlist(1, false, kind));
        let [sum, uniform] = values.map(|of| of.sum_dim_intlist(1, false, kind));
        Ok(Nll { sum, uniform, tokens: counted.sum_dim_intlist(1, false, Kind::Int64), end })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    fn check_labels(&self, labels: &Tensor, input_ids: &Tensor) -> Result<()> {
        let fail = |what: String| Err(Error::Input(format!("captioner: {what}")));
        if labels.size() != input_ids.size() || labels.kind() != Kind::Int64 {
            let (kind, size) = (labels.kind(), labels.size());
            return fail(format!("labels {size:?} of {kind:?} for token ids {:?} of Int64", input_ids.size()));
        }
        let counted = labels.ne(IGNORED);
        let words = self.config.text.vocab_size;
        if counted.logical_and(&labels.lt(0).logical_or(&labels.ge(words))).any().int64_value(&[]) != 0 {
            return fail(format!("labels must be {IGNORED} or within the vocabulary of {words}"));
        }
        Ok(())
    }
}
