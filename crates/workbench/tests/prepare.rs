//! Tuning a whole UNet is exact: its weights are those of AdamW on one autograd graph over the batch, in float64.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use config::{Optimizer, SamplerKind, Sampling, Size};
use diffusion::{
    denoiser::Denoiser,
    pipeline::Pipeline,
    random::{Purpose, stream},
};
use images::Image;
use indicatif::ProgressBar;
use models::{
    guidance::Guidance,
    tensors::{self, Tensors},
    weights::Weights,
};
use ranks::interrupt::Interrupt;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::device;
use workbench::prepare::{self, Request, Tune};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const SIZE: Size = Size { width: 16, height: 16 };

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/pipeline_sdxl")
}

fn request(folder: &Path, steps: u64, learning_rate: f64, kind: Kind) -> Request {
    Request {
        prompts: ["a red dog", "a blue cat", "a bench"].map(str::to_owned).into(),
        seed: 5,
        sampling: Sampling { sampler: SamplerKind::Ddim, steps: 2, ..Sampling::default() },
        size: SIZE,
        tune: Tune::Unet { optimizer_on: device() },
        steps,
        batch: 2,
        learning_rate,
        work: folder.join("work"),
        out: folder.join("ready"),
        kind: Some(kind),
    }
}

fn prepare(request: &Request, kind: Kind) -> Tensors {
    let pipeline = Pipeline::open(&model(), kind, device()).unwrap();
    prepare::run(pipeline, request, &|_| Ok(ProgressBar::hidden()), &Interrupt::default()).unwrap();
    tensors::read(&request.out.join(UNET)).unwrap().0
}

/// A weight in training, with AdamW's moments.
struct Weight {
    value: Tensor,
    mean: Tensor,
    square: Tensor,
}

/// The same in the textbook's words.
fn by_hand(request: &Request) -> Tensors {
    let mut pipeline = Pipeline::open(&model(), Kind::Double, device()).unwrap();
    let latents: Vec<Tensor> = (0..request.prompts.len())
        .map(|n| {
            let file = request.work.join(format!("images/{n:05}.png"));
            let pixels =
                Image::open_with_texts(&file).unwrap().0.tensor().unwrap().to_device(device()).unsqueeze(0) * 2.0 - 1.0;
            pipeline.vae.with(|vae| Ok(vae.encode(&pixels)?)).unwrap().0 * pipeline.latents.scale
        })
        .collect();
    let signal = pipeline.schedule().unwrap().signal().to_vec();
    let file = model().join(UNET);
    let mut weights: Vec<(String, Weight)> = tensors::read(&file)
        .unwrap()
        .0
        .into_iter()
        .map(|(key, t)| {
            let value = t.to_device(device()).to_kind(Kind::Double);
            (key, Weight { mean: value.zeros_like(), square: value.zeros_like(), value })
        })
        .collect();
    let Optimizer { betas: [b1, b2], weight_decay, epsilon, .. } = Optimizer::default();
    for step in 0..request.steps {
        let leaves: Vec<Tensor> = weights.iter().map(|(_, w)| w.value.detach().set_requires_grad(true)).collect();
        let named: Tensors =
            weights.iter().zip(&leaves).map(|((key, _), leaf)| (key.clone(), leaf.shallow_clone())).collect();
        let unet = pipeline.network(&Weights::new(named, file.clone(), Kind::Double, device()).unwrap()).unwrap();
        let mut order = stream(request.seed, Purpose::Order, step, 1).unwrap();
        let rows: Vec<usize> = (0..request.batch).map(|_| order.below(0, 3).unwrap() as usize).collect();
        let mut losses = vec![];
        for (place, row) in rows.into_iter().enumerate() {
            let mut draws = stream(request.seed, Purpose::Trajectory, step, place as u64).unwrap();
            let timestep = draws.below(0, signal.len() as i64).unwrap();
            let noise = draws.randn(&latents[row].size()).unwrap().to_device(device()).to_kind(Kind::Double);
            let share = signal[timestep as usize];
            let noisy = &latents[row] * share.sqrt() + &noise * (1.0 - share).sqrt();
            let text = pipeline.text.guided(&[&request.prompts[row]], None, false, (16, 16)).unwrap();
            let guidance = Guidance { scale: 1.0, rescale: 0.0 };
            let denoiser = Denoiser { network: unet.as_ref(), guidance, kind: Kind::Double };
            let error = denoiser.predict(&noisy, timestep as f64, &text).unwrap() - noise;
            losses.push(error.square().mean(Kind::Double));
        }
        let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
        let gradients = torch_ext::vjp(&[&loss], &leaves.iter().collect::<Vec<_>>(), &[&loss.ones_like()]).unwrap();
        let gradients: Vec<Tensor> = gradients.into_iter().map(Option::unwrap).collect();
        let all = Tensor::cat(&gradients.iter().map(|g| g.flatten(0, -1)).collect::<Vec<_>>(), 0);
        let norm = all.norm().double_value(&[]);
        let factor = if norm > 1.0 { 1.0 / (norm + 1e-6) } else { 1.0 };
        let (t, rate) = (step as i32 + 1, request.learning_rate);
        for ((_, w), gradient) in weights.iter_mut().zip(gradients) {
            let g = gradient * factor;
            w.mean = &w.mean * b1 + &g * (1.0 - b1);
            w.square = &w.square * b2 + g.square() * (1.0 - b2);
            let (mean, square) = (&w.mean / (1.0 - b1.powi(t)), &w.square / (1.0 - b2.powi(t)));
            w.value = &w.value * (1.0 - rate * weight_decay) - mean / (square.sqrt() + epsilon) * rate;
        }
    }
    weights.into_iter().map(|(key, w)| (key, w.value.to_device(tch::Device::Cpu))).collect()
}

#[test]
fn two_steps_are_those_of_one_graph() {
    let folder = tempfile::tempdir().unwrap();
    let request = request(folder.path(), 2, 1e-3, Kind::Double);
    let got = prepare(&request, Kind::Double);
    let expected = by_hand(&request);
    assert!(got.keys().eq(expected.keys()));
    let original = tensors::read(&model().join(UNET)).unwrap().0;
    for (key, expected) in &expected {
        let largest = |t: Tensor| t.abs().max().double_value(&[]);
        let error = largest(&got[key] - expected);
        assert!(error < 1e-7, "{key}: {error:e}"); // where the gradient is near epsilon, its rounding counts
        assert!(largest(expected - &original[key]) > 1e-4, "{key} was not tuned");
    }
}

/// Computed in bfloat16, the masters begin as what the files hold and move by less than a bfloat16 could.
#[test]
fn half_precision_does_not_round_the_masters() {
    let folder = tempfile::tempdir().unwrap();
    let got = prepare(&request(folder.path(), 3, 1e-5, Kind::Float), Kind::BFloat16);
    let original = tensors::read(&model().join(UNET)).unwrap().0;
    let mut moved = 0;
    for (key, value) in &got {
        let difference = (value - &original[key]).abs();
        assert!(difference.max().double_value(&[]) < 4e-5, "{key}");
        moved += difference.count_nonzero(None).int64_value(&[]);
    }
    let all: usize = got.values().map(Tensor::numel).sum();
    assert!(moved as f64 > 0.9 * all as f64, "{moved} of {all} weights have moved");
}

/// float16 has gradients too: they are scaled on the way, and made float32 before that is undone.
#[test]
fn float16_follows_float32() {
    let folder = tempfile::tempdir().unwrap();
    let change = |kind: Kind, name: &str| {
        let got = prepare(&request(&folder.path().join(name), 1, 1e-4, Kind::Float), kind);
        let original = tensors::read(&model().join(UNET)).unwrap().0;
        let flat: Vec<Tensor> = got.iter().map(|(key, t)| (t - &original[key]).flatten(0, -1)).collect();
        Tensor::cat(&flat, 0)
    };
    let (half, float) = (change(Kind::Half, "half"), change(Kind::Float, "float"));
    // the first step of AdamW is the sign of the gradient
    let agree = (half * &float).gt(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!(agree > 0.97, "{agree}");
}
