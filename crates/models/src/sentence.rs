//! Embeddings of sentences, whose cosines measure similarity.
//!
//! Paper: Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks" (2019). Weights and
//! names: transformers `BertModel` and `MPNetModel`, in folders of sentence-transformers (all-MiniLM-L6-v2,
//! all-mpnet-base-v2).

mod mpnet;
mod settings;

use crate::{
    bert,
    config::Json,
    error::{Error, Result},
    tokenizer::BertTokenizer,
    transformers::check_ids,
    weights::{Scope, Weights},
};
use mpnet::Mpnet;
use settings::Settings;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Keys to ignore: buffers, and the pooling layer of the first token, which mean pooling does not use.
const IGNORED: [&str; 3] = ["position_ids", "pooler.dense.weight", "pooler.dense.bias"];

/// Embeds a sentence: the mean of its tokens' last hidden states, scaled to length 1.
pub struct SentenceEmbedder {
    network: Network,
    tokenizer: BertTokenizer,
    vocab_size: i64,
    /// Maximum number of tokens, including start and end token; longer texts are cut.
    max_length: usize,
    options: (Kind, Device),
}

enum Network {
    Bert(bert::Encoder),
    Mpnet(Mpnet),
}

impl SentenceEmbedder {
    /// Reads the network, its tokenizer and, if present, the settings of sentence-transformers.
    ///
    /// # Errors
    /// Another network than BERT or MPNet; another pooling than the mean; weights or a tokenizer that do not fit.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let folder = settings.network.as_path();
        let json = Json::read(&folder.join("config.json"))?;
        let weights = || Weights::open(folder, "model", kind, device);
        let model: String = json.get("model_type")?;
        let (network, width, vocab_size, positions) = match model.as_str() {
            "bert" => {
                let config = bert::Config::read(&json)?;
                let network = weights()?.build(&IGNORED, |root| bert::Encoder::new(below(root, "bert"), &config))?;
                (Network::Bert(network), config.hidden_size, config.vocab_size, config.max_position_embeddings)
            }
            "mpnet" => {
                let config = mpnet::Config::read(&json)?;
                let network = weights()?.build(&IGNORED, |root| Mpnet::new(below(root, "mpnet"), &config))?;
                (Network::Mpnet(network), config.hidden_size, config.vocab_size, config.longest())
            }
            _ => return Err(json.error("model_type", &format!("is {model}; sentences are embedded by bert and mpnet"))),
        };
        settings.check_width(width)?;
        let tokenizer = BertTokenizer::open(folder)?;
        let words = tokenizer.vocab_size();
        if words > vocab_size {
            let message =
                format!("the tokenizer has {words} tokens, but vocab_size is {vocab_size}; is it another model's?");
            return Err(Error::file(folder, message));
        }
        let longest = positions as usize;
        let max_length =
            settings.max_length.or(tokenizer.max_length().map(|most| most.min(longest))).unwrap_or(longest);
        if max_length > longest {
            let message =
                format!("the longest text is {max_length} tokens in the settings, but the network ends at {longest}");
            return Err(Error::file(folder, message));
        }
        Ok(Self { network, tokenizer, vocab_size, max_length, options: (kind, device) })
    }

    /// Embeddings `[B, D]`, each row of length 1, float32 or float64. Tokens beyond [`max_length`](Self::max_length)
    /// are ignored, as upstream.
    ///
    /// # Errors
    /// No texts; an embedding that is not finite.
    pub fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        if texts.is_empty() {
            return Err(Error::Input("sentence embedding: there are no texts".into()));
        }
        let _guard = tch::no_grad_guard();
        let batch = self.tokenizer.encode_batch(texts, self.max_length)?;
        let embeddings = self.embed_ids(&batch.ids, &batch.attention_mask)?;
        let finite = Vec::<bool>::try_from(embeddings.isfinite().all_dim(1, false))?;
        match finite.iter().position(|finite| !finite) {
            None => Ok(embeddings),
            Some(i) => Err(Error::Input(format!(
                "sentence embedding: that of text {}, {:?}, is not a number; are the weights finite? In half precision, try \
                 float32",
                i + 1,
                texts[i]
            ))),
        }
    }

    /// ids and attention_mask `[B, L]` int64, padding after the text → `[B, D]`, each row of length 1
    pub fn embed_ids(&self, ids: &Tensor, attention_mask: &Tensor) -> Result<Tensor> {
        let fail = |what: String| Err(Error::Input(format!("sentence embedding: {what}")));
        let (rows, length) = check_ids("sentence embedding", ids, self.vocab_size, self.max_length as i64)?;
        if attention_mask.size() != [rows, length] {
            return fail(format!("attention mask {:?} for token ids [{rows}, {length}]", attention_mask.size()));
        }
        let mask = attention_mask.ne(0);
        if mask.select(1, 0).all().int64_value(&[]) == 0 {
            return fail("the attention mask of a text begins with 0; padding belongs behind the text".into());
        }
        let (kind, device) = self.options;
        let (ids, mask) = (ids.to_device(device), mask.to_device(device));
        let scores = Tensor::zeros([rows, 1, 1, length], self.options);
        let scores = scores.masked_fill(&mask.logical_not().view([rows, 1, 1, length]), f64::NEG_INFINITY);
        let states = match &self.network {
            Network::Bert(bert) => bert.forward(&ids, &Tensor::arange(length, (Kind::Int64, device)), &scores),
            Network::Mpnet(mpnet) => mpnet.forward(&ids, &scores),
        };
        let kind = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let weights = mask.to_kind(kind).unsqueeze(-1);
        let mean =
            (states.to_kind(kind) * &weights).sum_dim_intlist(1, false, kind) / weights.sum_dim_intlist(1, false, kind);
        Ok(&mean / mean.square().sum_dim_intlist(-1, true, kind).sqrt())
    }

    /// The cosine of a text and each of the others (−1 to 1).
    pub fn similarities(&self, text: &str, others: &[&str]) -> Result<Vec<f64>> {
        if others.is_empty() {
            return Err(Error::Input("sentence embedding: there are no texts to compare with".into()));
        }
        let all: Vec<&str> = std::iter::once(text).chain(others.iter().copied()).collect();
        let embeddings = self.embed(&all)?.to_kind(Kind::Double);
        let cosines = embeddings.narrow(0, 1, others.len() as i64).matmul(&embeddings.get(0));
        Ok(Vec::<f64>::try_from(cosines)?)
    }

    /// Maximum number of tokens, including start and end token.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    pub fn tokenizer(&self) -> &BertTokenizer {
        &self.tokenizer
    }
}

/// The scope of the encoder. In checkpoints of a model with a head it is one level lower.
fn below<'a>(root: Scope<'a>, name: &str) -> Scope<'a> {
    let inner = &root / name;
    if (&inner / "embeddings" / "word_embeddings").has("weight") { inner } else { root }
}
