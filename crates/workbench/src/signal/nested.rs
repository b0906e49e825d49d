//! The common part of random vectors in a nested design: prompts, within them noises, within them crops, with one
//! vector for each.
//!
//! Let `T` be the mean squared norm, and `⟨a, b⟩` the mean inner product of two different vectors: `C` for two prompts,
//! `B` for one prompt and two noises, `A` for one noise and two crops. Then `C` is the squared norm of the expected
//! vector, and `T = C + (B − C) + (A − B) + (T − A)` are the parts of expectation, prompts, noises and crops: the
//! analysis of variance of a nested design. Its estimates are unbiased, and so can be below 0.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

/// The numbers of prompts, noises and crops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Design {
    /// 2 or more; 3 or more for an interval.
    pub prompts: usize,
    /// For each prompt; 2 or more.
    pub noises: usize,
    /// For each noise.
    pub crops: usize,
}

/// Parts of the mean squared norm, which add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Root of the mean squared norm.
    pub norm: f64,
    /// Share that is common to all vectors.
    pub common: f64,
    /// Its standard error over prompts, if it was requested.
    pub error: Option<f64>,
    pub prompts: f64,
    pub noises: f64,
    /// `None` if there is only one crop.
    pub crops: Option<f64>,
}

impl Shares {
    /// For means of `size` vectors of as many prompts: the share of the squared norm that all such means have in
    /// common.
    pub fn of_batch(&self, size: f64) -> f64 {
        self.common / (1.0 / size + (1.0 - 1.0 / size) * self.common)
    }

    /// Number of vectors in a mean for which half of its squared norm is common; `None` if nothing is.
    pub fn half(&self) -> Option<f64> {
        (self.common > 0.0).then(|| ((1.0 - self.common) / self.common).max(1.0))
    }
}

/// Sums over the vectors added so far, on the CPU. They must be added crop by crop, noise by noise, prompt by prompt.
pub struct Nested {
    design: Design,
    count: usize,
    of_noise: Tensor,
    of_prompt: Tensor,
    of_all: Tensor,
    /// For each prompt, the sum of its squared norms and the sum of its vectors; `None` without a standard error, which
    /// needs them.
    prompts: Option<Vec<(f64, Tensor)>>,
    /// Sums of squared norms: of the vectors, of each noise's sum, of each prompt's sum.
    squares: [f64; 3],
    this_prompt: f64,
}

impl Nested {
    /// For flat vectors like this one. Keeps three vectors in memory, and with a standard error one more for each
    /// prompt.
    pub fn new(design: Design, like: &Tensor, with_error: bool) -> Result<Self> {
        let Design { prompts, noises, crops } = design;
        ensure!(
            prompts >= 2 && noises >= 2 && crops >= 1,
            "2 prompts and 2 noises at least, not {prompts} and {noises}"
        );
        let zero = || like.zeros_like().to_device(Device::Cpu);
        Ok(Self {
            design,
            count: 0,
            of_noise: zero(),
            of_prompt: zero(),
            of_all: zero(),
            prompts: with_error.then(Vec::new),
            squares: [0.0; 3],
            this_prompt: 0.0,
        })
    }

    pub fn add(&mut self, vector: &Tensor) {
        let Design { noises, crops, .. } = self.design;
        let square = |t: &Tensor| t.square().sum(Kind::Double).double_value(&[]);
        let vector = vector.to_device(Device::Cpu);
        let own = square(&vector);
        self.squares[0] += own;
        self.this_prompt += own;
        let _ = self.of_noise.g_add_(&vector);
        self.count += 1;
        if self.count.is_multiple_of(crops) {
            self.squares[1] += square(&self.of_noise);
            let _ = self.of_prompt.g_add_(&self.of_noise);
            let _ = self.of_noise.zero_();
        }
        if self.count.is_multiple_of(crops * noises) {
            self.squares[2] += square(&self.of_prompt);
            let _ = self.of_all.g_add_(&self.of_prompt);
            if let Some(prompts) = &mut self.prompts {
                prompts.push((self.this_prompt, self.of_prompt.copy()));
            }
            let _ = self.of_prompt.zero_();
            self.this_prompt = 0.0;
        }
    }

    /// Shares over all vectors of the design, after all were added.
    pub fn shares(&self) -> Shares {
        let Design { prompts, noises, crops } = self.design;
        let [p, n, c] = [prompts, noises, crops].map(|count| count as f64);
        let [vectors, of_noises, of_prompts] = self.squares;
        let all = self.of_all.square().sum(Kind::Double).double_value(&[]);
        let total = vectors / (p * n * c);
        let same_noise = if crops > 1 { (of_noises - vectors) / (p * n * c * (c - 1.0)) } else { total };
        let same_prompt = (of_prompts - of_noises) / (p * n * (n - 1.0) * c * c);
        let other_prompt = (all - of_prompts) / (p * (p - 1.0) * (n * c).powi(2));
        let part = |value: f64| if total > 0.0 { value / total } else { 0.0 };
        Shares {
            norm: total.sqrt(),
            common: part(other_prompt),
            error: self.error(all),
            prompts: part(same_prompt - other_prompt),
            noises: part(same_noise - same_prompt),
            crops: (crops > 1).then(|| part(total - same_noise)),
        }
    }

    /// The jackknife standard error, leaving out one prompt at a time.
    fn error(&self, all: f64) -> Option<f64> {
        let Design { prompts, noises, crops } = self.design;
        let sums = self.prompts.as_ref().filter(|_| prompts >= 3)?;
        let (p, of_each) = (prompts as f64, (noises * crops) as f64);
        let without = sums.iter().map(|(vectors, kept)| {
            let [own, with_all] = [kept, &self.of_all].map(|other| (kept * other).sum(Kind::Double).double_value(&[]));
            let other = (all - 2.0 * with_all + own) - (self.squares[2] - own);
            let total = (self.squares[0] - vectors) / ((p - 1.0) * of_each);
            other / ((p - 1.0) * (p - 2.0) * of_each.powi(2)) / total
        });
        let without: Vec<f64> = without.collect();
        let mean = without.iter().sum::<f64>() / p;
        let spread: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
        Some(((p - 1.0) / p * spread).sqrt()).filter(|error| error.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors with known parts: their shares are recovered, on average over many dimensions.
    #[test]
    fn known_parts_are_found() {
        let mut draws = torch_ext::Generator::seeded(3).unwrap();
        let size = 20_000;
        let mut part = |variance: f64| draws.randn(&[size]).unwrap().to_kind(Kind::Double) * variance.sqrt();
        let design = Design { prompts: 12, noises: 3, crops: 2 };
        let mut nested = Nested::new(design, &Tensor::zeros([size], (Kind::Double, Device::Cpu)), true).unwrap();
        let common = part(0.1);
        for _ in 0..design.prompts {
            let prompt = part(0.2);
            for _ in 0..design.noises {
                let noise = part(0.3);
                for _ in 0..design.crops {
                    nested.add(&(&common + &prompt + &noise + part(0.4)));
                }
            }
        }
        let shares = nested.shares();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 0.02, "{shares:?}");
        near(shares.norm / (size as f64).sqrt(), 1.0);
        near(shares.common, 0.1);
        near(shares.prompts, 0.2);
        near(shares.noises, 0.3);
        near(shares.crops.unwrap(), 0.4);
        near(shares.common + shares.prompts + shares.noises + shares.crops.unwrap(), 1.0);
        assert!(shares.error.unwrap() < 0.02);
    }

    /// Compared with a sum over all pairs; with one crop, no share is assigned to crops.
    #[test]
    fn the_same_as_pair_by_pair() {
        let mut draws = torch_ext::Generator::seeded(4).unwrap();
        let design = Design { prompts: 4, noises: 2, crops: 1 };
        let vectors: Vec<Tensor> = (0..8).map(|_| draws.randn(&[5]).unwrap().to_kind(Kind::Double)).collect();
        let of = |vectors: &[Tensor], design: Design| {
            let mut nested = Nested::new(design, &vectors[0], true).unwrap();
            vectors.iter().for_each(|vector| nested.add(vector));
            nested.shares()
        };
        let shares = of(&vectors, design);
        let mean = |with: &dyn Fn(usize, usize) -> bool| {
            let pairs = (0..8).flat_map(|i| (0..8).map(move |j| (i, j))).filter(|(i, j)| with(*i, *j));
            let all: Vec<f64> = pairs.map(|(i, j)| vectors[i].dot(&vectors[j]).double_value(&[])).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let total = mean(&|i, j| i == j);
        let common = mean(&|i, j| i / 2 != j / 2) / total;
        let same = mean(&|i, j| i != j && i / 2 == j / 2) / total;
        assert!((shares.common - common).abs() < 1e-12 && (shares.prompts - (same - common)).abs() < 1e-12);
        assert!((shares.noises - (1.0 - same)).abs() < 1e-12 && shares.crops.is_none());

        let without: Vec<f64> = (0..4)
            .map(|left| {
                let others: Vec<Tensor> =
                    (0..8).filter(|i| i / 2 != left).map(|i| vectors[i].shallow_clone()).collect();
                of(&others, Design { prompts: 3, ..design }).common
            })
            .collect();
        let middle = without.iter().sum::<f64>() / 4.0;
        let error = (0.75 * without.iter().map(|value| (value - middle).powi(2)).sum::<f64>()).sqrt();
        assert!((shares.error.unwrap() - error).abs() < 1e-6, "{shares:?} {error}");
    }

    #[test]
    fn batches() {
        let of =
            |common: f64| Shares { norm: 1.0, common, error: None, prompts: 0.0, noises: 1.0 - common, crops: None };
        assert_eq!(of(0.25).of_batch(1.0), 0.25);
        assert!((of(0.25).of_batch(3.0) - 0.5).abs() < 1e-12 && (of(0.25).half().unwrap() - 3.0).abs() < 1e-12);
        assert_eq!((of(-0.1).half(), of(0.9).half()), (None, Some(1.0)));
        assert!(Nested::new(Design { prompts: 1, noises: 2, crops: 1 }, &Tensor::from_slice(&[0.0]), true).is_err());
    }
}
