//! The way back: tracked steps are run again, one at a time, with gradient.
//!
//! A sampler's step is `x' = a x + b e(x)`, so with g' the cotangent at x' the model's output receives `b g'`, and x
//! receives `a g'` along the direct path; in `chained` mode also what flows through the model's input. Nothing is
//! approximated: the gradients are those of one graph over all steps (`tests/replay.rs`).

use crate::{
    loss::attention::{self, Target},
    optim::Gradients,
};
use anyhow::Result;
use diffusion::{denoiser::Denoiser, precision, text::GuidedText, trajectory::Trajectory};
use models::schedule::{Sampler, Step};
use std::collections::BTreeSet;
use tch::{Kind, Tensor};

pub use config::Mode;

pub struct Replay<'a> {
    /// Its UNet carries the adapter as trainable branches.
    pub denoiser: &'a Denoiser<'a>,
    pub sampler: &'a Sampler,
    pub text: &'a GuidedText,
    pub mode: Mode,
    /// Of what flows through the model's input in `chained` mode, how much goes on: 1 is all of it.
    pub discount: f64,
    /// The most that a sample's cotangent may be when it enters a step (0: no limit).
    pub max_cotangent: f64,
    /// Samples replayed at a time (0: all): bounds memory and changes nothing else.
    pub micro_batch: usize,
    /// Samples of the batch that the losses are means over, of which these are all or some.
    pub batch: usize,
    /// The matrices of the adapter, in the order of `Lora::parameters`.
    pub leaves: &'a [&'a Tensor],
    pub attention: Option<Concentration<'a>>,
    pub anchor: Option<Anchored<'a>>,
}

/// The attention losses: some of the tracked steps add them to what they pass back.
pub struct Concentration<'a> {
    pub config: &'a config::Attention,
    /// Of the tracked steps, those that take part.
    pub steps: BTreeSet<usize>,
    /// What belongs where, for every sample.
    pub targets: &'a [Vec<Target>],
}

/// The original model, to which some of the tracked steps are held.
pub struct Anchored<'a> {
    /// Without an adapter, with guidance of its own.
    pub denoiser: Denoiser<'a>,
    pub text: &'a GuidedText,
    pub weight: f64,
    pub steps: BTreeSet<usize>,
}

/// What the steps add to the losses; means over the batch, not weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepLosses {
    pub attention: AttentionLosses,
    /// Squared distance to the original model's output, in the mean over latent values and steps.
    pub anchor: f64,
}

/// Values of the attention losses, summed over their steps, not weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AttentionLosses {
    pub token: f64,
    pub pixel: f64,
}

/// Which of the losses a value belongs to.
#[derive(Clone, Copy)]
enum Term {
    Token,
    Pixel,
    Anchor,
}

/// Values of losses, still on the device.
type Values = Vec<(Term, Tensor)>;

impl StepLosses {
    /// The sums of such values, which are read from the device all at once.
    fn read(values: Values) -> Result<Self> {
        let mut losses = Self::default();
        if values.is_empty() {
            return Ok(losses);
        }
        let all: Vec<Tensor> = values.iter().map(|(_, value)| value.to_kind(Kind::Double)).collect();
        for ((term, _), value) in values.iter().zip(Vec::<f64>::try_from(&Tensor::stack(&all, 0))?) {
            *match term {
                Term::Token => &mut losses.attention.token,
                Term::Pixel => &mut losses.attention.pixel,
                Term::Anchor => &mut losses.anchor,
            } += value;
        }
        Ok(losses)
    }
}

impl Replay<'_> {
    /// Adds to `gradients` what the cotangent `dL/dx_0` gives for every leaf.
    /// The losses of the steps themselves join on the way. Returns their values.
    pub fn run(&self, trajectory: &Trajectory, cotangent: Tensor, gradients: &mut Gradients) -> Result<StepLosses> {
        let mut g = cotangent;
        let mut values = vec![];
        let first = trajectory.before.keys().next().copied().unwrap_or(usize::MAX);
        for (i, step) in self.sampler.steps.iter().enumerate().rev().take_while(|(i, _)| *i >= first) {
            g = limited(g, self.max_cotangent, self.batch);
            let next = &g * step.a;
            if let Some(x) = trajectory.before.get(&i) {
                for (start, length) in chunks(x.size()[0], self.micro_batch) {
                    let cut = |t: &Tensor| t.narrow(0, start, length);
                    let text = self.text.narrow(start, length);
                    let attention = self.attention.as_ref().filter(|a| a.steps.contains(&i));
                    let attention = attention.map(|a| (a, &a.targets[start as usize..(start + length) as usize]));
                    let anchor = self.anchor.as_ref().filter(|a| a.steps.contains(&i));
                    let anchor = anchor.map(|a| (a, a.text.narrow(start, length)));
                    let anchor = anchor.as_ref().map(|(a, text)| (*a, text));
                    let (through_input, of_step) =
                        self.step(step, cut(x), &text, cut(&g), attention, anchor, gradients)?;
                    values.extend(of_step);
                    if let Some(through_input) = through_input {
                        let _ = cut(&next).g_add_(&(through_input * self.discount));
                    }
                }
            }
            g = next;
        }
        StepLosses::read(values)
    }

    /// One tracked step with gradient; returns what flows through the model's input, and the step's losses.
    #[allow(clippy::too_many_arguments)]
    fn step(
        &self,
        step: &Step,
        x: Tensor,
        text: &GuidedText,
        g: Tensor,
        attention: Option<(&Concentration, &[Vec<Target>])>,
        anchor: Option<(&Anchored, &GuidedText)>,
        gradients: &mut Gradients,
    ) -> Result<(Option<Tensor>, Values)> {
        let chained = self.mode == Mode::Chained;
        let x = x.detach().set_requires_grad(chained);
        let mut values = vec![];
        let (mut outputs, mut cotangents) = (vec![], vec![g * step.b]);
        match attention {
            None => outputs.push(self.denoiser.predict(&x, step.time, text)?),
            Some((attention, targets)) => {
                let (e, maps) = self.denoiser.predict_with_maps(&x, step.time, text)?;
                outputs.push(e);
                let config = attention.config;
                if let Some(parts) = attention::losses(config.form, &maps, targets, self.batch) {
                    values.push((Term::Token, parts.token.detach()));
                    values.push((Term::Pixel, parts.pixel.detach()));
                    let loss = parts.token * config.token_weight + parts.pixel * config.pixel_weight;
                    cotangents.push(loss.ones_like());
                    outputs.push(loss);
                }
            }
        }
        if let Some((anchor, text)) = anchor {
            let (loss, pull) = self.distance(anchor, step, &x, text, &outputs[0])?;
            values.push((Term::Anchor, loss));
            match self.mode {
                Mode::Detached => cotangents[0] += pull,
                // it is about this step alone: nothing of it goes on through the model's input
                Mode::Chained => gradients.add(&precision::vjp_and_keep(
                    self.denoiser.kind,
                    &[&outputs[0]],
                    self.leaves,
                    &[&pull],
                )?)?,
            }
        }
        let inputs: Vec<&Tensor> = self.leaves.iter().copied().chain(chained.then_some(&x)).collect();
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        let mut grads = precision::vjp(self.denoiser.kind, &outputs, &inputs, &cotangents.iter().collect::<Vec<_>>())?;
        let through_input = grads.drain(self.leaves.len()..).next().flatten();
        gradients.add(&grads)?;
        Ok((through_input, values))
    }

    /// The anchor loss of some samples at one step, and its cotangent, weighted, at the output `e` `[b, C, h, w]`.
    fn distance(
        &self,
        anchor: &Anchored,
        step: &Step,
        x: &Tensor,
        text: &GuidedText,
        e: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let _guard = tch::no_grad_guard();
        let apart = e.detach() - anchor.denoiser.predict(&x.detach(), step.time, text)?;
        let values = apart.numel() as f64 / apart.size()[0] as f64;
        let share = 1.0 / (values * (self.batch * anchor.steps.len()) as f64);
        let loss = apart.square().sum(Kind::Double) * share;
        Ok((loss, apart * (2.0 * share * anchor.weight)))
    }
}

/// Cotangents `[b, C, h, w]` of a mean over `batch` samples, each sample's scaled down so that that of its own loss has at most
/// this norm (0: any).
fn limited(cotangents: Tensor, most: f64, batch: usize) -> Tensor {
    if most == 0.0 {
        return cotangents;
    }
    let norms = cotangents.square().sum_dim_intlist([1, 2, 3].as_slice(), true, None).sqrt() * batch as f64;
    cotangents * (norms.clamp_min(1e-30).reciprocal() * most).clamp_max(1.0)
}

/// `(start, length)` of the pieces of `0..total`, each at most `size` long (0: one piece).
pub fn chunks(total: i64, size: usize) -> impl Iterator<Item = (i64, i64)> {
    let size = if size == 0 { total } else { size as i64 }.max(1);
    (0..total).step_by(size as usize).map(move |start| (start, size.min(total - start)))
}

#[cfg(test)]
mod tests {
    use super::{chunks, limited};
    use tch::{Kind, Tensor};
    use torch_ext::testing::device;

    #[test]
    fn large_cotangents_are_scaled_down_small_ones_are_not() {
        let given = Tensor::from_slice(&[3.0, 4.0, 0.3, 0.4]).view([2, 1, 1, 2]); // norms 5 and 0.5, of a mean over two
        let ones = limited(given.shallow_clone(), 2.0, 2) / &given;
        let factors = Vec::<f64>::try_from(ones.flatten(0, -1)).unwrap();
        assert!(factors.iter().zip([0.2, 0.2, 1.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{factors:?}");
        assert_eq!(limited(given.shallow_clone(), 0.0, 2), given);
        let zero = Tensor::zeros([2, 1, 1, 2], (Kind::Double, device()));
        assert_eq!(limited(zero.shallow_clone(), 2.0, 2), zero);
    }

    #[test]
    fn chunks_cover_everything_once() {
        assert_eq!(chunks(7, 3).collect::<Vec<_>>(), [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(chunks(7, 0).collect::<Vec<_>>(), [(0, 7)]);
        assert_eq!(chunks(2, 5).collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(chunks(0, 0).count(), 0);
    }
}
