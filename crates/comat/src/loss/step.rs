//! Losses of the denoising steps themselves: what a replayed step adds to what comes back to it from the image.
//!
//! A new one is a type with [`StepLoss`] and a line in [`crate::train::iterate`].

use anyhow::Result;
use models::{network::Layer, schedule::Step};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

pub trait StepLoss {
    /// Of the tracked steps, those that have it.
    fn steps(&self) -> &BTreeSet<usize>;

    /// Whether it looks at the cross-attention maps ([`Replayed::maps`]), which are computed for it.
    fn looks_at_maps(&self) -> bool {
        false
    }

    /// The loss of some samples at one step, as parts of the batch's: any number of terms, each with its gradient.
    ///
    /// # Errors
    /// Those of the networks it needs.
    fn terms(&self, seen: &Replayed) -> Result<Vec<Term>>;
}

/// A step that is run again for some samples, with gradient.
pub struct Replayed<'a> {
    pub step: &'a Step,
    /// The latents before it `[b, C, h, w]`; in `chained` mode a leaf of the graph.
    pub latents: &'a Tensor,
    /// The guided model output `[b, C, h, w]`, with its graph.
    pub output: &'a Tensor,
    /// The maps of the conditional half, with their graph; none where nobody looks at them.
    pub maps: &'a [Layer],
    /// The first of these samples and how many they are, among those that are replayed here.
    pub rows: (usize, usize),
    /// Samples of the batch that losses are means over.
    pub batch: usize,
}

/// A term of a step's loss.
pub struct Term {
    /// By which its values are summed over steps and samples.
    pub name: &'static str,
    /// Not weighted, still on the device.
    pub value: Tensor,
    pub gradient: Pull,
}

/// How a term comes to the adapter; weighted.
pub enum Pull {
    /// A scalar with a graph. In `chained` mode its gradient also goes on to the steps before, through the step's input.
    Loss(Tensor),
    /// A cotangent at the model's output `[b, C, h, w]`, about this step alone: nothing of it goes on.
    AtOutput(Tensor),
}

/// Sums of values by name, not weighted.
pub type Values = BTreeMap<&'static str, f64>;

/// Reads values from the device, all at once.
pub fn read(values: Vec<(&'static str, Tensor)>) -> Result<Values> {
    let mut sums = Values::new();
    if values.is_empty() {
        return Ok(sums);
    }
    let all: Vec<Tensor> = values.iter().map(|(_, value)| value.to_kind(Kind::Double)).collect();
    for ((name, _), value) in values.iter().zip(Vec::<f64>::try_from(&Tensor::stack(&all, 0))?) {
        *sums.entry(name).or_default() += value;
    }
    Ok(sums)
}
