//! Signals while products of matrices are computed. Without `keep_away` the process dies of it where oneDNN computes with AVX-512.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use nix::{
    sys::pthread::{pthread_kill, pthread_self},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};
use std::{
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tch::{Device, Kind, Tensor};

static RECEIVED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: i32) {
    RECEIVED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn threads_that_compute_receive_none() {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only counts.
    unsafe { sigaction(Signal::SIGTERM, &action) }.unwrap();
    let (done, ended) = (&AtomicBool::new(false), Ordering::SeqCst);
    let (tell, told) = mpsc::channel();
    let products = thread::scope(|scope| {
        let compute = scope.spawn(move || {
            tell.send(pthread_self()).unwrap();
            torch_ext::signals::keep_away().unwrap();
            let random = |rows: i64, columns: i64| Tensor::randn([rows, columns], (Kind::Float, Device::Cpu));
            let _guard = tch::no_grad_guard();
            for i in 0..3000 {
                let [rows, from, to] = [[77, 64, 256, 1024, 16][i % 5], [40, 80, 96, 160][i % 4], [80, 96, 640][i % 3]];
                let _ = torch_ext::linear(&random(rows, from), &random(to, from), None).unwrap();
            }
            done.store(true, ended);
            let status = |command: &mut Command| {
                let child = command.arg("^SigBlk").arg("/proc/self/status").stdout(Stdio::piped());
                String::from_utf8(torch_ext::signals::spawn(child).unwrap().wait_with_output().unwrap().stdout).unwrap()
            };
            status(&mut Command::new("grep"))
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
    let blocked = u64::from_str_radix(products.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(blocked & (1 << (Signal::SIGTERM as i32 - 1)), 0, "a program that is started receives them: {products}");
}
