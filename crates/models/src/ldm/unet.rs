use super::{Keys, has_below, reworded};
use crate::{error::Result, tensors::Tensors};
use std::collections::BTreeMap;

/// Maps the original's numbered modules to ours: `input_blocks.4.0` is `down_blocks.1.resnets.0`.
pub struct Places {
    modules: BTreeMap<String, String>,
}

const RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

const ENDS: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

impl Places {
    pub fn of(keys: Keys) -> Self {
        let mut modules = BTreeMap::new();
        let middle = [("0", "resnets.0"), ("1", "attentions.0"), ("2", "resnets.1")];
        modules.extend(middle.map(|(n, ours)| (format!("middle_block.{n}"), format!("mid_block.{ours}"))));
        for (side, ours) in [("input_blocks", "down_blocks"), ("output_blocks", "up_blocks")] {
            let (mut level, mut layer) = (0, 0);
            // The first module of the down path is the input convolution.
            for block in usize::from(side == "input_blocks").. {
                let at = format!("{side}.{block}");
                if !has_below(&keys, &format!("{at}.")) {
                    break;
                }
                let mut turns = false;
                for module in 0..3 {
                    let module = format!("{at}.{module}");
                    let has = |part: &str| has_below(&keys, &format!("{module}.{part}."));
                    let place = if has("op") {
                        turns = true;
                        "downsamplers.0.conv".to_owned()
                    } else if has("conv") {
                        turns = true;
                        "upsamplers.0".to_owned()
                    } else if has("in_layers") {
                        format!("resnets.{layer}")
                    } else if has("transformer_blocks") {
                        format!("attentions.{layer}")
                    } else {
                        continue;
                    };
                    modules.insert(module, format!("{ours}.{level}.{place}"));
                }
                (level, layer) = if turns { (level + 1, 0) } else { (level, layer + 1) };
            }
        }
        Self { modules }
    }

    /// Our key for a key of the original.
    pub fn name(&self, key: &str) -> Option<String> {
        if let Some(name) = reworded(key, &ENDS) {
            return Some(name);
        }
        let cut = key.match_indices('.').nth(1 + usize::from(!key.starts_with("middle_block")))?.0;
        let (module, rest) = (&key[..cut], &key[cut + 1..]);
        let place = self.modules.get(module)?;
        let rest = match rest.strip_prefix("op.") {
            Some(rest) => rest.to_owned(), // the place has the convolution's name already
            None => reworded(rest, &RESNET).unwrap_or_else(|| rest.to_owned()),
        };
        Some(format!("{place}.{rest}"))
    }
}

/// The projections around SD2's and SDXL's transformers are linear layers; some programs write them as the 1×1
/// convolutions that SD1 has, `[C, C, 1, 1]`. With `linear` they are layers here.
pub fn pointwise(mut tensors: Tensors, linear: bool) -> Result<Tensors> {
    for (key, tensor) in tensors.iter_mut().filter(|_| linear) {
        let is_projection = key.ends_with(".proj_in.weight") || key.ends_with(".proj_out.weight");
        if is_projection && tensor.dim() == 4 {
            *tensor = tensor.f_flatten(1, 3)?;
        }
    }
    Ok(tensors)
}
