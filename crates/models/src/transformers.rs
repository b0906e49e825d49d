//! What the networks of the transformers library have in common: keys of their configurations, checks of token ids.

use crate::{
    config::Json,
    error::{Error, Result},
    layers::Activation,
};
use tch::{Kind, Tensor};

/// Keys that transformers has written into configurations at one time or another and that change nothing in what a
/// frozen network computes: housekeeping, training, generation.
pub const UNUSED_KEYS: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// A size or a count, which must be at least 1. Without a default the key is required.
pub fn positive(json: &Json, key: &str, default: Option<i64>) -> Result<i64> {
    let value = match default {
        Some(default) => json.get_or(key, default)?,
        None => json.get(key)?,
    };
    if value < 1 {
        return Err(json.error(key, &format!("is {value}; it must be at least 1")));
    }
    Ok(value)
}

/// `num_attention_heads`, which must divide the width.
pub fn heads(json: &Json, width: i64, default: i64) -> Result<i64> {
    let key = "num_attention_heads";
    let heads = positive(json, key, Some(default))?;
    if width % heads != 0 {
        return Err(json.error(key, &format!("is {heads}, which does not divide hidden_size {width}")));
    }
    Ok(heads)
}

/// `hidden_act`
pub fn activation(json: &Json, default: &str) -> Result<Activation> {
    let name: String = json.get_or("hidden_act", default.to_owned())?;
    Activation::named(&name)
        .ok_or_else(|| json.error("hidden_act", &format!("is {name}; only gelu, quick_gelu and silu are supported")))
}

/// Checks token ids before an embedding looks them up (on a GPU a wrong one would break the whole process) and gives
/// their batch and length. `who` begins the message.
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
