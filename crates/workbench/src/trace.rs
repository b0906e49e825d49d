//! `comat trace`: one iteration on given noise, with all values it computes, for comparison with another program.

use anyhow::{Context, Result, bail};
use comat::{
    adapter,
    draws::Draws,
    session::Session,
    share::Share,
    tracked,
    train::{Phases, iterate},
};
use config::Config;
use diffusion::{generate::Given, prompts};
use models::{
    Error,
    lora::Lora,
    tensors::{self, Tensors},
};
use optim::Gradients;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::Instant,
};
use tch::Tensor;
use torch_ext::memory;

/// The inputs of the iteration.
pub struct Request {
    /// `x_T` `[B, C, h, w]`; `z` `[T, B, C, h, w]` for a stochastic sampler. May also hold `crop` `[B, 2]` (top, left),
    /// `tracked_start`, and a starting adapter in any LoRA format.
    pub noise: PathBuf,
    pub out: PathBuf,
    /// An initial adapter in a separate file.
    pub lora: Option<PathBuf>,
    /// First step of the grid of tracked steps.
    pub tracked_start: Option<usize>,
    /// How often to compute the iteration; the times are returned.
    pub repeat: usize,
}

/// Key of the caption loss in the file, by which an older trace is known: it is replaced, and nothing else is.
const CAPTION: &str = "loss.caption";

/// Results of a trace besides its file.
pub struct Summary {
    pub caption_loss: f64,
    /// The other rewards, by name.
    pub rewards: Vec<(String, f64)>,
    pub tracked: BTreeSet<usize>,
    pub seconds: Vec<f64>,
    /// Phases of the last iteration.
    pub phases: Phases,
    /// Peak memory in bytes.
    pub peak_memory: Option<u64>,
}

/// Runs the iteration; attention losses, if configured, are on all tracked steps. Writes `x_0`, `image`,
/// `image_gradient` (of the caption loss), `loss.caption`, `reward.NAME` for each other reward, `loss.token` and
/// `loss.pixel` with attention losses, `loss` (all, weighted), `tracked`, and `grad.KEY` for each matrix by its PEFT
/// key. The prompts are the first B of the training file.
pub fn run(config: Config, request: &Request) -> Result<Summary> {
    if config.preference.is_some() {
        bail!(
            "a trace shows the gradient through the images, which [preference] does not use; add --set preference=false"
        );
    }
    let is_trace = |path: &Path| tensors::read(path).is_ok_and(|(all, _)| all.contains_key(CAPTION));
    if request.out.exists() && !is_trace(&request.out) {
        bail!("--out {}: there is a file that is no trace; choose another one", request.out.display());
    }
    for (section, there) in [("fidelity", config.fidelity.is_some()), ("mixed", config.mixed.is_some())] {
        if there {
            tracing::warn!("[{section}] takes no part in a trace");
        }
    }
    let mut session = Session::open(config)?;
    let given = Given::read(&request.noise, &session.sampler)?;
    let rows = given.start.size()[0] as usize;
    given.check(rows, session.latent_shape)?;
    let prompts = prompts::read(&session.config.prompts.train)?;
    if prompts.len() < rows {
        bail!("{}: {} prompts, but x_T has {rows} rows", session.config.prompts.train.display(), prompts.len());
    }
    session.take_entities(&prompts[..rows])?;
    let prompts: Vec<&str> = prompts[..rows].iter().map(|p| p.text.as_str()).collect();

    let extra = Extra::read(&request.noise, &session, rows)?;
    let lora = match (&request.lora, extra.adapter) {
        (Some(_), Some(_)) => bail!("{}: it holds an adapter, and --lora names another", request.noise.display()),
        (Some(path), None) => Lora::read(path, &session.pipeline.weights)?,
        (None, Some(lora)) => lora,
        (None, None) => adapter::start(&session)?,
    };
    let adapter = lora.trainable(session.latent_kind(), session.pipeline.device);
    let tracked = tracked_steps(&session, request.tracked_start.or(extra.tracked_start))?;

    let (device, kind) = (session.pipeline.device, session.latent_kind());
    let on_device = |t: &Tensor| t.to_device(device).to_kind(kind);
    let noise = |step: usize| match &given.steps {
        Some(z) => Ok(on_device(&z.get(step as i64))),
        None => bail!("there is no tensor z for a stochastic step"),
    };
    let (mut seconds, mut last) = (vec![], None);
    for _ in 0..request.repeat.max(1) {
        let began = Instant::now();
        let (tracked, attention, crops) = (tracked.clone(), tracked.clone(), extra.crops.clone());
        let draws = Draws {
            start: session.sampler.start(on_device(&given.start)),
            noise: Box::new(noise),
            first: 0,
            weight: 1.0,
            rewards: true,
            anchor: if session.config.anchor.is_some() { tracked.clone() } else { BTreeSet::new() },
            tracked,
            attention,
            crops,
        };
        let mut gradients = Gradients::zeros(&adapter);
        let outcome =
            iterate(&mut session, &adapter, &Share::whole(&prompts), draws, vec![], &mut gradients, || Ok(()))?;
        last = Some((outcome, gradients));
        seconds.push(began.elapsed().as_secs_f64());
    }
    let (outcome, gradients) = last.context("an iteration was run")?;

    let loss = outcome.loss(&session.config);
    let mut out = Tensors::from([
        ("x_0".to_owned(), outcome.latents),
        ("image".to_owned(), outcome.images),
        ("image_gradient".to_owned(), outcome.image_gradient),
        (CAPTION.to_owned(), Tensor::from(outcome.caption_loss)),
        ("loss".to_owned(), Tensor::from(loss)),
        ("tracked".to_owned(), Tensor::from_slice(&tracked.iter().map(|s| *s as i64).collect::<Vec<_>>())),
    ]);
    let names = session.rewards.iter().map(|other| other.reward.name().to_owned());
    let rewards: Vec<(String, f64)> = names.zip(outcome.rewarded.rewards).collect();
    out.extend(rewards.iter().map(|(name, reward)| (format!("reward.{name}"), Tensor::from(*reward))));
    if session.attention.is_some() {
        out.insert("loss.token".to_owned(), Tensor::from(outcome.attention_losses.token));
        out.insert("loss.pixel".to_owned(), Tensor::from(outcome.attention_losses.pixel));
    }
    for ((key, _), gradient) in adapter.lora.parameters().iter().zip(gradients.views()) {
        out.insert(format!("grad.{key}"), gradient.shallow_clone());
    }
    tensors::write(&request.out, &out, HashMap::from([("prompts".into(), serde_json::to_string(&prompts)?)]))?;
    Ok(Summary {
        caption_loss: outcome.caption_loss,
        rewards,
        tracked,
        seconds,
        phases: outcome.phases,
        peak_memory: outcome.phases.peak().max(memory::peak(device)),
    })
}

fn tracked_steps(session: &Session, start: Option<usize>) -> Result<BTreeSet<usize>> {
    let (replay, total) = (&session.config.replay, session.sampler.len());
    match replay.policy {
        tracked::Policy::Grid => {
            let (start, starts) = (start.unwrap_or(0), tracked::offsets(total, replay.tracked));
            if start >= starts {
                bail!(
                    "--tracked-start {start}: with {total} steps and {} tracked it is below {starts}",
                    replay.tracked
                );
            }
            Ok(tracked::grid(total, replay.tracked, start))
        }
        _ if start.is_some() => bail!("--tracked-start goes with replay.policy = \"grid\""),
        policy => tracked::steps(policy, total, replay.tracked, |n| Ok(n - 1)),
    }
}

/// Optional contents of the noise file besides noise.
struct Extra {
    adapter: Option<Lora>,
    tracked_start: Option<usize>,
    crops: Vec<(i64, i64)>,
}

impl Extra {
    fn read(path: &Path, session: &Session, rows: usize) -> Result<Self> {
        let (mut all, metadata) = tensors::read(path)?;
        let fail = |message: String| -> anyhow::Error { Error::file(path, message).into() };
        let tracked_start = match all.remove("tracked_start") {
            None => None,
            Some(t) if t.numel() == 1 => {
                Some(t.reshape([1]).int64_value(&[0]).try_into().map_err(|_| fail("tracked_start is below 0".into()))?)
            }
            Some(t) => return Err(fail(format!("tracked_start {:?} is not a single number", t.size()))),
        };
        let crops = match all.remove("crop") {
            None => vec![(0, 0); rows],
            Some(t) if t.size() == [rows as i64, 2] => {
                (0..rows as i64).map(|i| (t.int64_value(&[i, 0]), t.int64_value(&[i, 1]))).collect()
            }
            Some(t) => return Err(fail(format!("crop {:?} is not [{rows}, 2]", t.size()))),
        };
        let most = comat::loss::caption::jitter(session.size.height, session.size.width);
        if let Some(crop) = crops.iter().find(|(top, left)| !(0..=most).contains(top) || !(0..=most).contains(left)) {
            return Err(fail(format!("crop {crop:?} is out of 0..={most}")));
        }
        all.retain(|key, _| key != "x_T" && key != "z");
        let weights = &session.pipeline.weights;
        let adapter = if all.is_empty() { None } else { Some(Lora::from_tensors(all, &metadata, path, weights)?) };
        Ok(Self { adapter, tracked_start, crops })
    }
}
