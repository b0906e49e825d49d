//! Encodes prompts for the UNet. Every prompt is encoded once.

use crate::{
    conditions::{Adapter, GuidedText, PromptEncoder},
    resident::Resident,
};
use anyhow::{Context, Result, bail};
use models::{
    Error,
    clip::{TextConfig, TextEncoder},
    lora::Network,
    network::{CONTEXT, Conditions},
    tokenizer::{ClipTokenizer, Encoding},
    unet::{POOLED, TIME_IDS},
    weights::Weights,
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};
use tch::{Device, Kind, Tensor};

/// The networks in the order of the encoders.
pub const NETWORKS: [Network; 2] = [Network::TextEncoder, Network::TextEncoder2];

/// Whether the warning about a prompt that is too long was given.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Limit on the memory of cached rows, in bytes.
const MOST_KEPT: usize = 1 << 30;

/// The text encoder of SD1 and SD2, or SDXL's two.
pub struct TextEncoders {
    /// The model's path, for error messages.
    model: PathBuf,
    tokenizers: Vec<ClipTokenizer>,
    encoders: Resident<Vec<TextEncoder>>,
    open: Rc<Open>,
    /// The adapters that are added to the encoders' weights.
    adapters: Rc<[Adapter]>,
    /// Width of the context.
    width: i64,
    /// The encoders' layer that makes the context, counted from the end; `None`: as the model was trained.
    clip_skip: Option<usize>,
    /// SDXL was trained with zeros in place of an absent negative prompt.
    zeros_for_no_prompt: bool,
    kind: Kind,
    device: Device,
    /// Rows by the encoders with their current adapters.
    cache: Cache,
}

/// Reads the weights of every encoder from their files.
type Open = dyn Fn() -> Result<Vec<(TextConfig, Weights)>>;

/// Encoded prompts in host memory. For 20,000 prompts they take gigabytes.
#[derive(Default)]
struct Cache {
    rows: HashMap<String, Conditions>,
    bytes: usize,
}

impl TextEncoders {
    /// `open` reads the encoders, one for each tokenizer. `model` is named in errors.
    pub fn open(
        model: &Path,
        tokenizers: Vec<ClipTokenizer>,
        open: impl Fn() -> Result<Vec<(TextConfig, Weights)>> + 'static,
        clip_skip: Option<usize>,
        zeros_for_no_prompt: bool,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let open: Rc<Open> = Rc::new(open);
        let plain = open.clone();
        let encoders = Resident::open(move || networks(&*plain, &[]))?;
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
        let positions = configs.iter().map(|config| config.max_position_embeddings);
        let tokenizers = tokenizers.into_iter().zip(positions).map(|(t, positions)| t.within(positions)).collect();
        let layers = configs.iter().map(|config| config.layers).min().unwrap_or(0);
        if let Some(skip) = clip_skip.filter(|skip| !(1..=layers).contains(skip)) {
            bail!(
                "model.clip_skip (--clip-skip) is {skip}, it must be from 1, the last layer, to {layers}: {} has no more",
                model.display()
            );
        }
        let width = configs.iter().map(|config| config.hidden_size).sum();
        let (model, adapters, cache) = (model.to_owned(), Rc::from([]), Cache::default());
        Ok(Self {
            model,
            tokenizers,
            encoders,
            open,
            adapters,
            width,
            clip_skip,
            zeros_for_no_prompt,
            kind,
            device,
            cache,
        })
    }

    /// The width of the context, for comparison with the UNet's `cross_attention_dim`.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Rows of conditions. `guided` fills in the values of [`TIME_IDS`].
    fn encode(&mut self, prompts: &[&str]) -> Result<Vec<Conditions>> {
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

    /// One row. Warns when a prompt is too long, and names what is cut off.
    fn encode_by(&self, encoders: &[TextEncoder], prompt: &str) -> Result<Conditions> {
        let sdxl = encoders.len() > 1;
        let mut contexts = vec![];
        let mut pooled = None;
        let encodings =
            self.tokenizers.iter().map(|tokenizer| tokenizer.encode(prompt)).collect::<Result<Vec<_>, _>>()?;
        let chunks =
            self.tokenizers.iter().zip(&encodings).map(|(t, encoding)| encoding.ids.len() / t.max_length()).max();
        let chunks = chunks.unwrap_or(1);
        for (i, (tokenizer, encoder)) in self.tokenizers.iter().zip(encoders).enumerate() {
            let encoding = tokenizer.encode_in(prompt, chunks)?; // the other tokenizer may need more chunks
            if let (Some(cut), 0) = (&encoding.cut, i)
                && !TOLD.swap(true, Ordering::Relaxed)
            {
                let (limit, shown) = (encoding.ids.len(), cut.chars().take(200).collect::<String>());
                let rest = if shown.len() < cut.len() { "…" } else { "" };
                tracing::warn!(
                    "prompt longer than {limit} tokens; the model does not see its end (prompts.chunks and --chunks let it see \
                     more): …{shown}{rest}. Further ones are not named"
                );
            }
            let ids = Tensor::from_slice(&encoding.ids).view([chunks as i64, -1]).to_device(self.device);
            let (encoded, normed) = encoder.forward_to(&ids, self.clip_skip.unwrap_or(if sdxl { 2 } else { 1 }))?;
            let context = if sdxl { encoded.penultimate } else { normed }; // chunks are concatenated
            contexts.push(context.reshape([1, encoding.ids.len() as i64, -1]));
            pooled = encoded.text_embeds.map(|embeds| embeds.narrow(0, 0, 1)); // from the first chunk
        }
        let context = Tensor::cat(&contexts, -1).to_kind(self.kind);
        let conditions = Conditions::of_context(context);
        if !sdxl {
            return Ok(conditions);
        }
        let pooled = pooled.context("text_encoder_2 has no text_projection: SDXL needs its pooled embedding")?;
        let sizes = Tensor::zeros([1, 6], (Kind::Float, self.device));
        Ok(conditions.with(POOLED, pooled.to_kind(self.kind)).with(TIME_IDS, sizes))
    }
}

impl PromptEncoder for TextEncoders {
    fn guided(
        &mut self,
        prompts: &[&str],
        negative: Option<&str>,
        guided: bool,
        size: (i64, i64),
    ) -> Result<GuidedText> {
        let mut rows = self.encode(prompts)?;
        if guided {
            rows.extend(self.encode(&vec![negative.unwrap_or(""); prompts.len()])?);
        }
        let mut repeats = even(&mut rows);
        repeats.truncate(prompts.len());
        let text = |rows: &[Conditions]| {
            let text = Conditions::cat(&rows.iter().collect::<Vec<_>>());
            if text.get(TIME_IDS).is_none() {
                return text;
            }
            let sizes = [size.0, size.1, 0, 0, size.0, size.1];
            let ids = Tensor::from_slice(&sizes).to_kind(Kind::Float).to_device(self.device);
            text.with(TIME_IDS, ids.unsqueeze(0).repeat([prompts.len() as i64, 1]))
        };
        let (cond, uncond) = rows.split_at(prompts.len());
        let cond = text(cond);
        if !guided {
            return Ok(GuidedText::new(cond, None, repeats));
        }
        let mut uncond = text(uncond);
        if negative.is_none() && self.zeros_for_no_prompt {
            uncond = uncond.map_named(|name, t| if name == TIME_IDS { t.shallow_clone() } else { t.zeros_like() });
        }
        Ok(GuidedText::new(cond, Some(uncond), repeats))
    }

    /// Tokens by the first tokenizer.
    fn tokens(&self, prompt: &str) -> Result<Encoding> {
        Ok(self.tokenizers[0].encode(prompt)?)
    }

    /// Adds the adapters' updates of the text encoders to their weights, in place of earlier adapters. Rows that were
    /// encoded with other adapters are dropped.
    ///
    /// # Errors
    /// A file belongs to another base model.
    fn adapt(&mut self, adapters: Vec<Adapter>) -> Result<()> {
        let count = self.tokenizers.len();
        let adapts = |a: &Adapter, which: &[Network]| which.iter().any(|network| a.file.networks().contains(network));
        if let Some(adapter) = adapters.iter().find(|a| adapts(a, &NETWORKS[count..])) {
            let message = format!(
                "it adapts {}, and {} has {count} text encoder; was the LoRA made for another base model?",
                NETWORKS[count],
                self.model.display()
            );
            return Err(Error::file(&adapter.file.path, message).into());
        }
        let adapters: Rc<[Adapter]> = adapters.into_iter().filter(|a| adapts(a, &NETWORKS)).collect();
        if adapters.is_empty() && self.adapters.is_empty() {
            return Ok(());
        }
        let (open, of) = (self.open.clone(), adapters.clone());
        self.encoders.replace(move || networks(&*open, &of))?;
        (self.adapters, self.cache) = (adapters, Cache::default());
        Ok(())
    }

    /// Unloads the encoders whenever they are not in use.
    fn offload(&mut self) {
        self.encoders.unload();
    }
}

/// Brings contexts to the same length. A row is repeated as a whole, which does not change the result of attention,
/// since every key is repeated equally often. Returns how often each row is repeated.
fn even(rows: &mut [Conditions]) -> Vec<i64> {
    let length = |row: &Conditions| row.context().map_or(1, |context| context.size()[1]);
    let gcd = |mut a: i64, mut b: i64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let common = rows.iter().map(length).fold(1, |all, length| all / gcd(all, length) * length);
    let repeat = |row: &mut Conditions| {
        let times = common / length(row);
        if times > 1 {
            *row = row.map_named(|name, t| if name == CONTEXT { t.repeat([1, times, 1]) } else { t.shallow_clone() });
        }
        times
    };
    rows.iter_mut().map(repeat).collect()
}

/// The encoders with the adapters added to their weights.
fn networks(open: &Open, adapters: &[Adapter]) -> Result<Vec<TextEncoder>> {
    let network = |((config, weights), network): ((TextConfig, Weights), Network)| {
        let changes = |Adapter { file, scale }: &Adapter| Ok(file.changes_of(network, &weights)?.scaled(*scale));
        let changes = adapters.iter().map(changes).collect::<models::Result<Vec<_>>>()?;
        Ok(TextEncoder::new(&config, &weights.changed(&changes)?)?)
    };
    open()?.into_iter().zip(NETWORKS).map(network).collect()
}

impl Cache {
    /// Adds rows to the cache; when it is too large, old rows are dropped.
    fn add(&mut self, rows: HashMap<String, Conditions>) {
        let more: usize = rows.values().map(Conditions::bytes).sum();
        if self.bytes + more > MOST_KEPT {
            *self = Self::default();
        }
        self.bytes += more;
        self.rows.extend(rows.into_iter().map(|(prompt, row)| (prompt, row.map(|t| t.to_device(Device::Cpu)))));
    }
}
