//! Samplers that measure noise relative to the signal, `sigma = sqrt((1 - ᾱ) / ᾱ)`: Euler and Euler ancestral (Karras
//! et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, and k-diffusion, which follows
//! it), DPM-Solver++ 2M (Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
//! 2022).
//!
//! The papers write the first two for latents that grow with the noise, `x sqrt(1 + sigma²)`. The steps here are for
//! `x` itself, whose variance stays constant, as in DDIM. Conventions: diffusers `EulerDiscreteScheduler`,
//! `EulerAncestralDiscreteScheduler`, `DPMSolverMultistepScheduler` (order 2, midpoint, the last step of order 1).

use super::{NoiseSchedule, Sampler, Spacing, Step};
use crate::error::{Error, Result};

/// Replaces a share of signal of 0, for which sigma would be infinite.
const LEAST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;
/// Exponent of the noise levels; larger values put more steps at low noise (Karras et al., equation 5).
const RHO: f64 = 7.0;

impl NoiseSchedule {
    /// The share of signal left at a time, which may lie between two training steps.
    pub fn signal_at(&self, time: f64) -> f64 {
        match self.alphas_cumprod.get(time as usize) {
            Some(signal) if time.fract() == 0.0 => *signal,
            _ => signal_of(between(&self.sigmas(), time)),
        }
    }

    pub(super) fn euler(&self, steps: usize, spacing: Spacing) -> Result<Sampler> {
        self.along_sigmas(steps, spacing, |_, to| (to, 0.0))
    }

    pub(super) fn euler_ancestral(&self, steps: usize, spacing: Spacing) -> Result<Sampler> {
        self.along_sigmas(steps, spacing, |from, to| {
            let up = (to * to * (from * from - to * to) / (from * from)).max(0.0).sqrt();
            ((to * to - up * up).max(0.0).sqrt(), up)
        })
    }

    /// First-order steps along the noise levels. `split` gets sigma before and after a step; it returns the sigma to
    /// step down to, and the standard deviation of the noise added then.
    fn along_sigmas(&self, steps: usize, spacing: Spacing, split: impl Fn(f64, f64) -> (f64, f64)) -> Result<Sampler> {
        let (times, table) = (self.times(steps, spacing)?, self.sigmas());
        let sigmas: Vec<f64> = times.iter().map(|t| between(&table, *t)).chain([0.0]).collect();
        let walk = times.iter().zip(sigmas.windows(2)).map(|(time, sigmas)| {
            let [from, to] = [sigmas[0], sigmas[1]];
            let (down, up) = split(from, to);
            let (scale, next) = (from.hypot(1.0), to.hypot(1.0));
            // factors of (x, e): the direction of the noise, times the length of the step
            let [_, noise] = self.meaning(signal_of(from));
            let (of_x, of_e) = ((down - from) * noise.0, (down - from) * noise.1);
            Step::new(*time, (scale + of_x) / next, of_e / next, up / next)
        });
        let sampler = Sampler::of(walk.collect());
        Ok(match spacing {
            Spacing::Leading => sampler,
            // as if the latents were noise alone, with standard deviation sigma
            Spacing::Trailing | Spacing::Linspace => sampler.starting_at(sigmas[0] / sigmas[0].hypot(1.0)),
        })
    }

    pub(super) fn dpmpp_2m(&self, steps: usize, spacing: Spacing, karras: bool) -> Result<Sampler> {
        let table = self.sigmas();
        let (times, mut sigmas) = match karras {
            true => self.karras_levels(&table, steps)?,
            false => {
                let times = self.times_of_multistep(steps, spacing)?;
                let sigmas = times.iter().map(|t| between(&table, *t)).collect();
                (times, sigmas)
            }
        };
        sigmas.push(0.0);
        let mut walk: Vec<Step> = vec![];
        for (i, (time, levels)) in times.iter().zip(sigmas.windows(2)).enumerate() {
            let [from, to] = [levels[0], levels[1]];
            // x' = keep x + take D, where D is the clean image, extrapolated from this step and the one before
            let keep = to * from.hypot(1.0) / (from * to.hypot(1.0));
            let take = (1.0 - to / from) / to.hypot(1.0);
            let clean = |sigma: f64| self.meaning(signal_of(sigma))[0];
            let (now, before) = (clean(from), i.checked_sub(1).filter(|_| to > 0.0).map(|i| sigmas[i]));
            // weight of the step before: half of this step's length in log sigma, divided by the length of that step
            let share = before.map_or(0.0, |before| (from / to).ln() / (before / from).ln() / 2.0);
            let of_now = take * (1.0 + share);
            walk.push(Step {
                before: before.map(clean).map(|(of_x, of_e)| (-take * share * of_x, -take * share * of_e)),
                ..Step::new(*time, keep + of_now * now.0, of_now * now.1, 0.0)
            });
        }
        Ok(Sampler::of(walk))
    }

    /// Like [`NoiseSchedule::times`] for one step more, without the lowest time: the last step goes to the clean image.
    /// With `trailing` spacing the times are the same.
    fn times_of_multistep(&self, steps: usize, spacing: Spacing) -> Result<Vec<f64>> {
        let train = self.alphas_cumprod.len();
        if spacing == Spacing::Trailing {
            return self.times(steps, spacing);
        }
        if steps == 0 || steps >= train {
            return Err(Error::Input(format!("{steps} sampling steps: must be 1 to {} for dpm++_2m", train - 1)));
        }
        let time = |i: usize| match spacing {
            Spacing::Leading => ((i * (train / (steps + 1))) as i64).saturating_add(self.steps_offset) as f64,
            _ => (i as f64 * ((train - 1) as f64 / steps as f64)).round_ties_even(),
        };
        self.inside((1..=steps).rev().map(time).collect())
    }

    /// Times, in whole training steps, and sigmas of Karras' noise levels, from the noisiest.
    fn karras_levels(&self, table: &[f64], steps: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let (Some(least), Some(most)) = (table.first(), table.last()) else { return Ok((vec![], vec![])) };
        let train = self.alphas_cumprod.len();
        if steps == 0 || steps > train {
            return Err(Error::Input(format!("{steps} sampling steps: must be 1 to {train}")));
        }
        let (low, high) = (least.powf(1.0 / RHO), most.powf(1.0 / RHO));
        let gap = 1.0 / (steps.max(2) - 1) as f64;
        let sigmas: Vec<f64> = (0..steps).map(|i| (high + i as f64 * gap * (low - high)).powf(RHO)).collect();
        let time = |sigma: &f64| {
            let above = table.partition_point(|known| known <= sigma).clamp(1, table.len().saturating_sub(1).max(1));
            let [low, high] = [above - 1, above].map(|i| table[i.min(table.len() - 1)].ln());
            let share = ((low - sigma.ln()) / (low - high)).clamp(0.0, 1.0);
            let time = above as f64 - 1.0 + share;
            if self.cuts_times { time.floor() } else { time.round_ties_even() }
        };
        Ok((sigmas.iter().map(time).collect(), sigmas))
    }

    /// Sigma of each training step.
    fn sigmas(&self) -> Vec<f64> {
        let sigma = |signal: &f64| {
            let signal = if *signal > 0.0 { *signal } else { LEAST_SIGNAL };
            ((1.0 - signal) / signal).sqrt()
        };
        self.alphas_cumprod.iter().map(sigma).collect()
    }
}

fn signal_of(sigma: f64) -> f64 {
    1.0 / (1.0 + sigma * sigma)
}

/// Value of a table at a position that may lie between two entries.
fn between(table: &[f64], place: f64) -> f64 {
    let at = |i: usize| table.get(i).or(table.last()).copied().unwrap_or(0.0);
    let (low, share) = (place as usize, place.fract());
    let value = at(low);
    if share == 0.0 { value } else { value + (at(low + 1) - value) * share }
}
