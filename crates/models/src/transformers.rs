//! Common code for networks of the transformers library: keys of their configurations, checks of token ids.

use crate::{
    config::Json,
    error::{Error, Result},
    inert_keys,
    layers::Activation,
};
use tch::{Kind, Tensor};

impl Json {
    /// Accepts the keys that the base class of all configurations writes, in any version. If `is_decoder` distinguishes
    /// two networks, it must be read before.
    pub(crate) fn base_keys(&self) -> Result<()> {
        self.only("pruned_heads", serde_json::json!({}))?;
        self.only("quantization_config", serde_json::Value::Null)?;
        self.ignore(inert_keys::TRANSFORMERS);
        self.ignore(&["is_decoder", "tie_word_embeddings"]);
        Ok(())
    }
}

/// Upper limit for a key, by what it counts. It prevents building a huge network from a damaged file, and overflow of
/// shapes.
fn most(key: &str) -> i64 {
    match key {
        _ if key.ends_with("layers") || key.ends_with("per_block") || key.contains("depth") => 1000,
        _ if key.ends_with("points") || key.ends_with("levels") => 1000,
        _ if key.ends_with("image_size") || key.ends_with("patch_size") || key.ends_with("sample_size") => 1 << 14,
        _ => 1 << 20,
    }
}

/// Reads a size or a count, which must be at least 1. Without a default the key is required.
pub fn positive(json: &Json, key: &str, default: Option<i64>) -> Result<i64> {
    let value = match default {
        Some(default) => json.get_or(key, default)?,
        None => json.get(key)?,
    };
    at_least_one(json, key, value)
}

/// The value, if it is a possible size or count of its key.
pub fn at_least_one(json: &Json, key: &str, value: i64) -> Result<i64> {
    if value < 1 {
        return Err(json.error(key, &format!("is {value}; it must be at least 1")));
    }
    at_most(json, key, value)
}

/// The value, if it is not above the limit of its key.
pub fn at_most(json: &Json, key: &str, value: i64) -> Result<i64> {
    let most = most(key);
    if value > most {
        return Err(json.error(key, &format!("is {value}; at most {most} is supported")));
    }
    Ok(value)
}

/// Like [`positive`], for the values of all levels of a network.
pub fn all_positive(json: &Json, key: &str, values: &[i64]) -> Result<()> {
    const MOST_LEVELS: usize = 8;
    if values.is_empty() || values.len() > MOST_LEVELS {
        return Err(json.error(key, &format!("has {} levels; there must be 1 to {MOST_LEVELS}", values.len())));
    }
    if let Some(value) = values.iter().find(|value| **value < 1) {
        return Err(json.error(key, &format!("has {value}; it must be at least 1")));
    }
    values.iter().try_for_each(|value| at_most(json, key, *value).map(drop))
}

/// Reads `num_attention_heads`, which must divide the width.
pub fn heads(json: &Json, width: i64, default: i64) -> Result<i64> {
    let key = "num_attention_heads";
    let heads = positive(json, key, Some(default))?;
    if width % heads != 0 {
        return Err(json.error(key, &format!("is {heads}, which does not divide hidden_size {width}")));
    }
    Ok(heads)
}

/// Reads `hidden_act`.
pub fn activation(json: &Json, default: &str) -> Result<Activation> {
    let name: String = json.get_or("hidden_act", default.to_owned())?;
    Activation::named(&name)
        .ok_or_else(|| json.error("hidden_act", &format!("is {name}; only gelu, quick_gelu and silu are supported")))
}

/// Checks token ids before an embedding looks them up (on a GPU a wrong id would crash the whole process), and returns
/// their batch size and length. The error message begins with `who`.
pub fn check_ids(who: &str, ids: &Tensor, vocabulary: i64, positions: i64) -> Result<(i64, i64)> {
    let size = ids.size();
    let fail = |what: String| Err(Error::Input(format!("{who}: {what}")));
    let [rows, length] = size[..] else {
        return fail(format!("token ids {size:?} are not [B, L]"));
    };
    if ids.kind() != Kind::Int64 {
        return fail(format!("token ids are {:?}, not Int64", ids.kind()));
    }
    if rows < 1 || length < 1 {
        return fail(format!("token ids {size:?} are empty"));
    }
    if length > positions {
        return fail(format!("{length} tokens, but max_position_embeddings is {positions}"));
    }
    let (least, most) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
    if least < 0 || most >= vocabulary {
        let id = if least < 0 { least } else { most };
        return fail(format!(
            "token id {id} is outside of the vocabulary of {vocabulary}; is it another model's tokenizer?"
        ));
    }
    Ok((rows, length))
}
