//! Preferences between the model's own images: their gradient is that of one graph, in float64; ranks and micro-batches change nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    adapter, batch,
    preference::{self, Preferred},
    reward::{AtLatents, Gradient, LatentReward},
    session::Session,
    share::Share,
};
use config::Config;
use diffusion::{
    random::{Purpose, stream},
    trajectory,
};
use models::{
    lora::{Lora, Trainable},
    network::Conditions,
};
use optim::Gradients;
use std::{collections::BTreeSet, path::Path};
use tch::{Kind, Tensor};
use torch_ext::testing::{device, device_name};

const PROMPTS: [&str; 3] = ["a red dog and a blue cat", "two green cars", "a bench"];
const PLACES: [u64; 3] = [0, 1, 2];
const STEP: u64 = 4;

fn config(settings: &[&str]) -> Config {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\nseed = 7\n[model]\npath = '{0}/pipeline_sd1'\ndtype = 'float64'\ndevice = '{1}'\n\
         [captioner]\npath = '{0}/blip'\n[prompts]\ntrain = 'none.txt'\n\
         [sampling]\nsteps = 3\nsize = '48x32'\nguidance_scale = 4\n[replay]\ntracked = 1\n[lora]\nrank = 3\nalpha = 2\n[train]\nema = 0.5\n\
         [preference]\ncandidates = 3\ncompared = 3\ndraws = 2\nbeta = 0.8\nanchor = 0.3\ntimesteps = [0.2, 0.9]\n",
        fixtures.display(),
        device_name(),
    );
    std::fs::write(&file, text).unwrap();
    config::read(&file, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

/// An adapter that is not zero, so that tuned and original model differ.
fn moved(session: &Session) -> Trainable {
    let mut adapter = adapter::start(session).unwrap().trainable(session.latent_kind(), session.pipeline.device);
    let size = adapter.flat.size();
    let noise = torch_ext::Generator::seeded(3).unwrap().randn(&size).unwrap();
    let noise = noise.to_device(device()).to_kind(adapter.flat.kind());
    let _ = tch::no_grad(|| adapter.flat.g_add_(&(noise * 0.05)));
    adapter
}

/// A policy that is neither the original model nor the adapter in training.
fn policy(adapter: &Trainable) -> Lora {
    adapter.lora_of(&(&adapter.flat * 0.7))
}

/// A reward of latents, the mean of their squares; and what it has been trained on.
#[derive(Default)]
struct Squares(Vec<Tensor>);

impl Squares {
    fn of(latents: &Tensor) -> Vec<f64> {
        Vec::try_from(latents.square().mean_dim([1, 2, 3].as_slice(), false, Kind::Double)).unwrap()
    }
}

impl LatentReward for Squares {
    fn gradient(&mut self, _: &Tensor, _: &Share) -> anyhow::Result<Gradient> {
        unreachable!("preferences use no gradient of a reward")
    }

    fn values(&mut self, latents: &Tensor) -> anyhow::Result<Vec<f64>> {
        Ok(Self::of(latents))
    }

    fn learn(&mut self, latents: &Tensor, _: &Share) -> anyhow::Result<()> {
        self.0.push(latents.shallow_clone());
        Ok(())
    }
}

/// Weight of [`Squares`].
const WEIGHT: f64 = 5.0;

fn run(settings: &[&str], shares: &[(Vec<&str>, std::ops::Range<usize>)]) -> (Vec<Preferred>, Tensor) {
    let mut session = Session::open(config(settings)).unwrap();
    let adapter = moved(&session);
    let policy = policy(&adapter);
    let mut gradients = Gradients::zeros(&adapter);
    let preference = session.config.preference.clone().unwrap();
    let done = shares.iter().map(|(batch, mine)| {
        let share = Share { batch: batch.clone(), mine: mine.clone() };
        let (adapters, samples) = ((&adapter, &policy), (&share, STEP, &PLACES[mine.clone()]));
        let mut squares = Squares::default();
        let at_latents: AtLatents = vec![(WEIGHT, &mut squares)];
        let done =
            preference::iterate(&mut session, &preference, adapters, samples, at_latents, &mut gradients, || Ok(()));
        assert!(matches!(&squares.0[..], [latents] if latents.size()[0] == mine.len() as i64), "once a step");
        done.unwrap()
    });
    (done.collect(), gradients.flat)
}

fn whole(settings: &[&str]) -> (Preferred, Tensor) {
    let (mut done, gradient) = run(settings, &[(PROMPTS.to_vec(), 0..3)]);
    (done.remove(0), gradient)
}

/// Loss, gap, distance to the original model and gradient by the paper's formula, for the whole batch in one graph.
fn by_the_paper(settings: &[&str]) -> ([f64; 3], Tensor) {
    let mut session = Session::open(config(settings)).unwrap();
    let adapter = moved(&session);
    let preference = session.config.preference.clone().unwrap();
    let text = session.text(&PROMPTS).unwrap();
    let drawing = session.frozen(&policy(&adapter)).unwrap();
    let (mut all, mut rewards) = (vec![], vec![]);
    for candidate in 0..preference.candidates as u64 {
        let own = PLACES.map(|place| place * preference.candidates as u64 + candidate);
        let (start, noise) = batch::noise(&session, Purpose::Trajectory, STEP, &own).unwrap();
        let denoiser = session.denoiser(drawing.as_ref());
        let start = session.sampler.start(start);
        let predict = denoiser.conditioned_on(&text);
        let walked = trajectory::walk(predict, &session.sampler, start, &BTreeSet::new(), noise, || Ok(())).unwrap();
        let images = session.decode(&walked.latents).unwrap();
        let squares = Squares::of(&walked.latents).into_iter().map(|square| WEIGHT * square);
        let losses = session.captioner.losses(&images, &PROMPTS).unwrap();
        rewards.push(squares.zip(losses).map(|(square, loss)| square - loss).collect::<Vec<_>>());
        all.push(walked.latents);
    }
    let tuned = session.branched(&adapter.lora).unwrap();
    let original = session.pipeline.network(&session.pipeline.weights).unwrap();
    let schedule = session.pipeline.schedule().unwrap();
    let beta = preference.beta;
    let (mut loss, mut gap, mut distance) = (Tensor::zeros([], (Kind::Double, device())), 0.0, 0.0);
    let compared = preference.compared;
    let middle = compared / 2..preference.candidates - compared / 2;
    let count = (3 * compared * preference.draws) as f64;
    let mut term = |noisy: &Tensor, target: &Tensor, time: i64, text: &Conditions, rank: f64| {
        let times = Tensor::from_slice(&[time as f32]).to_device(device());
        let [old, new, at_first] = [&drawing, &tuned, &original]
            .map(|network| network.predict(&noisy.unsqueeze(0), &times, text, None).unwrap().get(0));
        let old = old.detach();
        let positive: Tensor = &old * (1.0 - beta) + &new * beta;
        let negative: Tensor = &old * (1.0 + beta) - &new * beta;
        let error = |of: &Tensor| (of - target).square().mean(Kind::Double);
        let apart = (&new - at_first.detach()).square().mean(Kind::Double);
        distance += apart.double_value(&[]) / error(&old).double_value(&[]) / count;
        let pulled: Tensor = error(&positive) * rank + error(&negative) * (1.0 - rank);
        let term = (pulled + apart * preference.anchor) / error(&old);
        loss += term / count;
    };
    for row in 0..3 {
        let mut sorted: Vec<f64> = rewards.iter().map(|of| of[row]).collect();
        sorted.sort_by(f64::total_cmp);
        gap += (sorted.last().unwrap() - sorted[0]) / 3.0;
        let mut draws = stream(session.config.seed, Purpose::Preference, STEP, row as u64).unwrap();
        for _ in 0..preference.draws {
            let time = draws.below(200, 900).unwrap();
            let noise = draws.randn(&session.latent_shape).unwrap().to_device(device()).to_kind(Kind::Double);
            let signal = schedule.signal()[time as usize];
            for (latents, rewards) in all.iter().zip(&rewards) {
                let place = sorted.iter().position(|reward| *reward == rewards[row]).unwrap();
                if compared < preference.candidates && middle.contains(&place) {
                    continue;
                }
                let rank = place as f64 / (preference.candidates - 1) as f64;
                let image = latents.get(row as i64);
                let noisy = &image * signal.sqrt() + &noise * (1.0 - signal).sqrt();
                let target = match settings.first() {
                    Some(&"model.prediction_type=v_prediction") => {
                        &noise * signal.sqrt() - &image * (1.0 - signal).sqrt()
                    }
                    Some(&"model.prediction_type=sample") => image.shallow_clone(),
                    _ => noise.shallow_clone(),
                };
                let own_text = text.narrow(row as i64, 1).cond;
                term(&noisy, &target, time, &own_text, rank);
            }
        }
    }
    let grads = torch_ext::vjp(&[&loss], &adapter.lora.matrices(), &[&loss.ones_like()]).unwrap();
    let mut gradients = Gradients::zeros(&adapter);
    gradients.add(&grads).unwrap();
    ([loss.double_value(&[]), gap, distance], gradients.flat)
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    ((a - b).norm() / b.norm()).double_value(&[])
}

#[test]
fn the_gradient_is_that_of_the_formula() {
    let of_seven = ["preference.candidates=7", "preference.compared=4"];
    for settings in [
        vec![],
        vec!["model.prediction_type=v_prediction"],
        vec!["model.prediction_type=sample"],
        of_seven.to_vec(),
        [&["model.prediction_type=v_prediction"][..], &of_seven].concat(),
        vec!["captioner.reduction=sum", "captioner.end_weight=0"],
        vec!["captioner.end_weight=20", "captioner.micro_batch=2"],
    ] {
        let (done, gradient) = whole(&settings);
        let (figures, expected) = by_the_paper(&settings);
        let found = [done.figures.loss, done.figures.gap, done.figures.distance];
        assert!(found.iter().zip(&figures).all(|(a, b)| (a - b).abs() < 1e-12 && *b > 0.0), "{found:?} {figures:?}");
        assert!(expected.norm().double_value(&[]) > 1e-6);
        assert!(distance(&gradient, &expected) < 1e-9, "{}", distance(&gradient, &expected));
    }
}

#[test]
fn shares_and_micro_batches_add_up() {
    const COMPARED: &str = "preference.compared=2";
    let (done, gradient) = whole(&[COMPARED]);
    let parts = [(PROMPTS.to_vec(), 0..1), (PROMPTS.to_vec(), 1..3)];
    let (shares, sum) = run(&[COMPARED, "replay.micro_batch=1", "captioner.micro_batch=2"], &parts);
    assert!(distance(&sum, &gradient) < 1e-9);
    let add = |of: fn(&Preferred) -> f64| shares.iter().map(of).sum::<f64>();
    for (sum, whole) in [
        (add(|p| p.figures.loss), done.figures.loss),
        (add(|p| p.figures.gap), done.figures.gap),
        (add(|p| p.figures.distance), done.figures.distance),
        (add(|p| p.caption_loss), done.caption_loss),
    ] {
        assert!((sum - whole).abs() < 1e-9, "{sum} {whole}");
    }
}

/// In half precision the same images are compared, and the gradient points where that in float64 does.
#[test]
fn half_precision_has_the_same_direction() {
    let settings = ["preference.candidates=5", "preference.compared=2", "captioner.weight=0.01"];
    let (done, gradient) = whole(&settings);
    for (dtype, least) in [("float32", 0.9999), ("bfloat16", 0.9), ("float16", 0.99)] {
        let dtype = format!("model.dtype={dtype}");
        let (of_half, half) = whole(&[&settings[..], &[&dtype]].concat());
        let half = half.to_kind(Kind::Double);
        let cosine = ((&half * &gradient).sum(Kind::Double) / half.norm() / gradient.norm()).double_value(&[]);
        let size = (half.norm() / gradient.norm()).double_value(&[]);
        assert!(cosine > least && (0.9..1.1).contains(&size), "{dtype}: {cosine} {size}");
        assert!((of_half.figures.loss - done.figures.loss).abs() < 0.02, "{dtype}: {:?}", of_half.figures);
    }
}

/// Where adapter and policy are the same, the loss is 1; a step against the gradient lowers it.
#[test]
fn at_first_the_model_is_its_policy() {
    let mut session = Session::open(config(&["preference.anchor=0"])).unwrap();
    let mut adapter = moved(&session);
    let policy = adapter.lora_of(&adapter.flat.copy());
    let preference = session.config.preference.clone().unwrap();
    let share = Share::whole(&PROMPTS);
    let mut loss = |adapter: &Trainable| {
        let mut gradients = Gradients::zeros(adapter);
        let (adapters, samples) = ((adapter, &policy), (&share, STEP, PLACES.as_slice()));
        let done = preference::iterate(&mut session, &preference, adapters, samples, vec![], &mut gradients, || Ok(()))
            .unwrap();
        (done.figures.loss, gradients.flat)
    };
    let (first, gradient) = loss(&adapter);
    assert!((first - 1.0).abs() < 1e-12, "{first}");
    let squared = gradient.square().sum(Kind::Double).double_value(&[]);
    let rate = 1e-4 / squared;
    let _ = tch::no_grad(|| adapter.flat.g_sub_(&(&gradient * rate)));
    let lower = loss(&adapter).0;
    assert!((1.0 - lower) / 1e-4 > 0.5 && (1.0 - lower) / 1e-4 < 1.1, "{lower}");
}
