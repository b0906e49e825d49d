//! Metrics of a training step: summed over its trajectories, then over the ranks together with the gradients.

use crate::{
    attention::Counts,
    discriminator::Verdict,
    finite::{NotFinite, Part},
    preference::{Figures, Preferred},
    session::Session,
    train::{AttentionLosses, CotangentNorms, Outcome, Phases},
};
use anyhow::Result;
use ranks::{
    ProcessGroup,
    interrupt::{Interrupt, Interrupted},
};
use std::time::Instant;
use tch::Tensor;

/// Metrics of one training step.
pub struct StepReport {
    pub caption_loss: f64,
    /// The caption loss with smoothed labels; `None` where labels are not smoothed.
    pub smoothed_loss: Option<f64>,
    /// The other rewards by name, not weighted.
    pub rewards: Vec<(String, f64)>,
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// Prodigy's distance d, which the learning rate is multiplied by; `None` with another optimiser.
    pub distance: Option<f64>,
    pub attention: Option<(AttentionLosses, Counts)>,
    pub anchor_loss: Option<f64>,
    pub fidelity: Option<FidelityReport>,
    pub preference: Option<Figures>,
    pub norms: CotangentNorms,
    pub mixed_loss: Option<f64>,
    pub phases: Phases,
    pub began: Instant,
    /// Seconds until each rank had computed its share, and seconds that rank 0 then spent on the sum over ranks.
    pub ranks: Option<(Vec<f64>, f64)>,
    /// Whether a rank was asked to stop the run.
    pub stop: bool,
    /// Whether a rank was asked to stop before it had computed its part: the step is abandoned.
    pub abandoned: bool,
    /// The part that is not finite, if the step is skipped for it.
    pub not_finite: Option<Part>,
}

/// Means over the step's trajectories.
#[derive(Default, Clone, Copy)]
pub struct FidelityReport {
    pub adversarial: f64,
    pub discriminator: f64,
    pub accuracy: f64,
    pub grad_norm: f64,
    pub skipped: u64,
}

impl StepReport {
    pub fn start(session: &Session, learning_rate: f64) -> Self {
        Self {
            caption_loss: 0.0,
            // of preferences there is no gradient of a caption loss
            smoothed_loss: (session.config.captioner.label_smoothing > 0.0 && session.config.preference.is_none())
                .then_some(0.0),
            rewards: session.rewards.iter().map(|other| (other.reward.name().to_owned(), 0.0)).collect(),
            grad_norm: 0.0,
            learning_rate,
            distance: None,
            attention: session.attention.as_ref().map(|_| Default::default()),
            anchor_loss: session.config.anchor.as_ref().map(|_| 0.0),
            fidelity: session.config.fidelity.as_ref().map(|_| Default::default()),
            preference: session.config.preference.as_ref().map(|_| Default::default()),
            norms: CotangentNorms::default(),
            mixed_loss: session.config.mixed.as_ref().map(|_| 0.0),
            phases: Phases::default(),
            began: Instant::now(),
            ranks: None,
            stop: false,
            abandoned: false,
            not_finite: None,
        }
    }

    /// Adds the outcome of one of `parts` trajectories.
    pub fn add(&mut self, outcome: &Outcome, parts: usize) {
        self.caption_loss += outcome.caption_loss / parts as f64;
        if let Some(loss) = &mut self.smoothed_loss {
            *loss += outcome.smoothed_loss / parts as f64;
        }
        for ((_, mean), reward) in self.rewards.iter_mut().zip(&outcome.rewarded.rewards) {
            *mean += reward / parts as f64;
        }
        if let Some((losses, counts)) = &mut self.attention {
            losses.token += outcome.attention_losses.token / parts as f64;
            losses.pixel += outcome.attention_losses.pixel / parts as f64;
            counts.add(outcome.counts);
        }
        if let Some(loss) = &mut self.anchor_loss {
            *loss += outcome.anchor_loss / parts as f64;
        }
        self.norms.caption += outcome.norms.caption / parts as f64;
        if let Some(norm) = outcome.norms.adversarial {
            self.norms.adversarial = Some(self.norms.adversarial.unwrap_or(0.0) + norm / parts as f64);
        }
        self.phases += outcome.phases;
    }

    /// Adds what the discriminator says of one of `parts` batches.
    pub fn add_verdict(&mut self, verdict: &Verdict, parts: usize) {
        if let Some(report) = &mut self.fidelity {
            report.adversarial += verdict.adversarial / parts as f64;
            report.discriminator += verdict.loss / parts as f64;
            report.accuracy += verdict.accuracy / parts as f64;
        }
    }

    /// Adds the outcome of one of `parts` batches whose images were compared.
    pub fn add_preferred(&mut self, done: &Preferred, parts: usize) {
        self.caption_loss += done.caption_loss / parts as f64;
        for ((_, mean), reward) in self.rewards.iter_mut().zip(&done.rewards) {
            *mean += reward / parts as f64;
        }
        if let Some(report) = &mut self.preference {
            report.loss += done.figures.loss / parts as f64;
            report.gap += done.figures.gap / parts as f64;
            report.distance += done.figures.distance / parts as f64;
        }
        self.phases += done.phases;
    }

    /// Adds the outcome of one of `parts` trajectories of mixed latents. Its time is added to that of the prompts.
    pub fn add_mixed(&mut self, outcome: &Outcome, parts: usize) {
        self.mixed_loss = Some(self.mixed_loss.unwrap_or(0.0) + outcome.caption_loss / parts as f64);
        self.phases += outcome.phases;
    }

    /// Records why this rank's part of the step ended early, if all ranks can continue after that.
    ///
    /// # Errors
    /// Any other error.
    pub fn note(&mut self, computed: Result<()>) -> Result<()> {
        let Err(error) = computed else { return Ok(()) };
        match error.downcast_ref::<NotFinite>() {
            Some(NotFinite(part)) => self.not_finite = Some(*part),
            None if error.is::<Interrupted>() => self.abandoned = true,
            None => return Err(error),
        }
        Ok(())
    }

    /// Looks for values that are not finite in the sums over ranks, which are the same on all ranks.
    pub fn check_finite(&mut self) {
        let fidelity = self.fidelity.unwrap_or_default();
        let figures = [
            (Part::CaptionLoss, self.caption_loss),
            (Part::CaptionLoss, self.mixed_loss.unwrap_or(0.0)),
            (Part::Gradients, self.anchor_loss.unwrap_or(0.0)),
            (Part::Gradients, self.preference.unwrap_or_default().loss),
            (Part::Discriminator, fidelity.adversarial),
            (Part::Discriminator, fidelity.discriminator),
            (Part::Gradients, self.grad_norm),
        ];
        let rewards = self.rewards.iter().map(|(_, reward)| (Part::Reward, *reward));
        let first = figures.into_iter().chain(rewards).find(|(_, figure)| !figure.is_finite()).map(|(part, _)| part);
        self.not_finite = self.not_finite.or(first);
    }

    /// Records the norm of the discriminator's gradient, and how many of its updates were skipped so far.
    pub fn discriminator_updated(&mut self, norm: f64, skipped: u64) {
        if let Some(fidelity) = &mut self.fidelity {
            (fidelity.grad_norm, fidelity.skipped) = (norm, skipped);
        }
    }

    /// Sums this rank's gradients and metrics over all ranks. A stop or a value that is not finite on one rank counts
    /// on all of them.
    pub fn add_up(&mut self, group: &ProcessGroup, gradients: &mut [&mut Tensor], interrupt: &Interrupt) -> Result<()> {
        if group.is_alone() {
            self.stop = interrupt.is_set();
            return Ok(());
        }
        let computed = Instant::now();
        let mut figures: Vec<f64> = self.sums().iter().map(|figure| **figure).collect();
        let counted = self.counts().iter().map(|count| **count as f64).collect::<Vec<_>>();
        figures.extend(&counted);
        let signals = figures.len();
        figures.extend([f64::from(interrupt.is_set()), f64::from(self.abandoned), Part::code(self.not_finite)]);
        figures.push((computed - self.began).as_secs_f64());
        let all = group.exchange(gradients, &figures)?;

        let sum = |column: usize| all.iter().map(|rank| rank[column]).sum::<f64>();
        let mut column = 0..;
        let mut next = || sum(column.next().unwrap_or_default());
        self.sums().into_iter().for_each(|figure| *figure = next());
        self.counts().into_iter().for_each(|count| *count = next() as usize);
        self.stop = sum(signals) > 0.0;
        self.abandoned = sum(signals + 1) > 0.0;
        self.not_finite = all.iter().filter_map(|rank| Part::of_code(rank[signals + 2])).min();
        let seconds = all.iter().filter_map(|rank| rank.last().copied()).collect();
        self.ranks = Some((seconds, computed.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The values that are parts of means over the batch. Every rank has the same list.
    fn sums(&mut self) -> Vec<&mut f64> {
        let gradients = self.preference.is_none(); // of the rewards
        let mut all = vec![&mut self.caption_loss, &mut self.norms.caption];
        all.extend(&mut self.smoothed_loss);
        all.extend(self.rewards.iter_mut().map(|(_, reward)| reward));
        all.extend(&mut self.mixed_loss);
        all.extend(&mut self.anchor_loss);
        if let Some(Figures { loss, gap, distance }) = &mut self.preference {
            all.extend([loss, gap, distance]);
        }
        if let Some((losses, _)) = &mut self.attention {
            all.extend([&mut losses.token, &mut losses.pixel]);
        }
        if let Some(fidelity) = &mut self.fidelity {
            all.extend([&mut fidelity.adversarial, &mut fidelity.discriminator, &mut fidelity.accuracy]);
            if gradients {
                all.push(self.norms.adversarial.get_or_insert(0.0)); // a rank without samples has no value of its own
            }
        }
        all
    }

    fn counts(&mut self) -> Vec<&mut usize> {
        let Some((_, counts)) = &mut self.attention else { return vec![] };
        vec![&mut counts.subjects, &mut counts.not_found, &mut counts.without]
    }
}
