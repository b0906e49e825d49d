use super::reworded;
use crate::{error::Result, tensors::Tensors};

const ENDS: [(&str, &str); 3] = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")];

const MIDDLE: [(&str, &str); 3] = [
    ("mid.block_1", "mid_block.resnets.0"),
    ("mid.attn_1", "mid_block.attentions.0"),
    ("mid.block_2", "mid_block.resnets.1"),
];

/// Names in the original, and in diffusers, new and old, which some conversions leave.
const ATTENTION: [(&str, &str); 14] = [
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
    ("group_norm", "group_norm"),
    ("to_q", "to_q"),
    ("to_k", "to_k"),
    ("to_v", "to_v"),
    ("to_out.0", "to_out.0"),
    ("query", "to_q"),
    ("key", "to_k"),
    ("value", "to_v"),
    ("proj_attn", "to_out.0"),
];

/// Our key for a key of the original, which counts the levels of the decoder from the highest resolution.
pub fn name(key: &str, levels: usize) -> Option<String> {
    if key.starts_with("quant_conv.") || key.starts_with("post_quant_conv.") {
        return Some(key.to_owned());
    }
    let (side, rest) = key.split_once('.')?;
    let ours = reworded(rest, &ENDS).or_else(|| middle(rest)).or_else(|| {
        let (direction, rest) = rest.split_once('.')?;
        let (level, rest) = rest.split_once('.')?;
        let level: usize = level.parse().ok()?;
        let (blocks, level) = match direction {
            "down" => ("down_blocks", level),
            "up" => ("up_blocks", levels.checked_sub(level + 1)?),
            _ => return None,
        };
        let rest = match rest.strip_prefix("block.") {
            Some(rest) => format!("resnets.{}", shortcut(rest)),
            None => reworded(rest, &[("downsample", "downsamplers.0"), ("upsample", "upsamplers.0")])?,
        };
        Some(format!("{blocks}.{level}.{rest}"))
    })?;
    matches!(side, "encoder" | "decoder").then(|| format!("{side}.{ours}"))
}

fn middle(rest: &str) -> Option<String> {
    let ours = reworded(rest, &MIDDLE)?;
    match ours.strip_prefix("mid_block.attentions.0.") {
        Some(rest) => Some(format!("mid_block.attentions.0.{}", reworded(rest, &ATTENTION)?)),
        None => Some(shortcut(&ours)),
    }
}

fn shortcut(name: &str) -> String {
    name.replace(".nin_shortcut.", ".conv_shortcut.")
}

/// The attention projections are 1×1 convolutions in the original, and linear layers here.
pub fn pointwise(tensors: Tensors) -> Result<Tensors> {
    let flat = |(key, tensor): (String, tch::Tensor)| {
        let is_convolution = key.contains(".attentions.") && key.ends_with(".weight") && tensor.dim() == 4;
        let tensor = if is_convolution { tensor.f_flatten(1, 3)? } else { tensor };
        Ok((key, tensor))
    };
    tensors.into_iter().map(flat).collect()
}
