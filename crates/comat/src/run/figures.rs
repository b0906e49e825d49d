//! A step's figures, added up over the ranks together with the gradients.

use super::StepReport;
use crate::finite::Part;
use anyhow::Result;
use ranks::{World, interrupt::Interrupt};
use std::time::Instant;
use tch::Tensor;

impl StepReport {
    /// From this rank's gradients and figures to those of the whole batch, on every rank. Somebody who stops one rank stops all, and what
    /// is not finite on one is not on any.
    pub fn add_up(&mut self, world: &World, gradients: &mut [&mut Tensor], interrupt: &Interrupt) -> Result<()> {
        if world.is_alone() {
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
        let all = world.exchange(gradients, &figures)?;

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

    /// Parts of means over the batch. Every rank has the same ones.
    fn sums(&mut self) -> Vec<&mut f64> {
        let mut all = vec![&mut self.caption_loss, &mut self.pulls.caption];
        all.extend(&mut self.smoothed_loss);
        all.extend(&mut self.mixed_loss);
        all.extend(&mut self.anchor_loss);
        if let Some((losses, _)) = &mut self.attention {
            all.extend([&mut losses.token, &mut losses.pixel]);
        }
        if let Some(fidelity) = &mut self.fidelity {
            let pull = self.pulls.adversarial.get_or_insert(0.0); // a rank without a sample has none
            all.extend([&mut fidelity.adversarial, &mut fidelity.discriminator, &mut fidelity.accuracy, pull]);
        }
        all
    }

    fn counts(&mut self) -> Vec<&mut usize> {
        let Some((_, counts)) = &mut self.attention else { return vec![] };
        vec![&mut counts.subjects, &mut counts.not_found, &mut counts.without]
    }
}
