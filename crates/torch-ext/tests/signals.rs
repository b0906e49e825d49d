//! Signals while products of matrices are computed. Where oneDNN computes with AVX-512, the process would die of a handler there.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::{
    sys::pthread::{pthread_kill, pthread_self},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};
use std::{
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tch::{Device, Kind, Tensor};

static RECEIVED: AtomicUsize = AtomicUsize::new(0);
static COMPUTING: AtomicU64 = AtomicU64::new(0);
static RECEIVED_WHILE_COMPUTING: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32) {
    RECEIVED.fetch_add(1, Ordering::SeqCst);
    if pthread_self() as u64 == COMPUTING.load(Ordering::SeqCst) {
        RECEIVED_WHILE_COMPUTING.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn threads_that_compute_receive_none() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only counts.
    unsafe { sigaction(Signal::SIGTERM, &action) }.unwrap();
    let (done, ended) = (&AtomicBool::new(false), Ordering::SeqCst);
    let (tell, told) = mpsc::channel();
    let blocked = thread::scope(|scope| {
        let compute = scope.spawn(move || {
            torch_ext::signals::keep_to_one_thread().unwrap();
            COMPUTING.store(pthread_self() as u64, ended);
            tell.send(pthread_self()).unwrap();
            let random = |rows: i64, columns: i64| Tensor::randn([rows, columns], (Kind::Float, Device::Cpu));
            let _guard = tch::no_grad_guard();
            for i in 0..3000 {
                let [rows, from, to] = [[77, 64, 256, 1024, 16][i % 5], [40, 80, 96, 160][i % 4], [80, 96, 640][i % 3]];
                let _ = torch_ext::linear(&random(rows, from), &random(to, from), None).unwrap();
            }
            done.store(true, ended);
            [torch_ext::signals::spawn, Command::spawn].map(|spawn| {
                let mut grep = Command::new("grep");
                let child = spawn(grep.args(["^SigBlk", "/proc/self/status"]).stdout(Stdio::piped())).unwrap();
                let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
                let blocked = u64::from_str_radix(said.split_whitespace().last().unwrap(), 16).unwrap();
                blocked & (1 << (Signal::SIGTERM as i32 - 1)) != 0
            })
        });
        let computing = told.recv().unwrap();
        kill(Pid::this(), Signal::SIGTERM).unwrap();
        while !done.load(ended) && !compute.is_finished() {
            pthread_kill(computing, Signal::SIGTERM).unwrap();
            thread::sleep(Duration::from_micros(300));
        }
        compute.join().unwrap()
    });
    assert!(RECEIVED.load(ended) >= 1, "other threads receive them");
    assert_eq!(RECEIVED_WHILE_COMPUTING.load(ended), 0);
    assert_eq!(blocked, [false, true], "a program that `signals::spawn` starts receives them, any other does not");
}
