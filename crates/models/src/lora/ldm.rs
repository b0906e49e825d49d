//! Layer names of the UNet in the original Stable Diffusion code (LDM, and SGM for SDXL). It numbers blocks
//! consecutively: `input_blocks.N.M`, where diffusers has `down_blocks.LEVEL.(resnets|attentions|downsamplers).I`.
//!
//! Sources: `openaimodel.py` of both code bases; the inverse of diffusers' `convert_ldm_unet_checkpoint`.

const OUTSIDE_BLOCKS: [(&str, &str); 8] = [
    ("input_blocks.0.0", "conv_in"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
    ("middle_block.1", "mid_block.attentions.0"),
];

const IN_RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Whether a dotted path is one of LDM's.
pub fn is_ldm(path: &str) -> bool {
    let first = path.split('.').next().unwrap_or_default();
    ["input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"].contains(&first)
}

/// The same layer's path in diffusers; `None` if no UNet has it. A level has `layers_per_block` pairs of residual block
/// and attention in the down path, one more in the up path.
pub fn to_diffusers(path: &str, layers_per_block: usize) -> Option<String> {
    for (ldm, diffusers) in OUTSIDE_BLOCKS {
        if path == ldm {
            return Some(diffusers.to_owned());
        }
        // of these only the attention has inner layers
        if let Some(rest) = path.strip_prefix(ldm).and_then(|rest| rest.strip_prefix('.')) {
            return (diffusers == "mid_block.attentions.0").then(|| format!("{diffusers}.{rest}"));
        }
    }
    let mut words = path.splitn(4, '.');
    let (blocks, number) = (words.next()?, words.next()?.parse::<usize>().ok()?);
    let in_level = layers_per_block + 1;
    match blocks {
        "middle_block" => {
            let resnet = match number {
                0 => 0,
                2 => 1,
                _ => return None,
            };
            Some(format!("mid_block.resnets.{resnet}.{}", resnet_layer(path.splitn(3, '.').nth(2)?)?))
        }
        "input_blocks" => {
            let (kind, rest) = (words.next()?, words.next()?);
            let (level, layer) = (number.checked_sub(1)? / in_level, (number - 1) % in_level);
            let place = match (kind, rest) {
                ("0", "op") => "downsamplers.0.conv".to_owned(),
                ("0", rest) => format!("resnets.{layer}.{}", resnet_layer(rest)?),
                ("1", rest) => format!("attentions.{layer}.{rest}"),
                _ => return None,
            };
            Some(format!("down_blocks.{level}.{place}"))
        }
        "output_blocks" => {
            let (kind, rest) = (words.next()?, words.next()?);
            let (level, layer) = (number / in_level, number % in_level);
            let place = match (kind, rest) {
                // after the attention, or in its place in a level without
                ("1" | "2", "conv") => "upsamplers.0.conv".to_owned(),
                ("0", rest) => format!("resnets.{layer}.{}", resnet_layer(rest)?),
                ("1", rest) => format!("attentions.{layer}.{rest}"),
                _ => return None,
            };
            Some(format!("up_blocks.{level}.{place}"))
        }
        _ => None,
    }
}

fn resnet_layer(ldm: &str) -> Option<&'static str> {
    IN_RESNET.iter().find(|(name, _)| *name == ldm).map(|(_, diffusers)| *diffusers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs from the published checkpoints of SD 1.5 and SDXL.
    #[test]
    fn known_layers() {
        for (ldm, diffusers) in [
            (
                "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
                "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
            ),
            ("input_blocks.2.0.in_layers.2", "down_blocks.0.resnets.1.conv1"),
            ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
            (
                "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
                "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            ),
            ("input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
            ("middle_block.0.emb_layers.1", "mid_block.resnets.0.time_emb_proj"),
            ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
            ("middle_block.2.out_layers.3", "mid_block.resnets.1.conv2"),
            ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
            ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
            (
                "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0",
                "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0",
            ),
            ("input_blocks.0.0", "conv_in"),
            ("out.2", "conv_out"),
            ("label_emb.0.2", "add_embedding.linear_2"),
            ("time_embed.0", "time_embedding.linear_1"),
        ] {
            assert!(is_ldm(ldm));
            assert_eq!(to_diffusers(ldm, 2).as_deref(), Some(diffusers));
        }
        assert_eq!(
            to_diffusers("output_blocks.2.1.proj_in", 1).as_deref(),
            Some("up_blocks.1.attentions.0.proj_in"),
            "a network with one layer per block"
        );
    }

    #[test]
    fn what_no_unet_has() {
        for path in [
            "input_blocks.0.1.proj_in",
            "input_blocks.1",
            "middle_block.0.proj_in",
            "out.7",
            "output_blocks.1.3.x",
            "time_embed.0.x",
        ] {
            assert_eq!(to_diffusers(path, 2), None, "{path}");
        }
    }
}
