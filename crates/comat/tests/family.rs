//! A family of models that is none of those that come with the program: another network, another autoencoder, other conditions and
//! the path of rectified flow. Training takes it as it takes any, and its gradient is that of one graph, in float64.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use anyhow::Result;
use comat::{adapter, draws::Draws, session::Session, share::Share, train::iterate};
use diffusion::{
    conditions::{Adapter, GuidedText, PromptEncoder},
    family::{Family, Overrides},
    pipeline::{Latents, Pipeline},
    resident::Resident,
};
use models::{
    Error,
    autoencoder::Autoencoder,
    layers::Linear,
    lora::Base,
    network::{Conditions, Network, Recorder},
    schedule::{NoisePath, Sampler, SamplerKind, Step},
    tensors::Tensors,
    tokenizer::Encoding,
    weights::Weights,
};
use optim::Gradients;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
};
use tch::{Device, Kind, Tensor};
use torch_ext::{Generator, testing::device};

const CHANNELS: i64 = 4;
const WIDTH: i64 = 6;
/// Letters of a prompt, and how often each of the first three letters of the alphabet is among them.
const LETTERS: usize = 5;
const PROMPTS: [&str; 2] = ["a red dog", "abc"];
const NAME: &str = "letters";

/// Velocity: a linear layer of each latent cell, of the letters and of time, a tanh, and a linear layer.
struct Tiny {
    of_latents: Linear,
    of_letters: Linear,
    out: Linear,
}

impl Network for Tiny {
    fn predict(&self, x: &Tensor, times: &Tensor, given: &Conditions, _: Option<&Recorder>) -> models::Result<Tensor> {
        let letters = given.get(NAME).ok_or_else(|| Error::Input("there are no letters".into()))?;
        let time = (times.to_kind(x.kind()) / 1000.0).view([-1, 1, 1, 1]);
        let hidden = self.of_latents.forward(&x.permute([0, 2, 3, 1]))
            + self.of_letters.forward(&letters.mean_dim(1, false, None)).view([-1, 1, 1, WIDTH])
            + time;
        Ok(self.out.forward(&hidden.tanh()).permute([0, 3, 1, 2]))
    }
}

struct TinyFamily;

impl Family for TinyFamily {
    fn network(&self, weights: &Weights) -> models::Result<Box<dyn Network>> {
        let tiny = weights.build(&[], |root| Tiny {
            of_latents: Linear::new(&root / "block" / "to_latents", CHANNELS, WIDTH),
            of_letters: Linear::new(&root / "block" / "to_letters", 3, WIDTH),
            out: Linear::new(&root / "block" / "to_out", WIDTH, CHANNELS),
        })?;
        Ok(Box::new(tiny))
    }

    fn weights(&self, model: &Path, _: Option<&str>, kind: Kind, device: Device) -> models::Result<Weights> {
        Weights::new(weights(), model.to_owned(), kind, device)
    }

    fn fingerprints(&self, _: &Path, _: Option<&str>) -> models::Result<Vec<String>> {
        Ok(vec!["tiny".into()])
    }

    fn base(&self) -> Base {
        Base::Sd1
    }

    fn channels(&self) -> (i64, i64) {
        (CHANNELS, CHANNELS)
    }

    fn native_cells(&self) -> i64 {
        16
    }

    fn least_cells(&self) -> i64 {
        1
    }
}

fn weights() -> Tensors {
    let mut draws = Generator::seeded(3).unwrap();
    let mut tensor = |name: &str, shape: &[i64]| (format!("block.{name}"), draws.randn(shape).unwrap() * 0.5);
    Tensors::from([
        tensor("to_latents.weight", &[WIDTH, CHANNELS]),
        tensor("to_latents.bias", &[WIDTH]),
        tensor("to_letters.weight", &[WIDTH, 3]),
        tensor("to_letters.bias", &[WIDTH]),
        tensor("to_out.weight", &[CHANNELS, WIDTH]),
        tensor("to_out.bias", &[CHANNELS]),
    ])
}

/// Latents are shifted and scaled; the decoder has two stages, each cell becomes four pixels.
struct Mirror;

impl Autoencoder for Mirror {
    fn kind(&self) -> Kind {
        Kind::Double
    }

    fn channels(&self) -> i64 {
        CHANNELS
    }

    fn downscale(&self) -> i64 {
        2
    }

    fn scale(&self) -> f64 {
        1.5
    }

    fn shift(&self) -> f64 {
        0.3
    }

    fn encode(&self, image: &Tensor) -> models::Result<(Tensor, Tensor)> {
        let small = image.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
        let mean = Tensor::cat(&[&small, &small.narrow(1, 0, 1)], 1);
        Ok((mean.shallow_clone(), mean.zeros_like()))
    }

    fn decode(&self, latents: &Tensor) -> models::Result<Tensor> {
        Ok((0..self.decode_stages()).fold(latents.shallow_clone(), |x, stage| self.decode_stage(stage, &x)))
    }

    fn decode_stages(&self) -> usize {
        2
    }

    fn decode_stage(&self, stage: usize, x: &Tensor) -> Tensor {
        match stage {
            0 => (x / self.scale() + self.shift()).tanh(),
            _ => (x.narrow(1, 0, 3) + x.narrow(1, 3, 1)).upsample_nearest2d(
                [2 * x.size()[2], 2 * x.size()[3]],
                None::<f64>,
                None::<f64>,
            ),
        }
    }
}

struct Letters;

impl PromptEncoder for Letters {
    fn guided(&mut self, prompts: &[&str], negative: Option<&str>, guided: bool, _: (i64, i64)) -> Result<GuidedText> {
        let of = |prompts: &[&str]| {
            let row = |prompt: &&str| {
                let is = |i: usize, letter: u8| prompt.as_bytes().get(i).is_some_and(|byte| *byte == letter);
                let letters: Vec<f64> = (0..LETTERS)
                    .flat_map(|i| [b'a', b'b', b'c'].map(|letter| f64::from(u8::from(is(i, letter)))))
                    .collect();
                Tensor::from_slice(&letters).view([LETTERS as i64, 3])
            };
            let rows: Vec<Tensor> = prompts.iter().map(row).collect();
            Conditions::default().with(NAME, Tensor::stack(&rows, 0).to_device(device()))
        };
        let nothing = vec![negative.unwrap_or(""); prompts.len()];
        Ok(GuidedText::new(of(prompts), guided.then(|| of(&nothing)), vec![1; prompts.len()]))
    }

    fn tokens(&self, _: &str) -> Result<Encoding> {
        anyhow::bail!("this network has no attention")
    }

    fn adapt(&mut self, _: Vec<Adapter>) -> Result<()> {
        Ok(())
    }

    fn offload(&mut self) {}
}

/// `x_t = (1 - s) x_0 + s noise`, and Euler's steps from s to s' along the velocity that the network predicts.
struct Flow;

impl NoisePath for Flow {
    fn sampler(&self, _: SamplerKind, steps: usize, _: f64) -> models::Result<Sampler> {
        let level = |i: usize| 1.0 - i as f64 / steps as f64;
        let step = |i: usize| Step::new(1000.0 * level(i), 1.0, level(i + 1) - level(i), 0.0);
        Ok(Sampler::of((0..steps).map(step).collect()))
    }

    fn mix(&self, time: f64) -> [f64; 2] {
        [1.0 - time / 1000.0, time / 1000.0]
    }

    fn target(&self, _: f64) -> [f64; 2] {
        [-1.0, 1.0]
    }

    fn length(&self) -> usize {
        1000
    }
}

fn pipeline() -> Pipeline {
    let family = Rc::new(TinyFamily);
    let path = PathBuf::from("tiny");
    Pipeline {
        weights: family.weights(&path, None, Kind::Double, device()).unwrap(),
        family,
        name: path.clone(),
        path,
        variant: None,
        kind: Kind::Double,
        device: device(),
        latents: Latents { channels: Mirror.channels(), downscale: Mirror.downscale(), scale: Mirror.scale() },
        vae: Resident::open(|| Ok(Box::new(Mirror) as Box<dyn Autoencoder>)).unwrap(),
        text: Box::new(Letters),
        noise_path: Box::new(Flow),
        overrides: Overrides::default(),
    }
}

fn session(settings: &[&str]) -> Session {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\n[model]\npath = 'tiny'\ndtype = 'float64'\n[captioner]\npath = '{}/blip'\n[prompts]\ntrain = 'none.txt'\n\
         [sampling]\nsteps = 5\nsize = '32x24'\nguidance_scale = 3\n[replay]\ntracked = 3\n\
         [lora]\nrank = 2\ntargets = ['to_latents', 'to_letters', 'to_out']\n",
        fixtures.display()
    );
    std::fs::write(&file, text).unwrap();
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    Session::with(config::read(&file, &settings).unwrap(), pipeline()).unwrap()
}

/// Every step in one graph, with guidance written out.
fn one_graph(session: &Session, network: &dyn Network, x: &Tensor, tracked: &BTreeSet<usize>, chained: bool) -> Tensor {
    let mut x = x.copy();
    let steps = 5;
    let [cond, uncond] = [PROMPTS, [""; 2]].map(|texts| Letters.guided(&texts, None, false, (0, 0)).unwrap().cond);
    for i in 0..steps {
        let level = |i: usize| 1.0 - i as f64 / steps as f64;
        let velocity = |x: &Tensor| {
            let times = Tensor::full([2], 1000.0 * level(i), (Kind::Float, device()));
            let [cond, uncond] = [&cond, &uncond].map(|given| network.predict(x, &times, given, None).unwrap());
            &uncond + (cond - &uncond) * 3.0
        };
        let v = match tracked.contains(&i) {
            true if chained => velocity(&x),
            true => velocity(&x.detach()),
            false => tch::no_grad(|| velocity(&x)),
        };
        let next = &x + v * (level(i + 1) - level(i));
        x = next;
    }
    let images = Mirror.decode(&x).unwrap() / 2.0 + 0.5;
    let nll = session.captioner.nll(&images, &PROMPTS, &[(0, 0); 2]).unwrap();
    nll.sum.sum(Kind::Double) / nll.tokens.sum(Kind::Double)
}

#[test]
fn trains_like_any_other() {
    for (mode, chained) in [("replay.mode=detached", false), ("replay.mode=chained", true)] {
        for settings in
            [&[mode][..], &[mode, "replay.micro_batch=1", "captioner.micro_batch=1", "memory.keep_decoder=never"]]
        {
            let mut session = session(settings);
            assert_eq!(session.latent_shape, [CHANNELS, 12, 16]);
            let mut draws = Generator::seeded(5).unwrap();
            let mut draw = |shape: &[i64]| draws.randn(shape).unwrap().to_kind(Kind::Double).to_device(device());
            let x = draw(&[2, CHANNELS, 12, 16]);
            let mut adapter = adapter::start(&session).unwrap().trainable(Kind::Double, device());
            let _ = adapter.flat.g_add_(&(draw(&adapter.flat.size()) * 0.1));
            let tracked = BTreeSet::from([0, 2, 4]);
            let drawn = Draws {
                start: x.copy(),
                noise: Box::new(|_| anyhow::bail!("the path is not stochastic")),
                first: 0,
                weight: 1.0,
                rewards: true,
                tracked: tracked.clone(),
                attention: BTreeSet::new(),
                anchor: BTreeSet::new(),
                crops: vec![(0, 0); 2],
            };
            let mut gradients = Gradients::zeros(&adapter);
            let share = Share::whole(&PROMPTS);
            let outcome = iterate(&mut session, &adapter, &share, drawn, vec![], &mut gradients, || Ok(())).unwrap();

            let network = session.branched(&adapter.lora).unwrap();
            let loss = one_graph(&session, network.as_ref(), &x, &tracked, chained);
            assert!((loss.double_value(&[]) - outcome.caption_loss).abs() < 1e-10);
            let parameters = adapter.lora.parameters();
            let leaves: Vec<&Tensor> = parameters.iter().map(|(_, leaf)| *leaf).collect();
            let expected = torch_ext::vjp(&[&loss], &leaves, &[&loss.ones_like()]).unwrap();
            let expected: Vec<Tensor> = expected.iter().map(|g| g.as_ref().unwrap().flatten(0, -1)).collect();
            let expected = Tensor::cat(&expected, 0);
            assert!(expected.norm().double_value(&[]) > 1e-6, "a gradient of zero proves nothing");
            let error = ((gradients.flat - &expected).norm() / expected.norm()).double_value(&[]);
            assert!(error < 1e-9, "{settings:?}: {error:e}");
        }
    }
}

/// Latents of images, shifted and scaled, come back as the images' cells.
#[test]
fn latents_are_shifted_and_scaled() {
    let session = session(&[]);
    let image = Tensor::full([1, 3, 4, 4], 0.8, (Kind::Double, device()));
    let latents = session.encode(&image).unwrap();
    let expected = (0.8 * 2.0 - 1.0 - 0.3) * 1.5;
    assert_eq!(latents.size(), [1, CHANNELS, 2, 2]);
    assert!((latents - expected).abs().max().double_value(&[]) < 1e-12);
}
