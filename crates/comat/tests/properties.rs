//! What holds for any sizes: how batches are cut into parts and ranks, and which steps are tracked. Drawn at random from fixed seeds.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    batch::{Batch, Order},
    tracked::{self, Policy},
};
use fastrand::Rng;
use ranks::ProcessGroup;
use std::collections::BTreeSet;

/// One of several processes, alone in this one.
fn group(rank: usize, size: usize) -> ProcessGroup {
    let mut group = ProcessGroup::alone();
    (group.rank, group.size) = (rank, size);
    group
}

/// Over parts and ranks every sample of a step comes exactly once, in order; the prompts are those of its places; no rank has more than
/// was announced, and none has two samples more than another.
#[test]
fn every_sample_exactly_once() {
    let mut random = Rng::with_seed(1);
    for _ in 0..2000 {
        let (ranks, parts, size) = (random.usize(1..=9), random.usize(1..=6), random.usize(1..=17));
        let what = format!("{ranks} ranks, {parts} parts of {size}");
        let mut per_rank = vec![vec![]; ranks];
        for part in 0..parts {
            let mut of_part = vec![];
            for (rank, all) in per_rank.iter_mut().enumerate() {
                let group = group(rank, ranks);
                let batch = Batch::of(3, part..parts, size, &group, |place| Ok(format!("prompt {place}"))).unwrap();
                let share = batch.share();
                let whole: Vec<String> = (0..size).map(|i| format!("prompt {}", part * size + i)).collect();
                assert_eq!(share.batch, whole, "{what}");
                let named: Vec<String> = batch.places.iter().map(|place| format!("prompt {place}")).collect();
                assert_eq!(share.prompts(), named, "{what}");
                assert!(batch.places.len() <= group.at_a_time(size, parts), "{what}");
                of_part.extend_from_slice(&batch.places);
                all.extend_from_slice(&batch.places);
            }
            let expected: Vec<u64> = (part * size..(part + 1) * size).map(|place| place as u64).collect();
            assert_eq!(of_part, expected, "{what}, part {part}");
        }
        let all: Vec<u64> = per_rank.concat();
        assert_eq!(all, (0..(parts * size) as u64).collect::<Vec<_>>(), "{what}: ranks one behind the other");
        let counts = per_rank.iter().map(Vec::len);
        assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1, "{what}");
    }
}

/// Every prompt comes once in every epoch, whatever the sizes; an order does not depend on where one begins to ask.
#[test]
fn every_prompt_once_an_epoch() {
    let mut random = Rng::with_seed(2);
    for _ in 0..200 {
        let (prompts, seed) = (random.usize(1..=40), random.u64(..));
        let mut order = Order::new(seed, prompts).unwrap();
        let epochs: Vec<Vec<usize>> = (0..3)
            .map(|epoch| (0..prompts).map(|i| order.prompt((epoch * prompts + i) as u64).unwrap()).collect())
            .collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>().len(), prompts);
            assert!(epoch.iter().all(|prompt| *prompt < prompts));
        }
        let at = random.usize(0..=3 * prompts - 1);
        let resumed = Order::new(seed, prompts).unwrap().prompt(at as u64).unwrap();
        assert_eq!(resumed, epochs[at / prompts][at % prompts]);
    }
}

/// As many tracked steps as were asked for, each of the sampler's; by the rule of the policy.
#[test]
fn tracked_steps() {
    let mut random = Rng::with_seed(3);
    for _ in 0..5000 {
        let (total, count) = (random.usize(1..=120), random.usize(0..=130));
        for policy in [Policy::Grid, Policy::Last, Policy::Random] {
            let what = format!("{policy:?}: {count} of {total}");
            let mut draws = vec![];
            let below = |n: usize| {
                assert!(n > 0, "{what}: a draw of nothing");
                draws.push(n);
                Ok::<_, ()>(random.usize(0..=n - 1))
            };
            let steps = tracked::steps(policy, total, count, below).unwrap();
            let count = count.min(total);
            assert_eq!(steps.len(), count, "{what}");
            assert!(steps.iter().all(|step| *step < total), "{what}");
            let sorted: Vec<usize> = steps.iter().copied().collect();
            match policy {
                Policy::Grid => {
                    let gap = total.checked_div(count).unwrap_or(0);
                    assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] == gap), "{what}: {sorted:?}");
                    assert_eq!(draws.len(), usize::from(count > 0), "{what}");
                }
                Policy::Last => assert!(sorted.iter().copied().eq(total - count..total) && draws.is_empty(), "{what}"),
                Policy::Random => assert_eq!(draws.len(), count, "{what}"),
            }
            let wanted = random.usize(0..=12);
            let some = tracked::subset(&steps, wanted, |n| Ok::<_, ()>(random.usize(0..=n - 1))).unwrap();
            assert!(some.is_subset(&steps), "{what}");
            let expected = if wanted == 0 { steps.len() } else { wanted.min(steps.len()) };
            assert_eq!(some.len(), expected, "{what}: {wanted} of them");
            let some = tracked::some_of(&steps, wanted, |n| Ok::<_, ()>(random.usize(0..=n - 1))).unwrap();
            assert!(some.is_subset(&steps) && some.len() <= wanted, "{what}");
        }
    }
}

/// Every start of a grid fits, and with all starts every step is reached.
#[test]
fn grids_reach_every_step() {
    for total in 1..=60 {
        for count in 1..=total {
            let grids = (0..tracked::offsets(total, count)).map(|start| tracked::grid(total, count, start));
            let reached: BTreeSet<usize> = grids.inspect(|grid| assert_eq!(grid.len(), count)).flatten().collect();
            assert_eq!(reached.len(), total, "{count} of {total}");
        }
    }
}

fn never(_: usize) -> Result<usize, ()> {
    Err(())
}

/// T = 50, K = 5: the start is one of 0..9, and every step is reached by one of them.
#[test]
fn grid_of_the_published_runs() {
    assert_eq!(tracked::offsets(50, 5), 10);
    let steps = tracked::steps(Policy::Grid, 50, 5, |n| Ok::<_, ()>(n - 1)).unwrap();
    assert_eq!(steps, BTreeSet::from([9, 19, 29, 39, 49]));
}

#[test]
fn uneven_grids_stay_inside() {
    for (total, count) in [(50, 7), (7, 3), (1, 1), (20, 20), (13, 12)] {
        for start in 0..tracked::offsets(total, count) {
            let steps = tracked::grid(total, count, start);
            assert_eq!(steps.len(), count, "T {total} K {count} start {start}");
            assert!(steps.iter().all(|&s| s < total));
        }
    }
}

#[test]
fn subsets_have_different_steps() {
    let all = BTreeSet::from([1, 4, 6, 8]);
    assert_eq!(tracked::subset(&all, 0, never).unwrap(), all);
    assert_eq!(tracked::subset(&all, 9, never).unwrap(), all);
    assert_eq!(tracked::subset(&all, 3, |_| Ok::<_, ()>(0)).unwrap(), BTreeSet::from([1, 8, 6]));
}

#[test]
fn other_policies() {
    assert_eq!(tracked::steps(Policy::Last, 10, 3, never).unwrap(), BTreeSet::from([7, 8, 9]));
    let random = tracked::steps(Policy::Random, 10, 4, |n| Ok::<_, ()>(n / 2)).unwrap();
    assert_eq!(random.len(), 4);
    assert_eq!(tracked::steps(Policy::Last, 3, 5, never).unwrap().len(), 3);
}
