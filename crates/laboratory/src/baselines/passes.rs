//! Compute, in passes of the UNet over one image: a pass forward counts 1, one back 2.

use super::{Baseline, Rule};
use config::{Config, Mode, Sampling};

/// With guidance a step has two halves.
fn halves(guided: bool) -> f64 {
    if guided { 2.0 } else { 1.0 }
}

/// Passes for an image that is kept of `best_of`.
pub fn drawing(sampling: &Sampling, best_of: usize) -> f64 {
    sampling.steps as f64 * halves(sampling.guidance().is_on()) * best_of as f64
}

/// Passes of a training: trajectories, replays and the anchor's; of a baseline its images and the denoising loss. The
/// discriminator, the decoder and the captioner are not counted.
pub fn training(config: &Config, baseline: Option<&Baseline>) -> f64 {
    match baseline {
        Some(baseline) => {
            let drawn = if baseline.kind == Rule::TrueCaptions { 0 } else { baseline.prompts * baseline.of };
            let images = drawn as f64 * drawing(&config.sampling, 1);
            let of_sample = match baseline.kind {
                Rule::RewardWeighted | Rule::TrueCaptions => 3.0,
                Rule::Dpo => 2.0 * (3.0 + 1.0), // both images of a pair, and the base model's passes
            };
            images + baseline.steps as f64 * baseline.batch as f64 * of_sample
        }
        None => config.train.samples() as f64 * of_sample(config),
    }
}

/// Passes for a sample of a training.
fn of_sample(config: &Config) -> f64 {
    if let Some(preference) = &config.preference {
        // with a pass of the policy, and one of the original model for the anchor
        let comparison = 3.0 + 1.0 + if preference.anchor > 0.0 { 1.0 } else { 0.0 };
        let comparisons = (preference.compared * preference.draws) as f64;
        return drawing(&config.sampling, preference.candidates) + comparisons * comparison;
    }
    let replay = &config.replay;
    let guided = config.sampling.guidance().is_on();
    let there_and_back = match (guided, replay.unconditional) {
        (true, true) => 6.0,
        (true, false) => 4.0, // the unconditional half is run forward alone
        (false, _) => 3.0,
    };
    let anchor = config.anchor.as_ref().map_or(0.0, |anchor| {
        let steps = if anchor.steps == 0 { replay.tracked } else { anchor.steps.min(replay.tracked) };
        let original = halves(anchor.guidance_scale.unwrap_or(config.sampling.guidance_scale) > 1.0);
        // in chained mode it goes back by itself
        let back = if replay.mode == Mode::Chained { there_and_back - halves(guided) } else { 0.0 };
        steps as f64 * (original + back)
    });
    let trajectories = if config.mixed.is_some() { 2.0 } else { 1.0 };
    trajectories * (drawing(&config.sampling, 1) + replay.tracked as f64 * there_and_back + anchor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[&str]) -> Config {
        let text = "output = 'o'\n[captioner]\npath = 'c'\n[model]\npath = 'm'\n[prompts]\ntrain = 'p.txt'\n[sampling]\nsteps = 10\nguidance_scale = 1\n[replay]\nmode = 'chained'\n\
                    tracked = 5\n[train]\nsteps = 3\nbatch_size = 2\naccumulation = 1\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        config::read(&path, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn of_a_training() {
        assert_eq!(training(&config(&[]), None), 6.0 * (10.0 + 15.0));
        let anchor = "anchor={guidance_scale=5}";
        assert_eq!(training(&config(&[anchor]), None), 6.0 * (10.0 + 15.0 + 5.0 * 4.0));
        assert_eq!(training(&config(&[anchor, "replay.mode=detached"]), None), 6.0 * (10.0 + 15.0 + 5.0 * 2.0));
        let guided = "sampling.guidance_scale=5";
        assert_eq!(training(&config(&[guided]), None), 6.0 * (20.0 + 30.0));
        assert_eq!(training(&config(&[guided, "replay.unconditional=false"]), None), 6.0 * (20.0 + 20.0));
        let compared =
            ["preference.candidates=3", "preference.draws=2", "preference.anchor=0", "train.ema=0.5", guided];
        assert_eq!(training(&config(&compared), None), 6.0 * (3.0 * 20.0 + 2.0 * 2.0 * 4.0));
        let all = ["preference.candidates=3", "preference.compared=3", "train.ema=0.5", guided];
        assert_eq!(training(&config(&all), None), 6.0 * 3.0 * (20.0 + 8.0 * 5.0));
    }

    #[test]
    fn of_a_baseline_and_of_drawing() {
        let guided = config(&["sampling.guidance_scale=5"]);
        let mut baseline = Baseline { kind: Rule::RewardWeighted, prompts: 4, of: 3, steps: 7, batch: 2, beta: 0.0 };
        assert_eq!(training(&guided, Some(&baseline)), 12.0 * 20.0 + 14.0 * 3.0);
        baseline.kind = Rule::TrueCaptions;
        assert_eq!(training(&guided, Some(&baseline)), 14.0 * 3.0);
        baseline.kind = Rule::Dpo;
        assert_eq!(training(&guided, Some(&baseline)), 12.0 * 20.0 + 14.0 * 8.0);
        assert_eq!((drawing(&guided.sampling, 1), drawing(&config(&[]).sampling, 4)), (20.0, 40.0));
    }
}
