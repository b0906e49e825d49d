//! The gradient of preferences: a sample is a prompt's candidates, compared at the timesteps that are set, and at each
//! part of the schedule.

use super::{Meter, Nested, Of, Sums, check};
use anyhow::Result;
use comat::{
    preference::{self, Preferred, Samples},
    share::Share,
};
use config::Preference;

/// Parts of the schedule.
const PARTS: usize = 5;

pub(super) fn measure(meter: &mut Meter, settings: &Preference) -> Result<Sums> {
    let (mut sums, design) = (meter.sums()?, meter.design);
    let length = meter.session.pipeline.noise_path.length();
    let parts = (0..PARTS).rev().map(|part| {
        let timesteps = [part, part + 1].map(|edge| edge as f64 / PARTS as f64);
        Preference { timesteps, ..settings.clone() }
    });
    let parts: Vec<Preference> = parts.collect();
    for part in &parts {
        let [low, high] = part.range(length);
        sums.parts.push((Of::Timesteps(low, high), Nested::new(design, &meter.adapter.flat, false)?));
    }
    let policy = meter.session.frozen(&meter.adapter.lora_of(&meter.adapter.flat))?;
    for sample in 0..design.prompts * design.noises {
        let prompt = meter.prompt(sample)?;
        let (prompts, interrupt) = ([prompt.as_str()], meter.interrupt);
        let share = Share::whole(&prompts);
        let samples = Samples { share: &share, step: sample as u64, places: &[0], policy: policy.as_ref() };
        let each = || Ok(interrupt.check()?);
        let mut out = Preferred { rewards: vec![0.0; meter.session.rewards.len()], ..Preferred::default() };
        let drawn = preference::draw(&mut meter.session, settings, &samples, &mut vec![], &mut out, each)?;
        sums.loss += out.caption_loss;
        let gradient = |settings| {
            let (mut gradients, mut out, of) = (meter.gradients(), Preferred::default(), (&meter.adapter, &drawn));
            preference::learn(&meter.session, settings, &samples, of, &mut gradients, &mut out, each)?;
            check(&gradients.flat, &prompt)?;
            Ok::<_, anyhow::Error>(gradients.flat)
        };
        sums.all.add(&gradient(settings)?);
        for (part, (_, sums)) in parts.iter().zip(&mut sums.parts) {
            sums.add(&gradient(part)?);
        }
        meter.bar.inc(1);
    }
    Ok(sums)
}
