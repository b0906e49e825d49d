//! The role of a tensor in its layer, from the end of its key: `LAYER.lora_A.NAME.weight`, where only some files have
//! NAME, the adapter's name.

use super::Format;
use crate::scaled;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Down,
    Up,
    /// Core of a LoCon in Tucker form, `[r, r, k, k]` between down and up.
    Core,
    UpBias,
    /// peft's form for embeddings: `[r, words]`.
    EmbeddingDown,
    /// The other matrix of an embedding: `[width, r]`.
    EmbeddingUp,
    Alpha,
    /// LyCORIS' trained factor of the whole update; a single number.
    Scalar,
    /// The norms of DoRA in peft's form: one for each output.
    Magnitude,
    /// The norms of DoRA in the form of LyCORIS and OneTrainer: one for each output, or one for each input.
    DoraScale,
    Loha(Factor),
    Lokr(Factor),
    /// The full difference that is added to the weight.
    Difference,
    BiasDifference,
    /// [`Part::Difference`] of a normalisation.
    NormDifference,
    NormBiasDifference,
}

/// The two matrices of LoHa and LoKr: each is a full matrix or a product, with a core in Tucker form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    W1,
    W1A,
    W1B,
    T1,
    W2,
    W2A,
    W2B,
    T2,
}

impl Factor {
    pub const ALL: [(&str, Self); 8] = [
        ("w1", Self::W1),
        ("w1_a", Self::W1A),
        ("w1_b", Self::W1B),
        ("t1", Self::T1),
        ("w2", Self::W2),
        ("w2_a", Self::W2A),
        ("w2_b", Self::W2B),
        ("t2", Self::T2),
    ];

    fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == word).map(|(_, factor)| *factor)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, factor)| *factor == self).map_or("", |(name, _)| name)
    }
}

impl Part {
    /// Whether the part is a single number; all others are matrices or vectors.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Alpha | Self::Scalar)
    }

    /// The part's name in kohya's and LyCORIS' programs. `None`: they have no such part.
    pub fn kohya(self) -> Option<String> {
        let name = match self {
            Self::Down => "lora_down.weight",
            Self::Up => "lora_up.weight",
            Self::Core => "lora_mid.weight",
            Self::Alpha => "alpha",
            Self::Scalar => "scalar",
            Self::Magnitude | Self::DoraScale => "dora_scale",
            Self::Loha(factor) => return Some(format!("hada_{}", factor.name())),
            Self::Lokr(factor) => return Some(format!("lokr_{}", factor.name())),
            Self::Difference => "diff",
            Self::BiasDifference => "diff_b",
            Self::NormDifference => "w_norm",
            Self::NormBiasDifference => "b_norm",
            Self::UpBias | Self::EmbeddingDown | Self::EmbeddingUp => return None,
        };
        Some(name.into())
    }
}

/// A key without its ending.
#[derive(Debug, PartialEq)]
pub struct Split<'a> {
    pub stem: &'a str,
    pub part: Part,
    pub format: Format,
    /// The adapter's name, if the key has it.
    pub adapter: Option<&'a str>,
}

/// Splits a key. `None`: the key has none of the known endings.
pub fn split(key: &str) -> Option<Split<'_>> {
    let starts: Vec<usize> = std::iter::once(0).chain(key.match_indices('.').map(|(at, _)| at + 1)).collect();
    // `LAYER.lora.down.NAME.weight` is the longest ending; it begins at the first word that we know
    let from = starts.len().saturating_sub(4).max(1);
    (from..starts.len()).find_map(|i| {
        let words: Vec<&str> = key[starts[i]..].split('.').collect();
        let (inside, part, format, rest) = begin(&words)?;
        let (adapter, last) = match rest {
            [] | ["weight"] => (None, "weight"),
            ["bias"] => (None, "bias"),
            [.., name] if scaled::is_word(name) => return None,
            [name] => (Some(*name), "weight"),
            [name, last @ ("weight" | "bias")] => (Some(*name), *last),
            _ => return None,
        };
        let part = match (part, last) {
            (part, "weight") => part,
            (Part::Up, _) => Part::UpBias,
            _ => return None,
        };
        let stem = if inside == 0 { &key[..starts[i] - 1] } else { &key[..starts[i] + inside] };
        (adapter.is_none() || may_have_name(part)).then_some(Split { stem, part, format, adapter })
    })
}

/// The part and format that these words begin with, and the remaining words. The first value is the number of bytes of
/// the first word that belong to the layer's path.
fn begin<'a, 'w>(words: &'w [&'a str]) -> Option<(usize, Part, Format, &'w [&'a str])> {
    let direction = |word: &str| match word {
        "down" => Some(Part::Down),
        "up" => Some(Part::Up),
        "mid" => Some(Part::Core),
        _ => None,
    };
    if let [first, second, rest @ ..] = words
        && let Some(part) = direction(second)
    {
        if matches!(*first, "lora" | "lora_linear_layer" | "lora_layer") {
            return Some((0, part, Format::Diffusers, rest));
        }
        // `processor.to_q_lora.down`: the word contains the layer's own name
        if let Some(layer) = first.strip_suffix("_lora") {
            return Some((layer.len(), part, Format::Processors, rest));
        }
    }
    let [first, rest @ ..] = words else { return None };
    let (part, format) = match *first {
        "lora_A" => (Part::Down, Format::Peft),
        "lora_B" => (Part::Up, Format::Peft),
        "lora_embedding_A" => (Part::EmbeddingDown, Format::Peft),
        "lora_embedding_B" => (Part::EmbeddingUp, Format::Peft),
        "lora_magnitude_vector" => (Part::Magnitude, Format::Peft),
        "lora_down" => (Part::Down, Format::Kohya),
        "lora_up" => (Part::Up, Format::Kohya),
        "lora_mid" => (Part::Core, Format::Kohya),
        "alpha" => (Part::Alpha, Format::Kohya),
        "scalar" => (Part::Scalar, Format::Kohya),
        "dora_scale" => (Part::DoraScale, Format::Kohya),
        "diff" => (Part::Difference, Format::Kohya),
        "diff_b" => (Part::BiasDifference, Format::Kohya),
        "w_norm" => (Part::NormDifference, Format::Kohya),
        "b_norm" => (Part::NormBiasDifference, Format::Kohya),
        word => {
            let loha = word.strip_prefix("hada_").and_then(Factor::of).map(Part::Loha);
            let lokr = word.strip_prefix("lokr_").and_then(Factor::of).map(Part::Lokr);
            (loha.or(lokr)?, Format::Kohya)
        }
    };
    Some((0, part, format, rest))
}

/// peft puts the adapter's name after the parts that it trains; other programs write no name.
fn may_have_name(part: Part) -> bool {
    !matches!(part, Part::Alpha | Part::Scalar | Part::DoraScale | Part::Difference | Part::BiasDifference)
}
