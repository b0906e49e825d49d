//! The random inputs of an iteration, drawn in advance.

use crate::reward::Crop;
use anyhow::Result;
use std::collections::BTreeSet;
use tch::Tensor;

/// Noise of a step, `[B, C, h, w]`. It must be requested in order.
pub type Noise<'a> = Box<dyn FnMut(usize) -> Result<Tensor> + 'a>;

/// The random inputs of an iteration, and which losses it uses.
pub struct Draws<'a> {
    /// x_T `[B, C, h, w]`, or x_t before the step `first`.
    pub start: Tensor,
    /// The sampler's step to begin with. Steps are counted from it.
    pub first: usize,
    /// Weight of the caption loss.
    pub weight: f64,
    /// Whether the other rewards ([`crate::session::Session::rewards`]) are used.
    pub rewards: bool,
    pub noise: Noise<'a>,
    pub tracked: BTreeSet<usize>,
    /// The tracked steps that have attention losses.
    pub attention: BTreeSet<usize>,
    /// The tracked steps that have the anchor loss.
    pub anchor: BTreeSet<usize>,
    pub crops: Vec<Crop>,
}
