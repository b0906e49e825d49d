//! Backward pass through the autoencoder's decoder, one stage at a time.
//!
//! The graph of the whole decoder is the largest of a step: at 512 pixels several gigabytes for a single sample. Where
//! they fit, the graphs of all stages are kept from the forward pass, and nothing is computed twice. Where they do not,
//! the decoder runs once more without a graph and keeps each stage's input; then each stage runs again, from the last
//! to the first, with a graph of its own. Memory then holds the stages' inputs and one graph, at the cost of two more
//! forward passes (gradient checkpointing, Chen et al. 2016). The gradient is identical to the bit, since either way
//! every stage has a graph of its own. On the CPU the rows of the batch are shared among the threads.

use crate::precision;
use anyhow::{Context, Result};
use models::autoencoder::Autoencoder;
use tch::{Kind, Tensor};
use torch_ext::parallel;

/// A forward pass through the decoder, with what it keeps for the backward pass: of the rows of each thread.
pub struct Passed(Vec<Rows>);

struct Rows {
    stages: Vec<Stage>,
}

struct Stage {
    /// A leaf in the latents' precision, which is wider than float16; cotangents keep that precision.
    input: Tensor,
    /// The output in the decoder's precision, with the stage's graph; `None`: the stage must run again.
    output: Option<Tensor>,
}

impl Stage {
    fn of(input: &Tensor, wide: Kind) -> Self {
        Self { input: input.to_kind(wide).detach().set_requires_grad(true), output: None }
    }

    fn run(&self, vae: &dyn Autoencoder, stage: usize) -> Tensor {
        vae.decode_stage(stage, &self.input.to_kind(vae.kind()))
    }
}

impl Passed {
    /// Forward pass that keeps all graphs: the image `[B, 3, H, W]` of scaled latents `[B, C, h, w]`, as by
    /// [`Autoencoder::decode`].
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn through(vae: &dyn Autoencoder, latents: &Tensor) -> Result<(Tensor, Self)> {
        let passed = parallel::map(parallel::cut(latents), |latents| Rows::through(vae, &latents))?;
        let (images, rows) = passed.into_iter().unzip();
        Ok((parallel::joined(images)?, Self(rows)))
    }

    /// `dL/d latents` from the cotangent at the image. Each stage is freed once its gradient is computed.
    ///
    /// # Errors
    /// Errors of libtorch.
    pub fn vjp(self, vae: &dyn Autoencoder, cotangent: &Tensor) -> Result<Tensor> {
        let rows: Vec<i64> = self.0.iter().map(Rows::count).collect();
        let parts = self.0.into_iter().zip(cotangent.split_with_sizes(&rows, 0)).collect();
        let gradients = parallel::map(parts, |(rows, cotangent): (Rows, Tensor)| rows.vjp(vae, cotangent))?;
        Ok(parallel::joined(gradients.into_iter().collect::<Result<_>>()?)?)
    }
}

impl Rows {
    fn count(&self) -> i64 {
        self.stages.first().map_or(0, |stage| stage.input.size()[0])
    }

    fn through(vae: &dyn Autoencoder, latents: &Tensor) -> (Tensor, Self) {
        let wide = latents.kind();
        let (mut x, mut stages) = (latents.detach().to_kind(vae.kind()), vec![]);
        for i in 0..vae.decode_stages() {
            let mut stage = Stage::of(&x, wide);
            let output = stage.run(vae, i);
            x = output.detach();
            stage.output = Some(output);
            stages.push(stage);
        }
        (x.to_kind(wide), Self { stages })
    }

    /// Forward pass that keeps each stage's input, and no graph.
    fn inputs(vae: &dyn Autoencoder, latents: &Tensor) -> Self {
        let _guard = tch::no_grad_guard();
        let mut stages = vec![Stage::of(&latents.to_kind(vae.kind()), latents.kind())];
        for i in 0..vae.decode_stages() - 1 {
            let output = stages[i].run(vae, i);
            stages.push(Stage::of(&output, latents.kind()));
        }
        Self { stages }
    }

    fn vjp(mut self, vae: &dyn Autoencoder, cotangent: Tensor) -> Result<Tensor> {
        let mut g = cotangent;
        while let Some(mut stage) = self.stages.pop() {
            let output = stage.output.take().unwrap_or_else(|| stage.run(vae, self.stages.len()));
            let output = output.to_kind(stage.input.kind());
            let grads = precision::vjp(vae.kind(), &[&output], &[&stage.input], &[&g])?;
            g = grads.into_iter().next().flatten().context("the decoder's image does not depend on its latents")?;
        }
        Ok(g)
    }
}

/// `dL/d latents` of scaled latents `[B, C, h, w]`, from the cotangent at [`Autoencoder::decode`]'s image `[B, 3, H,
/// W]`, if the forward pass kept nothing.
///
/// # Errors
/// The same as [`Passed::vjp`].
pub fn decoder_vjp(vae: &dyn Autoencoder, latents: &Tensor, cotangent: &Tensor) -> Result<Tensor> {
    let rows = parallel::map(parallel::cut(latents), |latents| Rows::inputs(vae, &latents))?;
    Passed(rows).vjp(vae, cotangent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::vae::AutoencoderKl;
    use std::path::Path;
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
        // a small cotangent, like that of a mean over pixels
        let g = noise(&[2, 3, 6 * scale, 5 * scale], 2) * 1e-6;
        let x = z.to_kind(Kind::Double).detach().set_requires_grad(true);
        let whole =
            torch_ext::vjp(&[&exact.decode(&x).unwrap()], &[&x], &[&g.to_kind(Kind::Double)]).unwrap().remove(0);
        let whole = whole.unwrap();
        let staged = decoder_vjp(&vae, &z, &g).unwrap();
        let (image, passed) = Passed::through(&vae, &z).unwrap();
        let at_once = tch::no_grad(|| parallel::over_rows(&z, |rows| vae.decode(rows)));
        assert_eq!(image, at_once.unwrap());
        assert!(!image.requires_grad());
        assert_eq!(passed.vjp(&vae, &g).unwrap(), staged, "graphs that were kept give the same");
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
