//! The settings files beside a vocabulary.

use crate::{
    config::Json,
    error::{Error, Result},
    text,
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use tokenizers::{AddedToken, Tokenizer};

pub(super) struct Settings {
    pub folder: PathBuf,
    config: Option<Json>,
    specials: Option<Json>,
    /// `added_tokens.json`, in which transformers kept the ids of added tokens before 4.34.
    added_file: Option<Json>,
}

/// A token in these files: its text, or an object that also says how it is matched.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token as a text, or an object with its content")]
enum Token {
    Text(String),
    Described(Described),
}

/// Special tokens without a role: a list, or in newer files with names.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of tokens, or tokens by name")]
enum Others {
    List(Vec<Token>),
    Named(BTreeMap<String, Token>),
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
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            path.exists().then(|| Json::read(&path)).transpose()
        };
        let (config, specials) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
        Ok(Self { folder: folder.to_owned(), config, specials, added_file: read("added_tokens.json")? })
    }

    /// A complete `tokenizer.json`, if there is one.
    pub fn whole(&self) -> Result<Option<Tokenizer>> {
        let path = self.folder.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = text::read(&path)?;
        // the library panics if the JSON ends inside `decoder`
        serde_json::from_str::<Value>(&text).map_err(|e| Error::file(&path, e.to_string()))?;
        Tokenizer::from_bytes(text).map(Some).map_err(|e| Error::file(path, e.to_string()))
    }

    /// The token of a role. If the two files disagree, `special_tokens_map.json` takes precedence; but
    /// `tokenizer_config.json` does if it is of the newer kind that lists the added tokens (as in transformers).
    pub fn token(&self, role: &str, default: &str) -> Result<AddedToken> {
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

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.config.as_ref().map_or(Ok(None), |json| json.maybe(key))
    }

    /// Reads `model_max_length`; tokenizers without a limit have a number of thirty digits there.
    pub fn max_length(&self) -> Result<Option<usize>> {
        let Some(json) = &self.config else { return Ok(None) };
        if json.maybe::<Value>("model_max_length")? == Some("Infinity".into()) {
            return Ok(None);
        }
        match json.maybe::<f64>("model_max_length")? {
            Some(length) if length < 2.0 => Err(json.error(
                "model_max_length",
                &format!("is {length}, which leaves no space for the start and end tokens"),
            )),
            Some(length) if length < 1e6 => Ok(Some(length as usize)),
            _ => Ok(None),
        }
    }

    fn added(&self) -> Result<Option<BTreeMap<String, Described>>> {
        self.config.as_ref().map_or(Ok(None), |json| json.maybe("added_tokens_decoder"))
    }

    /// Adds the tokens that the files list: in newer folders those of `tokenizer_config.json`, else those of
    /// `added_tokens.json`; then the special tokens that have no role and no id in these files.
    pub fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let mut listed = vec![];
        match (&self.config, self.added()?, &self.added_file) {
            (Some(json), Some(added), _) => {
                for (id, token) in added {
                    let fail =
                        || json.error("added_tokens_decoder", &format!("has the key {id}, which is no token id"));
                    let (id, special) = (id.parse().map_err(|_| fail())?, token.special);
                    listed.push((id, token.token(special)));
                }
            }
            (_, None, Some(file)) => {
                let special = self.special_names()?;
                for key in file.keys() {
                    let is_special = special.contains(key);
                    listed.push((file.get(key)?, AddedToken::from(key, is_special).normalized(!is_special)));
                }
            }
            _ => {}
        }
        listed.sort_by_key(|(id, _)| *id);
        for (id, token) in listed {
            let name = token.content.clone();
            let known = tokenizer.token_to_id(&name);
            let next = next_id(tokenizer);
            if known.is_none() {
                leave_free(tokenizer, next, id);
            }
            if known.is_none_or(|there| there == id) && (known.is_some() || next <= id) {
                tokenizer.add_tokens(&[token]);
            }
            let there = tokenizer.token_to_id(&name);
            if there != Some(id) {
                let there = known.map_or("none".into(), |id| id.to_string());
                let message =
                    format!("gives {name} the id {id}, the vocabulary has {there}; the next free id is {next}");
                return Err(match (&self.config, &self.added_file) {
                    (Some(json), _) if self.added()?.is_some() => json.error("added_tokens_decoder", &message),
                    (_, file) => Error::file(file.as_ref().map_or(self.folder.as_path(), Json::path), message),
                });
            }
        }
        let others = self.others()?.into_iter().map(|token| match token {
            Token::Text(text) => AddedToken::from(text, true),
            Token::Described(token) => token.token(true),
        });
        tokenizer.add_special_tokens(&others.filter(|token| !token.content.is_empty()).collect::<Vec<_>>());
        Ok(())
    }

    /// Special tokens without a role of their own.
    fn others(&self) -> Result<Vec<Token>> {
        let mut all = vec![];
        for json in [self.config.as_ref(), self.specials.as_ref()].into_iter().flatten() {
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                match json.maybe(key)? {
                    Some(Others::List(tokens)) => all.extend(tokens),
                    Some(Others::Named(tokens)) => all.extend(tokens.into_values()),
                    None => {}
                }
            }
        }
        Ok(all)
    }

    fn special_names(&self) -> Result<BTreeSet<String>> {
        const ROLES: [&str; 7] =
            ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
        let mut tokens = self.others()?;
        for json in [self.config.as_ref(), self.specials.as_ref()].into_iter().flatten() {
            for role in ROLES {
                tokens.extend(json.maybe(role)?);
            }
        }
        let name = |token| match token {
            Token::Text(text) => text,
            Token::Described(token) => token.content,
        };
        Ok(tokens.into_iter().map(name).collect())
    }
}

/// The id of the next token that is added.
fn next_id(tokenizer: &Tokenizer) -> u32 {
    let added = tokenizer.get_added_tokens_decoder().into_keys().max().map_or(0, |last| last.saturating_add(1));
    added.max(u32::try_from(tokenizer.get_vocab_size(false)).unwrap_or(u32::MAX))
}

/// Fills the ids from `next` up to `id` (exclusive) with tokens that occur in no text, unless there are too many: the
/// library does not support gaps.
fn leave_free(tokenizer: &mut Tokenizer, next: u32, id: u32) {
    const MOST: u32 = 1 << 16;
    if id.saturating_sub(next) <= MOST {
        let free = |id: u32| AddedToken::from(format!("\u{10ffff}\u{10fffe}{id}\u{10ffff}"), false).normalized(false);
        tokenizer.add_tokens(&(next..id).map(free).collect::<Vec<_>>());
    }
}
