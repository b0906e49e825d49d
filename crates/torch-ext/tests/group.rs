//! Groups of real processes: this test program starts itself once for every rank, to run the test `rank` alone.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};
use tch::{Device, Kind, Tensor};
use torch_ext::{Group, Store, first_line};

const TIMEOUT: Duration = Duration::from_secs(3);

/// One process of a group, and what it says, a line at a time.
struct Rank {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Rank {
    fn start(role: &str, port: u16, rank: usize, size: usize) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "rank", "--ignored", "--nocapture"]);
        command.env("ROLE", role).env("PORT", port.to_string()).env("ME", format!("{rank} {size}"));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Self { process, out }
    }

    /// The next line that the rank wrote; those of the test harness are passed over.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "the rank ended");
            if let Some((_, said)) = line.trim_end().split_once("> ") {
                return said.to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = (self.process.kill(), self.process.wait());
    }
}

/// As many ranks as are asked for, of a group of `size`, around a store in this process.
fn start(role: &str, ranks: usize, size: usize) -> (Store, Vec<Rank>) {
    let store = Store::serve(0, TIMEOUT).unwrap();
    let ranks = (0..ranks).map(|rank| Rank::start(role, store.port(), rank, size)).collect();
    (store, ranks)
}

/// What a rank does.
#[test]
#[ignore = "it is started by the other tests"]
fn rank() {
    let Ok(role) = env::var("ROLE") else { return };
    let me = env::var("ME").unwrap();
    let (rank, size) = me.split_once(' ').unwrap();
    let (rank, size) = (rank.parse().unwrap(), size.parse().unwrap());
    let store = Store::connect("localhost", env::var("PORT").unwrap().parse().unwrap(), TIMEOUT).unwrap();
    let group = match Group::join(&store, "a", rank, size) {
        Ok(group) => group,
        Err(error) => return println!("> {}", first_line(&error)),
    };
    match role.as_str() {
        "arithmetic" => {
            let mut x = Tensor::full([5], rank as f64 + 1.0, (Kind::Float, Device::Cpu));
            group.sum(&mut x).unwrap();
            let mut y = Tensor::full([5], rank as f64, (Kind::BFloat16, Device::Cpu));
            group.broadcast(&mut y, 2).unwrap();
            let mut z = Tensor::full([2], rank as i64, (Kind::Uint8, Device::Cpu));
            group.sum(&mut z).unwrap();
            group.barrier().unwrap();
            let refused = group.sum(&mut Tensor::ones([2, 3], (Kind::Float, Device::Cpu)).tr()).unwrap_err();
            println!("> {} {} {} {refused}", x.double_value(&[4]), y.double_value(&[0]), z.int64_value(&[1]));
            tch::manual_seed(rank as i64);
            let mut many = Tensor::randn([100_003], (Kind::Float, Device::Cpu));
            group.sum(&mut many).unwrap();
            println!("> {:?}", many.to_kind(Kind::Double).sum(Kind::Double).double_value(&[]));
        }
        "barrier" => {
            println!("> ready");
            let result = loop {
                if let Err(error) = group.barrier() {
                    break first_line(&error);
                }
            };
            println!("> {result}");
        }
        _ => {
            let mut buffer = Tensor::ones([1 << 20], (Kind::Float, Device::Cpu));
            println!("> ready");
            let result = loop {
                if let Err(error) = group.sum(&mut buffer) {
                    break first_line(&error);
                }
            };
            println!("> {result}");
        }
    }
}

#[test]
fn sums_and_broadcasts() {
    let (_store, mut ranks) = start("arithmetic", 3, 3);
    for rank in &mut ranks {
        assert_eq!(rank.line(), "6 2 3 invalid shape: [3, 2] is not contiguous");
    }
    let sums: Vec<String> = ranks.iter_mut().map(Rank::line).collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "rounded otherwise on another rank: {sums:?}");
}

/// The others do not wait for one that is gone, or longer than the timeout for one that is silent.
#[test]
fn a_rank_that_is_lost() {
    for (role, signal, most) in
        [("sum", "KILL", 2), ("barrier", "KILL", 2), ("sum", "STOP", 10), ("barrier", "STOP", 10)]
    {
        let (_store, mut ranks) = start(role, 3, 3);
        ranks.iter_mut().for_each(|rank| assert_eq!(rank.line(), "ready"));
        std::thread::sleep(Duration::from_millis(100));
        ranks[1].signal(signal);
        let since = Instant::now();
        for rank in [0, 2] {
            let error = ranks[rank].line();
            assert!(error.starts_with("Internal torch error: "), "{error}");
        }
        assert!(since.elapsed() < Duration::from_secs(most), "{role} {signal}: {:?}", since.elapsed());
    }
}

#[test]
fn a_rank_that_does_not_come() {
    let (_store, mut ranks) = start("sum", 2, 4);
    for rank in &mut ranks {
        assert_eq!(rank.line(), "Internal torch error: no sign of rank 2, 3");
    }
    drop(ranks);
    let (store, _) = start("sum", 0, 1);
    let port = store.port();
    drop(store);
    assert!(Store::connect("localhost", port, Duration::from_secs(1)).is_err(), "nobody serves it any more");
}
