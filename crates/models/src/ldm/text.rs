use super::reworded;
use crate::tensors::Tensors;

const TOP: [(&str, &str); 2] =
    [("token_embedding", "text_model.embeddings.token_embedding"), ("ln_final", "text_model.final_layer_norm")];

const LAYER: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// Number of layers of open_clip's ViT-H that SD2 was trained with, of 24.
const LAYERS_OF_SD2: usize = 23;

/// The part of the text encoder that SD2 uses: the output of the last layer but one, normalised. Published files have
/// the last layer and the projection too.
pub fn penultimate(mut tensors: Tensors) -> Tensors {
    let layer = |key: &str| key.strip_prefix("text_model.encoder.layers.")?.split('.').next()?.parse::<usize>().ok();
    tensors.retain(|key, _| key != "text_projection.weight" && layer(key).is_none_or(|layer| layer < LAYERS_OF_SD2));
    tensors
}

/// open_clip's text encoder under the names of transformers' `CLIPTextModelWithProjection`. Its three attention
/// projections are one matrix `[3D, D]`, and its last projection `[D, P]` is transposed.
pub fn from_open_clip(tensors: Tensors) -> Result<Tensors, String> {
    let mut ours = Tensors::new();
    for (key, tensor) in tensors {
        if let Some(name) = reworded(&key, &TOP) {
            ours.insert(name, tensor);
        } else if key == "positional_embedding" {
            ours.insert("text_model.embeddings.position_embedding.weight".into(), tensor);
        } else if key == "text_projection" {
            if tensor.dim() != 2 {
                return Err(format!("{key} has shape {:?}, which is no projection", tensor.size()));
            }
            ours.insert("text_projection.weight".into(), tensor.transpose(0, 1).contiguous());
        } else if let Some((layer, rest)) = key.strip_prefix("transformer.resblocks.").and_then(|k| k.split_once('.')) {
            let layer = format!("text_model.encoder.layers.{layer}");
            if let Some(what) = rest.strip_prefix("attn.in_proj_") {
                if tensor.size().first().is_none_or(|rows| rows % 3 != 0) {
                    return Err(format!("{key} has shape {:?}, which is not three projections", tensor.size()));
                }
                for (part, name) in tensor.chunk(3, 0).into_iter().zip(["q_proj", "k_proj", "v_proj"]) {
                    ours.insert(format!("{layer}.self_attn.{name}.{what}"), part.contiguous());
                }
            } else if let Some(name) = reworded(rest, &LAYER) {
                ours.insert(format!("{layer}.{name}"), tensor);
            } else {
                return Err(format!("{key} belongs to no layer that is known here"));
            }
        } else if !matches!(key.as_str(), "logit_scale" | "attn_mask") {
            return Err(format!("{key} belongs to no layer that is known here"));
        }
    }
    Ok(ours)
}
