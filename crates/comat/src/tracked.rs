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

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: usize) -> Result<usize, ()> {
        Err(())
    }

    /// T = 50, K = 5: the start is one of 0..9, and every step is reached by one of them.
    #[test]
    fn grid_of_the_published_runs() {
        assert_eq!(offsets(50, 5), 10);
        let steps = steps(Policy::Grid, 50, 5, |n| Ok::<_, ()>(n - 1)).unwrap();
        assert_eq!(steps, BTreeSet::from([9, 19, 29, 39, 49]));
    }

    #[test]
    fn uneven_grids_stay_inside() {
        for (total, count) in [(50, 7), (7, 3), (1, 1), (20, 20), (13, 12)] {
            for start in 0..offsets(total, count) {
                let steps = grid(total, count, start);
                assert_eq!(steps.len(), count, "T {total} K {count} start {start}");
                assert!(steps.iter().all(|&s| s < total));
            }
        }
    }

    #[test]
    fn subsets_have_different_steps() {
        let all = BTreeSet::from([1, 4, 6, 8]);
        assert_eq!(subset(&all, 0, never).unwrap(), all);
        assert_eq!(subset(&all, 9, never).unwrap(), all);
        assert_eq!(subset(&all, 3, |_| Ok::<_, ()>(0)).unwrap(), BTreeSet::from([1, 8, 6]));
    }

    #[test]
    fn other_policies() {
        assert_eq!(steps(Policy::Last, 10, 3, never).unwrap(), BTreeSet::from([7, 8, 9]));
        let random = steps(Policy::Random, 10, 4, |n| Ok::<_, ()>(n / 2)).unwrap();
        assert_eq!(random.len(), 4);
        assert_eq!(steps(Policy::Last, 3, 5, never).unwrap().len(), 3);
    }
}
