//! Text to token ids, as CLIP (byte pairs) and BERT (word pieces) were trained with.
//!
//! Files and conventions: transformers `CLIPTokenizer` and `BertTokenizer`. A folder's `tokenizer.json` is taken as it
//! stands; from the older vocabulary files the same steps are put together here.

use crate::{
    config::Json,
    error::{Error, Result},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};
use tch::Tensor;
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    decoders::wordpiece::WordPiece,
    models::{
        bpe::{BPE, Merges, Vocab},
        wordpiece::WordPieceBuilder,
    },
    normalizers::{self, BertNormalizer, Lowercase, NFC, replace::ReplacePattern},
    pre_tokenizers::{
        self,
        bert::BertPreTokenizer,
        byte_level::ByteLevel,
        split::{Split, SplitPattern},
    },
};

/// The words that CLIP's byte pairs are formed in.
const CLIP_WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoding {
    /// Start token, the text, end token, and padding where the tokenizer pads.
    pub ids: Vec<i64>,
    /// For each id the bytes of the text that it stands for; none for start, end and padding. Always on character
    /// boundaries: the tokens of a character that takes several have the same bytes.
    pub spans: Vec<Option<Range<usize>>>,
    /// The end of the text that did not fit, as it was written.
    pub cut: Option<String>,
}

impl Encoding {
    /// Positions of the tokens that stand for any of these bytes of the text.
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
}

impl ClipTokenizer {
    /// Reads `tokenizer.json`, or `vocab.json` with `merges.txt`; and, where they are there, `tokenizer_config.json` and
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
            None => clip_from_vocabulary(folder, &specials.unknown.content)?,
        };
        let max_length = settings.max_length()?.unwrap_or(77);
        Ok(Self { inner: Inner::new(tokenizer, specials, &settings)?, max_length })
    }

    /// With another token for padding: SDXL's second encoder was trained with `!`.
    pub fn padded_with(mut self, token: &str) -> Result<Self> {
        let id = self.inner.tokenizer.token_to_id(token);
        let id = id.ok_or_else(|| Error::Input(format!("the tokenizer has no token `{token}` to pad with")))?;
        self.inner.pad = id.into();
        Ok(self)
    }

    /// Exactly `max_length` ids: a long text is cut, a short one padded.
    pub fn encode(&self, text: &str) -> Result<Encoding> {
        let mut encoding = self.inner.encode(text, self.max_length)?;
        encoding.ids.resize(self.max_length, self.inner.pad);
        encoding.spans.resize(self.max_length, None);
        Ok(encoding)
    }

    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> i64 {
        self.inner.vocab_size()
    }
}

/// The tokenizer of BERT, and with it of BLIP.
pub struct BertTokenizer {
    inner: Inner,
    max_length: Option<usize>,
}

/// Texts of different lengths as one tensor, padded to the longest; int64 on the CPU.
pub struct Batch {
    /// `[B, L]`
    pub ids: Tensor,
    /// 1 for tokens, 0 for padding `[B, L]`
    pub attention_mask: Tensor,
    /// Of each text the end that did not fit, as it was written.
    pub cut: Vec<Option<String>>,
}

impl BertTokenizer {
    /// Reads `tokenizer.json` or `vocab.txt`; and, where they are there, `tokenizer_config.json` and
    /// `special_tokens_map.json`.
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
            None => (bert_from_vocabulary(folder, &specials.unknown.content)?, false),
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

    /// At most `max_length` ids, not padded.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        self.inner.encode(text, max_length)
    }

    /// At most `max_length` ids for each text.
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

    /// The text that tokens spell, with a space between words.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        self.spell(ids, false)
    }

    /// The same without start, end, padding and the other tokens that are no words.
    pub fn decode_words(&self, ids: &[i64]) -> Result<String> {
        self.spell(ids, true)
    }

    fn spell(&self, ids: &[i64], skip_special: bool) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        self.inner.tokenizer.decode(&ids, skip_special).map_err(|e| Error::Input(format!("tokenizer: {e}")))
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.inner.tokenizer.token_to_id(token).map(i64::from)
    }

    /// The ids of start, end and padding.
    pub fn specials(&self) -> [i64; 3] {
        [self.inner.start, self.inner.end, self.inner.pad]
    }

    /// The longest text that the model was trained with, where the files say.
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

/// A tokenizer that adds, cuts and pads nothing, and the ids of the tokens to do so with.
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
            return Err(Error::Input(format!("tokenizer: a length of {max_length} leaves no room for start and end")));
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

/// The small files beside a vocabulary.
struct Settings {
    folder: PathBuf,
    config: Option<Json>,
    specials: Option<Json>,
}

/// A token in these files: its text, or an object that also says how it is looked for.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Described(Described),
}

#[derive(Deserialize)]
struct Described {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Described {
    fn token(self, special: bool) -> AddedToken {
        AddedToken::from(self.content, special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

impl Settings {
    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            path.exists().then(|| Json::read(&path)).transpose()
        };
        let (config, specials) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
        Ok(Self { folder: folder.to_owned(), config, specials })
    }

    /// A complete `tokenizer.json`, if there is one.
    fn whole(&self) -> Result<Option<Tokenizer>> {
        let path = self.folder.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        Tokenizer::from_bytes(bytes).map(Some).map_err(|e| Error::file(path, e.to_string()))
    }

    /// The token of a role. Where the two files disagree, `special_tokens_map.json` has the last word, except beside the
    /// newer kind of configuration that lists the added tokens itself (as transformers has it).
    fn token(&self, role: &str, default: &str) -> Result<AddedToken> {
        let mut files = [self.specials.as_ref(), self.config.as_ref()];
        if self.added()?.is_some() {
            files.reverse();
        }
        for json in files.into_iter().flatten() {
            match json.maybe(role)? {
                Some(Token::Text(text)) => return Ok(AddedToken::from(text, true)),
                Some(Token::Described(token)) => return Ok(token.token(true)),
                None => {}
            }
        }
        Ok(AddedToken::from(default, true))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.config.as_ref().map_or(Ok(None), |json| json.maybe(key))
    }

    /// `model_max_length`; tokenizers without a limit have a number of thirty digits there.
    fn max_length(&self) -> Result<Option<usize>> {
        let Some(json) = &self.config else { return Ok(None) };
        match json.maybe::<f64>("model_max_length")? {
            Some(length) if length < 2.0 => {
                Err(json.error("model_max_length", &format!("is {length}, which leaves no room")))
            }
            Some(length) if length < 1e6 => Ok(Some(length as usize)),
            _ => Ok(None),
        }
    }

    fn added(&self) -> Result<Option<BTreeMap<String, Described>>> {
        self.config.as_ref().map_or(Ok(None), |json| json.maybe("added_tokens_decoder"))
    }

    /// The tokens that the configuration lists, in the order of their ids.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let (Some(json), Some(added)) = (&self.config, self.added()?) else { return Ok(()) };
        let fail = |message: String| json.error("added_tokens_decoder", &message);
        let mut tokens = vec![];
        for (id, token) in added {
            let id: u32 = id.parse().map_err(|_| fail(format!("has the key {id}, which is no token id")))?;
            tokens.push((id, token));
        }
        tokens.sort_by_key(|(id, _)| *id);
        for (id, token) in tokens {
            let (name, special) = (token.content.clone(), token.special);
            tokenizer.add_tokens(&[token.token(special)]);
            if tokenizer.token_to_id(&name) != Some(id) {
                return Err(fail(format!(
                    "gives {name} the id {id}, the vocabulary has {:?}",
                    tokenizer.token_to_id(&name)
                )));
            }
        }
        Ok(())
    }
}

fn clip_from_vocabulary(folder: &Path, unknown: &str) -> Result<Tokenizer> {
    let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !vocabulary.exists() || !merges.exists() {
        return Err(Error::file(folder, "holds neither tokenizer.json nor vocab.json with merges.txt"));
    }
    let text = fs::read_to_string(&vocabulary).map_err(Error::io(&vocabulary))?;
    let words: BTreeMap<String, u32> =
        serde_json::from_str(&text).map_err(|e| Error::file(&vocabulary, e.to_string()))?;
    let words: Vocab = words.into_iter().collect();
    let fail = |e: tokenizers::Error| Error::file(&merges, e.to_string());
    let model = BPE::builder()
        .vocab_and_merges(words, read_merges(&merges)?)
        .unk_token(unknown.to_owned())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(fail)?;
    let mut tokenizer = Tokenizer::new(model);
    let spaces = normalizers::Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(fail)?;
    let steps: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(steps)));
    let words = SplitPattern::Regex(CLIP_WORDS.to_owned());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(fail)?;
    let steps: Vec<PreTokenizerWrapper> = vec![words.into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(pre_tokenizers::sequence::Sequence::new(steps)));
    Ok(tokenizer)
}

/// Two pieces a line, the first line being the version.
fn read_merges(path: &Path) -> Result<Merges> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    let pair = |(number, line): (usize, &str)| match line.split(' ').collect::<Vec<_>>()[..] {
        [left, right] => Ok((left.to_owned(), right.to_owned())),
        _ => Err(Error::file(path, format!("line {} is not a pair of pieces: {line}", number + 1))),
    };
    lines.map(pair).collect()
}

fn bert_from_vocabulary(folder: &Path, unknown: &str) -> Result<Tokenizer> {
    let path = folder.join("vocab.txt");
    if !path.exists() {
        return Err(Error::file(folder, "holds neither tokenizer.json nor vocab.txt"));
    }
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let words: Vocab = text.lines().zip(0..).map(|(word, id)| (word.to_owned(), id)).collect();
    let model = WordPieceBuilder::new().vocab(words).unk_token(unknown.to_owned()).build();
    let mut tokenizer = Tokenizer::new(model.map_err(|e| Error::file(&path, e.to_string()))?);
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(tokenizer)
}
