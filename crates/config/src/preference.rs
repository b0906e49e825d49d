//! `[preference]`: what the model learns from its own images, the better against the worse.

use super::{Config, Memory, Replay, above_zero, counts, in_range};
use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Preferences between the model's own images: a step draws several images of each prompt; those with the most reward become likelier,
/// and those with the least less likely (DiffusionNFT, Zheng et al. 2025). This takes the place of the gradient through the
/// images: no gradient comes from captioner, rewards or decoder, and guidance does not disturb it. The running average (`train.ema`)
/// draws the images, and is what the run makes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preference {
    /// Images that a step draws of each prompt, which are ranked by their rewards.
    #[schemars(range(min = 2, max = 1000))]
    pub candidates: usize,
    /// How many of them the model learns from: one half of these are a prompt's worst images, the other half its best ones. An even number,
    /// or as many as `candidates`. The best and the worst of many images teach most for the computing time.
    #[schemars(range(min = 2, max = 1000))]
    pub compared: usize,
    /// How closely the model is held to the one that draws, with every comparison: the higher, the closer. The paper's beta.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1e6))]
    pub beta: f64,
    /// Weight of the distance to the original model, which holds it there over the whole run. With 0 it may drift ever further, to images
    /// that the rewards like and nobody else does.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub anchor: f64,
    /// How often a prompt's images are compared in a step, each time at another timestep and with other noise.
    #[schemars(range(min = 1, max = 1000))]
    pub draws: usize,
    /// Where these timesteps lie, as shares of the schedule: 0 is the clean image, 1 is pure noise. What an image shows is decided
    /// early, at high noise, and most of what can be learnt lies there.
    pub timesteps: [f64; 2],
}

impl Default for Preference {
    fn default() -> Self {
        Self { candidates: 8, compared: 2, beta: 1.0, anchor: 0.1, draws: 8, timesteps: [0.65, 1.0] }
    }
}

impl Preference {
    /// The first of the timesteps in a schedule of that length, and the one behind the last.
    pub fn range(&self, length: usize) -> [i64; 2] {
        let length = length as i64;
        let [low, high] = self.timesteps.map(|share| (share * length as f64).round() as i64);
        let low = low.min(length - 1);
        [low, high.clamp(low + 1, length)]
    }
}

impl Config {
    /// Settings of the gradient through the images that are set although `[preference]` makes no use of it.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let (replay, default) = (&self.replay, Replay::default());
        let all = [
            ("captioner.label_smoothing", self.captioner.label_smoothing > 0.0),
            ("captioner.contrast", self.captioner.contrast > 0.0),
            ("replay.mode", replay.mode != default.mode),
            ("replay.discount", replay.discount != default.discount),
            ("replay.unconditional", replay.unconditional != default.unconditional),
            ("replay.tracked", replay.tracked != default.tracked),
            ("replay.policy", replay.policy != default.policy),
            ("replay.max_cotangent", replay.max_cotangent != default.max_cotangent),
            ("memory.keep_decoder", self.memory.keep_decoder != Memory::default().keep_decoder),
        ];
        all.into_iter().filter(|(_, set)| *set && self.preference.is_some()).map(|(name, _)| name).collect()
    }

    pub(super) fn check_preference(&self) -> Result<()> {
        let Some(preference) = &self.preference else { return Ok(()) };
        let Preference { candidates, compared, beta, anchor, draws, timesteps: [low, high] } = *preference;
        above_zero(&[("preference.beta", beta)])?;
        in_range(&[("preference.beta", beta, 1e6), ("preference.anchor", anchor, 1e6)])?;
        counts(&[("preference.draws", draws as i64, 1000)])?;
        if !(2..=1000).contains(&candidates) {
            bail!("preference.candidates is {candidates}, it must be from 2 to 1000: images are compared");
        }
        if compared != candidates && (compared % 2 == 1 || !(2..candidates).contains(&compared)) {
            bail!(
                "preference.compared is {compared}, it must be an even number from 2 to {candidates}, or all {candidates} (preference.candidates)"
            );
        }
        if self.train.ema == 0.0 {
            bail!(
                "[preference] draws with the running average of the LoRA: set train.ema above 0, to 0.98 for example"
            );
        }
        if !(0.0..1.0).contains(&low) || !(0.0..=1.0).contains(&high) || low >= high {
            bail!("preference.timesteps is [{low}, {high}], it must be two numbers from 0 to 1, the smaller one first");
        }
        let others = [
            ("anchor", self.anchor.is_some()),
            ("attention", self.attention.is_some()),
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
