use super::*;
use crate::Backend;
use std::{cell::RefCell, rc::Rc, thread};

/// A process group that knows its rank and size but has no connection to the others.
pub fn group(rank: usize, size: usize) -> ProcessGroup {
    ProcessGroup { rank, size, ..ProcessGroup::alone() }
}

/// Results of two ranks, each in a thread of its own with a process group and a second, unused group.
fn two<T: Send>(work: impl Fn(ProcessGroup, Second) -> T + Sync) -> [T; 2] {
    let timeout = Duration::from_secs(20);
    let served = Store::serve(0, timeout).unwrap();
    let port = served.port();
    let rank = |rank: usize| {
        let join = |prefix: &str| {
            let store = Store::connect("localhost", port, timeout).unwrap();
            (Group::join(&store, prefix, rank, 2).unwrap(), store)
        };
        let terms = Terms { timeout, setting: "s", hint: "go on", interrupt: None };
        let (ranks, second) = (join("first"), join("second"));
        let group = ProcessGroup { rank, size: 2, local: rank, terms, group: Some(ranks), direct: None };
        work(group, Second { group: second.0, _store: second.1, log: Rc::default(), fails: false })
    };
    thread::scope(|scope| [0, 1].map(|i| scope.spawn(move || rank(i))).map(|rank| rank.join().unwrap()))
}

/// Replaces NCCL in tests: another Gloo group that records the requests.
struct Second {
    group: Group,
    _store: Store,
    log: Rc<RefCell<Vec<String>>>,
    fails: bool,
}

impl Reducer for Second {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn name(&self) -> &'static str {
        "second"
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        self.log.borrow_mut().push(format!("sum {:?}", tensor.size()));
        if self.fails {
            let _ = tensor.fill_(7.0); // an incomplete sum
            return Err(Loss::Silent);
        }
        Ok(self.group.sum(tensor)?)
    }

    fn copy_of_first(&self, tensor: &mut Tensor) -> Result<(), Loss> {
        self.log.borrow_mut().push(format!("copy {:?}", tensor.size()));
        Ok(self.group.broadcast(tensor, 0)?)
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(&tensor.flatten(0, -1)).unwrap()
}

#[test]
fn shares_are_everything_once() {
    for (total, size) in [(4, 1), (4, 3), (2, 5), (0, 2), (7, 7), (100, 8)] {
        let shares: Vec<usize> = (0..size).flat_map(|rank| group(rank, size).share(total)).collect();
        assert_eq!(shares, (0..total).collect::<Vec<_>>(), "{total} among {size}");
        let lengths: Vec<usize> = (0..size).map(|rank| group(rank, size).share(total).len()).collect();
        assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
    }
}

/// Large buffers use the direct transport, with the same result as over Gloo.
#[test]
fn the_direct_way_gives_the_same() {
    two(|mut group, second| {
        let log = second.log.clone();
        let sums = |group: &ProcessGroup| {
            let mut a = Tensor::from_slice(&[0.1f32, 0.2, group.rank as f32]);
            let mut b = Tensor::from_slice(&[0.7f32, -3.0]).view([2, 1]) / (group.rank as f64 + 3.0);
            let rows = group.exchange(&mut [&mut a, &mut b], &[group.rank as f64, 0.25]).unwrap();
            let mut of_first = Tensor::from(group.rank as f32 + 5.0);
            group.copy_of_first(&mut of_first).unwrap();
            (values(&a), values(&b), rows, values(&of_first))
        };
        let over_gloo = sums(&group);
        assert_eq!((group.backend(), log.borrow().len()), (Some("gloo"), 0));
        group.direct = Some(Box::new(second));
        assert_eq!(sums(&group), over_gloo);
        assert_eq!(over_gloo.2, [[0.0, 0.25], [1.0, 0.25]]);
        assert_eq!(over_gloo.3, [5.0]);
        assert!(group.any(group.rank == 1).unwrap(), "figures alone");
        assert_eq!((group.backend(), log.borrow().join(", ")), (Some("second"), "sum [5], copy []".into()));
    });
}

/// No rank starts the direct transport before all are there.
#[test]
fn a_rank_that_is_gone_is_found_before_the_direct_way() {
    two(|mut group, second| {
        let log = second.log.clone();
        second.group.barrier().unwrap(); // the other rank has arrived, too
        if group.rank == 1 {
            return; // this rank leaves
        }
        group.direct = Some(Box::new(second));
        let mut buffer = Tensor::from_slice(&[1f32, 2.]);
        let error = group.exchange(&mut [&mut buffer], &[1.0]).unwrap_err().to_string();
        assert!(error.starts_with("rank 0 of 2: another rank is gone (") && error.ends_with("; go on"), "{error}");
        assert!(group.copy_of_first(&mut buffer).is_err());
        assert_eq!((values(&buffer), log.borrow().len()), (vec![1., 2.], 0));
    });
}

#[test]
fn a_way_that_adds_up_wrongly_is_not_taken() {
    two(|group, second| {
        assert!(group.adds_up(&second));
        assert!(!group.adds_up(&Second { fails: true, ..second }));
    });
}

#[test]
fn half_a_sum_is_not_seen() {
    two(|mut group, second| {
        group.direct = Some(Box::new(Second { fails: true, ..second }));
        let mut buffer = Tensor::from_slice(&[1f32, 2.]);
        let error = group.exchange(&mut [&mut buffer], &[1.0]).unwrap_err().to_string();
        assert!(error.contains("no answer from another rank for 20 s (s); go on"), "{error}");
        assert_eq!(values(&buffer), [1., 2.]);
    });
}

#[test]
fn only_the_first_looks() {
    let seen = two(|group, _| {
        let seen: usize = group.of_first(|| Ok(10 + group.rank)).unwrap();
        let error = group.of_first(|| -> Result<()> { Err(anyhow!("no such folder").context("out")) }).unwrap_err();
        (seen, format!("{error:#}"))
    });
    assert_eq!(seen[0], (10, "out: no such folder".into()));
    assert_eq!(seen[1], (10, "rank 1 of 2: rank 0 says: out: no such folder".into()));
}

/// All ranks get the same outcome, also if one has something that the others lack.
#[test]
fn nccl_needs_every_rank() {
    let said = two(|mut group, _| {
        group.choose_backend(Backend::Auto, Device::Cpu).unwrap();
        assert_eq!(group.backend(), Some("gloo"));
        let device = if group.rank == 0 { Device::Cpu } else { Device::Cuda(0) };
        group.choose_backend(Backend::Nccl, device).unwrap_err().to_string()
    });
    assert!(
        said[0].contains("ranks.backend is nccl, but rank 0 cannot use NCCL: it computes on the CPU;"),
        "{}",
        said[0]
    );
    assert!(said[1].starts_with("rank 1 of 2: ranks.backend is nccl, but rank ") && said[1].contains("libnccl.so.2"));
    let mut alone = ProcessGroup::alone();
    alone.choose_backend(Backend::Nccl, Device::Cpu).unwrap();
    assert_eq!(alone.backend(), None);
}
