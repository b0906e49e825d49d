//! 8-bit weights with a separate scale, as ComfyUI writes them: `LAYER.weight` beside `LAYER.scale_weight` or
//! `LAYER.weight_scale`, which is one number, or one for each output.
//!
//! Upstream: `comfy/ops.py` and `comfy/quant_ops.py`.

use crate::tensors::Tensors;
use serde::Deserialize;
use tch::{Kind, Tensor};

const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];
/// Scales of the inputs, which are not rounded here, and the name of the format.
const OTHERS: [&str; 3] = ["scale_input", "input_scale", FORMAT];
const FORMAT: &str = "comfy_quant";
/// A tensor that only marks a file with such scales; it is ignored.
const MARK: &str = "scaled_fp8";

/// Whether the last word of a key is one of these; such a key is not a layer or an adapter.
pub fn is_word(word: &str) -> bool {
    SCALES.contains(&word) || OTHERS.contains(&word) || word == MARK
}

#[derive(Deserialize)]
struct Format {
    format: String,
}

/// Multiplies 8-bit weights by their scales, in float32, and removes the scales.
///
/// # Errors
/// A short text: a scale with a shape that does not fit, or another format than 8-bit floating point.
pub fn multiply(tensors: &mut Tensors) -> Result<(), String> {
    tensors.retain(|key, _| key.rsplit('.').next() != Some(MARK));
    let stem = |key: &String, words: &[&str]| {
        let (stem, word) = key.rsplit_once('.')?;
        words.contains(&word).then(|| stem.to_owned())
    };
    let scales: Vec<(String, String)> =
        tensors.keys().filter_map(|key| Some((key.clone(), stem(key, &SCALES)?))).collect();
    for (key, stem) in scales {
        let weight = format!("{stem}.weight");
        if !tensors.get(&weight).is_some_and(Tensor::is_floating_point) {
            continue;
        }
        if let Some(format) = tensors.get(&format!("{stem}.{FORMAT}")).and_then(format_of)
            && !format.starts_with("float8")
        {
            return Err(format!("{weight} is quantised as {format}; only numbers of 8 bits (float8) are read"));
        }
        let (Some(scale), Some(value)) = (tensors.remove(&key), tensors.remove(&weight)) else { continue };
        let along = match (scale.numel(), value.size().first()) {
            (1, _) => vec![],
            (numbers, Some(&outputs)) if numbers as i64 == outputs => {
                [vec![outputs], vec![1; value.dim().saturating_sub(1)]].concat()
            }
            _ => return Err(format!("{key} has the shape {:?}, {weight} {:?}", scale.size(), value.size())),
        };
        tensors.insert(weight, value.to_kind(Kind::Float) * scale.to_kind(Kind::Float).reshape(along));
        for word in OTHERS {
            tensors.remove(&format!("{stem}.{word}"));
        }
    }
    Ok(())
}

/// The name of a format, stored as the bytes of a JSON text.
fn format_of(tensor: &Tensor) -> Option<String> {
    let bytes = Vec::<u8>::try_from(tensor.flatten(0, -1)).ok()?;
    Some(serde_json::from_slice::<Format>(&bytes).ok()?.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_multiplied_and_left_out() {
        let weight = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]).to_kind(Kind::Half);
        let bytes = Tensor::from_slice(br#"{"format": "float8_e4m3fn"}"#);
        for (word, scale, expected) in [
            ("scale_weight", Tensor::from(0.5f32), [0.5, 1.0, 1.5, 2.0]),
            ("weight_scale", Tensor::from_slice(&[2f32]), [2.0, 4.0, 6.0, 8.0]),
            ("weight_scale", Tensor::from_slice(&[2f32, 10.0]).view([2, 1]), [2.0, 4.0, 30.0, 40.0]),
        ] {
            let mut all = Tensors::from([
                ("a.b.weight".into(), weight.shallow_clone()),
                (format!("a.b.{word}"), scale),
                ("a.b.scale_input".into(), Tensor::from(3f32)),
                ("a.b.comfy_quant".into(), bytes.shallow_clone()),
                ("a.scaled_fp8".into(), Tensor::zeros([2], (Kind::Half, tch::Device::Cpu))),
                ("scaled_fp8".into(), Tensor::zeros([0], (Kind::Half, tch::Device::Cpu))),
                ("c.weight".into(), weight.shallow_clone()),
            ]);
            multiply(&mut all).unwrap();
            assert_eq!(all.keys().collect::<Vec<_>>(), ["a.b.weight", "c.weight"]);
            assert_eq!(all["c.weight"], weight);
            let got = Vec::<f32>::try_from(all["a.b.weight"].flatten(0, -1)).unwrap();
            assert_eq!(got, expected, "{word}");
        }
    }

    #[test]
    fn other_scales() {
        let of = |scale: Tensor, format: &str| {
            let mut all = Tensors::from([
                ("b.weight".into(), Tensor::ones([2, 3], (Kind::Half, tch::Device::Cpu))),
                ("b.weight_scale".into(), scale),
                ("b.comfy_quant".into(), Tensor::from_slice(format!("{{\"format\": \"{format}\"}}").as_bytes())),
            ]);
            multiply(&mut all).err().unwrap_or_default()
        };
        assert!(of(Tensor::from(1f32), "mxfp4").contains("b.weight is quantised as mxfp4"));
        assert!(of(Tensor::from_slice(&[1f32; 3]), "float8_e5m2").contains("b.weight_scale has the shape [3]"));
        // an integer tensor has another format; code that needs the weight refuses it
        let whole = Tensor::from_slice(&[1u8, 2]);
        let mut all = Tensors::from([("b.weight".into(), whole), ("b.weight_scale".into(), Tensor::from(1f32))]);
        multiply(&mut all).unwrap();
        assert_eq!(all.len(), 2);
    }
}
