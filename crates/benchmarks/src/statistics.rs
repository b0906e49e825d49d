//! Means over a sample of prompts, with a confidence interval for the choice of prompts.
//!
//! Images of one prompt are similar, so prompts are resampled, each with all its images (a cluster bootstrap,
//! percentile intervals). If all prompts were drawn from the same few seeds, or if a recipe was trained several times,
//! the variation between seeds or trainings is added ([`over_seeds`], [`mean_of_trainings`]).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

const RESAMPLES: usize = 2000;
const COVERAGE: f64 = 0.95;
const SEED: u64 = 0;

/// A mean and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The mean over all images, given the values of each prompt's images. NaN without images.
pub fn mean(by_prompt: &[Vec<f64>]) -> Estimate {
    let totals = totals(by_prompt);
    bootstrap(totals.len(), |drawn| of(&totals, drawn))
}

/// How much higher the mean of `tuned` is than that of `base`; both hold the same prompts in the same order.
pub fn difference(base: &[Vec<f64>], tuned: &[Vec<f64>]) -> Estimate {
    let (base, tuned) = (totals(base), totals(tuned));
    bootstrap(base.len().min(tuned.len()), |drawn| of(&tuned, drawn) - of(&base, drawn))
}

/// The mean of the means of several groups of prompts, each group with the same weight, as GenEval averages over tasks.
/// Prompts are resampled within their group.
pub fn mean_of_groups(groups: &[Vec<Vec<f64>>]) -> Estimate {
    let totals: Vec<Vec<(f64, f64)>> = groups.iter().map(|group| totals(group)).collect();
    bootstrap_groups(&sizes(groups), |drawn| average(drawn.iter().zip(&totals).map(|(drawn, group)| of(group, drawn))))
}

/// How much higher the [`mean_of_groups`] of `tuned` is than that of `base`; both hold the same groups of the same
/// prompts in the same order.
pub fn difference_of_groups(base: &[Vec<Vec<f64>>], tuned: &[Vec<Vec<f64>>]) -> Estimate {
    let pairs: Vec<_> = base.iter().zip(tuned).map(|(base, tuned)| (totals(base), totals(tuned))).collect();
    let sizes: Vec<usize> = pairs.iter().map(|(base, tuned)| base.len().min(tuned.len())).collect();
    bootstrap_groups(&sizes, |drawn| {
        average(drawn.iter().zip(&pairs).map(|(drawn, (base, tuned))| of(tuned, drawn) - of(base, drawn)))
    })
}

/// The value of [`mean_of_groups`] without an interval; groups without images are ignored.
pub fn value_of_groups(groups: &[Vec<Vec<f64>>]) -> f64 {
    average(groups.iter().map(|group| ratio(totals(group).into_iter())).filter(|value| !value.is_nan()))
}

/// Widens an interval over prompts by the variation between seeds, for prompts that were all drawn from the same seeds:
/// the same noise makes all images of a seed better or worse. `of_seeds`: the same mean or difference for the images of
/// each seed alone. Both errors are taken as independent; that of the seeds uses Student's t, so it is wide for two or
/// three seeds. With one seed the variation is unknown and the interval stays as it is.
pub fn over_seeds(over_prompts: Estimate, of_seeds: &[f64]) -> Estimate {
    let known: Vec<f64> = of_seeds.iter().copied().filter(|value| !value.is_nan()).collect();
    widened(over_prompts, &known)
}

/// Widens an interval by the standard error of the mean of these values, times Student's t.
fn widened(over_prompts: Estimate, values: &[f64]) -> Estimate {
    if values.len() < 2 {
        return over_prompts; // the variation is unknown with one value
    }
    let Estimate { value, low, high } = over_prompts;
    let count = values.len() as f64;
    let mean = average(values.iter().copied());
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let margin = students_t(values.len() - 1) * (squares / (count - 1.0) / count).sqrt();
    Estimate { value, low: value - (value - low).hypot(margin), high: value + (high - value).hypot(margin) }
}

fn sizes(groups: &[Vec<Vec<f64>>]) -> Vec<usize> {
    groups.iter().map(Vec::len).collect()
}

/// The mean over the resampled prompts.
fn of(totals: &[(f64, f64)], drawn: &[usize]) -> f64 {
    ratio(drawn.iter().map(|&i| totals[i]))
}

fn average(values: impl Iterator<Item = f64>) -> f64 {
    ratio(values.map(|value| (value, 1.0)))
}

/// The mean over several trainings of the same kind, each given as for [`mean`], with the same prompts in the same
/// order. The interval is wider than that of one training: it covers another choice of prompts (the bootstrap) and
/// another training (Student's t over the trainings), as independent errors.
pub fn mean_of_trainings(trainings: &[Vec<Vec<f64>>]) -> Estimate {
    let totals: Vec<Vec<(f64, f64)>> = trainings.iter().map(|training| totals(training)).collect();
    over_trainings(&totals, of)
}

/// How much higher the mean of `tuned` is, training by training; see [`mean_of_trainings`].
pub fn difference_of_trainings(base: &[Vec<Vec<f64>>], tuned: &[Vec<Vec<f64>>]) -> Estimate {
    let pairs: Vec<Vec<[(f64, f64); 2]>> = base
        .iter()
        .zip(tuned)
        .map(|(base, tuned)| totals(base).into_iter().zip(totals(tuned)).map(<[_; 2]>::from).collect())
        .collect();
    over_trainings(&pairs, |training, drawn| {
        let of = |side: usize| ratio(drawn.iter().map(|&i| training[i][side]));
        of(1) - of(0)
    })
}

fn over_trainings<T>(trainings: &[Vec<T>], statistic: impl Fn(&[T], &[usize]) -> f64) -> Estimate {
    let prompts = trainings.iter().map(Vec::len).min().unwrap_or(0);
    let count = trainings.len() as f64;
    let of_all = |drawn: &[usize]| trainings.iter().map(|t| statistic(t, drawn)).sum::<f64>() / count;
    let all: Vec<usize> = (0..prompts).collect();
    let each: Vec<f64> = trainings.iter().map(|t| statistic(t, &all)).collect();
    widened(bootstrap(prompts, of_all), &each)
}

/// The 97.5 % quantile of Student's t with `freedom` degrees of freedom.
fn students_t(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    // beyond the table: accurate to 0.2 %
    TABLE.get(freedom.max(1) - 1).copied().unwrap_or(1.96 + 2.5 / (freedom as f64 - 1.0))
}

/// Sum and number of the values of each prompt.
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

/// `statistic` gets, for each group, the indices of the resampled prompts.
fn bootstrap_groups(sizes: &[usize], statistic: impl Fn(&[Vec<usize>]) -> f64) -> Estimate {
    let value = statistic(&sizes.iter().map(|size| (0..*size).collect()).collect::<Vec<_>>());
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = |size: &usize| (0..*size).map(|_| rng.random_range(0..*size)).collect();
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| statistic(&sizes.iter().map(&mut draw).collect::<Vec<_>>()))
        .filter(|v| !v.is_nan()) // only prompts without images were drawn
        .collect();
    resampled.sort_by(f64::total_cmp);
    let tail = (1.0 - COVERAGE) / 2.0;
    Estimate { value, low: quantile(&resampled, tail), high: quantile(&resampled, 1.0 - tail) }
}

/// Quantile, interpolated between the two nearest of the sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prompts of random difficulty, three images each.
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
    fn the_mean_is_over_images() {
        let estimate = mean(&[vec![1.0], vec![0.0, 0.0, 0.0], vec![]]);
        assert_eq!(estimate.value, 0.25);
        assert!(estimate.low >= 0.0 && estimate.high <= 1.0 && estimate.low < estimate.high);
    }

    #[test]
    fn the_same_numbers_have_the_same_interval() {
        let images = sample(30, &mut ChaCha8Rng::seed_from_u64(2));
        assert_eq!(mean(&images), mean(&images));
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
        // the small group has one prompt, so its half of the mean has no variation
        assert!(estimate.low >= 0.5 && estimate.high <= 0.75 && estimate.low < estimate.high, "{estimate:?}");
        let half = vec![vec![0.5, 0.5]];
        let difference = difference_of_groups(&[half, large.clone()], &[small, large]);
        assert_eq!(difference, Estimate { value: 0.25, low: 0.25, high: 0.25 });
        assert!(mean_of_groups(&[]).value.is_nan());
    }

    #[test]
    fn the_interval_over_trainings_covers_the_mean_of_all_trainings() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let prompts: Vec<f64> = (0..60).map(|_| rng.random_range(0.4..0.6)).collect();
        let mut one_training = 0;
        let covered = (0..200)
            .filter(|_| {
                let trainings: Vec<Vec<Vec<f64>>> = (0..3)
                    .map(|_| {
                        let shift: f64 = (0..6).map(|_| rng.random_range(-0.06..0.06)).sum(); // nearly normal
                        prompts
                            .iter()
                            .map(|p| (0..3).map(|_| f64::from(rng.random_bool(p + shift))).collect())
                            .collect()
                    })
                    .collect();
                let truth = prompts.iter().sum::<f64>() / 60.0;
                let covers = |e: Estimate| (e.low..=e.high).contains(&truth);
                one_training += usize::from(covers(mean(&trainings[0])));
                covers(mean_of_trainings(&trainings))
            })
            .count();
        assert!((183..=199).contains(&covered), "{covered} of 200");
        assert!(
            one_training < 150,
            "the interval of one training does not hold what trainings differ by: {one_training}"
        );
    }

    #[test]
    fn seeds_in_common_are_more_than_their_prompts() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (mut prompts_alone, mut both) = (0, 0);
        for _ in 0..200 {
            // the same ten seeds for all of 60 prompts; prompts differ little, most variation is between the seeds
            let seeds: Vec<f64> = (0..10).map(|_| (0..6).map(|_| rng.random_range(-0.1..0.1)).sum()).collect();
            let prompts: Vec<Vec<f64>> = (0..60)
                .map(|_| seeds.iter().map(|seed| 0.5 + seed + rng.random_range(-0.05..0.05)).collect())
                .collect();
            let of_seed = |seed: usize| average(prompts.iter().map(|images| images[seed]));
            let over_prompts = mean(&prompts);
            let over_both = over_seeds(over_prompts, &(0..10).map(of_seed).collect::<Vec<_>>());
            let covers = |e: Estimate| usize::from((e.low..=e.high).contains(&0.5));
            prompts_alone += covers(over_prompts);
            both += covers(over_both);
        }
        assert!(prompts_alone < 40, "prompts alone: {prompts_alone} of 200");
        assert!((183..=199).contains(&both), "prompts and seeds: {both} of 200");
        let one = Estimate { value: 0.5, low: 0.4, high: 0.6 };
        assert_eq!(over_seeds(one, &[0.5]), one);
        assert_eq!(over_seeds(one, &[0.5, f64::NAN]), one);
        assert_eq!(value_of_groups(&[vec![vec![1.0, 0.0], vec![0.5]], vec![vec![]], vec![vec![0.1]]]), 0.3);
    }

    #[test]
    fn trainings_are_compared_one_by_one() {
        let training = |shift: f64| -> Vec<Vec<f64>> { (0..40).map(|i| vec![f64::from(i % 4) + shift]).collect() };
        let (base, tuned) = ([training(0.0), training(5.0)], [training(0.5), training(5.7)]);
        let difference = difference_of_trainings(&base, &tuned);
        assert!((difference.value - 0.6).abs() < 1e-12, "{difference:?}");
        let half_width = 12.706 * 0.1; // t times the standard error of 0.5 and 0.7
        assert!((difference.high - 0.6 - half_width).abs() < 1e-9, "{difference:?}");
        assert_eq!(mean_of_trainings(&base[..1]), mean(&base[0]));
        assert!(mean_of_trainings(&[]).value.is_nan());
        assert!((students_t(20) - 2.086).abs() < 0.01 && (students_t(60) - 2.000).abs() < 0.01);
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
