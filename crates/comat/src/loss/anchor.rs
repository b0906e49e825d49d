//! The anchor loss: at some of the tracked steps, the output is held close to the original model's prediction with
//! guidance.

use super::step::{Replayed, StepLoss, Term, TermGradient};
use anyhow::Result;
use diffusion::{conditions::GuidedText, denoiser::Denoiser};
use models::{guidance::Guidance, network::Network};
use std::collections::BTreeSet;
use tch::Kind;

/// The original model and how it predicts.
pub struct Original {
    pub network: Box<dyn Network>,
    /// The prompts' conditions for its guidance.
    pub text: GuidedText,
    pub guidance: Guidance,
    pub kind: Kind,
    pub weight: f64,
}

impl Original {
    /// The anchor loss at these steps.
    pub fn anchor_loss(&self, steps: BTreeSet<usize>) -> Anchored<'_> {
        let denoiser = Denoiser { network: self.network.as_ref(), guidance: self.guidance, kind: self.kind };
        Anchored { denoiser, text: &self.text, weight: self.weight, steps }
    }
}

/// The anchor loss at some of the tracked steps.
pub struct Anchored<'a> {
    /// The original model, without an adapter, with its own guidance.
    pub denoiser: Denoiser<'a>,
    pub text: &'a GuidedText,
    pub weight: f64,
    pub steps: BTreeSet<usize>,
}

impl Anchored<'_> {
    /// Name of the loss: the squared distance to the original model's output, mean over latent values and steps.
    pub const NAME: &'static str = "anchor";
}

impl StepLoss for Anchored<'_> {
    fn steps(&self) -> &BTreeSet<usize> {
        &self.steps
    }

    fn terms(&self, seen: &Replayed) -> Result<Vec<Term>> {
        let _guard = tch::no_grad_guard();
        let text = self.text.narrow(seen.rows.0 as i64, seen.rows.1 as i64);
        let apart = seen.output.detach() - self.denoiser.predict(&seen.latents.detach(), seen.step.time, &text)?;
        let values = apart.numel() as f64 / apart.size()[0] as f64;
        let share = 1.0 / (values * (seen.batch * self.steps.len()) as f64);
        Ok(vec![Term {
            name: Self::NAME,
            value: apart.square().sum(Kind::Double) * share,
            gradient: TermGradient::AtOutput(apart * (2.0 * share * self.weight)),
        }])
    }
}
