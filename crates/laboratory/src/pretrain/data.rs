//! Training images by number: the same number is always the same image.

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scenes::{
    render,
    scene::{SIDE, Scene},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
};
use tch::{Device, Kind, Tensor};

/// The purpose of random numbers; streams of different purposes are independent.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// The scene of that number.
    Scene = 1,
    /// Choice of a step's scenes, their captions and noise.
    Step = 2,
    /// Scenes that are never trained on.
    Test = 3,
    /// Changes made to images of a step.
    Spoil = 4,
    /// Scenes redrawn by the model, by number.
    Redraw = 5,
    /// Initial noise of images, by number.
    Draw = 6,
}

pub fn rng(seed: u64, stream: Stream, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(stream as u64));
    rng.set_stream(number);
    rng
}

pub fn scene(seed: u64, number: u64) -> Scene {
    Scene::any(&mut rng(seed, Stream::Scene, number))
}

/// Images `[B, 3, 64, 64]` in 0..1.
pub fn images(scenes: &[Scene]) -> Tensor {
    if scenes.is_empty() {
        return Tensor::zeros([0, 3, SIDE as i64, SIDE as i64], (Kind::Float, Device::Cpu));
    }
    let rows: Vec<Tensor> = scenes.iter().map(|s| image(&render::pixels(s))).collect();
    Tensor::cat(&rows, 0)
}

/// One image `[1, 3, 64, 64]` of rendered pixels.
pub fn image(pixels: &[f32]) -> Tensor {
    Tensor::from_slice(pixels).view([1, 3, SIDE as i64, SIDE as i64])
}

/// Prefetches batches: they are made on other threads during earlier steps.
pub struct Ahead<T> {
    make: Arc<dyn Fn(u64) -> Result<T> + Send + Sync>,
    /// One queue per thread, in the order in which they are read.
    queues: VecDeque<Receiver<Result<T>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Number of batches that wait in each thread.
    const WAITING: usize = 2;
    const MOST_THREADS: usize = 6;

    /// `make(step)` must depend on nothing but the step.
    pub fn new(make: impl Fn(u64) -> Result<T> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), queues: VecDeque::new(), threads: vec![] }
    }

    /// The batch of a step. The first one requested may be any; after it they must be requested in order.
    pub fn next(&mut self, step: u64) -> Result<T> {
        if self.queues.is_empty() {
            let threads = thread::available_parallelism().map_or(1, |n| n.get() / 2).clamp(1, Self::MOST_THREADS);
            self.queues = (0..threads).map(|i| self.start(step + i as u64, threads)).collect();
        }
        let queue = self.queues.pop_front().context("there is a thread at least")?;
        let batch = queue.recv().context("the thread that makes batches has ended")?;
        self.queues.push_back(queue);
        batch
    }

    /// Starts a thread that makes every `threads`-th batch, until the receiver is dropped.
    fn start(&mut self, first: u64, threads: usize) -> Receiver<Result<T>> {
        let (sender, receiver) = mpsc::sync_channel(Self::WAITING);
        let make = self.make.clone();
        self.threads.push(thread::spawn(move || {
            let _ = (first..).step_by(threads).try_for_each(|step| sender.send(make(step)).ok());
        }));
        receiver
    }
}

impl<T> Drop for Ahead<T> {
    /// Waits for the threads: a process must not end while one of them is inside libtorch.
    fn drop(&mut self) {
        self.queues.clear(); // a thread ends when its receiver is dropped
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Standard normal values from one of the streams.
pub fn randn(rng: &mut ChaCha8Rng, shape: &[i64]) -> Result<Tensor> {
    Ok(torch_ext::Generator::seeded(rng.random())?.randn(shape)?.to_kind(Kind::Float))
}
