//! Configurations of published SD1.x, SD2.x and SDXL models, derived from the shapes of the weights.

use crate::{
    clip::TextConfig,
    layers::Activation,
    schedule::Prediction,
    tensors::Tensors,
    unet::{self, Level, TextTime},
    vae,
    weights::Layout,
};

/// Shapes by key, as input of [`unet_config`] and the like.
pub fn shapes(tensors: &Tensors) -> Layout {
    tensors.iter().map(|(key, tensor)| (key.clone(), tensor.size())).collect()
}

/// Number of `PREFIX.0`, `PREFIX.1`, ….
fn count(layout: &Layout, prefix: &str) -> usize {
    let any = |i: &usize| {
        let start = format!("{prefix}.{i}.");
        layout.range(start.clone()..).next().is_some_and(|(key, _)| key.starts_with(&start))
    };
    (0..).take_while(any).count()
}

fn size(layout: &Layout, key: &str, dimension: usize) -> Option<i64> {
    layout.get(key)?.get(dimension).copied()
}

/// SD1 has eight heads everywhere, and convolutions before its transformers; the heads of SD2 and SDXL are 64 wide.
/// `sample_size` is that of SD1 and SDXL: the shapes do not say it. `None`: not the weights of such a UNet.
pub fn unet_config(layout: &Layout) -> Option<unet::Config> {
    let cross = "attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let levels = count(layout, "down_blocks");
    let linear = layout.iter().find(|(key, _)| key.ends_with("proj_in.weight"))?.1.len() == 2;
    let level = |i: usize| {
        let (down, up) = (format!("down_blocks.{i}"), format!("up_blocks.{}", levels - 1 - i));
        let channels = size(layout, &format!("{down}.resnets.0.conv1.weight"), 0)?;
        let depth = count(layout, &format!("{down}.attentions.0.transformer_blocks"));
        let last = count(layout, "mid_block.attentions.0.transformer_blocks");
        Some(Level {
            channels,
            heads: if linear { channels / 64 } else { 8 },
            depth: if i + 1 == levels { last } else { depth.max(1) },
            down_attention: depth > 0,
            up_attention: count(layout, &format!("{up}.attentions")) > 0,
        })
    };
    let levels: Vec<Level> = (0..levels).map(level).collect::<Option<_>>()?;
    let input_width = size(layout, "add_embedding.linear_1.weight", 1);
    let config = unet::Config {
        in_channels: size(layout, "conv_in.weight", 1)?,
        out_channels: size(layout, "conv_out.weight", 0)?,
        sample_size: if input_width.is_some() { 128 } else { 64 },
        layers_per_block: count(layout, "down_blocks.0.resnets"),
        mid_block: true,
        cross_attention_dim: size(layout, &format!("mid_block.{cross}"), 1)?,
        use_linear_projection: linear,
        text_time: input_width.map(|input_width| TextTime { time_width: 256, input_width }),
        norm_groups: 32,
        norm_eps: 1e-5,
        cos_first: true,
        freq_shift: 0.0,
        downsample_padding: 1,
        levels,
    };
    let fits = |l: &Level| l.heads > 0 && l.channels % l.heads == 0 && l.channels % config.norm_groups == 0;
    (!config.levels.is_empty() && config.levels.iter().all(fits)).then_some(config)
}

/// `xl`: the latents of SDXL have another scale than those of SD1.
pub fn vae_config(layout: &Layout, xl: bool) -> Option<vae::Config> {
    let levels = count(layout, "encoder.down_blocks");
    let channels = |i| size(layout, &format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0);
    let config = vae::Config {
        in_channels: size(layout, "encoder.conv_in.weight", 1)?,
        out_channels: size(layout, "decoder.conv_out.weight", 0)?,
        latent_channels: size(layout, "decoder.conv_in.weight", 1)?,
        channels: (0..levels).map(channels).collect::<Option<_>>()?,
        layers_per_block: count(layout, "encoder.down_blocks.0.resnets"),
        norm_groups: 32,
        mid_attention: count(layout, "encoder.mid_block.attentions") > 0,
        scaling_factor: if xl { 0.13025 } else { 0.18215 },
        force_upcast: None,
    };
    (levels > 0 && config.channels.iter().all(|c| c % 32 == 0)).then_some(config)
}

/// OpenAI's encoders use the quick GELU, open_clip's the exact one.
pub fn text_config(layout: &Layout, open_clip: bool) -> Option<TextConfig> {
    let bare = layout.contains_key("embeddings.token_embedding.weight");
    let root = if bare { "" } else { "text_model." };
    let tokens = format!("{root}embeddings.token_embedding.weight");
    let hidden_size = size(layout, &tokens, 1)?;
    (hidden_size % 64 == 0).then_some(())?;
    Some(TextConfig {
        vocab_size: size(layout, &tokens, 0)?,
        hidden_size,
        intermediate_size: size(layout, &format!("{root}encoder.layers.0.mlp.fc1.weight"), 0)?,
        projection_dim: size(layout, "text_projection.weight", 0).unwrap_or(hidden_size),
        layers: count(layout, &format!("{root}encoder.layers")),
        heads: hidden_size / 64,
        max_position_embeddings: size(layout, &format!("{root}embeddings.position_embedding.weight"), 0)?,
        activation: if open_clip { Activation::Gelu } else { Activation::QuickGelu },
        norm_eps: 1e-5,
        eos_token_id: 49407,
    })
}

/// The published `scheduler_config.json`, as far as it says how noise was added. Without signal at the last step one begins there.
pub fn scheduler(prediction: Prediction, zero_snr: bool) -> String {
    let (prediction, spacing) = (prediction.name(), if zero_snr { "trailing" } else { "leading" });
    format!(
        r#"{{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000, "steps_offset": 1, "set_alpha_to_one": false, "timestep_spacing": "{spacing}",
            "prediction_type": "{prediction}", "rescale_betas_zero_snr": {zero_snr}}}"#
    )
}
