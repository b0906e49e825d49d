//! Exponential running average of an adapter's weights: less noisy than the newest ones, at the cost of one more copy.

use models::lora::{Lora, Trainable};
use tch::Tensor;

pub struct Ema {
    decay: f64,
    /// The averaged values, in the layout of the adapter's buffer.
    pub flat: Tensor,
}

impl Ema {
    pub fn new(decay: f64, adapter: &Trainable) -> Self {
        Self { decay, flat: adapter.flat.copy() }
    }

    /// Adds the values after the `step`-th optimiser step. Early in a run the average is shorter, so that the adapter's
    /// initial values have little weight.
    pub fn update(&mut self, values: &Tensor, step: u64) {
        let n = step as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        tch::no_grad(|| {
            let _ = self.flat.g_mul_scalar_(decay).g_add_(&(values * (1.0 - decay)));
        });
    }

    /// The averaged adapter.
    pub fn lora(&self, adapter: &Trainable) -> Lora {
        adapter.lora_of(&self.flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages() {
        let adapter = crate::testing::one_matrix(1.0);
        let mut ema = Ema::new(0.5, &adapter);
        let value = |ema: &Ema| ema.lora(&adapter).parameters()[0].1.double_value(&[0, 0]);
        ema.update(&(&adapter.flat * 3.0), 1); // 2/11 is the weight of the old value
        let expected = 2.0 / 11.0 + 3.0 * 9.0 / 11.0;
        assert!((value(&ema) - expected).abs() < 1e-12);
        ema.update(&adapter.flat, 100);
        assert!((value(&ema) - (expected + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(adapter.lora.parameters()[0].1.double_value(&[0, 0]), 1.0, "the adapter itself stays");
    }
}
