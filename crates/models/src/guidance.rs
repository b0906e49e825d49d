//! Classifier-free guidance (Ho and Salimans 2022), and guidance rescale, which limits its contrast (Lin et al. 2023).

use tch::Tensor;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// Values up to 1 turn guidance off, as in diffusers: then the unconditional half is not computed.
    pub scale: f64,
    /// 0 (off) to 1: how far the result's standard deviation is moved to that of the conditional half.
    pub rescale: f64,
}

impl Guidance {
    pub fn is_on(&self) -> bool {
        self.scale > 1.0
    }

    /// Whether the result is a linear function of both halves.
    pub fn is_linear(&self) -> bool {
        self.rescale == 0.0
    }

    /// `uncond + scale (cond - uncond)`, then rescaled; all `[B, C, h, w]`.
    pub fn combine(&self, uncond: &Tensor, cond: &Tensor) -> Tensor {
        let guided = uncond + (cond - uncond) * self.scale;
        if self.is_linear() {
            return guided;
        }
        let deviation = |t: &Tensor| t.std_dim([1, 2, 3].as_slice(), true, true);
        let factor = deviation(cond) / deviation(&guided);
        &guided * (factor * self.rescale + (1.0 - self.rescale))
    }
}
