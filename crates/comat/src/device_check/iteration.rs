//! One short iteration of the miniature world, the same on every device.
//!
//! Three steps of DDIM without guidance, each with its own gradient (`detached`): a long guided way would carry the rounding of half
//! precision far from where float64 goes, and say nothing of the device.

use crate::{
    adapter,
    batch::Share,
    config::{Captioner, Config, Dtype, Location, Model, Prompts, Replay, SamplerKind, Sampling, Where},
    optim::Gradients,
    session::Session,
    train::{Draws, iterate},
};
use anyhow::{Result, bail};
use std::{collections::BTreeSet, path::Path};
use tch::{Device, Kind, Tensor};
use torch_ext::Generator;

const PROMPTS: [&str; 2] = ["a red circle and a blue square", "a green triangle"];
const STEPS: usize = 3;

pub struct Iteration<'a> {
    pub world: &'a Path,
    pub device: Device,
    pub kind: Kind,
    pub tf32: bool,
    pub deterministic: bool,
}

/// What it came to, on the CPU.
pub struct Computed {
    loss: f64,
    latents: Tensor,
    gradients: Tensor,
}

/// Relative; of tensors in the Euclidean norm.
#[derive(Debug)]
pub struct Errors {
    pub loss: f64,
    pub latents: f64,
    pub gradients: f64,
}

impl<'a> Iteration<'a> {
    pub fn new(world: &'a Path, device: Device, kind: Kind) -> Self {
        Self { world, device, kind, tf32: false, deterministic: false }
    }

    fn config(&self) -> Config {
        let dtype = match self.kind {
            Kind::Half => Dtype::Float16,
            Kind::BFloat16 => Dtype::Bfloat16,
            Kind::Double => Dtype::Float64,
            _ => Dtype::Float32,
        };
        let device = if let Device::Cuda(index) = self.device { Where::Cuda(index) } else { Where::Cpu };
        Config {
            output: "unused".into(),
            seed: 0,
            model: Model {
                path: Location::from(self.world.join("sd")),
                variant: None,
                tokenizer: None,
                dtype,
                vae_dtype: None,
                tf32: self.tf32,
                deterministic: self.deterministic,
                device,
            },
            captioner: Captioner::at(self.world.join("blip")),
            prompts: Prompts { train: "unused".into(), validation: None },
            sampling: Sampling { sampler: SamplerKind::Ddim, steps: STEPS, guidance_scale: 1.0, ..Sampling::default() },
            replay: Replay { tracked: STEPS, ..Replay::default() },
            anchor: None,
            attention: None,
            fidelity: None,
            mixed: None,
            lora: Default::default(),
            optimizer: Default::default(),
            train: Default::default(),
            checkpoints: Default::default(),
            samples: Default::default(),
            validation: Default::default(),
            ranks: Default::default(),
            memory: Default::default(),
            logging: Default::default(),
        }
    }

    /// `alter` is for tests.
    pub fn compute(&self, alter: impl FnOnce(&Session)) -> Result<Computed> {
        let mut session = Session::open(self.config(), |_, _, _| bail!("the check has no attention losses"))?;
        alter(&session);
        let mut adapter = adapter::start(&session)?.trainable(session.latent_kind(), self.device);
        let mut random = Generator::seeded(0)?;
        let mut draw = |shape: &[i64]| -> Result<Tensor> {
            Ok(random.randn(shape)?.to_device(self.device).to_kind(session.latent_kind()))
        };
        let shape = [&[PROMPTS.len() as i64], session.latent_shape.as_slice()].concat();
        let start = draw(&shape)?;
        // `up` starts at zero, which would hide `down`
        let noise = draw(&adapter.flat.size())? * 0.02;
        tch::no_grad(|| _ = adapter.flat.g_add_(&noise));
        let draws = Draws {
            start,
            first: 0,
            weight: 1.0,
            noise: Box::new(|step| bail!("step {step} of DDIM is not stochastic")),
            tracked: (0..STEPS).collect(),
            attention: BTreeSet::new(),
            anchor: BTreeSet::new(),
            crops: vec![(0, 0); PROMPTS.len()],
        };
        let mut gradients = Gradients::zeros(&adapter);
        let share = Share::whole(&PROMPTS);
        let outcome = iterate(&mut session, &adapter, &share, draws, None, &mut gradients, || Ok(()))?;
        let [latents, gradients] = [&outcome.latents, &gradients.flat].map(|t| t.detach().to_device(Device::Cpu));
        Ok(Computed { loss: outcome.caption_loss, latents, gradients })
    }
}

impl Computed {
    /// From what is taken to be exact.
    pub fn errors(&self, exact: &Self) -> Errors {
        let of = |a: &Tensor, b: &Tensor| {
            let [a, b] = [a, b].map(|t| t.to_kind(Kind::Double));
            ((a - &b).norm() / b.norm()).double_value(&[])
        };
        Errors {
            loss: (self.loss - exact.loss).abs() / exact.loss.abs(),
            latents: of(&self.latents, &exact.latents),
            gradients: of(&self.gradients, &exact.gradients),
        }
    }

    /// To the bit.
    pub fn equals(&self, other: &Self) -> bool {
        let same = |a: &Tensor, b: &Tensor| a.size() == b.size() && a.equal(b);
        self.loss.to_bits() == other.loss.to_bits()
            && same(&self.latents, &other.latents)
            && same(&self.gradients, &other.gradients)
    }
}
