//! One short iteration of the miniature world, the same on every device.
//!
//! Three steps of DDIM without guidance, each with its own gradient (`detached`). Every part starts from the float64
//! results of the part before. Otherwise rounding errors of half precision would grow from part to part until they hid
//! errors of the device.

use anyhow::{Result, bail};
use comat::{
    adapter,
    finite::{self, Part},
    replay,
    session::Session,
    share::Share,
};
use config::{Captioner, Config, Dtype, Location, Model, Prompts, Replay, SamplerKind, Sampling, Size, Where};
use diffusion::trajectory;
use optim::Gradients;
use std::{collections::BTreeMap, path::Path};
use tch::{Device, Kind, Tensor};
use torch_ext::{Generator, Shared};

const PROMPTS: [&str; 2] = ["a red circle and a blue square", "a green triangle"];
const STEPS: usize = 3;

pub struct Iteration<'a> {
    pub world: &'a Path,
    pub device: Device,
    pub kind: Kind,
    pub tf32: bool,
    pub deterministic: bool,
    /// `None`: the world's own.
    pub size: Option<Size>,
}

/// Results of each part, on the CPU.
pub struct Computed {
    loss: f64,
    latents: Tensor,
    /// Latents before each step.
    before: BTreeMap<usize, Tensor>,
    image: Tensor,
    image_gradient: Tensor,
    latent_gradient: Tensor,
    adapter_gradient: Tensor,
}

/// Relative errors by the name of the value; for tensors in the Euclidean norm.
pub struct Errors {
    pub values: [(&'static str, f64); 3],
    pub gradients: [(&'static str, f64); 3],
}

impl<'a> Iteration<'a> {
    pub fn new(world: &'a Path, device: Device, kind: Kind) -> Self {
        Self { world, device, kind, tf32: false, deterministic: false, size: None }
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
            preference: None,
            extends: None,
            output: "unused".into(),
            seed: 0,
            model: Model {
                path: Location::from(self.world.join("sd")),
                variant: None,
                tokenizer: None,
                prediction_type: None,
                rescale_betas_zero_snr: None,
                clip_skip: None,
                strict: false,
                dtype,
                vae_dtype: Some(dtype), // the world's own autoencoder sets float32
                tf32: self.tf32,
                deterministic: self.deterministic,
                device,
            },
            captioner: Captioner::at(self.world.join("blip")),
            rewards: vec![],
            prompts: Prompts { train: "unused".into(), validation: None, balance: None, chunks: 1 },
            sampling: Sampling {
                sampler: SamplerKind::Ddim,
                steps: STEPS,
                guidance_scale: 1.0,
                size: self.size,
                ..Sampling::default()
            },
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

    /// Computes all parts; each starts from the results in `given`, or from its own if that is `None`. `alter` is for
    /// tests.
    pub fn compute(&self, given: Option<&Computed>, alter: impl FnOnce(&Session)) -> Result<Computed> {
        let mut session = Session::open(self.config())?;
        alter(&session);
        let (device, kind) = (self.device, session.latent_kind());
        let here = |t: &Tensor| t.to_device(device).to_kind(kind);
        let mut adapter = adapter::start(&session)?.trainable(kind, device);
        let mut random = Generator::seeded(0)?;
        let shape = [&[PROMPTS.len() as i64], session.latent_shape.as_slice()].concat();
        let start = here(&random.randn(&shape)?);
        // `up` starts at zero, which would hide `down`
        let noise = here(&random.randn(&adapter.flat.size())?) * 0.02;
        tch::no_grad(|| _ = adapter.flat.g_add_(&noise));

        let text = session.text(&PROMPTS)?;
        let frozen = session.frozen(&adapter.lora)?;
        let denoiser = session.denoiser(frozen.as_ref());
        let none = |step| bail!("step {step} of DDIM is not stochastic");
        let predict = denoiser.conditioned_on(&text);
        let mut walked = trajectory::walk(predict, &session.sampler, start, &(0..STEPS).collect(), none, || Ok(()))?;
        let latents = walked.latents.shallow_clone();
        if let Some(given) = given {
            walked.latents = here(&given.latents);
            walked.before = given.before.iter().map(|(step, x)| (*step, here(x))).collect();
        }
        let (image, passed) = session.decode_there(&walked.latents)?;
        finite::check(&[(Part::Latents, &latents), (Part::Image, &image)])?;
        let seen = given.map_or_else(|| image.shallow_clone(), |given| here(&given.image));
        let caption = session.captioner.with_cotangent(&seen, &Share::whole(&PROMPTS), &[(0, 0); PROMPTS.len()])?;
        let image_gradient = caption.cotangent;
        let pull = given.map_or_else(|| image_gradient.shallow_clone(), |given| here(&given.image_gradient));
        let latent_gradient = session.decode_cotangent(&walked.latents, passed, &pull)?;
        let pull = given.map_or_else(|| latent_gradient.shallow_clone(), |given| here(&given.latent_gradient));
        let mut gradients = Gradients::zeros(&adapter);
        let branched = session.branched(&adapter.lora)?;
        let replay = replay::Replay {
            denoiser: &session.denoiser(branched.as_ref()),
            sampler: &session.sampler,
            text: &text,
            mode: replay::Mode::Detached,
            discount: 1.0,
            unconditional: true,
            max_cotangent: 0.0,
            micro_batch: 0,
            batch: PROMPTS.len(),
            leaves: Shared::all(&adapter.lora.matrices()),
            losses: vec![],
        };
        replay.run(&walked, pull, &mut gradients, || Ok(()))?;
        let host = |t: &Tensor| t.detach().to_device(Device::Cpu);
        Ok(Computed {
            loss: caption.loss,
            latents: host(&latents),
            before: walked.before.iter().map(|(step, x)| (*step, host(x))).collect(),
            image: host(&image),
            image_gradient: host(&image_gradient),
            latent_gradient: host(&latent_gradient),
            adapter_gradient: host(&gradients.flat),
        })
    }
}

impl Computed {
    /// Errors relative to `exact`.
    pub fn errors(&self, exact: &Self) -> Errors {
        let of = |a: &Tensor, b: &Tensor| {
            let [a, b] = [a, b].map(|t| t.to_kind(Kind::Double));
            ((a - &b).norm() / b.norm()).double_value(&[])
        };
        Errors {
            values: [
                ("latents", of(&self.latents, &exact.latents)),
                ("image", of(&self.image, &exact.image)),
                ("caption loss", (self.loss - exact.loss).abs() / exact.loss.abs()),
            ],
            gradients: [
                ("dL/d image", of(&self.image_gradient, &exact.image_gradient)),
                ("dL/d latents", of(&self.latent_gradient, &exact.latent_gradient)),
                ("dL/d adapter", of(&self.adapter_gradient, &exact.adapter_gradient)),
            ],
        }
    }

    /// Whether all results are identical to the bit.
    pub fn equals(&self, other: &Self) -> bool {
        let same = |a: &Tensor, b: &Tensor| a.size() == b.size() && a.equal(b);
        self.loss.to_bits() == other.loss.to_bits()
            && same(&self.latents, &other.latents)
            && same(&self.image, &other.image)
            && same(&self.image_gradient, &other.image_gradient)
            && same(&self.latent_gradient, &other.latent_gradient)
            && same(&self.adapter_gradient, &other.adapter_gradient)
    }
}
