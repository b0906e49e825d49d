//! The way back through the autoencoder's decoder, one stage at a time.
//!
//! The graph of the whole decoder is the largest of a step: at 512 pixels several gigabytes for a single sample. So the decoder is
//! gone through without a graph, keeping what each stage was given; then each stage is run again, from the last to the first, with a
//! graph of its own. The gradient is the same; memory holds the stages' inputs and one graph, for the price of one more forward pass
//! (gradient checkpointing, Chen et al. 2016).

use crate::precision;
use anyhow::{Context, Result};
use models::vae::AutoencoderKl;
use tch::Tensor;

/// `dL/d latents`, scaled latents `[B, C, h, w]`, from the cotangent at [`AutoencoderKl::decode`]'s image `[B, 3, H, W]`.
///
/// # Errors
/// float16 that cannot hold the gradients.
pub fn decoder_vjp(vae: &AutoencoderKl, latents: &Tensor, cotangent: Tensor) -> Result<Tensor> {
    let last = vae.decode_stages() - 1;
    let mut inputs = vec![latents.detach().to_kind(vae.kind())];
    {
        let _guard = tch::no_grad_guard();
        (0..last).for_each(|stage| inputs.push(vae.decode_stage(stage, &inputs[stage])));
    }
    // cotangents stay in the latents' precision, which is wider than float16
    let mut g = cotangent;
    for stage in (0..=last).rev() {
        let input = inputs.pop().context("a stage has an input")?;
        let x = input.to_kind(latents.kind()).detach().set_requires_grad(true);
        drop(input);
        let y = vae.decode_stage(stage, &x.to_kind(vae.kind())).to_kind(latents.kind());
        let grads = precision::vjp(vae.kind(), &[&y], &[&x], &[&g])?;
        g = grads.into_iter().next().flatten().context("the decoder's image does not depend on its latents")?;
    }
    Ok(g)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tch::Kind;
    use torch_ext::testing::device;

    fn relative_error(kind: Kind, latents: Kind) -> f64 {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/vae");
        let vae = AutoencoderKl::open_variant(&folder, None, kind, device()).unwrap();
        let exact = AutoencoderKl::open_variant(&folder, None, Kind::Double, device()).unwrap();
        let noise = |shape: &[i64], seed| {
            torch_ext::Generator::seeded(seed).unwrap().randn(shape).unwrap().to_kind(latents).to_device(device())
        };
        let z = noise(&[2, vae.config().latent_channels, 6, 5], 1);
        let scale = vae.config().downscale();
        // a small cotangent, as of a loss that is a mean over pixels
        let g = noise(&[2, 3, 6 * scale, 5 * scale], 2) * 1e-6;
        let x = z.to_kind(Kind::Double).detach().set_requires_grad(true);
        let whole =
            torch_ext::vjp(&[&exact.decode(&x).unwrap()], &[&x], &[&g.to_kind(Kind::Double)]).unwrap().remove(0);
        let whole = whole.unwrap();
        let staged = decoder_vjp(&vae, &z, g).unwrap();
        assert_eq!((staged.size(), staged.kind()), (z.size(), latents));
        ((staged.to_kind(Kind::Double) - &whole).norm() / whole.norm()).double_value(&[])
    }

    #[test]
    fn the_gradient_is_that_of_one_graph() {
        assert!(relative_error(Kind::Double, Kind::Double) < 1e-13);
        assert!(relative_error(Kind::Float, Kind::Float) < 1e-5);
        assert!(relative_error(Kind::Half, Kind::Float) < 3e-2);
        assert!(relative_error(Kind::BFloat16, Kind::Float) < 2e-1);
    }
}
