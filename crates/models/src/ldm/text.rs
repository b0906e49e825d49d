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
/// projections are one matrix `[3D, D]`, and its last projection `[D, P]` is transposed; ComfyUI and conversions from
/// diffusers write it as a layer's weight `[P, D]` instead. `prefix` is what precedes the keys in the file.
///
/// # Errors
/// A key that is no layer of such an encoder, or has an unfitting shape; named as in the file.
pub fn from_open_clip(tensors: Tensors, prefix: &str) -> Result<Tensors, String> {
    let mut ours = Tensors::new();
    for (key, tensor) in tensors {
        let unknown = || format!("{prefix}{key} belongs to no layer that is known here");
        if let Some(name) = reworded(&key, &TOP) {
            ours.insert(name, tensor);
        } else if key == "positional_embedding" {
            ours.insert("text_model.embeddings.position_embedding.weight".into(), tensor);
        } else if key == "text_projection" || key == "text_projection.weight" {
            if tensor.dim() != 2 {
                return Err(format!("{prefix}{key} has shape {:?}, which is no projection", tensor.size()));
            }
            let is_ours = key == "text_projection.weight";
            let projection = if is_ours { tensor } else { tensor.transpose(0, 1).contiguous() };
            ours.insert("text_projection.weight".into(), projection);
        } else if let Some((layer, rest)) = key.strip_prefix("transformer.resblocks.").and_then(|k| k.split_once('.')) {
            let layer = format!("text_model.encoder.layers.{layer}");
            if let Some(what) = rest.strip_prefix("attn.in_proj_") {
                if tensor.size().first().is_none_or(|rows| rows % 3 != 0) {
                    return Err(format!("{prefix}{key} has shape {:?}, which is not three projections", tensor.size()));
                }
                for (part, name) in tensor.chunk(3, 0).into_iter().zip(["q_proj", "k_proj", "v_proj"]) {
                    ours.insert(format!("{layer}.self_attn.{name}.{what}"), part.contiguous());
                }
            } else if let Some(name) = reworded(rest, &LAYER) {
                ours.insert(format!("{layer}.{name}"), tensor);
            } else {
                return Err(unknown());
            }
        } else if !matches!(key.as_str(), "logit_scale" | "attn_mask") && !is_position_ids(&key) {
            return Err(unknown());
        }
    }
    Ok(ours)
}

/// The numbers of the places, 0 to 76, which older transformers saved and other programs still write, below the paths
/// that the encoder has with them.
fn is_position_ids(key: &str) -> bool {
    key == "position_ids" || key.ends_with("embeddings.position_ids")
}
