//! The replay is exact: its gradients are those of one autograd graph over the whole trajectory, in float64.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    adapter,
    attention::{Attention, Counts},
    draws::Draws,
    loss::{
        attention::{self, Target},
        step::{Replayed, StepLoss, Term, TermGradient},
    },
    replay::{Mode, Replay},
    reward::{AtLatents, Gradient, LatentReward},
    session::Session,
    share::Share,
    train::iterate,
};
use config::{self, Config};
use diffusion::{
    conditions::GuidedText,
    denoiser::Denoiser,
    precision,
    prompts::{Entity, Prompt},
    resident::Resident,
    segment::Segmenter,
    trajectory::Trajectory,
};
use models::{
    clip::Clip,
    guidance::Guidance,
    network::{Conditions, Network, Recorder},
    preprocess::{Preprocess, crop, resize},
    schedule::Sampler,
    tokenizer::ClipTokenizer,
};
use optim::Gradients;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use tch::{Device, Kind, Tensor};
use torch_ext::{
    Generator, Shared, parallel,
    testing::{device, device_name},
};

fn options() -> (Kind, Device) {
    (Kind::Double, device())
}

const PROMPTS: [&str; 3] = ["a red dog and a blue cat", "two green cars", "a bench"];

fn config(settings: &[&str]) -> Config {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\n[model]\npath = '{0}/pipeline_sd1'\ndtype = 'float64'\ndevice = '{1}'\n\
         [captioner]\npath = '{0}/blip'\n[prompts]\ntrain = 'none.txt'\n\
         [sampling]\nsteps = 6\nsize = '48x32'\n[replay]\ntracked = 3\n[lora]\nrank = 3\nalpha = 2\n",
        fixtures.display(),
        device_name(),
    );
    std::fs::write(&file, text).unwrap();
    config::read(&file, &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
}

struct Given {
    x: Tensor,
    z: Tensor,
    tracked: BTreeSet<usize>,
    attention: BTreeSet<usize>,
    anchor: BTreeSet<usize>,
    /// Of the reward of latents; 0: there is none.
    cubes: f64,
}

impl Given {
    fn new(session: &Session) -> Self {
        let [c, h, w] = session.latent_shape;
        let rows = PROMPTS.len() as i64;
        // of its own: tests run beside each other, and share libtorch's
        let mut draws = Generator::seeded(5).unwrap();
        let mut randn = |shape: &[i64]| draws.randn(shape).unwrap().to_device(options().1).to_kind(options().0);
        Self {
            x: randn(&[rows, c, h, w]),
            z: randn(&[session.sampler.len() as i64, rows, c, h, w]),
            tracked: BTreeSet::from([1, 3, 5]),
            attention: BTreeSet::from([3, 5]),
            anchor: session.config.anchor.iter().flat_map(|_| [1, 5]).collect(),
            cubes: 0.0,
        }
    }

    fn draws(&self) -> Draws<'_> {
        let noise = |step: usize| Ok(self.z.get(step as i64));
        let crops = vec![(0, 0); PROMPTS.len()];
        let (tracked, attention, anchor) = (self.tracked.clone(), self.attention.clone(), self.anchor.clone());
        Draws {
            start: self.x.copy(),
            noise: Box::new(noise),
            first: 0,
            weight: 1.0,
            rewards: true,
            tracked,
            attention,
            anchor,
            crops,
        }
    }
}

/// All steps in one graph, as a plain PyTorch program would do it.
fn one_graph(
    session: &Session,
    unet: &dyn Network,
    text: &GuidedText,
    halves: &[GuidedText; 2],
    given: &Given,
    chained: bool,
) -> Tensor {
    let denoiser = session.denoiser(unet);
    let mut x = given.x.copy();
    let mut losses = Tensor::from(0.0).to_device(device()); // of the steps themselves
    for (i, step) in session.sampler.steps.iter().enumerate() {
        let e = if given.tracked.contains(&i) {
            let discount = session.config.replay.discount;
            let input = if chained { &x * discount + x.detach() * (1.0 - discount) } else { x.detach() };
            if given.anchor.contains(&i) {
                let apart =
                    denoiser.predict(&x.detach(), step.time, text).unwrap() - original(session, halves, &x, step.time);
                losses += apart.square().mean(Kind::Double) / given.anchor.len() as f64
                    * session.config.anchor.as_ref().unwrap().weight;
            }
            let e = match &session.config.attention {
                Some(config) if given.attention.contains(&i) => {
                    let (e, maps) = denoiser.predict_with_maps(&input, step.time, text).unwrap();
                    let parts = attention::losses(config.form, &maps, &targets(), 3).unwrap();
                    losses += parts.token * config.token_weight + parts.pixel * config.pixel_weight;
                    e
                }
                _ => denoiser.predict(&input, step.time, text).unwrap(),
            };
            if session.config.replay.unconditional {
                e
            } else {
                let bare =
                    Denoiser { network: unet, guidance: Guidance { scale: 1.0, rescale: 0.0 }, kind: Kind::Double };
                let [cond, uncond] = [0, 1].map(|half| bare.predict(&input, step.time, &halves[half]).unwrap());
                session.config.sampling.guidance().combine(&uncond.detach(), &cond)
            }
        } else {
            tch::no_grad(|| denoiser.predict(&x, step.time, text).unwrap())
        };
        x = step.apply(&x, &e, Some(&given.z.get(i as i64)));
    }
    if given.cubes != 0.0 {
        losses -= x.pow_tensor_scalar(3).mean(Kind::Double) * given.cubes;
    }
    let images = session.pipeline.vae.with(|vae| Ok(vae.decode(&x)?)).unwrap() / 2.0 + 0.5;
    for reward in &session.config.rewards {
        losses -= cosines(&reward.path, &images).mean(Kind::Double) * reward.weight;
    }
    let nll = session.captioner.nll(&images, &PROMPTS, &[(0, 0); 3]).unwrap();
    nll.sum.sum(Kind::Double) / nll.tokens.sum(Kind::Double) * session.config.captioner.weight + losses
}

/// CLIP's cosines of images `[3, 3, 32, 48]` with the prompts: 16 rows of 24 pixels, and of them the middle 16.
fn cosines(folder: &Path, images: &Tensor) -> Tensor {
    let clip = Clip::open(folder, Kind::Double, device()).unwrap();
    let tokenizer = ClipTokenizer::open(folder).unwrap();
    let ids: Vec<i64> = PROMPTS.iter().flat_map(|prompt| tokenizer.encode(prompt).unwrap().ids).collect();
    let middle = crop(&resize(images, (16, 24)).unwrap(), (0, 4), (16, 16)).unwrap();
    let image = clip.image_embeds(&Preprocess::default().normalise(&middle).unwrap()).unwrap();
    let text = clip.text_embeds(&Tensor::from_slice(&ids).view([3, -1]).to_device(device())).unwrap();
    (image * text).sum_dim_intlist(1, false, Kind::Double)
}

/// What the model without an adapter predicts, with the anchor's guidance worked out by hand.
fn original(session: &Session, [cond, uncond]: &[GuidedText; 2], x: &Tensor, time: f64) -> Tensor {
    let _guard = tch::no_grad_guard();
    let unet = session.pipeline.network(&session.pipeline.weights).unwrap();
    let timesteps = Tensor::full([PROMPTS.len() as i64], time, (Kind::Float, device()));
    let [cond, uncond] = [cond, uncond].map(|text| unet.predict(x, &timesteps, &text.cond, None).unwrap());
    &uncond + (cond - &uncond) * session.config.anchor.as_ref().unwrap().guidance_scale.unwrap_or(7.5)
}

const TOP: fn() -> Tensor = || mask(0, 10, 4, 20);
const BOTTOM: fn() -> Tensor = || mask(20, 12, 0, 48);

fn mask(top: i64, height: i64, left: i64, width: i64) -> Tensor {
    let mask = Tensor::zeros([32, 48], (Kind::Bool, device()));
    let _ = mask.narrow(0, top, height).narrow(1, left, width.min(48 - left)).fill_(1.0);
    mask
}

/// A reward of latents: the mean of their cubes.
struct Cubes;

impl LatentReward for Cubes {
    fn gradient(&mut self, latents: &Tensor, share: &Share) -> anyhow::Result<Gradient> {
        let of_batch = share.prompts().len() as f64 / share.batch.len() as f64;
        let reward = latents.pow_tensor_scalar(3).mean(Kind::Double).double_value(&[]) * of_batch;
        let numbers = latents.numel() as f64;
        Ok(Gradient { reward, loss: -reward, cotangent: latents.square() * (-3.0 * of_batch / numbers) })
    }

    fn values(&mut self, latents: &Tensor) -> anyhow::Result<Vec<f64>> {
        let cubes = latents.pow_tensor_scalar(3).mean_dim([1, 2, 3].as_slice(), false, Kind::Double);
        Ok(Vec::try_from(cubes)?)
    }

    fn learn(&mut self, _: &Tensor, _: &Share) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Every first noun of a prompt is above, the others are below.
struct AboveAndBelow;

impl Segmenter for AboveAndBelow {
    fn segment(&self, images: &Tensor, nouns: &[Vec<String>]) -> anyhow::Result<Vec<Tensor>> {
        assert_eq!(images.size(), [3, 3, 32, 48]);
        assert_eq!(nouns, [vec!["dog", "cat"], vec!["cars"], vec![]]);
        let masks = |nouns: &Vec<String>| {
            let masks: Vec<Tensor> = (0..nouns.len()).map(|i| if i == 0 { TOP() } else { BOTTOM() }).collect();
            if masks.is_empty() { Tensor::zeros([0, 32, 48], (Kind::Bool, device())) } else { Tensor::stack(&masks, 0) }
        };
        Ok(nouns.iter().map(masks).collect())
    }
}

fn entities() -> Vec<Prompt> {
    let entity = |noun: &str, attribute: &str| Entity { noun: noun.into(), attributes: vec![attribute.into()] };
    let of = [vec![entity("dog", "red"), entity("cat", "blue")], vec![entity("cars", "green")], vec![]];
    PROMPTS.into_iter().zip(of).map(|(text, e)| Prompt { entities: Some(e), ..text.into() }).collect()
}

/// The same, by their positions in the text: the tiny tokenizer makes several tokens of a word.
fn targets() -> Vec<Vec<Target>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/pipeline_sd1/tokenizer");
    let tokenizer = models::tokenizer::ClipTokenizer::open(&folder).unwrap();
    let tokens = |prompt: &str, words: &[&str]| {
        let spans = tokenizer.encode(prompt).unwrap().spans;
        let is_of = |span: &std::ops::Range<usize>| words.contains(&word_at(prompt, span.start));
        (0..spans.len() as i64).filter(|i| spans[*i as usize].as_ref().is_some_and(is_of)).collect::<Vec<_>>()
    };
    let target = |prompt: usize, words: &[&str], mask| Target { tokens: tokens(PROMPTS[prompt], words), mask };
    vec![
        vec![target(0, &["red", "dog"], TOP()), target(0, &["blue", "cat"], BOTTOM())],
        vec![target(1, &["green", "cars"], TOP())],
        vec![],
    ]
}

fn word_at(text: &str, at: usize) -> &str {
    let start = text[..at].rfind(' ').map_or(0, |i| i + 1);
    text[start..].split(' ').next().unwrap()
}

fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    ((a - b).norm() / b.norm()).double_value(&[])
}

/// Gradients by both ways, as one vector each.
fn both_ways(settings: &[&str]) -> (Tensor, Tensor) {
    both_ways_along(settings, 0.0, |_| ())
}

/// The same, on a path from noise to image that is altered, and with a reward of latents of this weight.
fn both_ways_along(settings: &[&str], cubes: f64, alter: impl FnOnce(&mut Sampler)) -> (Tensor, Tensor) {
    let mut session = Session::open(config(settings)).unwrap();
    alter(&mut session.sampler);
    if let Some(attention) = &mut session.attention {
        let segmenter = Resident::open(|| Ok(Box::new(AboveAndBelow) as Box<dyn Segmenter>)).unwrap();
        *attention = Attention::new(attention.config.clone(), segmenter);
        attention.take_explicit(&entities()).unwrap();
    }
    let given = Given { cubes, ..Given::new(&session) };
    let mut adapter = adapter::start(&session).unwrap().trainable(Kind::Double, device());
    // `up` starts at zero, which would hide `down`
    let mut draws = Generator::seeded(7).unwrap();
    let noise = draws.randn(&adapter.flat.size()).unwrap().to_device(options().1).to_kind(options().0) * 0.1;
    let _ = adapter.flat.g_add_(&noise);

    let mut gradients = Gradients::zeros(&adapter);
    let (mut reward, share) = (Cubes, Share::whole(&PROMPTS));
    let mut at_latents: AtLatents = vec![];
    if cubes != 0.0 {
        at_latents.push((cubes, &mut reward));
    }
    let outcome =
        iterate(&mut session, &adapter, &share, given.draws(), at_latents, &mut gradients, || Ok(())).unwrap();

    let weights = session.pipeline.weights.with_adapter(&adapter.lora).unwrap();
    let unet = session.pipeline.network(&weights).unwrap();
    let text = session.text(&PROMPTS).unwrap();
    let halves = [PROMPTS, [""; 3]].map(|texts| session.pipeline.text.guided(&texts, None, false, (32, 48)).unwrap());
    let chained = settings.contains(&"replay.mode=chained");
    let loss = one_graph(&session, unet.as_ref(), &text, &halves, &given, chained);
    let config = &session.config;
    let total = outcome.caption_loss * config.captioner.weight
        + config.attention.as_ref().map_or(0.0, |a| {
            assert_eq!(outcome.counts, Counts { subjects: 3, not_found: 0, without: 1 });
            a.token_weight * outcome.attention_losses.token + a.pixel_weight * outcome.attention_losses.pixel
        });
    for (reward, found) in config.rewards.iter().zip(&outcome.rewarded.rewards) {
        let cosine = cosines(&reward.path, &outcome.images).mean(Kind::Double).double_value(&[]);
        assert!((cosine - found).abs() < 1e-12);
    }
    let total = total
        + outcome.rewarded.loss
        + config.anchor.as_ref().map_or(0.0, |anchor| anchor.weight * outcome.anchor_loss);
    assert!((loss.double_value(&[]) - total).abs() < 1e-9);
    assert!((outcome.loss(config) - total).abs() < 1e-12);
    let parameters = adapter.lora.parameters();
    let leaves: Vec<&Tensor> = parameters.iter().map(|(_, t)| *t).collect();
    let grads = torch_ext::vjp(&[&loss], &leaves, &[&loss.ones_like()]).unwrap();
    let flat: Vec<Tensor> = grads.iter().map(|g| g.as_ref().unwrap().flatten(0, -1)).collect();
    let expected = Tensor::cat(&flat, 0);
    assert!(expected.norm().double_value(&[]) > 1e-6, "a gradient of zero proves nothing");
    (gradients.flat, expected)
}

fn exact(settings: &[&str]) {
    exact_with(settings, 0.0);
}

fn exact_with(settings: &[&str], cubes: f64) {
    let (replayed, expected) = both_ways_along(settings, cubes, |_| ());
    let error = relative_error(&replayed, &expected);
    println!("{settings:?}: relative error {error:.1e}");
    assert!(error <= 1e-9, "{settings:?}: {error:e}");
}

#[test]
fn detached() {
    exact(&["replay.mode=detached"]);
}

#[test]
fn chained() {
    exact(&["replay.mode=chained"]);
}

/// A reward of latents joins behind the decoder.
#[test]
fn with_a_reward_of_latents() {
    exact_with(&["replay.mode=detached", "captioner.weight=0.5"], 0.3);
    exact_with(&["replay.mode=chained", "captioner.weight=0"], 2.0);
}

#[test]
fn with_guidance_rescale() {
    exact(&["replay.mode=detached", "sampling.guidance_rescale=0.7"]);
    exact(&["replay.mode=chained", "sampling.guidance_rescale=0.7"]);
}

#[test]
fn without_guidance() {
    exact(&["replay.mode=chained", "sampling.guidance_scale=1"]);
}

#[test]
fn with_euler() {
    exact(&["replay.mode=chained", "sampling.sampler=euler"]);
    exact(&["replay.mode=detached", "sampling.sampler=euler", "sampling.guidance_rescale=0.7"]);
}

#[test]
fn with_ddim() {
    exact(&["replay.mode=chained", "sampling.sampler=ddim"]);
    exact(&["replay.mode=detached", "sampling.sampler=ddim", "sampling.eta=0.5"]);
}

/// Attention losses join at some of the tracked steps; in `chained` mode they reach the earlier ones through the latents.
#[test]
fn with_attention_losses() {
    let settings = |mode, form, extra| {
        [mode, form, extra, "attention.token_weight=0.3", "attention.pixel_weight=0.2", "captioner.weight=0.5"]
    };
    for form in ["attention.form=reference", "attention.form=paper"] {
        for mode in ["replay.mode=detached", "replay.mode=chained"] {
            exact(&settings(mode, form, "attention.segmenter={kind=\"world\"}"));
        }
    }
}

#[test]
fn with_attention_losses_in_micro_batches_and_without_guidance() {
    let settings = ["replay.mode=chained", "attention.segmenter={kind=\"world\"}", "attention.token_weight=1"];
    exact(&[&settings[..], &["replay.micro_batch=1"]].concat());
    exact(&[&settings[..], &["replay.micro_batch=2"]].concat());
    exact(&[&settings[..], &["sampling.guidance_scale=1"]].concat());
}

/// Cutting into micro-batches, even uneven ones, changes rounding only.
#[test]
fn in_micro_batches() {
    exact(&["replay.mode=chained", "replay.micro_batch=1", "captioner.micro_batch=2"]);
    exact(&[
        "replay.mode=detached",
        "replay.micro_batch=2",
        "captioner.micro_batch=1",
        "sampling.guidance_rescale=0.7",
    ]);
}

/// `[[reward]]` with CLIPs of these weights.
fn clips(weights: &[f64]) -> String {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/clip_score");
    let clip = |(i, weight): (usize, &f64)| {
        format!("{{kind=\"clip\",name=\"clip{i}\",path=\"{}\",weight={weight}}}", fixture.display())
    };
    format!("reward=[{}]", weights.iter().enumerate().map(clip).collect::<Vec<_>>().join(","))
}

/// Rewards join at the images, each with its weight; without the captioner, too, and with everything else.
#[test]
fn with_other_rewards() {
    for mode in ["replay.mode=detached", "replay.mode=chained"] {
        exact(&[mode, "captioner.weight=0.3", &clips(&[20.0])]);
        exact(&[mode, "captioner.weight=0", &clips(&[5.0, 2.0])]);
    }
    let attention = ["attention.segmenter={kind=\"world\"}", "attention.token_weight=1", "anchor.weight=30"];
    exact(&[&attention[..], &[&clips(&[20.0])]].concat());
}

/// However the batch is cut, and whether or not networks stay in memory.
#[test]
fn with_other_rewards_in_micro_batches() {
    let reward = clips(&[20.0]);
    let (whole, _) = both_ways(&[&reward]);
    for micro_batch in ["captioner.micro_batch=1", "captioner.micro_batch=2"] {
        exact(&[micro_batch, "memory.offload=true", &reward]);
        let (cut, _) = both_ways(&[micro_batch, &reward]);
        let error = relative_error(&cut, &whole);
        assert!(error < 1e-12, "{micro_batch}: {error}");
    }
    let (alone, _) = both_ways(&[]);
    assert!(relative_error(&alone, &whole) > 1e-3, "the reward has a part in the gradient");
}

/// The distance to the original model joins at two of the tracked steps, and is about each of them alone.
#[test]
fn with_an_anchor() {
    for mode in ["replay.mode=detached", "replay.mode=chained"] {
        exact(&[mode, "anchor.weight=30", "anchor.guidance_scale=3", "sampling.guidance_scale=1"]);
        exact(&[mode, "anchor.weight=30", "replay.micro_batch=2"]);
    }
    let settings = ["replay.mode=chained", "attention.segmenter={kind=\"world\"}", "attention.token_weight=1"];
    exact(&[&settings[..], &["anchor.weight=30"]].concat());
}

#[test]
fn with_a_discount_on_the_way_back() {
    exact(&["replay.mode=chained", "replay.discount=0.3"]);
    let (detached, _) = both_ways(&["replay.mode=detached"]);
    let (none, _) = both_ways(&["replay.mode=chained", "replay.discount=0"]);
    assert!(relative_error(&none, &detached) < 1e-12);
}

/// Rectified flow: `x_t = (1 - s) x + s noise`, the model's output is a velocity, and Euler's steps go from s to s'. To the replay it is
/// only other coefficients.
#[test]
fn with_rectified_flow() {
    let flow = |sampler: &mut Sampler| {
        let count = sampler.steps.len() as f64;
        for (i, step) in sampler.steps.iter_mut().enumerate() {
            let [from, to] = [i, i + 1].map(|i| 1.0 - i as f64 / count);
            (step.a, step.b, step.sigma) = (1.0, to - from, 0.0);
        }
    };
    let (ddim, _) = both_ways(&["sampling.sampler=ddim"]);
    for mode in ["replay.mode=detached", "replay.mode=chained"] {
        let (replayed, expected) = both_ways_along(&[mode, "sampling.sampler=ddim", &clips(&[20.0])], 0.0, flow);
        let error = relative_error(&replayed, &expected);
        assert!(error <= 1e-9, "{mode}: {error:e}");
        assert!(relative_error(&replayed, &ddim) > 1e-3, "it is another path");
    }
}

/// The unconditional half as a constant, in both modes, with guidance that is rescaled, with maps and in micro-batches.
#[test]
fn through_the_conditional_half_alone() {
    for mode in ["replay.mode=detached", "replay.mode=chained"] {
        exact(&["replay.unconditional=false", mode]);
        exact(&["replay.unconditional=false", mode, "sampling.guidance_rescale=0.7", "replay.micro_batch=2"]);
        exact(&["replay.unconditional=false", mode, "sampling.guidance_scale=1"]);
        let maps = ["attention.segmenter={kind=\"world\"}", "attention.token_weight=1"];
        exact(&[&["replay.unconditional=false", mode][..], &maps].concat());
        let (both, _) = both_ways(&[mode]);
        let (one, _) = both_ways(&["replay.unconditional=false", mode]);
        assert!(relative_error(&one, &both) > 1e-3, "{mode}: the other half does nothing");
    }
}

/// The two modes are two different gradients: what makes them equal would be a mistake.
#[test]
fn the_modes_differ() {
    let (detached, _) = both_ways(&["replay.mode=detached"]);
    let (chained, _) = both_ways(&["replay.mode=chained"]);
    assert!(relative_error(&detached, &chained) > 1e-3);
}

/// What each replayed step adds can be told apart: in `detached` mode it is what this step gives when it alone is tracked.
#[test]
fn step_by_step() {
    let of = |settings: &[&str], tracked: &[usize]| {
        let mut session = Session::open(config(settings)).unwrap();
        // the same on every device, each time
        let mut draws = torch_ext::Generator::seeded(6).unwrap();
        let mut draw = |like: &Tensor| draws.randn(&like.size()).unwrap().to_kind(Kind::Double).to_device(device());
        let mut given = Given::new(&session);
        (given.x, given.z) = (draw(&given.x), draw(&given.z));
        given.tracked = tracked.iter().copied().collect();
        let mut adapter = adapter::start(&session).unwrap().trainable(Kind::Double, device());
        let noise = draw(&adapter.flat) * 0.1;
        let _ = adapter.flat.g_add_(&noise);
        let mut gradients = Gradients::zeros(&adapter).step_by_step();
        let share = Share::whole(&PROMPTS);
        iterate(&mut session, &adapter, &share, given.draws(), vec![], &mut gradients, || Ok(())).unwrap();
        gradients
    };
    for settings in [&["replay.mode=detached"][..], &["replay.mode=chained", "replay.micro_batch=2"]] {
        let all = of(settings, &[1, 3, 5]);
        let steps = all.of_steps();
        assert_eq!(steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 3, 1]);
        let sum = steps.iter().fold(all.flat.zeros_like(), |sum, (_, part)| sum + part);
        assert!(relative_error(&sum, &all.flat) < 1e-12);
        let last = of(settings, &[5]).flat;
        assert!(relative_error(&steps[0].1, &last) < 1e-9, "the last step is behind no other");
        let apart = relative_error(&steps[2].1, &of(settings, &[1]).flat);
        assert_eq!(apart < 1e-9, settings.len() == 1, "{settings:?}: {apart:e}");
    }
}

/// In half precision the trajectory samples with what is trained: an update far below the last place of the weights is not rounded away.
#[test]
fn half_precision_samples_what_it_trains() {
    let mut session = Session::open(config(&["model.dtype=bfloat16"])).unwrap();
    let kind = session.latent_kind();
    let mut draws = Generator::seeded(7).unwrap();
    let mut draw = |shape: &[i64]| draws.randn(shape).unwrap().to_kind(kind).to_device(device());
    let mut adapter = adapter::start(&session).unwrap().trainable(kind, device());
    let update = draw(&adapter.flat.size()) * 1e-4;
    tch::no_grad(|| _ = adapter.flat.g_add_(&update));
    let [c, h, w] = session.latent_shape;
    let (x, text) = (draw(&[1, c, h, w]), session.text(&PROMPTS[..1]).unwrap());
    let time = session.sampler.steps[0].time;
    let predict = |network: &dyn Network| {
        tch::no_grad(|| session.denoiser(network).predict(&x, time, &text).unwrap()).to_kind(Kind::Float)
    };
    let sampled = predict(session.frozen(&adapter.lora).unwrap().as_ref());
    let trained = predict(session.branched(&adapter.lora).unwrap().as_ref());
    assert_eq!(sampled, trained);
    let base = predict(session.pipeline.network(&session.pipeline.weights).unwrap().as_ref());
    assert_ne!(sampled, base, "or the update is too small to show anything");
    let merged = session.pipeline.weights.merged(&adapter.lora).unwrap();
    assert_ne!(
        predict(session.pipeline.network(&merged).unwrap().as_ref()),
        sampled,
        "or rounding does not matter here"
    );
}

/// A network whose gradients float16 cannot hold at the first scale, though its output is like that of another.
struct Steep(Box<dyn Network>);

impl Network for Steep {
    fn predict(
        &self,
        latents: &Tensor,
        times: &Tensor,
        conditions: &Conditions,
        recorder: Option<&Recorder>,
    ) -> models::Result<Tensor> {
        Ok(self.0.predict(latents, times, conditions, recorder)? * 1e-3 * 3e4 * 300.0)
    }
}

/// The output is its own cotangent, some of it.
struct Pull(BTreeSet<usize>);

impl Pull {
    fn of(output: &Tensor) -> Tensor {
        output.detach() * 1e-5
    }
}

impl StepLoss for Pull {
    fn steps(&self) -> &BTreeSet<usize> {
        &self.0
    }

    fn terms(&self, seen: &Replayed) -> anyhow::Result<Vec<Term>> {
        let value = Tensor::full([], seen.rows.1 as f64, (Kind::Float, seen.output.device()));
        Ok(vec![Term { name: "pull", value, gradient: TermGradient::AtOutput(Self::of(seen.output)) }])
    }
}

/// In float16 the graph of a step is freed at the first scale. Where that is too large the step is run again, and what it gives is what a
/// kept graph gives: nothing is added or counted twice.
#[test]
fn a_step_whose_first_scale_is_too_large_is_run_again() {
    for mode in [Mode::Detached, Mode::Chained] {
        let mut session = Session::open(config(&["model.dtype=float16"])).unwrap();
        let kind = session.latent_kind();
        let mut draws = Generator::seeded(7).unwrap();
        let mut draw = |shape: &[i64]| draws.randn(shape).unwrap().to_kind(kind).to_device(device());
        let mut adapter = adapter::start(&session).unwrap().trainable(kind, device());
        let noise = draw(&adapter.flat.size()) * 0.1;
        tch::no_grad(|| _ = adapter.flat.g_add_(&noise));
        let [c, h, w] = session.latent_shape;
        let shape = [PROMPTS.len() as i64, c, h, w];
        let before: BTreeMap<usize, Tensor> = [3, 5].map(|step| (step, draw(&shape))).into();
        let walked = Trajectory { latents: draw(&shape), before };
        let cotangent = draw(&shape) * 1e-3;
        let text = session.text(&PROMPTS).unwrap();
        let network = Steep(session.branched(&adapter.lora).unwrap());
        let (denoiser, leaves) = (session.denoiser(&network), adapter.lora.matrices());
        let pull = Pull([3, 5].into());
        let replay = Replay {
            denoiser: &denoiser,
            sampler: &session.sampler,
            text: &text,
            mode,
            discount: 0.5,
            unconditional: true,
            max_cotangent: 0.0,
            micro_batch: 2,
            batch: PROMPTS.len(),
            leaves: Shared::all(&leaves),
            losses: vec![&pull],
        };
        let mut replayed = Gradients::zeros(&adapter);
        let values = replay.run(&walked, cotangent.copy(), &mut replayed, || Ok(())).unwrap();
        assert_eq!(values["pull"], 6.0, "two steps of three samples");

        let (mut kept, mut g) = (Gradients::zeros(&adapter), cotangent);
        for (i, step) in session.sampler.steps.iter().enumerate().rev().take_while(|(i, _)| *i >= 3) {
            let next = &g * step.a;
            let pieces = parallel::groups(PROMPTS.len() as i64, 2, device()).concat();
            for (start, rows) in pieces.into_iter().filter(|_| walked.before.contains_key(&i)) {
                let cut = |t: &Tensor| t.narrow(0, start, rows);
                let x = cut(&walked.before[&i]).detach().set_requires_grad(mode == Mode::Chained);
                let predict = || denoiser.predict(&x, step.time, &text.narrow(start, rows)).unwrap();
                let (e, mut own) = (predict(), cut(&g) * step.b);
                assert!(e.isfinite().all().int64_value(&[]) != 0);
                let inputs: Vec<&Tensor> =
                    leaves.iter().copied().chain((mode == Mode::Chained).then_some(&x)).collect();
                match mode {
                    Mode::Detached => own += Pull::of(&e),
                    Mode::Chained => {
                        let of_pull = precision::vjp_and_keep(Kind::Half, &[&e], &leaves, &[&Pull::of(&e)]).unwrap();
                        kept.add(&of_pull).unwrap();
                    }
                }
                let at_once = precision::vjp_at_once(Kind::Half, &[&predict()], &inputs, &[&own]).unwrap();
                assert!(at_once.is_none(), "or the step is not run again");
                let mut grads = precision::vjp(Kind::Half, &[&e], &inputs, &[&own]).unwrap();
                if let Some(through_input) = grads.drain(leaves.len()..).next().flatten() {
                    let _ = cut(&next).g_add_(&(through_input * 0.5));
                }
                kept.add(&grads).unwrap();
            }
            g = next;
        }
        let norm = kept.flat.norm().double_value(&[]);
        assert!(norm.is_finite() && norm > 0.0);
        let error = relative_error(&replayed.flat, &kept.flat);
        assert!(error < 1e-6, "{mode:?}: {error:e}");
    }
}
