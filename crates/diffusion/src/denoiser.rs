//! The network with guidance, as the function of latents and timestep that a sampler uses.

use crate::conditions::GuidedText;
use models::{
    Result,
    guidance::Guidance,
    network::{Conditions, Layer, Network, Projected, Recorder},
};
use tch::{Kind, Tensor};
use torch_ext::{KeptWeights, parallel};

pub struct Denoiser<'a> {
    pub network: &'a dyn Network,
    pub guidance: Guidance,
    /// The precision that the network runs in.
    pub kind: Kind,
}

impl Denoiser<'_> {
    /// Guided model output for latents `[B, C, h, w]` at a time in training steps; it has the latents' precision. Both
    /// halves run as one batch.
    pub fn predict(&self, latents: &Tensor, time: f64, text: &GuidedText) -> Result<Tensor> {
        self.run(latents, time, text, |x, t, text| self.network.predict(x, t, text, None))
    }

    /// [`Denoiser::predict`] for these prompts, in the form that a sampler uses: without gradients. What depends on the
    /// prompts alone is computed once. On the CPU the rows of the batch are shared among the threads.
    pub fn conditioned_on<'a>(&'a self, text: &'a GuidedText) -> impl FnMut(&Tensor, f64) -> Result<Tensor> + 'a {
        let kept = KeptWeights::new();
        let mut parts = vec![];
        move |latents, time| {
            let _guard = (tch::no_grad_guard(), &kept);
            self.run(latents, time, text, |x, times, text| {
                if parts.is_empty() {
                    parts.extend(
                        parallel::pieces(text.rows(), x.device()).into_iter().map(|rows| Part::new(text, rows)),
                    );
                }
                let given = parts.iter_mut().map(|part| (part.cut(x), part.cut(times), part)).collect();
                let pass = |(x, times, part): (Tensor, Tensor, &mut Part)| {
                    self.network.predict_again(&x, &times, &part.text, &part.projected)
                };
                let outputs = parallel::map(given, pass)?.into_iter().collect::<Result<Vec<_>>>()?;
                Ok(parallel::joined(outputs)?)
            })
        }
    }

    /// Like [`Denoiser::predict`], and also returns the cross-attention maps of the conditional half, one row per
    /// sample.
    pub fn predict_with_maps(&self, latents: &Tensor, time: f64, text: &GuidedText) -> Result<(Tensor, Vec<Layer>)> {
        let rows = latents.size()[0];
        let recorder = Recorder::new(if text.both.is_some() { rows } else { 0 }, rows);
        let predicted =
            self.run(latents, time, text, |x, t, text| self.network.predict(x, t, text, Some(&recorder)))?;
        Ok((predicted, folded(recorder, text)))
    }

    /// Like [`Denoiser::predict`], with gradients through the conditional half only. The unconditional half has no
    /// graph, even if the network's weights or the latents require gradients. With `maps`, the conditional half's maps
    /// are returned too.
    pub fn predict_conditionally(
        &self,
        latents: &Tensor,
        time: f64,
        text: &GuidedText,
        maps: bool,
    ) -> Result<(Tensor, Vec<Layer>)> {
        let rows = latents.size()[0];
        let recorder = maps.then(|| Recorder::new(0, rows));
        let half = |latents: &Tensor, text: &Conditions, recorder: Option<&Recorder>| -> Result<Tensor> {
            let timesteps = Tensor::full([rows], time, (Kind::Float, latents.device()));
            let out = self.network.predict(&latents.to_kind(self.kind), &timesteps, text, recorder)?;
            Ok(out.to_kind(latents.kind()))
        };
        let uncond = text.uncond().map(|text| tch::no_grad(|| half(&latents.detach(), text, None))).transpose()?;
        let cond = half(latents, &text.cond, recorder.as_ref())?;
        let predicted = match uncond {
            Some(uncond) => self.guidance.combine(&uncond, &cond),
            None => cond,
        };
        Ok((predicted, recorder.map(|recorder| folded(recorder, text)).unwrap_or_default()))
    }

    fn run(
        &self,
        latents: &Tensor,
        time: f64,
        text: &GuidedText,
        mut pass: impl FnMut(&Tensor, &Tensor, &Conditions) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let input = latents.to_kind(self.kind);
        let rows = latents.size()[0];
        let timesteps = |rows: i64| Tensor::full([rows], time, (Kind::Float, latents.device()));
        match &text.both {
            Some(both) => {
                let twice = Tensor::cat(&[&input, &input], 0);
                let out = pass(&twice, &timesteps(2 * rows), both)?;
                let halves = out.to_kind(latents.kind()).chunk(2, 0);
                Ok(self.guidance.combine(&halves[0], &halves[1]))
            }
            None => Ok(pass(&input, &timesteps(rows), &text.cond)?.to_kind(latents.kind())),
        }
    }
}

/// Some rows of the batch, with their own text.
struct Part {
    rows: (i64, i64),
    text: Conditions,
    projected: Projected,
}

impl Part {
    fn new(text: &Conditions, rows: (i64, i64)) -> Self {
        Self { rows, text: text.narrow(rows.0, rows.1), projected: Projected::default() }
    }

    fn cut(&self, all: &Tensor) -> Tensor {
        all.narrow(0, self.rows.0, self.rows.1)
    }
}

/// The maps, with the attention to a token's copies summed at its first position.
fn folded(recorder: Recorder, text: &GuidedText) -> Vec<Layer> {
    let mut layers = recorder.into_layers();
    for map in layers.iter_mut().flat_map(|layer| &mut layer.modules) {
        *map = text.fold(map.shallow_clone());
    }
    layers
}
