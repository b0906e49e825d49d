//! `[preference]`: what the model learns from its own images, the better against the worse.

use super::{Config, above_zero};
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Preference optimisation: a step draws several images of each prompt, and the one with the highest reward is preferred to the one
/// with the lowest (Diffusion-DPO, Wallace et al. 2024, on images of the model in training). This takes the place of the gradient
/// through the images: no gradient comes from captioner, rewards or decoder, and guidance does not disturb it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preference {
    /// Images of each prompt, of which two are compared.
    #[schemars(range(min = 2))]
    pub candidates: usize,
    /// How closely the model is held to the original one: the higher, the closer. The meaning is that of `beta_dpo` in the authors' script.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// How often a pair is compared in a step, each time at another timestep and with other noise.
    #[schemars(range(min = 1))]
    pub draws: usize,
    /// Where these timesteps lie, as shares of the schedule: 0 is the clean image, 1 is pure noise. What an image shows is decided
    /// early, at high noise; below the first number, the original model's way with details is left alone.
    pub timesteps: [f64; 2],
}

impl Default for Preference {
    fn default() -> Self {
        Self { candidates: 4, beta: 2000.0, draws: 8, timesteps: [0.3, 1.0] }
    }
}

impl Config {
    pub(super) fn check_preference(&self) -> Result<()> {
        let Some(Preference { candidates, beta, draws, timesteps: [low, high] }) = self.preference else {
            return Ok(());
        };
        above_zero(&[("preference.beta", beta), ("preference.draws", draws as f64)])?;
        if candidates < 2 {
            bail!("preference.candidates is {candidates}, it must be 2 or more: images are compared");
        }
        if !(0.0..1.0).contains(&low) || !(0.0..=1.0).contains(&high) || low >= high {
            bail!("preference.timesteps is [{low}, {high}], it must be two numbers from 0 to 1, the smaller one first");
        }
        let others = [
            ("anchor", self.anchor.is_some()),
            ("attention", self.attention.is_some()),
            ("fidelity", self.fidelity.is_some()),
            ("mixed", self.mixed.is_some()),
        ];
        if let Some((other, _)) = others.iter().find(|(_, there)| *there) {
            bail!("[preference] does not go together with [{other}]: leave one of them out (`{other} = false`)");
        }
        if self.captioner.weight == 0.0 && self.rewards.iter().all(|reward| reward.weight == 0.0) {
            bail!("[preference] needs a reward: captioner.weight is 0, and there is no [[reward]]");
        }
        Ok(())
    }
}
