use super::{
    config::Config,
    text::{TextDecoder, TextModel},
    vision::VisionModel,
};
use crate::{
    error::{Error, Result},
    transformers::check_ids,
    weights::{Scope, Weights},
};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The network for question answering: an encoder reads the question with cross-attention to the image, and a decoder
/// writes the answer with cross-attention to the encoded question.
///
/// Source: transformers `BlipForQuestionAnswering`. Unlike there, padding after a question is always hidden from the
/// decoder, so that an answer does not depend on the batch. (Upstream's `generate` shows the padding to the decoder,
/// and so does `forward` since transformers 5.)
pub struct QuestionAnswering {
    config: Config,
    vision_model: VisionModel,
    text_encoder: TextModel,
    text_decoder: TextDecoder,
}

/// Questions after the encoder.
pub struct Question {
    states: Tensor,
    mask: Tensor,
}

impl Question {
    /// The encoder's hidden states `[B, L, D]`
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// True for the question's tokens, false for padding `[B, L]`
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }
}

impl QuestionAnswering {
    /// Reads `config.json` and `model.safetensors` from the folder.
    ///
    /// # Errors
    /// If the model is not BLIP, or a BLIP for captioning or retrieval; if the weights do not fit.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let config = Config::read(&folder.join("config.json"))?;
        Self::new(&config, &Weights::open(folder, "model", kind, device)?)
    }

    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let (text, vision) = (&config.text, &config.vision);
        let fail = |what: String| Err(Error::file(weights.origin(), what));
        for part in ["vision_model.", "text_encoder.", "text_decoder."] {
            if !weights.all_layers().any(|layer| layer.starts_with(part)) {
                return fail(format!(
                    "there is no {part}* in it, so it is not a BLIP that answers questions; one is \
                     Salesforce/blip-vqa-base (architecture BlipForQuestionAnswering)"
                ));
            }
        }
        if text.hidden_size != vision.hidden_size {
            // The keys of the decoder's cross-attention have the width of the image embedding, as upstream builds them.
            let (text, vision) = (text.hidden_size, vision.hidden_size);
            return fail(format!(
                "hidden_size is {text} in text_config and {vision} in vision_config; to answer, both are one"
            ));
        }
        for (key, id) in [("bos_token_id", text.bos_token_id), ("sep_token_id", text.sep_token_id)] {
            if !(0..text.vocab_size).contains(&id) {
                return fail(format!("text_config.{key} is {id}, but vocab_size is {}", text.vocab_size));
            }
        }
        weights.build(&["position_ids"], |root| Self::at(root, config))
    }

    fn at(root: Scope, config: &Config) -> Self {
        Self {
            vision_model: VisionModel::new(&root / "vision_model", &config.vision),
            text_encoder: TextModel::new(&root / "text_encoder", &config.text),
            text_decoder: TextDecoder::new(&root / "text_decoder", &config.text),
            config: config.clone(),
        }
    }

    /// Height and width of the input images.
    pub fn image_size(&self) -> (i64, i64) {
        (self.config.vision.image_size, self.config.vision.image_size)
    }

    /// pixels `[B, 3, H, W]`, normalised, in any precision → `[B, N, D]`
    pub fn embed_image(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision_model.embed("VQA", pixels)
    }

    /// image_embeds `[B, N, D]`, or `[1, N, D]` if all questions are about one image; input_ids and attention_mask `[B,
    /// L]` int64, padding after the text
    pub fn read(&self, image_embeds: &Tensor, input_ids: &Tensor, attention_mask: &Tensor) -> Result<Question> {
        let text = &self.config.text;
        let (rows, length) = check_ids("VQA: question", input_ids, text.vocab_size, text.max_position_embeddings)?;
        let fail = |what: String| Err(Error::Input(format!("VQA: {what}")));
        let embeds = image_embeds.size();
        if embeds.len() != 3 || (embeds[0] != rows && embeds[0] != 1) || embeds[1] < 1 || embeds[2] != text.image_width
        {
            let width = text.image_width;
            return fail(format!("image embeddings {embeds:?} do not fit [{rows}, N, hidden_size {width}]"));
        }
        if attention_mask.size() != [rows, length] {
            return fail(format!("attention mask {:?} for token ids [{rows}, {length}]", attention_mask.size()));
        }
        let mask = attention_mask.ne(0);
        if mask.select(1, 0).all().int64_value(&[]) == 0 {
            return fail("the attention mask of a question begins with 0; padding belongs behind the text".into());
        }
        let (kind, device) = self.vision_model.options();
        let image = image_embeds.to_device(device).to_kind(kind).expand([rows, -1, -1], false);
        let mask = mask.to_device(device);
        let states = self.text_encoder.encode(&input_ids.to_device(device), &mask, &image);
        Ok(Question { states, mask })
    }

    /// Logits of an answer's first token, after \[DEC] alone → `[B, V]`
    pub fn first_token(&self, question: &Question) -> Tensor {
        self.next_token(question, &self.starts(question))
    }

    /// Greedy search for at most `length` tokens: a list for each question, without \[DEC] and without the end token.
    ///
    /// # Errors
    /// If logits are NaN.
    pub fn greedy(&self, question: &Question, length: i64) -> Result<Vec<Vec<i64>>> {
        let end = self.config.text.sep_token_id;
        let most = (length + 1).min(self.config.text.max_position_embeddings);
        let mut ids = self.starts(question);
        let mut ended = ids.select(1, 0).zeros_like().to_kind(Kind::Bool);
        while ids.size()[1] < most && ended.all().int64_value(&[]) == 0 {
            let logits = self.next_token(question, &ids);
            if logits.isfinite().all().int64_value(&[]) == 0 {
                let message = "VQA: the logits of an answer are not numbers; are the image and the weights finite? In half \
                               precision, try float32";
                return Err(Error::Input(message.into()));
            }
            let next = logits.argmax(-1, false);
            ended = ended.logical_or(&next.eq(end));
            ids = Tensor::cat(&[ids, next.unsqueeze(1)], 1);
        }
        let rows = Vec::<Vec<i64>>::try_from(ids)?;
        Ok(rows.into_iter().map(|row| row.into_iter().skip(1).take_while(|&id| id != end).collect()).collect())
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// \[DEC] for each question `[B, 1]`
    fn starts(&self, question: &Question) -> Tensor {
        let rows = question.states.size()[0];
        Tensor::full([rows, 1], self.config.text.bos_token_id, (Kind::Int64, question.states.device()))
    }

    /// ids `[B, L]` → logits of the token after the last one `[B, V]`
    fn next_token(&self, question: &Question, ids: &Tensor) -> Tensor {
        let mask = ids.ones_like().to_kind(Kind::Bool);
        let logits = self.text_decoder.forward(ids, &mask, &question.states, Some(&question.mask));
        logits.select(1, -1)
    }
}
