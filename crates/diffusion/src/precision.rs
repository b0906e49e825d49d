//! Gradients through networks that compute in float16.
//!
//! float16 has 5 bits of exponent: values below 6e-8 become zero, values above 65504 infinite, and the gradients of a
//! mean over many pixels lie near the lower end. A vector-Jacobian product is linear in its cotangents, so they are
//! scaled up before it, and the result is scaled down in float32 after it (loss scaling, Micikevicius et al. 2018).
//! Every product has a scale of its own, chosen from its cotangents, so no scale must be found over many steps.
//! Gradients that no scale can hold are returned as they are, not finite; the caller checks them before it takes a
//! step.

use anyhow::Result;
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

/// The largest cotangent is scaled to this value.
const LARGEST: f64 = 1.0;
/// Scale of a scalar loss: its cotangent is 1, but it is a mean over many values.
const OF_LOSS: f64 = 4096.0;
/// Factor by which the scale is lowered after an infinite value, and how often.
const STEP: f64 = 64.0;
const TRIES: usize = 5;

/// Like [`torch_ext::vjp`], for outputs of networks that compute in `kind`. Gradients have the kind of their inputs,
/// except that those of float16 inputs are float32, which can hold small values. They are not finite where the
/// cotangents are not, or where float16 cannot hold them at any scale.
pub fn vjp(kind: Kind, outputs: &[&Tensor], inputs: &[&Tensor], cotangents: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    match kind {
        Kind::Half => scaled(outputs, inputs, cotangents),
        _ => Ok(torch_ext::vjp(outputs, inputs, cotangents)?),
    }
}

/// Like [`vjp`], but also in float16 the graph is freed on the way, which takes less memory. `None` where float16 cannot
/// hold the gradients at the first scale: the graph is gone then, and [`vjp`] needs a new one.
pub fn vjp_at_once(
    kind: Kind,
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    cotangents: &[&Tensor],
) -> Result<Option<Vec<Option<Tensor>>>> {
    if kind != Kind::Half {
        return Ok(Some(torch_ext::vjp(outputs, inputs, cotangents)?));
    }
    let Scale { factor, hopeless } = Scale::of(cotangents);
    let larger = times(cotangents, &factor);
    let grads = torch_ext::vjp(outputs, inputs, &larger.iter().collect::<Vec<_>>())?;
    let (grads, finite) = unscaled(grads, &factor)?;
    let done = finite.logical_or(&hopeless).int64_value(&[]) != 0;
    Ok(done.then_some(grads))
}

/// Like [`vjp`], but keeps the graph.
pub fn vjp_and_keep(
    kind: Kind,
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    cotangents: &[&Tensor],
) -> Result<Vec<Option<Tensor>>> {
    match kind {
        Kind::Half => scaled(outputs, inputs, cotangents),
        _ => Ok(torch_ext::vjp_and_keep(outputs, inputs, cotangents)?),
    }
}

fn scaled(outputs: &[&Tensor], inputs: &[&Tensor], cotangents: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    let Scale { mut factor, hopeless } = Scale::of(cotangents);
    for last in (0..TRIES).map(|i| i + 1 == TRIES) {
        let larger = times(cotangents, &factor);
        // the graph is kept for another try; it is freed with its outputs
        let grads = torch_ext::vjp_and_keep(outputs, inputs, &larger.iter().collect::<Vec<_>>())?;
        let (grads, finite) = unscaled(grads, &factor)?;
        // one synchronisation per try
        if last || finite.logical_or(&hopeless).int64_value(&[]) != 0 {
            return Ok(grads);
        }
        factor /= STEP;
    }
    Ok(vec![])
}

fn times(cotangents: &[&Tensor], factor: &Tensor) -> Vec<Tensor> {
    cotangents.iter().map(|c| (*c * factor).to_kind(c.kind())).collect()
}

/// The gradients, divided by the factor, and whether they are finite, on the device.
fn unscaled(gradients: Vec<Option<Tensor>>, factor: &Tensor) -> Result<(Vec<Option<Tensor>>, Tensor)> {
    let mut seen = BTreeSet::new();
    let gradients: Vec<Option<Tensor>> = gradients.into_iter().map(|g| g.map(|g| own(g, &mut seen))).collect();
    let finite = smaller(&gradients, factor)?;
    Ok((gradients, finite))
}

/// Copies the gradient if needed, so that it can be changed in place: float16 becomes float32, and memory is not shared
/// with another gradient.
fn own(gradient: Tensor, seen: &mut BTreeSet<usize>) -> Tensor {
    let wide = if gradient.kind() == Kind::Half { gradient.to_kind(Kind::Float) } else { gradient };
    let wide = wide.contiguous();
    if seen.insert(wide.data_ptr() as usize) { wide } else { wide.copy() }
}

/// Divides all gradients in place by the factor, a power of two. Returns, on the device, whether they are finite.
fn smaller(gradients: &[Option<Tensor>], factor: &Tensor) -> Result<Tensor> {
    let mut finite = Tensor::ones([], (Kind::Bool, factor.device()));
    for kind in [Kind::Float, Kind::Double] {
        let all: Vec<&Tensor> = gradients.iter().flatten().filter(|g| g.kind() == kind).collect();
        if !all.is_empty() {
            let found = torch_ext::lists::unscale(&all, &factor.reciprocal().to_kind(Kind::Float).view([1]))?;
            finite = finite.logical_and(&found.eq(0.0).all());
        }
    }
    Ok(finite)
}

/// The scale of a product, kept on the device.
struct Scale {
    /// A power of two, so that scaling does not round.
    factor: Tensor,
    /// Whether the cotangents are not finite. No scale helps then, and the factor is 1.
    hopeless: Tensor,
}

impl Scale {
    fn of(cotangents: &[&Tensor]) -> Self {
        let largest = |c: &&Tensor| {
            let largest = c.abs().max().to_kind(Kind::Double);
            if c.numel() == 1 { largest / OF_LOSS } else { largest }
        };
        let all: Vec<Tensor> = cotangents.iter().filter(|c| c.numel() > 0).map(largest).collect();
        let largest = if all.is_empty() { Tensor::from(0.0) } else { Tensor::stack(&all, 0).max() }; // a NaN is the largest
        let fine = largest.isfinite();
        let one = largest.ones_like();
        let factor = (LARGEST / &largest).log2().floor().exp2().where_self(&fine.logical_and(&largest.gt(0.0)), &one);
        Self { factor, hopeless: fine.logical_not() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::testing::device;

    /// `x` through a float16 product, like a layer of a network.
    fn layer(x: &Tensor, weight: &Tensor) -> Tensor {
        x.to_kind(Kind::Half).matmul(&weight.to_kind(Kind::Half)).to_kind(Kind::Float)
    }

    fn gradients(cotangent: f64, weight: f64) -> [f64; 3] {
        let x = Tensor::full([4, 4], 0.5, (Kind::Float, device())).set_requires_grad(true);
        let weight = Tensor::full([4, 4], weight, (Kind::Float, device()));
        let out = layer(&x, &weight);
        let g = out.full_like(cotangent);
        let plain = torch_ext::vjp_and_keep(&[&out], &[&x], &[&g]).unwrap().remove(0).unwrap();
        let scaled = vjp(Kind::Half, &[&out], &[&x], &[&g]).unwrap().remove(0).unwrap();
        let exact = x.matmul(&weight);
        let exact = torch_ext::vjp(&[&exact], &[&x], &[&g]).unwrap().remove(0).unwrap();
        [plain, scaled, exact].map(|g| g.double_value(&[0, 0]))
    }

    #[test]
    fn small_gradients_survive() {
        let [plain, scaled, exact] = gradients(1e-9, 0.25);
        assert_eq!(plain, 0.0);
        assert!((scaled / exact - 1.0).abs() < 1e-3, "{scaled} {exact}");
    }

    #[test]
    fn a_scale_that_is_too_large_is_lowered() {
        let [plain, scaled, exact] = gradients(1e3, 30_000.0);
        assert!(plain.is_infinite());
        assert!((scaled / exact - 1.0).abs() < 1e-3, "{scaled} {exact}");
    }

    /// At once it is the same, or nothing where the first scale is too large; what no scale can hold is told at once.
    #[test]
    fn at_once_it_is_the_same_or_nothing() {
        let at_once = |kind: Kind, cotangent: f64, weight: f64| {
            let x = Tensor::full([4, 4], 0.5, (Kind::Float, device())).set_requires_grad(true);
            let out = layer(&x, &Tensor::full([4, 4], weight, (Kind::Float, device())));
            let gradients = vjp_at_once(kind, &[&out], &[&x], &[&out.full_like(cotangent)]).unwrap();
            gradients.map(|mut gradients| gradients.remove(0).unwrap().double_value(&[0, 0]))
        };
        assert_eq!(at_once(Kind::Half, 1e-9, 0.25), Some(gradients(1e-9, 0.25)[1]));
        assert_eq!(at_once(Kind::Half, 1e3, 30_000.0), None);
        assert!(at_once(Kind::Half, f64::NAN, 0.25).unwrap().is_nan());
        assert_eq!(at_once(Kind::Float, 1e-9, 0.25), Some(gradients(1e-9, 0.25)[0]), "no scale");
    }

    #[test]
    fn what_no_scale_can_hold_is_not_finite() {
        let x = Tensor::full([2, 2], 1.0, (Kind::Float, device())).set_requires_grad(true);
        let out = layer(&x, &Tensor::full([2, 2], f64::INFINITY, (Kind::Float, device())));
        let gradient = vjp(Kind::Half, &[&out], &[&x], &[&out.ones_like()]).unwrap().remove(0).unwrap();
        assert_eq!(gradient.isfinite().any().int64_value(&[]), 0);
    }

    #[test]
    fn scales_are_powers_of_two() {
        let t = |v: f64| Tensor::from_slice(&[v, -v / 3.0]);
        let scale = |cotangents: &[&Tensor]| {
            let Scale { factor, hopeless } = Scale::of(cotangents);
            (hopeless.int64_value(&[]) == 0).then(|| factor.double_value(&[]))
        };
        assert_eq!(scale(&[&t(0.3e-5)]), Some(2f64.powi(18)));
        assert_eq!(scale(&[&t(1e4)]), Some(2f64.powi(-14)));
        assert_eq!(scale(&[&t(0.0)]), Some(1.0));
        assert_eq!(scale(&[&Tensor::from(1.0)]), Some(4096.0));
        assert_eq!(scale(&[&t(1.0), &t(f64::NAN)]), None, "a NaN is not passed over");
        assert_eq!(scale(&[&t(f64::INFINITY)]), None);
    }
}
