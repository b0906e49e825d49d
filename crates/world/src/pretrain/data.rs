//! Pictures to train on, by number: the same number is always the same picture.

use crate::{
    render,
    scene::{SIDE, Scene},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// What a draw is for; streams of different purposes have nothing in common.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// The scene of that number.
    Scene = 1,
    /// Which scenes a step sees, their captions and noise.
    Step = 2,
    /// Scenes that are never trained on.
    Test = 3,
    /// Changes made to pictures of a step.
    Spoil = 4,
    /// Scenes redrawn by the model, by number.
    Redraw = 5,
    /// Noise that pictures are drawn from, by number.
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

/// Pictures `[B, 3, 64, 64]` in 0..1.
pub fn pictures(scenes: &[Scene]) -> Tensor {
    let side = SIDE as i64;
    let rows: Vec<Tensor> =
        scenes.iter().map(|s| Tensor::from_slice(&render::pixels(s)).view([1, 3, side, side])).collect();
    Tensor::cat(&rows, 0)
}

/// Standard normal values from one of our streams.
pub fn randn(rng: &mut ChaCha8Rng, shape: &[i64]) -> anyhow::Result<Tensor> {
    Ok(torch_ext::Generator::seeded(rng.random())?.randn(shape)?.to_kind(Kind::Float))
}
