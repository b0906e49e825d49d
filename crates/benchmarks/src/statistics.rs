//! Averages of a sample of prompts, with the interval that the choice of prompts leaves open.
//!
//! Pictures of one prompt resemble each other, so it is prompts that are drawn again, each with all its pictures (a cluster
//! bootstrap, percentile intervals).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

const RESAMPLES: usize = 2000;
const COVERAGE: f64 = 0.95;
const SEED: u64 = 0;

/// An average and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean over all pictures, given those of each prompt. Of no pictures at all, not a number.
pub fn mean(by_prompt: &[Vec<f64>]) -> Estimate {
    let totals = totals(by_prompt);
    bootstrap(totals.len(), |drawn| of(&totals, drawn))
}

/// How much higher the mean of `tuned` is than that of `base`; both hold the same prompts in the same order.
pub fn difference(base: &[Vec<f64>], tuned: &[Vec<f64>]) -> Estimate {
    let (base, tuned) = (totals(base), totals(tuned));
    bootstrap(base.len().min(tuned.len()), |drawn| of(&tuned, drawn) - of(&base, drawn))
}

/// The mean of the means of some groups of prompts, as GenEval averages over tasks, each group counting the same. Prompts are drawn
/// again within their group.
pub fn mean_of_groups(groups: &[Vec<Vec<f64>>]) -> Estimate {
    let totals: Vec<Vec<(f64, f64)>> = groups.iter().map(|group| totals(group)).collect();
    bootstrap_groups(&sizes(groups), |drawn| average(drawn.iter().zip(&totals).map(|(drawn, group)| of(group, drawn))))
}

/// How much higher that is of `tuned` than of `base`; both hold the same groups of the same prompts in the same order.
pub fn difference_of_groups(base: &[Vec<Vec<f64>>], tuned: &[Vec<Vec<f64>>]) -> Estimate {
    let pairs: Vec<_> = base.iter().zip(tuned).map(|(base, tuned)| (totals(base), totals(tuned))).collect();
    let sizes: Vec<usize> = pairs.iter().map(|(base, tuned)| base.len().min(tuned.len())).collect();
    bootstrap_groups(&sizes, |drawn| {
        average(drawn.iter().zip(&pairs).map(|(drawn, (base, tuned))| of(tuned, drawn) - of(base, drawn)))
    })
}

fn sizes(groups: &[Vec<Vec<f64>>]) -> Vec<usize> {
    groups.iter().map(Vec::len).collect()
}

/// The mean of the prompts that were drawn.
fn of(totals: &[(f64, f64)], drawn: &[usize]) -> f64 {
    ratio(drawn.iter().map(|&i| totals[i]))
}

fn average(values: impl Iterator<Item = f64>) -> f64 {
    ratio(values.map(|value| (value, 1.0)))
}

/// Sum and number of each prompt's pictures.
fn totals(by_prompt: &[Vec<f64>]) -> Vec<(f64, f64)> {
    by_prompt.iter().map(|values| (values.iter().sum(), values.len() as f64)).collect()
}

fn ratio(totals: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, number) = totals.fold((0.0, 0.0), |(s, n), (sum, number)| (s + sum, n + number));
    sum / number
}

fn bootstrap(prompts: usize, statistic: impl Fn(&[usize]) -> f64) -> Estimate {
    bootstrap_groups(&[prompts], |drawn| statistic(&drawn[0]))
}

/// `statistic` is given, for each group, which of its prompts were drawn.
fn bootstrap_groups(sizes: &[usize], statistic: impl Fn(&[Vec<usize>]) -> f64) -> Estimate {
    let value = statistic(&sizes.iter().map(|size| (0..*size).collect()).collect::<Vec<_>>());
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = |size: &usize| (0..*size).map(|_| rng.random_range(0..*size)).collect();
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| statistic(&sizes.iter().map(&mut draw).collect::<Vec<_>>()))
        .filter(|v| !v.is_nan()) // only prompts without pictures were drawn
        .collect();
    resampled.sort_by(f64::total_cmp);
    let tail = (1.0 - COVERAGE) / 2.0;
    Estimate { value, low: quantile(&resampled, tail), high: quantile(&resampled, 1.0 - tail) }
}

/// Between the two nearest of the sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prompts that are each as hard as chance has it, three pictures each.
    fn sample(prompts: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
        (0..prompts)
            .map(|_| {
                let chance = rng.random_range(0.0..0.8);
                (0..3).map(|_| f64::from(rng.random_bool(chance))).collect()
            })
            .collect()
    }

    #[test]
    fn the_interval_covers_the_true_mean_nineteen_times_in_twenty() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let covered = (0..200)
            .filter(|_| {
                let estimate = mean(&sample(60, &mut rng));
                (estimate.low..=estimate.high).contains(&0.4)
            })
            .count();
        assert!((180..=199).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn the_mean_is_over_pictures() {
        let estimate = mean(&[vec![1.0], vec![0.0, 0.0, 0.0], vec![]]);
        assert_eq!(estimate.value, 0.25);
        assert!(estimate.low >= 0.0 && estimate.high <= 1.0 && estimate.low < estimate.high);
    }

    #[test]
    fn the_same_numbers_have_the_same_interval() {
        let pictures = sample(30, &mut ChaCha8Rng::seed_from_u64(2));
        assert_eq!(mean(&pictures), mean(&pictures));
        assert_eq!(mean(&[vec![0.5, 0.5]]), Estimate { value: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn of_nothing_there_is_no_mean() {
        for estimate in [mean(&[]), mean(&[vec![]]), difference(&[], &[])] {
            assert!(estimate.value.is_nan() && estimate.low.is_nan() && estimate.high.is_nan());
        }
    }

    #[test]
    fn groups_count_the_same_whatever_their_size() {
        let small = vec![vec![1.0, 1.0]];
        let large = vec![vec![0.0], vec![0.5, 0.5], vec![0.25, 0.25]]; // mean (0 + 1 + 0.5) / 5 = 0.3
        let estimate = mean_of_groups(&[small.clone(), large.clone()]);
        assert!((estimate.value - 0.65).abs() < 1e-12);
        // the small group has only itself to draw: its half of the mean is certain
        assert!(estimate.low >= 0.5 && estimate.high <= 0.75 && estimate.low < estimate.high, "{estimate:?}");
        let half = vec![vec![0.5, 0.5]];
        let difference = difference_of_groups(&[half, large.clone()], &[small, large]);
        assert_eq!(difference, Estimate { value: 0.25, low: 0.25, high: 0.25 });
        assert!(mean_of_groups(&[]).value.is_nan());
    }

    #[test]
    fn prompts_in_pairs_tell_more() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let base: Vec<Vec<f64>> = (0..80).map(|_| vec![rng.random_range(0.0..1.0)]).collect();
        let tuned: Vec<Vec<f64>> = base.iter().map(|b| vec![b[0] + 0.1 + rng.random_range(-0.05..0.05)]).collect();
        let paired = difference(&base, &tuned);
        let mixed: Vec<Vec<f64>> = tuned.iter().cycle().skip(37).take(80).cloned().collect();
        let unpaired = difference(&base, &mixed);
        let width = |e: Estimate| e.high - e.low;
        assert!((paired.value - unpaired.value).abs() < 1e-12);
        assert!(paired.low < 0.1 && 0.1 < paired.high, "{paired:?}");
        assert!(width(paired) < width(unpaired) / 4.0, "{paired:?} {unpaired:?}");
    }
}
