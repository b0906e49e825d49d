//! The formats of a layer's name in adapter files. See `docs/formats.md` for a table of them.

use super::{
    parts::{self, Part, Split},
    paths,
};
use std::fmt;

/// The network that a layer belongs to. Displayed as the network's folder in a model, which is also its prefix in
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    TextEncoder,
    TextEncoder2,
    UNet,
}

impl Network {
    pub const ALL: [Self; 3] = [Self::UNet, Self::TextEncoder, Self::TextEncoder2];
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
pub enum Format {
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
    /// Like `Kohya`, with the block names of the original Stable Diffusion code: `lora_unet_input_blocks_1_1_…`
    KohyaLdm,
    /// `lycoris_LAYER.lora_down.weight`, dots as underscores
    Lycoris,
    /// `unet.LAYER.lora_down.weight`, as OneTrainer and ComfyUI write it
    Dotted,
    /// Like `Dotted`, with the original block names: `unet.input_blocks.1.1.…`, `diffusion_model.input_blocks.1.1.…`
    DottedLdm,
}

impl Format {
    /// Whether programs that look for kohya's metadata read this format.
    pub fn is_kohya(self) -> bool {
        matches!(self, Self::Kohya | Self::KohyaLdm)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::Peft => "PEFT",
            Self::PeftModel => "PEFT, whole model",
            Self::Processors => "diffusers, attention processors",
            Self::Kohya => "kohya",
            Self::KohyaLdm => "kohya, LDM blocks",
            Self::Lycoris => "LyCORIS",
            Self::Dotted => "dotted",
            Self::DottedLdm => "dotted, LDM blocks",
        })
    }
}

/// A layer by its path in diffusers' and transformers' checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub network: Network,
    pub layer: String,
}

impl Name {
    pub fn unet(layer: impl Into<String>) -> Self {
        Self { network: Network::UNet, layer: layer.into() }
    }

    /// The path in the keys of diffusers and PEFT: `unet.LAYER`.
    pub fn dotted(&self) -> String {
        format!("{}.{}", self.network, self.layer)
    }

    /// The name in kohya's format: `lora_unet_LAYER_WITH_UNDERSCORES`. `two_encoders`: the first of two text encoders
    /// is `te1`; a single one is `te`.
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

/// A parsed key of an adapter file.
#[derive(Debug, PartialEq)]
pub struct Key {
    pub name: Name,
    pub part: Part,
    pub format: Format,
    /// The adapter's name, if the key has it.
    pub adapter: Option<String>,
}

/// Adapters of other kinds, recognised by a part of their keys.
const OTHER_KINDS: [(&str, &str); 23] = [
    (".oft_", "an OFT adapter"),
    (".boft_", "a BOFT adapter"),
    (".hra_u", "an HRA adapter"),
    (".miss_block", "a MiSS adapter"),
    (".bone_", "a Bone adapter"),
    (".fourierft_", "a FourierFT adapter"),
    ("vblora_", "a VB-LoRA"),
    ("randlora_", "a RandLoRA"),
    (".shira_", "a SHiRA adapter"),
    (".road_", "a RoAd adapter"),
    (".c3a_", "a C3A adapter"),
    (".waveft_", "a WaveFT adapter"),
    (".lokr_t1", "a LoKr with a core in its first matrix"),
    (".on_input", "an IA3 adapter"),
    (".ia3_l", "an IA3 adapter"),
    (".lambda_layer", "a T-LoRA"),
    (".vera_lambda", "a VeRA adapter"),
    (".lora_E", "an AdaLoRA"),
    (".bias_indices", SPARSE),
    (".bias_values", SPARSE),
    (".bias_size", SPARSE),
    (".set_weight", "a whole weight in the place of another"),
    (".reshape_weight", "a weight of another shape"),
];

/// LyCORIS' `sparse_bias`, in LoRAs that were extracted from a model.
const SPARSE: &str = "a sparse difference beside an extracted LoRA";

/// Parses a key, or says in a few words what is wrong with it. `layers_per_block` is the UNet's; only LDM block names
/// need it, and it is 2 in every published Stable Diffusion.
pub fn parse(key: &str, layers_per_block: usize) -> Result<Key, String> {
    if let Some((_, kind)) = OTHER_KINDS.iter().find(|(piece, _)| key.contains(piece)) {
        return Err(format!("belongs to {kind}, which this program does not read"));
    }
    let is_glora = ["a1", "a2", "b1", "b2", "bm"].iter().any(|end| key.ends_with(&format!(".{end}.weight")));
    if is_glora && (key.starts_with("lora_") || key.starts_with("lycoris_")) {
        return Err("belongs to a GLoRA, which this program does not read".into());
    }
    let Some(Split { stem, part, format, adapter }) = parts::split(key) else {
        return Err(beside_the_lora(key, layers_per_block).map_or(
            "is in no LoRA format that this program reads".into(),
            |setting| {
                format!("was trained beside the LoRA, whole, with peft's {setting}; only what is low-rank is read")
            },
        ));
    };
    let (name, format) = paths::parse(stem, format, layers_per_block)?;
    Ok(Key { name, part, format, adapter: adapter.map(str::to_owned) })
}

/// Whether the key is as peft itself writes it: of the whole model, or of a bare layer, `LAYER.lora_A.weight`.
pub fn is_of_pefts(key: &str, layers_per_block: usize) -> bool {
    let is_bare = || {
        parts::split(key).is_some_and(|Split { stem, part, format, .. }| {
            let is_pefts = format == Format::Peft || matches!(part, Part::Loha(_) | Part::Lokr(_));
            is_pefts && paths::is_bare(stem, layers_per_block)
        })
    };
    key.starts_with("base_model.") || is_bare()
}

/// Whether the key is a tensor of a network itself, wrapped by peft or not.
pub fn is_weight(key: &str, layers_per_block: usize) -> bool {
    let Some((stem, end @ ("weight" | "bias" | "position_ids"))) = key.rsplit_once('.') else { return false };
    let is_own = end == "position_ids" || !stem.contains(".modules_to_save");
    is_own && parts::split(key).is_none() && paths::parse(stem, Format::Peft, layers_per_block).is_ok()
}

/// If the key is a layer's own weight or bias beside the LoRA: the peft setting that puts it into the file.
fn beside_the_lora(key: &str, layers_per_block: usize) -> Option<&'static str> {
    let (stem, end) = key.rsplit_once('.')?;
    let is_saved = stem.contains(".modules_to_save");
    let stem = stem.split(".modules_to_save").next()?;
    let is_pefts = stem.starts_with("base_model.") || stem.contains(".base_layer") || is_saved;
    (is_pefts && paths::parse(stem, Format::Peft, layers_per_block).is_ok()).then_some(())?;
    match end {
        "weight" => Some("`modules_to_save`"),
        "bias" if is_saved => Some("`modules_to_save`"),
        "bias" if stem.ends_with(".base_layer") => Some("`bias` (\"lora_only\" or \"all\")"),
        "bias" => Some("`bias` (\"all\") or `modules_to_save`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(key: &str) -> (String, Format) {
        let key = parse(key, 2).unwrap_or_else(|why| panic!("{key} {why}"));
        (key.name.dotted(), key.format)
    }

    #[test]
    fn every_format_of_one_layer() {
        let path = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0";
        let flat = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0";
        let ldm = "input_blocks.4.1.transformer_blocks.0.attn2.to_out.0";
        let keys = [
            (format!("{path}.lora.down.weight"), Format::Diffusers),
            (format!("{path}.lora_A.weight"), Format::Peft),
            (format!("{path}.lora_A.default.weight"), Format::Peft),
            (path.replacen("unet", "base_model.model", 1) + ".lora_B.weight", Format::PeftModel),
            (path.replacen("to_out.0", "processor.to_out_lora.up.weight", 1), Format::Processors),
            (format!("lora_unet_{flat}.alpha"), Format::Kohya),
            (format!("lora_unet_{}.lora_up.weight", ldm.replace('.', "_")), Format::KohyaLdm),
            (format!("{path}.lora_up.weight"), Format::Dotted),
            (format!("unet.{ldm}.lora_down.weight"), Format::DottedLdm),
            (format!("diffusion_model.{ldm}.lora_down.weight"), Format::DottedLdm),
            (format!("model.diffusion_model.{ldm}.lora_down.weight"), Format::DottedLdm),
            (format!("lycoris_{flat}.hada_w1_a"), Format::Lycoris),
            (format!("lycoris_unet_{flat}.lokr_w2"), Format::Lycoris),
        ];
        for (key, format) in keys {
            assert_eq!(layer(&key), (path.to_owned(), format), "{key}");
        }
    }

    /// Prefixes and wrappers around a layer's path in the state dict of a network that was wrapped once or more.
    #[test]
    fn prefixes_and_wrappers() {
        let path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
        let (start, end) = path.split_once(".transformer").unwrap();
        for around in [
            format!("unet.unet.{path}"),
            format!("unet.base_model.model.{path}"),
            format!("base_model.model.base_model.model.{path}"),
            format!("base_model.model.unet.{path}"),
            format!("unet._orig_mod.{path}"),
            format!("_forward_module.unet.{path}"),
            format!("_forward_module.module.base_model.model.{path}"),
            format!("_orig_mod.unet.{path}"),
            format!("unet.{start}._orig_mod.transformer{end}"),
            format!("base_model.model.module.{path}"),
            format!("module._orig_mod.base_model.model.{path}"),
            format!("unet._fsdp_wrapped_module.{start}._checkpoint_wrapped_module.transformer{end}"),
            format!("pipe.unet.{path}"),
            format!("model.{path}"),
            path.to_owned(),
        ] {
            let ends = [
                "lora_A.weight",
                "lora_A.default_0.weight",
                "lora_A.my-style.weight",
                "lora_A",
                "lora_layer.down.weight",
            ];
            for end in ends {
                assert_eq!(layer(&format!("{around}.{end}")).0, format!("unet.{path}"), "{around}.{end}");
            }
        }
        let flat = path.replace('.', "_");
        for around in [
            "lora_unet__orig_mod",
            "lora_unet__forward_module",
            "lora_unet_module",
            "lora_unet_unet",
            "lora_unet_base_model_model",
        ] {
            assert_eq!(layer(&format!("{around}_{flat}.lora_up.weight")).0, format!("unet.{path}"), "{around}");
        }
        let error = parse(&format!("unet.text_encoder.{path}.lora_A.weight"), 2).unwrap_err();
        assert_eq!(error, "names two networks, unet and text_encoder");
    }

    #[test]
    fn parts_of_a_layer() {
        let of = |end: &str| {
            let key = parse(&format!("unet.mid_block.attentions.0.proj_in.{end}"), 2).unwrap();
            assert_eq!(key.name.layer, "mid_block.attentions.0.proj_in", "{end}");
            (key.part, key.adapter.unwrap_or_default())
        };
        use crate::lora::Factor::*;
        for (end, part, adapter) in [
            ("lora_A.first.weight", Part::Down, "first"),
            ("lora_B.alpha.weight", Part::Up, "alpha"),
            ("lora_B.bias", Part::UpBias, ""),
            ("lora_B.default.bias", Part::UpBias, "default"),
            ("lora_magnitude_vector", Part::Magnitude, ""),
            ("lora_magnitude_vector.weight", Part::Magnitude, ""),
            ("lora_magnitude_vector.default_1", Part::Magnitude, "default_1"),
            ("lora_magnitude_vector.default_1.weight", Part::Magnitude, "default_1"),
            ("dora_scale", Part::DoraScale, ""),
            ("lora_mid.weight", Part::Core, ""),
            ("hada_w1_a", Part::Loha(W1A), ""),
            ("hada_t2", Part::Loha(T2), ""),
            ("hada_w2_b.default", Part::Loha(W2B), "default"),
            ("lokr_w1", Part::Lokr(W1), ""),
            ("lokr_t2", Part::Lokr(T2), ""),
            ("scalar", Part::Scalar, ""),
            ("diff", Part::Difference, ""),
            ("diff_b", Part::BiasDifference, ""),
            ("w_norm", Part::NormDifference, ""),
            ("b_norm", Part::NormBiasDifference, ""),
        ] {
            assert_eq!(of(end), (part, adapter.into()), "{end}");
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
            ("base_model.model.encoder.layers.11.self_attn.q_proj.lora_A.weight".into(), "text_encoder"),
            ("lora_te2_encoder_layers_11_self_attn_q_proj.alpha".into(), "text_encoder_2"),
            (format!("base_model.model.{path}.lora_A.weight"), "text_encoder"),
            (format!("text_encoder.module.{path}.lora_A.weight"), "text_encoder"),
            (format!("text_encoder_2.base_model.model.{path}.lora_A.weight"), "text_encoder_2"),
            (format!("lora_te_{flat}.lora_down.weight"), "text_encoder"),
            (format!("lora_te1_{flat}.lora_down.weight"), "text_encoder"),
            (format!("lora_te2_{flat}.alpha"), "text_encoder_2"),
            (format!("lycoris_{flat}.lora_down.weight"), "text_encoder"),
            (format!("clip_l.{path}.lora_down.weight"), "text_encoder"),
            (format!("clip_g.{path}.lora_down.weight"), "text_encoder_2"),
            (format!("clip_h.{path}.lora_down.weight"), "text_encoder"),
            (format!("text_encoder_0.{path}.lora_A.weight"), "text_encoder"),
            (format!("lora_text_encoder_0_{flat}.lora_up.weight"), "text_encoder"),
            (format!("text_encoders.clip_h.{path}.lora_up.weight"), "text_encoder"),
            (format!("text_encoders.clip_h.transformer.{path}.lora_up.weight"), "text_encoder"),
            (format!("text_encoders.clip_l.transformer.{path}.lora_up.weight"), "text_encoder"),
            (format!("text_encoders.clip_g.transformer.{path}.lora_up.weight"), "text_encoder_2"),
        ] {
            assert_eq!(layer(&key).0, format!("{network}.{path}"), "{key}");
        }
        let name = parse(&format!("lora_te_{flat}.alpha"), 2).unwrap().name;
        assert_eq!((name.kohya(false), name.kohya(true)), (format!("lora_te_{flat}"), format!("lora_te1_{flat}")));
    }

    #[test]
    fn what_is_not_read_says_what_it_is() {
        for (key, part) in [
            ("lora_unet_mid_block_attentions_0_proj_in.oft_blocks", "an OFT adapter"),
            ("lora_unet_mid_block_attentions_0_proj_in.on_input", "an IA3 adapter"),
            ("lora_unet_mid_block_attentions_0_proj_in.a1.weight", "a GLoRA"),
            ("lora_unet_mid_block_attentions_0_proj_in.bias_indices", "a sparse difference"),
            ("lora_unet_mid_block_attentions_0_proj_in.bias_size", "a sparse difference"),
            ("time_embedding.linear_1.weight", "is in no LoRA format"),
            ("base_model.model.mid_block.attentions.0.proj_in.boft_R", "a BOFT adapter"),
            ("base_model.model.mid_block.attentions.0.proj_in.hra_u", "an HRA adapter"),
            ("base_model.model.mid_block.attentions.0.proj_in.vblora_logits_A", "a VB-LoRA"),
            ("base_model.vblora_vector_bank.default", "a VB-LoRA"),
            ("base_model.model.conv_out.weight", "peft's `modules_to_save`"),
            ("base_model.model.conv_out.modules_to_save.default.bias", "peft's `modules_to_save`"),
            ("base_model.model.conv_in.bias", "peft's `bias` (\"all\") or `modules_to_save`"),
            ("base_model.model.mid_block.attentions.0.proj_in.base_layer.bias", "peft's `bias` (\"lora_only\""),
            ("base_model.model.something.bias", "is in no LoRA format"),
            ("unet.mid_block.attentions.0.proj_in.lora_A.scale_weight", "is in no LoRA format"),
            ("unet.mid_block.attentions.0.proj_in.lora_A.default.weight_scale", "is in no LoRA format"),
            ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "names no network"),
            ("lora_unet_input_blocks_x_1_proj_in.alpha", "names no network or block"),
            ("lora_prior_unet_x.alpha", "names no network or block"),
        ] {
            let error = parse(key, 2).unwrap_err();
            assert!(error.contains(part), "{key}: {error}");
        }
    }
}
