//! The way back: tracked steps are run again, one at a time, with gradient.
//!
//! A sampler's step is `x' = a x + b e(x)`, so with g' the cotangent at x' the model's output receives `b g'`, and x
//! receives `a g'` along the direct path; in `chained` mode also what flows through the model's input. Nothing is
//! approximated: the gradients are those of one graph over all steps (`tests/replay.rs`).

use crate::loss::step::{self, Replayed, StepLoss, TermGradient, Values};
use anyhow::{Context, Result};
use diffusion::{conditions::GuidedText, denoiser::Denoiser, precision, trajectory::Trajectory};
use models::schedule::{Sampler, Step};
use optim::Gradients;
use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use tch::Tensor;
use torch_ext::{Shared, parallel};

pub use config::Mode;

pub struct Replay<'a> {
    /// Its network carries the adapter as trainable branches.
    pub denoiser: &'a Denoiser<'a>,
    pub sampler: &'a Sampler,
    pub text: &'a GuidedText,
    pub mode: Mode,
    /// Of what flows through the model's input in `chained` mode, how much goes on: 1 is all of it.
    pub discount: f64,
    /// Whether gradients also go through the unconditional half of guidance.
    pub unconditional: bool,
    /// The most that a sample's cotangent may be when it enters a step (0: no limit).
    pub max_cotangent: f64,
    /// Samples replayed at a time (0: all): bounds memory and changes nothing else.
    pub micro_batch: usize,
    /// Samples of the batch that the losses are means over, of which these are all or some.
    pub batch: usize,
    /// The matrices of the adapter, in the order of `Lora::parameters` ([`Shared::all`]).
    pub leaves: Vec<Shared>,
    /// What some of the tracked steps add to what they pass back.
    pub losses: Vec<&'a dyn StepLoss>,
}

impl Replay<'_> {
    /// Adds to `gradients` what the cotangent `dL/dx_0` gives for every leaf.
    /// The losses of the steps themselves join on the way. Returns their values.
    /// `each` is called after every backward pass; its error ends the replay, and a part of the gradients is added then.
    pub fn run(
        &self,
        trajectory: &Trajectory,
        cotangent: Tensor,
        gradients: &mut Gradients,
        mut each: impl FnMut() -> Result<()>,
    ) -> Result<Values> {
        let mut g = cotangent;
        let mut values = vec![];
        let mut others: Vec<Gradients> = vec![]; // the sums of the threads but the first
        let tries = AtomicBool::new(false);
        let first = trajectory.before.keys().next().copied().unwrap_or(usize::MAX);
        for (i, step) in self.sampler.steps.iter().enumerate().rev().take_while(|(i, _)| *i >= first) {
            g = limited(g, self.max_cotangent, self.batch);
            let next = &g * step.a;
            if let Some(x) = trajectory.before.get(&i) {
                gradients.begin(i);
                let losses: Vec<&dyn StepLoss> =
                    self.losses.iter().copied().filter(|loss| loss.steps().contains(&i)).collect();
                for rows in parallel::groups(x.size()[0], self.micro_batch, x.device()) {
                    others.resize_with(rows.len() - 1, || gradients.zeros_like());
                    let sums = iter::once(&mut *gradients).chain(&mut others);
                    let given = rows.iter().zip(sums).map(|(rows, sum)| Piece::new(*rows, x, &g, sum)).collect();
                    let done = parallel::map(given, |piece| self.step(step, piece, &losses, &tries))?;
                    for (rows, done) in rows.into_iter().zip(done) {
                        let Done { through_input, values: of_step } = done?;
                        values.extend(of_step);
                        if let Some(through_input) = through_input {
                            let _ = cut(&next, rows).g_add_(&(through_input * self.discount));
                        }
                    }
                    others.iter_mut().for_each(|other| gradients.take(other));
                    each()?;
                }
            }
            g = next;
        }
        step::read(values)
    }

    /// One tracked step with gradient, of some of the samples.
    ///
    /// In float16 the first scale nearly always does, so the graph is freed as it is used. Where it does not, the step is run once more
    /// with a graph that is kept for several tries, and so are those after it (`tries`).
    fn step(&self, step: &Step, mut piece: Piece, losses: &[&dyn StepLoss], tries: &AtomicBool) -> Result<Done> {
        let first = Attempt { tries: tries.load(Relaxed), again: false };
        if let Some(done) = self.attempt(step, &mut piece, losses, first)? {
            return Ok(done);
        }
        tries.store(true, Relaxed);
        let again = Attempt { tries: true, again: true };
        self.attempt(step, &mut piece, losses, again)?.context("several scales were tried")
    }

    /// `None` where the first scale is too large, and no others may be tried.
    fn attempt(
        &self,
        step: &Step,
        Piece { rows: (start, length), x, g, sum }: &mut Piece,
        losses: &[&dyn StepLoss],
        Attempt { tries, again }: Attempt,
    ) -> Result<Option<Done>> {
        let chained = self.mode == Mode::Chained;
        let kind = self.denoiser.kind;
        let text = self.text.narrow(*start, *length);
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|leaf| &**leaf).collect();
        let x = x.detach().set_requires_grad(chained);
        let with_maps = losses.iter().any(|loss| loss.looks_at_maps());
        let (e, maps) = match (self.unconditional, with_maps) {
            (true, true) => self.denoiser.predict_with_maps(&x, step.time, &text)?,
            (true, false) => (self.denoiser.predict(&x, step.time, &text)?, vec![]),
            (false, _) => self.denoiser.predict_conditionally(&x, step.time, &text, with_maps)?,
        };
        let rows = (*start as usize, *length as usize);
        let seen = Replayed { step, latents: &x, output: &e, maps: &maps, rows, batch: self.batch };
        let mut values = vec![];
        let (mut outputs, mut cotangents) = (vec![e.shallow_clone()], vec![&*g * step.b]);
        for term in losses.iter().map(|loss| loss.terms(&seen)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            values.push((term.name, term.value));
            match (term.gradient, self.mode) {
                (TermGradient::Loss(loss), _) => {
                    cotangents.push(loss.ones_like());
                    outputs.push(loss);
                }
                (TermGradient::AtOutput(cotangent), Mode::Detached) => cotangents[0] += cotangent,
                // it is about this step alone: nothing of it goes on through the model's input
                (TermGradient::AtOutput(_), Mode::Chained) if again => {} // the first attempt has added it
                (TermGradient::AtOutput(cotangent), Mode::Chained) => {
                    sum.add(&precision::vjp_and_keep(kind, &[&e], &leaves, &[&cotangent])?)?
                }
            }
        }
        let inputs: Vec<&Tensor> = leaves.iter().copied().chain(chained.then_some(&x)).collect();
        let outputs: Vec<&Tensor> = outputs.iter().collect();
        let cotangents: Vec<&Tensor> = cotangents.iter().collect();
        let grads = match tries {
            true => Some(precision::vjp(kind, &outputs, &inputs, &cotangents)?),
            false => precision::vjp_at_once(kind, &outputs, &inputs, &cotangents)?,
        };
        let Some(mut grads) = grads else { return Ok(None) };
        let through_input = grads.drain(leaves.len()..).next().flatten();
        sum.add(&grads)?;
        Ok(Some(Done { through_input, values }))
    }
}

fn cut(all: &Tensor, (start, length): (i64, i64)) -> Tensor {
    all.narrow(0, start, length)
}

/// Some samples of a step.
struct Piece<'a> {
    rows: (i64, i64),
    /// Their latents before the step, and the cotangent at those after it.
    x: Tensor,
    g: Tensor,
    /// What their gradients are added to.
    sum: &'a mut Gradients,
}

impl<'a> Piece<'a> {
    fn new(rows: (i64, i64), x: &Tensor, g: &Tensor, sum: &'a mut Gradients) -> Self {
        Self { rows, x: cut(x, rows), g: cut(g, rows), sum }
    }
}

struct Done {
    /// What flows through the model's input.
    through_input: Option<Tensor>,
    /// Of the step's losses.
    values: Vec<(&'static str, Tensor)>,
}

/// How a step is run: whether several scales may be tried, and whether it was run before.
#[derive(Clone, Copy)]
struct Attempt {
    tries: bool,
    again: bool,
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

#[cfg(test)]
mod tests {
    use super::limited;
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
}
