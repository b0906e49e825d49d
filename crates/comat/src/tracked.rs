//! Which denoising steps receive gradients.

use std::collections::BTreeSet;

pub use config::Policy;

/// Chooses K of the steps `0..T`, counted from the noisiest. `below(n)` draws an integer in `0..n`.
pub fn steps<E>(
    policy: Policy,
    total: usize,
    count: usize,
    mut below: impl FnMut(usize) -> Result<usize, E>,
) -> Result<BTreeSet<usize>, E> {
    let count = count.min(total);
    Ok(match policy {
        Policy::Grid if count == 0 => BTreeSet::new(),
        Policy::Grid => grid(total, count, below(offsets(total, count))?),
        Policy::Last => (total - count..total).collect(),
        Policy::Random => {
            let mut rest: Vec<usize> = (0..total).collect();
            let mut chosen = BTreeSet::new();
            for _ in 0..count {
                chosen.insert(rest.swap_remove(below(rest.len())?));
            }
            chosen
        }
    })
}

/// Draws `count` of the given steps with replacement; a step drawn twice counts once.
pub fn some_of<E>(
    steps: &BTreeSet<usize>,
    count: usize,
    mut below: impl FnMut(usize) -> Result<usize, E>,
) -> Result<BTreeSet<usize>, E> {
    let steps: Vec<usize> = steps.iter().copied().collect();
    if steps.is_empty() {
        return Ok(BTreeSet::new());
    }
    (0..count).map(|_| Ok(steps[below(steps.len())?])).collect()
}

/// Draws `count` different ones of the given steps; 0: all of them.
pub fn subset<E>(
    steps: &BTreeSet<usize>,
    count: usize,
    mut below: impl FnMut(usize) -> Result<usize, E>,
) -> Result<BTreeSet<usize>, E> {
    let mut rest: Vec<usize> = steps.iter().copied().collect();
    if count == 0 || count >= rest.len() {
        return Ok(steps.clone());
    }
    (0..count).map(|_| Ok(rest.swap_remove(below(rest.len())?))).collect()
}

/// `start, start + T/K, …`
pub fn grid(total: usize, count: usize, start: usize) -> BTreeSet<usize> {
    (start..total).step_by((total / count).max(1)).take(count).collect()
}

/// Number of possible starts of the grid: `T - (T/K)(K-1)`.
pub fn offsets(total: usize, count: usize) -> usize {
    total - (total / count) * (count - 1)
}
