//! Converts text to token ids as CLIP (byte pairs) and BERT (word pieces) expect them.
//!
//! Files and conventions: transformers `CLIPTokenizer` and `BertTokenizer`. A folder's `tokenizer.json` is used
//! unchanged; for the older vocabulary files, the same steps are built here. Tokens added to a vocabulary are in
//! `tokenizer_config.json`, or in `added_tokens.json` of older folders.

mod settings;
mod vocabulary;

use crate::error::{Error, Result};
use settings::Settings;
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::Path,
};
use tch::Tensor;
use tokenizers::{AddedToken, Tokenizer, decoders::wordpiece::WordPiece, normalizers::BertNormalizer};

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoding {
    /// Start token, the text, end token, and padding if the tokenizer pads.
    pub ids: Vec<i64>,
    /// For each id the byte range of the text that it stands for; `None` for start, end and padding. Always on
    /// character boundaries: if a character has several tokens, they all have its range.
    pub spans: Vec<Option<Range<usize>>>,
    /// The end of the text that did not fit, as written.
    pub cut: Option<String>,
}

impl Encoding {
    /// Positions of the tokens that overlap this byte range of the text.
    pub fn tokens_of(&self, part: &Range<usize>) -> Vec<i64> {
        let overlaps = |span: &Range<usize>| span.start < part.end && span.end > part.start;
        let all = self.spans.iter().enumerate();
        all.filter(|(_, span)| span.as_ref().is_some_and(overlaps)).map(|(i, _)| i as i64).collect()
    }
}

/// The tokenizer of CLIP's text encoders.
pub struct ClipTokenizer {
    inner: Inner,
    max_length: usize,
    /// Whether the files give no limit; `max_length` is then that of the published encoders.
    is_unlimited: bool,
    /// Maximum number of chunks of `max_length` tokens for one text.
    chunks: usize,
    /// Added tokens that stand for several, by their ids: textual inversion with more than one vector.
    vectors: BTreeMap<i64, Vectors>,
}

/// An added token `NAME` that stands for itself and the added tokens `NAME_1`, `NAME_2`, ….
struct Vectors {
    name: String,
    /// Ids of the others.
    others: Vec<i64>,
}

impl ClipTokenizer {
    /// Reads `tokenizer.json`, or `vocab.json` with `merges.txt`; and, if present, `tokenizer_config.json` and
    /// `special_tokens_map.json`.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let specials = Specials {
            start: settings.token("bos_token", "<|startoftext|>")?,
            end: settings.token("eos_token", "<|endoftext|>")?,
            pad: settings.token("pad_token", "<|endoftext|>")?,
            unknown: settings.token("unk_token", "<|endoftext|>")?,
        };
        let tokenizer = match settings.whole()? {
            Some(tokenizer) => tokenizer,
            None => vocabulary::clip(folder, &specials.unknown.content)?,
        };
        let said = settings.max_length()?;
        let inner = Inner::new(tokenizer, specials, &settings)?;
        let vectors = vectors(&inner.tokenizer);
        Ok(Self { inner, max_length: said.unwrap_or(77), is_unlimited: said.is_none(), chunks: 1, vectors })
    }

    /// Limits the length to the encoder's number of positions, if the tokenizer's files give no limit.
    pub fn within(mut self, positions: i64) -> Self {
        if self.is_unlimited {
            self.max_length = self.max_length.min(usize::try_from(positions).unwrap_or(0)).max(2);
        }
        self
    }

    /// Uses another token for padding: SDXL's second encoder was trained with `!`.
    pub fn padded_with(mut self, token: &str) -> Result<Self> {
        let id = self.inner.tokenizer.token_to_id(token);
        let id = id.ok_or_else(|| Error::Input(format!("the tokenizer has no token `{token}` to pad with")))?;
        self.inner.pad = id.into();
        Ok(self)
    }

    /// Continues a long text in further chunks, at most `most`, each with its own start and end token, as A1111,
    /// ComfyUI and sd-scripts do for prompts of more than 75 tokens.
    pub fn in_chunks(mut self, most: usize) -> Self {
        self.chunks = most.max(1);
        self
    }

    /// Returns exactly `max_length` ids, or a multiple of it in chunks. Longer text is cut; the last chunk is padded.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        let whole = self.whole(text)?;
        let needed = (whole.ids.len() - 2).div_ceil(self.room().max(1));
        self.chunked(text, whole, needed.clamp(1, self.chunks))
    }

    /// Like [`Self::encode`], always in `chunks` chunks, even if the text does not need them.
    pub fn encode_in(&self, text: &str, chunks: usize) -> Result<Encoding> {
        let whole = self.whole(text)?;
        self.chunked(text, whole, chunks)
    }

    /// Start, all of the text, and end. A token that stands for several vectors is followed by the others, as diffusers'
    /// `maybe_convert_prompt` writes them into the prompt; but not where the prompt itself goes on with them.
    fn whole(&self, text: &str) -> Result<Encoding> {
        let short = self.inner.encode(text, usize::MAX)?;
        if !short.ids.iter().any(|id| self.vectors.contains_key(id)) {
            return Ok(short);
        }
        let mut all = Encoding { ids: vec![], spans: vec![], cut: short.cut };
        for (i, (id, span)) in short.ids.iter().zip(short.spans).enumerate() {
            all.ids.push(*id);
            // only as the token is written: diffusers replaces text
            let written = span.clone().and_then(|span| text.get(span)).map(str::trim);
            if let Some(Vectors { name, others }) = self.vectors.get(id)
                && written == Some(name.as_str())
                && short.ids.get(i + 1) != others.first()
            {
                all.ids.extend(others);
            }
            all.spans.resize(all.ids.len(), span);
        }
        Ok(all)
    }

    /// Number of text tokens that fit into a chunk.
    fn room(&self) -> usize {
        self.max_length.saturating_sub(2)
    }

    /// Splits `whole` (start, all of the text, end) into chunks.
    fn chunked(&self, text: &str, whole: Encoding, chunks: usize) -> Result<Encoding> {
        let content = 1..whole.ids.len() - 1;
        let (ids, spans) = (&whole.ids[content.clone()], &whole.spans[content]);
        let taken = ids.len().min(chunks * self.room());
        let cut = spans.get(taken).cloned().flatten();
        let cut = cut.map(|span| text.get(span.start..).unwrap_or_default().trim().to_owned());
        let mut all = Encoding { ids: vec![], spans: vec![], cut };
        for chunk in 0..chunks {
            let part = (chunk * self.room()).min(taken)..((chunk + 1) * self.room()).min(taken);
            all.ids.push(self.inner.start);
            all.ids.extend(&ids[part.clone()]);
            all.ids.push(self.inner.end);
            all.ids.resize((chunk + 1) * self.max_length, self.inner.pad);
            all.spans.push(None);
            all.spans.extend_from_slice(&spans[part]);
            all.spans.resize((chunk + 1) * self.max_length, None);
        }
        Ok(all)
    }

    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> i64 {
        self.inner.vocab_size()
    }
}

fn vectors(tokenizer: &Tokenizer) -> BTreeMap<i64, Vectors> {
    let added = tokenizer.get_added_tokens_decoder();
    let ids: HashMap<&str, i64> = added.iter().map(|(id, token)| (token.content.as_str(), i64::from(*id))).collect();
    let of = |(&name, &id): (&&str, &i64)| {
        let others: Vec<i64> = (1..).map_while(|i| ids.get(format!("{name}_{i}").as_str()).copied()).collect();
        (!others.is_empty()).then(|| (id, Vectors { name: name.to_owned(), others }))
    };
    ids.iter().filter_map(of).collect()
}

/// The tokenizer of BERT; BLIP uses it, too.
pub struct BertTokenizer {
    inner: Inner,
    max_length: Option<usize>,
}

/// Texts of different lengths as one tensor, padded to the longest; int64 on the CPU.
pub struct Batch {
    /// Token ids `[B, L]`.
    pub ids: Tensor,
    /// 1 for tokens, 0 for padding; `[B, L]`.
    pub attention_mask: Tensor,
    /// For each text, the end that did not fit, as written.
    pub cut: Vec<Option<String>>,
}

impl BertTokenizer {
    /// Reads `tokenizer.json` or `vocab.txt`; and, if present, `tokenizer_config.json` and `special_tokens_map.json`.
    pub fn open(folder: &Path) -> Result<Self> {
        let settings = Settings::read(folder)?;
        let specials = Specials {
            start: settings.token("cls_token", "[CLS]")?,
            end: settings.token("sep_token", "[SEP]")?,
            pad: settings.token("pad_token", "[PAD]")?,
            unknown: settings.token("unk_token", "[UNK]")?,
        };
        let lower_case = settings.flag("do_lower_case")?;
        let (mut tokenizer, is_whole) = match settings.whole()? {
            Some(tokenizer) => (tokenizer, true),
            None => (vocabulary::bert(folder, &specials.unknown.content)?, false),
        };
        if !is_whole || lower_case.is_some() {
            let chinese = settings.flag("tokenize_chinese_chars")?.unwrap_or(true);
            let strip_accents = settings.flag("strip_accents")?;
            tokenizer.with_normalizer(Some(BertNormalizer::new(
                true,
                chinese,
                strip_accents,
                lower_case.unwrap_or(true),
            )));
        }
        if tokenizer.get_decoder().is_none() {
            tokenizer.with_decoder(Some(WordPiece::default()));
        }
        let max_length = settings.max_length()?;
        let mut inner = Inner::new(tokenizer, specials, &settings)?;
        let mask = settings.token("mask_token", "[MASK]")?;
        if inner.tokenizer.token_to_id(&mask.content).is_some() {
            inner.tokenizer.add_special_tokens(&[mask]);
        }
        Ok(Self { inner, max_length })
    }

    /// Returns at most `max_length` ids, without padding.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        self.inner.encode(text, max_length)
    }

    /// Returns at most `max_length` ids for each text.
    pub fn encode_batch(&self, texts: &[&str], max_length: usize) -> Result<Batch> {
        let encoded = texts.iter().map(|text| self.encode(text, max_length)).collect::<Result<Vec<_>>>()?;
        let Some(longest) = encoded.iter().map(|e| e.ids.len()).max() else {
            return Err(Error::Input("tokenizer: there are no texts".into()));
        };
        let (mut ids, mut mask) = (vec![], vec![]);
        for row in &encoded {
            let padding = longest - row.ids.len();
            ids.extend(row.ids.iter().copied().chain(std::iter::repeat_n(self.inner.pad, padding)));
            mask.extend(std::iter::repeat_n(1i64, row.ids.len()).chain(std::iter::repeat_n(0, padding)));
        }
        let size = [texts.len() as i64, longest as i64];
        Ok(Batch {
            ids: Tensor::from_slice(&ids).view(size),
            attention_mask: Tensor::from_slice(&mask).view(size),
            cut: encoded.into_iter().map(|row| row.cut).collect(),
        })
    }

    /// The text of the tokens, with a space between words.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        self.spell(ids, false)
    }

    /// Like [`Self::decode`], without start, end, padding and other special tokens.
    pub fn decode_words(&self, ids: &[i64]) -> Result<String> {
        self.spell(ids, true)
    }

    fn spell(&self, ids: &[i64], skip_special: bool) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.tokenizer.decode(&ids, skip_special).map_err(|e| Error::Input(format!("tokenizer: {e}")))
    }

    /// The id of a token, given as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.inner.tokenizer.token_to_id(token).map(i64::from)
    }

    /// The ids of start, end and padding.
    pub fn specials(&self) -> [i64; 3] {
        [self.inner.start, self.inner.end, self.inner.pad]
    }

    /// Maximum number of tokens in training, if the files give it.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> i64 {
        self.inner.vocab_size()
    }
}

struct Specials {
    start: AddedToken,
    end: AddedToken,
    pad: AddedToken,
    unknown: AddedToken,
}

/// A tokenizer that adds no special tokens, does not cut and does not pad; and the ids of the tokens for that.
struct Inner {
    tokenizer: Tokenizer,
    start: i64,
    end: i64,
    pad: i64,
}

impl Inner {
    fn new(mut tokenizer: Tokenizer, specials: Specials, settings: &Settings) -> Result<Self> {
        let fail = |message: String| Error::file(&settings.folder, message);
        tokenizer.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        tokenizer.with_padding(None);
        settings.add_tokens(&mut tokenizer)?;
        let id = |what: &str, token: &AddedToken| {
            let id = tokenizer.token_to_id(&token.content).map(i64::from);
            id.ok_or_else(|| fail(format!("the {what} token {} is not in the vocabulary", token.content)))
        };
        let Specials { start, end, pad, unknown } = specials;
        id("unknown", &unknown)?;
        let ids = [id("start", &start)?, id("end", &end)?, id("padding", &pad)?];
        tokenizer.add_special_tokens(&[start, end, unknown, pad]);
        Ok(Self { tokenizer, start: ids[0], end: ids[1], pad: ids[2] })
    }

    fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        let Some(room) = max_length.checked_sub(2) else {
            return Err(Error::Input(format!(
                "tokenizer: a length of {max_length} leaves no space for the start and end tokens"
            )));
        };
        let encoded =
            self.tokenizer.encode(text, false).map_err(|e| Error::Input(format!("tokenizer: {e}: {text:?}")))?;
        let spans = encoded.get_offsets();
        let cut = spans.get(room).map(|&(from, _)| text.get(from..).unwrap_or_default().trim().to_owned());
        let taken = spans.len().min(room);
        let content = encoded.get_ids()[..taken].iter().map(|&id| i64::from(id));
        let ids = std::iter::once(self.start).chain(content).chain([self.end]).collect();
        let content = spans[..taken].iter().map(|&(from, to)| Some(from..to));
        let spans = std::iter::once(None).chain(content).chain([None]).collect();
        Ok(Encoding { ids, spans, cut })
    }

    fn vocab_size(&self) -> i64 {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |id| i64::from(id) + 1)
    }
}
