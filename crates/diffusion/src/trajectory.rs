//! From noise to latents without a graph. Only the latents before the tracked steps are kept; the replay needs nothing
//! else.

use anyhow::Result;
use models::schedule::{Sampler, Walk};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

pub struct Trajectory {
    /// x_0 `[B, C, h, w]`.
    pub latents: Tensor,
    /// x_t before each of the tracked steps, by the step's number (0 is the noisiest).
    pub before: BTreeMap<usize, Tensor>,
}

/// Runs all steps from the latents before the first one ([`Sampler::start`]). `predict(x, t)` is the model's output for
/// latents and timestep. `noise(i)` is the noise of step `i`, in the shape of the latents; it is requested in order,
/// and only where the step is stochastic. `each` is called after every step.
pub fn walk(
    mut predict: impl FnMut(&Tensor, f64) -> models::Result<Tensor>,
    sampler: &Sampler,
    start: Tensor,
    tracked: &BTreeSet<usize>,
    mut noise: impl FnMut(usize) -> Result<Tensor>,
    mut each: impl FnMut() -> Result<()>,
) -> Result<Trajectory> {
    let _guard = tch::no_grad_guard();
    let mut before = BTreeMap::new();
    let (mut x, mut steps) = (start, Walk::along(sampler));
    for (i, step) in sampler.steps.iter().enumerate() {
        let e = predict(&x, step.time)?;
        if tracked.contains(&i) {
            before.insert(i, x.shallow_clone());
        }
        let z = if step.sigma != 0.0 { Some(noise(i)?) } else { None };
        x = steps.step(step, &x, &e, z.as_ref());
        each()?;
    }
    Ok(Trajectory { latents: x, before })
}
