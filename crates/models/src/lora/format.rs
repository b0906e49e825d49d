//! A layer in the format of another program.

use super::{
    AdapterFile, Entry, LowRank, Name,
    change::{Change, Delta},
    convert::Target,
    parts::{Factor, Part},
    write,
};
use tch::{Kind, Tensor};

/// A layer's tensors by key, and its metadata.
pub struct Formatted {
    pub tensors: Vec<(String, Tensor)>,
    /// `None` for a change without a rank, such as a difference.
    pub rank: Option<i64>,
    pub alpha: Option<f64>,
    pub has_norms: bool,
}

/// The layer of that name, with its strength multiplied by `factor`.
///
/// # Errors
/// What the format cannot hold, and which format can, in a few words.
pub fn layer(
    file: &AdapterFile,
    name: &Name,
    target: Target,
    factor: f64,
    two_encoders: bool,
) -> Result<Formatted, String> {
    let change = file.change(name)?;
    if change.magnitude.is_some() && factor != 1.0 {
        return Err("has a DoRA's norms, so that no part of it can be written (leave --scale out)".into());
    }
    let scaled = |pair: &LowRank| LowRank { alpha: pair.alpha * factor, ..pair.shallow_clone() };
    if let Some(pair) = change.plain() {
        let mut pair = scaled(pair);
        if target == Target::Diffusers && pair.up.kind() != Kind::Double {
            pair.up = pair.up.to_kind(Kind::Float);
        }
        let tensors = match target {
            Target::Diffusers => write::diffusers_pair(name, &pair).into(),
            Target::Peft => write::peft_pair(name, &pair).into(),
            Target::Kohya => write::kohya_pair(name, &pair, two_encoders).into(),
        };
        return Ok(Formatted { tensors, rank: Some(pair.rank()), alpha: Some(pair.alpha), has_norms: false });
    }
    match (target, &change) {
        (Target::Kohya, _) => kohya(file, name, &change, factor, &name.kohya(two_encoders)),
        (Target::Peft, Change { delta: Some(Delta::LowRank(pair)), magnitude: Some(norms), bias: None }) => {
            let norms = peft_norms(&norms.norms, pair).ok_or(
                "has norms of a DoRA for its inputs, and peft knows only those of outputs: --to kohya keeps them, and \
                 `comat lora merge` puts them into a model",
            )?;
            let mut tensors: Vec<_> = write::peft_pair(name, pair).into();
            tensors.push((format!("{}.lora_magnitude_vector", name.dotted()), norms));
            Ok(Formatted { tensors, rank: Some(pair.rank()), alpha: Some(pair.alpha), has_norms: true })
        }
        _ => Err(format!(
            "has a {}, which this format cannot hold: --to kohya{} can, and `comat lora merge` puts it into a model",
            change.kind(),
            if change.kind() == "DoRA" { " or peft" } else { "" }
        )),
    }
}

/// `[out]` for a linear layer, `[1, out, 1, 1]` for a convolution; `None` for norms of inputs.
fn peft_norms(norms: &Tensor, pair: &LowRank) -> Option<Tensor> {
    let (outputs, shape) = (pair.up.size()[0], norms.size());
    let of_inputs = shape.len() == 2 && shape[0] == 1 && outputs != 1;
    if norms.numel() as i64 != outputs || of_inputs {
        return None;
    }
    let kernel = pair.down.dim() - 2;
    Some(if kernel == 0 {
        norms.reshape([outputs])
    } else {
        norms.reshape([&[1, outputs], &vec![1; kernel][..]].concat())
    })
}

/// The tensors of the file under LyCORIS' names. The factor goes into alpha, or into a matrix if there is no alpha.
fn kohya(file: &AdapterFile, name: &Name, change: &Change, factor: f64, stem: &str) -> Result<Formatted, String> {
    let entry = file.entries.get(name).ok_or("is not in the file")?;
    let whole = entry.scalar.unwrap_or(1.0) * factor;
    let rank = entry.rank();
    let alpha = file.alpha(name).map(|alpha| alpha * whole).filter(|_| rank.is_some() && entry.is_scaled());
    let mut tensors = vec![];
    for (part, piece) in entry.pieces() {
        let Some(end) = part.kohya() else {
            match part {
                Part::UpBias => continue, // below
                _ => return Err("adapts an embedding with a DoRA, which this format cannot hold".into()),
            }
        };
        let tensor = match part {
            Part::Magnitude => along_outputs(&piece.tensor, entry),
            Part::Difference | Part::NormDifference => times(&piece.tensor, whole),
            Part::BiasDifference | Part::NormBiasDifference => times(&piece.tensor, factor),
            Part::Lokr(Factor::W1) if rank.is_none() => times(&piece.tensor, file.scale(name)? * whole),
            _ => piece.tensor.shallow_clone(),
        };
        tensors.push((format!("{stem}.{end}"), tensor));
    }
    if let (Some(_), Some(bias)) = (entry.get(Part::UpBias), &change.bias) {
        tensors.push((format!("{stem}.diff_b"), times(bias, factor)));
    }
    tensors.extend(alpha.map(|alpha| (format!("{stem}.alpha"), Tensor::from(alpha as f32))));
    Ok(Formatted { tensors, rank, alpha, has_norms: change.magnitude.is_some() })
}

/// peft's norms in LyCORIS' shape: `[out, 1]`, `[out, 1, 1, 1]`.
fn along_outputs(norms: &Tensor, entry: &Entry) -> Tensor {
    let ones = vec![1; entry.get(Part::Down).map_or(1, |down| down.dim() - 1)];
    norms.reshape([&[norms.numel() as i64], &ones[..]].concat())
}

/// The product in the tensor's own precision.
fn times(tensor: &Tensor, factor: f64) -> Tensor {
    if factor == 1.0 { tensor.shallow_clone() } else { (tensor.to_kind(Kind::Double) * factor).to_kind(tensor.kind()) }
}
