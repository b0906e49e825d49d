//! The gradient through the images.

use super::{Meter, Nested, Of, Sums, check};
use anyhow::Result;
use comat::{batch::Batch, loss::caption::CaptionLoss, share::Share, train::iterate};
use ranks::ProcessGroup;

pub(super) fn measure(meter: &mut Meter) -> Result<Sums> {
    let (mut sums, design, alone) = (meter.sums()?, meter.design, ProcessGroup::alone());
    let mut tracked = None;
    for sample in 0..design.prompts * design.noises {
        let prompt = meter.prompt(sample)?;
        for crop in 0..design.crops {
            let session = &mut meter.session;
            let batch = Batch::of(sample as u64, 0..1, 1, &alone, |_| Ok(prompt.clone()))?;
            let mut draws = batch.draws(session)?;
            // the same tracked steps for all samples, so that each step can be compared
            let (steps_of_all, attention, anchor) =
                tracked.get_or_insert((draws.tracked, draws.attention, draws.anchor));
            (draws.tracked, draws.attention, draws.anchor) = (steps_of_all.clone(), attention.clone(), anchor.clone());
            if crop > 0 {
                let (place, size, seed) = (u64::MAX - crop as u64, session.size, session.config.seed);
                draws.crops = vec![CaptionLoss::draw_crop(seed, sample as u64, place, size.height, size.width)?];
            }
            let mut gradients = meter.gradients().step_by_step();
            let (share, each) = (Share::whole(&[&prompt]), || Ok(meter.interrupt.check()?));
            let outcome = iterate(&mut meter.session, &meter.adapter, &share, draws, vec![], &mut gradients, each)?;
            check(&gradients.flat, &prompt)?;
            sums.loss += outcome.caption_loss;
            sums.all.add(&gradients.flat);
            let steps = gradients.of_steps();
            if sums.parts.is_empty() {
                let empty = |(step, part): &(usize, _)| {
                    let time = meter.session.sampler.steps[*step].time;
                    Ok((Of::Step(*step, time), Nested::new(design, part, false)?))
                };
                sums.parts = steps.iter().map(empty).collect::<Result<_>>()?;
            }
            for ((_, sums), (_, part)) in sums.parts.iter_mut().zip(&steps) {
                sums.add(part);
            }
            meter.bar.inc(1);
        }
    }
    sums.parts.reverse();
    Ok(sums)
}
