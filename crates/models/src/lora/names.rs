//! The spellings of a layer's name in adapter files. See `docs/formats.md` for a table of them.

use super::ldm;
use std::fmt;

/// The network that a layer belongs to. Its display is the folder of that network in a model, and its prefix in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    TextEncoder,
    TextEncoder2,
    UNet,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::UNet => "unet",
        })
    }
}

/// How a file names layers and matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spelling {
    /// `unet.LAYER.lora.down.weight`; in text encoders `….lora_linear_layer.down.weight`
    Diffusers,
    /// `unet.LAYER.lora_A.weight`, as diffusers writes it
    Peft,
    /// `base_model.model.LAYER.lora_A.weight`, as peft itself writes it
    PeftModel,
    /// `unet.….attn1.processor.to_q_lora.down.weight`, of diffusers before 0.21
    Processors,
    /// `lora_unet_LAYER.lora_down.weight`, dots as underscores
    Kohya,
    /// kohya's with the blocks named as in the original Stable Diffusion code: `lora_unet_input_blocks_1_1_…`
    KohyaLdm,
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Peft => "PEFT",
            Self::PeftModel => "PEFT, whole model",
            Self::Processors => "diffusers, attention processors",
            Self::Kohya => "kohya",
            Self::KohyaLdm => "kohya, LDM blocks",
        })
    }
}

/// A layer by the path that it has in diffusers' and transformers' checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub network: Network,
    pub layer: String,
}

impl Name {
    pub fn unet(layer: impl Into<String>) -> Self {
        Self { network: Network::UNet, layer: layer.into() }
    }

    /// `unet.LAYER`, as diffusers and PEFT begin their keys.
    pub fn dotted(&self) -> String {
        format!("{}.{}", self.network, self.layer)
    }

    /// `lora_unet_LAYER_WITH_UNDERSCORES`. `two_encoders`: the first of two text encoders is `te1`, a lone one is `te`.
    pub fn kohya(&self, two_encoders: bool) -> String {
        let prefix = match self.network {
            Network::UNet => "lora_unet_",
            Network::TextEncoder if two_encoders => "lora_te1_",
            Network::TextEncoder => "lora_te_",
            Network::TextEncoder2 => "lora_te2_",
        };
        format!("{prefix}{}", self.layer.replace('.', "_"))
    }
}

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Down,
    Up,
    Alpha,
}

/// A key of an adapter file, understood.
#[derive(Debug, PartialEq)]
pub struct Key {
    pub name: Name,
    pub part: Part,
    pub spelling: Spelling,
}

const ENDINGS: [(&str, Part, Spelling); 13] = [
    (".lora.down.weight", Part::Down, Spelling::Diffusers),
    (".lora.up.weight", Part::Up, Spelling::Diffusers),
    (".lora_linear_layer.down.weight", Part::Down, Spelling::Diffusers),
    (".lora_linear_layer.up.weight", Part::Up, Spelling::Diffusers),
    (".lora_A.weight", Part::Down, Spelling::Peft),
    (".lora_B.weight", Part::Up, Spelling::Peft),
    (".lora_A.default.weight", Part::Down, Spelling::Peft),
    (".lora_B.default.weight", Part::Up, Spelling::Peft),
    (".lora_down.weight", Part::Down, Spelling::Kohya),
    (".lora_up.weight", Part::Up, Spelling::Kohya),
    ("_lora.down.weight", Part::Down, Spelling::Processors),
    ("_lora.up.weight", Part::Up, Spelling::Processors),
    (".alpha", Part::Alpha, Spelling::Kohya),
];

/// Adapters of other kinds, by a piece of their keys.
const OTHER_KINDS: [(&str, &str); 8] = [
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    (".lora_mid.", "a LoCon with a core matrix (CP decomposition)"),
    (".hada_", "a LoHa"),
    (".lokr_", "a LoKr"),
    (".oft_", "an OFT adapter"),
    (".diff", "a full difference of weights"),
    (".lora_B.bias", "a LoRA with biases"),
];

/// Understands a key, or says in a few words what is wrong with it. `layers_per_block` is the UNet's; only LDM block names
/// need it, and it is 2 in every published Stable Diffusion.
pub fn parse(key: &str, layers_per_block: usize) -> Result<Key, String> {
    let found = ENDINGS.iter().find_map(|&(end, part, spelling)| Some((key.strip_suffix(end)?, part, spelling)));
    let Some((stem, part, spelling)) = found else {
        return Err(match OTHER_KINDS.iter().find(|(piece, _)| key.contains(piece)) {
            Some((_, kind)) => format!("belongs to {kind}, which this program does not read"),
            None => "is in no LoRA spelling that this program reads".into(),
        });
    };
    if stem.starts_with("lora_") {
        let (name, ldm) = flattened(stem, layers_per_block).ok_or("names no network or block of Stable Diffusion")?;
        return Ok(Key { name, part, spelling: if ldm { Spelling::KohyaLdm } else { Spelling::Kohya } });
    }
    let (name, whole_model) = dotted(stem).ok_or("names no network of Stable Diffusion")?;
    let spelling = if whole_model { Spelling::PeftModel } else { spelling };
    Ok(Key { name, part, spelling })
}

/// diffusers' and PEFT's names; whether it is a whole model's.
fn dotted(stem: &str) -> Option<(Name, bool)> {
    let (stem, whole_model) = match stem.strip_prefix("base_model.model.") {
        Some(rest) => (rest, true),
        None => (stem, false),
    };
    let (network, layer) = match stem.split_once('.')? {
        ("unet", layer) => (Network::UNet, layer),
        ("text_encoder", layer) => (Network::TextEncoder, layer),
        ("text_encoder_2", layer) => (Network::TextEncoder2, layer),
        ("text_model", _) => (Network::TextEncoder, stem),
        ("transformer" | "transformer_blocks" | "single_transformer_blocks" | "diffusion_model", _) => return None,
        _ => (Network::UNet, stem),
    };
    let layer = match layer.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, projection)) => format!("{attention}.{projection}"),
        None => layer.to_owned(),
    };
    // diffusers once gave the projections of text encoders the names of the UNet's
    let layer = match layer.split_once(".self_attn.to_") {
        Some((block, projection)) => format!("{block}.self_attn.{projection}_proj"),
        None => layer,
    };
    Some((Name { network, layer: with_prefix(network, layer) }, whole_model))
}

/// transformers 5 leaves the prefix out that all layers of text encoders but the projection have had.
fn with_prefix(network: Network, layer: String) -> String {
    let bare = ["encoder.", "embeddings.", "final_layer_norm"].iter().any(|start| layer.starts_with(start));
    if bare && network != Network::UNet { format!("text_model.{layer}") } else { layer }
}

/// kohya's names; whether blocks are named as in LDM.
fn flattened(stem: &str, layers_per_block: usize) -> Option<(Name, bool)> {
    let (network, flat) = [
        ("lora_unet_", Network::UNet),
        ("lora_te_", Network::TextEncoder),
        ("lora_te1_", Network::TextEncoder),
        ("lora_te2_", Network::TextEncoder2),
    ]
    .into_iter()
    .find_map(|(prefix, network)| Some((network, stem.strip_prefix(prefix)?)))?;
    let path = with_dots(flat);
    match ldm::is_ldm(&path) && network == Network::UNet {
        true => Some((Name::unet(ldm::to_diffusers(&path, layers_per_block)?), true)),
        false => Some((Name { network, layer: with_prefix(network, path) }, false)),
    }
}

/// Words of layer names that have an underscore of their own.
const COMPOUNDS: [&str; 37] = [
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "proj_in",
    "proj_out",
    "conv_in",
    "conv_norm_out",
    "conv_out",
    "conv_shortcut",
    "time_emb_proj",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    // text encoders
    "text_model",
    "text_projection",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "token_embedding",
    "position_embedding",
    // LDM
    "input_blocks",
    "middle_block",
    "output_blocks",
    "time_embed",
    "label_emb",
    "in_layers",
    "emb_layers",
    "out_layers",
    "skip_connection",
];

/// Puts the dots back that kohya's spelling has made underscores.
fn with_dots(flat: &str) -> String {
    let (mut path, mut rest) = (String::new(), flat);
    while !rest.is_empty() {
        let at_word_end = |word: &&&str| rest.strip_prefix(**word).is_some_and(|r| r.is_empty() || r.starts_with('_'));
        let word = match COMPOUNDS.iter().find(at_word_end) {
            Some(word) => word,
            None => rest.split('_').next().unwrap_or(rest),
        };
        if !path.is_empty() {
            path.push('.');
        }
        path += word;
        rest = &rest[word.len()..];
        rest = rest.strip_prefix('_').unwrap_or(rest);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(key: &str) -> (String, Spelling) {
        let key = parse(key, 2).unwrap();
        (key.name.dotted(), key.spelling)
    }

    #[test]
    fn every_spelling_of_one_layer() {
        let path = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0";
        let spelt = [
            (format!("{path}.lora.down.weight"), Spelling::Diffusers),
            (format!("{path}.lora_A.weight"), Spelling::Peft),
            (format!("{path}.lora_A.default.weight"), Spelling::Peft),
            (path.replacen("unet", "base_model.model", 1) + ".lora_B.weight", Spelling::PeftModel),
            (path.replacen("to_out.0", "processor.to_out_lora.up.weight", 1), Spelling::Processors),
            ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0.alpha".into(), Spelling::Kohya),
            (
                "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0.lora_up.weight".into(),
                Spelling::KohyaLdm,
            ),
        ];
        for (key, spelling) in spelt {
            assert_eq!(layer(&key), (path.to_owned(), spelling), "{key}");
        }
    }

    #[test]
    fn text_encoders() {
        let path = "text_model.encoder.layers.11.self_attn.q_proj";
        let flat = "text_model_encoder_layers_11_self_attn_q_proj";
        for (key, network) in [
            (format!("text_encoder.{path}.lora_linear_layer.down.weight"), "text_encoder"),
            (format!("text_encoder_2.{path}.lora_A.weight"), "text_encoder_2"),
            ("text_encoder.text_model.encoder.layers.11.self_attn.to_q_lora.up.weight".into(), "text_encoder"),
            ("text_encoder.encoder.layers.11.self_attn.q_proj.lora_A.weight".into(), "text_encoder"),
            ("lora_te2_encoder_layers_11_self_attn_q_proj.alpha".into(), "text_encoder_2"),
            (format!("base_model.model.{path}.lora_A.weight"), "text_encoder"),
            (format!("lora_te_{flat}.lora_down.weight"), "text_encoder"),
            (format!("lora_te1_{flat}.lora_down.weight"), "text_encoder"),
            (format!("lora_te2_{flat}.alpha"), "text_encoder_2"),
        ] {
            assert_eq!(layer(&key).0, format!("{network}.{path}"), "{key}");
        }
        let name = parse(&format!("lora_te_{flat}.alpha"), 2).unwrap().name;
        assert_eq!((name.kohya(false), name.kohya(true)), (format!("lora_te_{flat}"), format!("lora_te1_{flat}")));
    }

    #[test]
    fn what_is_not_read_says_what_it_is() {
        for (key, part) in [
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "a DoRA"),
            ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "a LoCon with a core"),
            ("time_embedding.linear_1.weight", "is in no LoRA spelling"),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "names no network"),
            ("lora_unet_input_blocks_x_1_proj_in.alpha", "names no network or block"),
            ("lora_prior_unet_x.alpha", "names no network or block"),
        ] {
            let error = parse(key, 2).unwrap_err();
            assert!(error.contains(part), "{key}: {error}");
        }
    }
}
