//! The random part of an iteration, drawn beforehand.

use crate::reward::Crop;
use anyhow::Result;
use std::collections::BTreeSet;
use tch::Tensor;

/// Noise of a step `[B, C, h, w]`; asked for in order.
pub type Noise<'a> = Box<dyn FnMut(usize) -> Result<Tensor> + 'a>;

/// The random part of an iteration.
pub struct Draws<'a> {
    /// x_T `[B, C, h, w]`, or x_t before the step `first`
    pub start: Tensor,
    /// The sampler's step to begin with; steps are counted from it.
    pub first: usize,
    /// Of the caption loss.
    pub weight: f64,
    /// Whether the rewards beside it ([`crate::session::Session::rewards`]) take part.
    pub rewards: bool,
    pub noise: Noise<'a>,
    pub tracked: BTreeSet<usize>,
    /// Those of the tracked steps that have attention losses.
    pub attention: BTreeSet<usize>,
    /// Those of the tracked steps that have the anchor.
    pub anchor: BTreeSet<usize>,
    pub crops: Vec<Crop>,
}
