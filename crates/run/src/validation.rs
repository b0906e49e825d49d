//! The caption loss on held-out prompts, from the same noise every time, and metrics of a judge, which no loss sees:
//! they show when only the captioner's loss improves.

use super::{Run, unless_stopped};
use anyhow::{Context, Result};
use comat::{batch, session::Session, train::Trainer};
use diffusion::{judge::Judge, prompts::Prompt, random::Purpose};
use models::{Error, tensors, text::counted};
use ranks::ProcessGroup;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// The held-out prompts and what measures them.
pub struct Validation {
    folder: PathBuf,
    pub prompts: Vec<Prompt>,
    judge: Option<Box<dyn Judge>>,
    first: Option<Round>,
    best: Option<Best>,
    /// Digest of what a round depends on besides the LoRA.
    of: String,
}

/// One measurement, with one value per prompt.
pub struct Round {
    pub losses: Vec<f64>,
    /// Values of each reward besides the caption loss, `[rewards, prompts]`.
    rewards: Vec<Vec<f64>>,
    /// Metrics of the judge, `[prompts, metrics]`.
    judged: Vec<Vec<f64>>,
    /// `[prompts, 3, H, W]`, bytes.
    images: Tensor,
}

impl Round {
    fn shallow_clone(&self) -> Self {
        let Self { losses, rewards, judged, images } = self;
        let (losses, rewards, judged) = (losses.clone(), rewards.clone(), judged.clone());
        Self { losses, rewards, judged, images: images.shallow_clone() }
    }
}

/// The best round so far by the judge's first metric.
#[derive(Clone, Serialize, Deserialize)]
struct Best {
    step: u64,
    figure: String,
    value: f64,
    /// Digest of what the round depends on besides the LoRA. Values with another digest are not compared.
    #[serde(default)]
    of: String,
    /// Steps of the rounds since then; none of them was better.
    #[serde(default)]
    rounds_since: Vec<u64>,
}

impl Validation {
    /// Opens it in a run's folder, which holds the first round and the best one if they exist. `of` identifies this
    /// judge and these prompts. A rank that does not lead reads no folder.
    pub fn open(
        folder: &Path,
        prompts: Vec<Prompt>,
        judge: Option<Box<dyn Judge>>,
        of: String,
        leads: bool,
    ) -> Result<Self> {
        let mut this = Self { folder: folder.to_owned(), prompts, judge, first: None, best: None, of };
        if this.judge.is_none() || !leads {
            return Ok(this);
        }
        let (first, best) = (this.first_path(), this.best_path());
        if first.exists() {
            this.first = this.read_first(&first)?;
        }
        if best.exists() {
            let text = fs::read_to_string(&best).map_err(Error::io(&best))?;
            let best: Best = serde_json::from_str(&text).map_err(|e| Error::file(&best, e.to_string()))?;
            this.best = Some(best).filter(|best| best.of == this.of);
        }
        Ok(this)
    }

    fn first_path(&self) -> PathBuf {
        self.folder.join("validation.safetensors")
    }

    fn best_path(&self) -> PathBuf {
        self.folder.join("best/best.json")
    }

    /// `None` if the file is of a round under other conditions.
    fn read_first(&self, path: &Path) -> Result<Option<Round>> {
        let (mut tensors, metadata) = tensors::read(path)?;
        if metadata.get("conditions") != Some(&self.of) {
            return Ok(None);
        }
        let mut take = |name: &str| tensors.remove(name).ok_or_else(|| Error::file(path, format!("{name} is missing")));
        let (losses, judged, images) = (take("losses")?, take("judged")?, take("images")?);
        let judged = judged.unbind(0).into_iter().map(Vec::<f64>::try_from).collect::<Result<_, _>>()?;
        Ok(Some(Round { losses: Vec::<f64>::try_from(losses)?, rewards: vec![], judged, images }))
    }

    fn write_first(&self, round: &Round) -> Result<()> {
        let judged: Vec<Tensor> = round.judged.iter().map(|figures| Tensor::from_slice(figures)).collect();
        let all = tensors::Tensors::from([
            ("losses".into(), Tensor::from_slice(&round.losses)),
            ("judged".into(), Tensor::stack(&judged, 0)),
            ("images".into(), round.images.shallow_clone()),
        ]);
        Ok(tensors::write(&self.first_path(), &all, HashMap::from([("conditions".into(), self.of.clone())]))?)
    }

    /// Digest of what a round depends on besides the LoRA: only rounds with the same one are compared.
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Number of rounds since the best one.
    pub fn since_best(&self) -> u64 {
        self.best.as_ref().map_or(0, |best| best.rounds_since.len() as u64)
    }

    /// Resumes at this step: later measurements belong to an abandoned branch.
    pub fn resume_at(&mut self, step: u64) {
        self.best.take_if(|best| best.step > step);
        self.best.iter_mut().for_each(|best| best.rounds_since.retain(|round| *round <= step));
    }

    /// Whether this round is the best so far.
    fn is_best(&mut self, step: u64, figure: &str, value: f64) -> bool {
        match &mut self.best {
            _ if !value.is_finite() => false,
            // already measured by an earlier process
            Some(best) if best.figure == figure && (best.step >= step || best.rounds_since.contains(&step)) => false,
            Some(best) if best.figure == figure && value <= best.value => {
                best.rounds_since.push(step);
                false
            }
            best => {
                *best = Some(Best { step, figure: figure.into(), value, of: self.of.clone(), rounds_since: vec![] });
                true
            }
        }
    }
}

/// Measures, logs, and warns when the loss has improved and the judge's metric has become worse since the first round.
/// If it is stopped, it writes nothing.
pub fn measure(run: &mut Run, trainer: &mut Trainer) -> Result<()> {
    if run.validation.prompts.is_empty() {
        return Ok(());
    }
    let share = unless_stopped(draw(run, trainer))?;
    let stopped = trainer.group.any(share.is_none())?;
    let Some(share) = share.filter(|_| !stopped) else { return Ok(()) };
    let round = gather(share, &trainer.session, run, &trainer.group)?;
    if !trainer.group.leads() {
        return Ok(());
    }
    let step = trainer.step;
    let (loss, error) = mean(&round.losses);
    let mut line = json!({
        "event": "validation", "step": step, "caption_loss": loss, "standard_error": error,
        "prompts": round.losses.len(), "losses": round.losses, "conditions": run.validation.of,
    });
    let names = trainer.session.rewards.iter().map(|other| other.reward.name());
    let rewards: Vec<(&str, f64)> = names.zip(round.rewards.iter().map(|values| mean(values).0)).collect();
    if let Some(line) = line.as_object_mut() {
        line.extend(rewards.iter().map(|(name, reward)| (format!("reward_{name}"), (*reward).into())));
    }
    let said: String = rewards.iter().map(|(name, reward)| format!(", reward {name} {reward:.4}")).collect();
    if let (Some(judge), Some(line)) = (&run.validation.judge, line.as_object_mut()) {
        let figures = judge.metrics();
        let values: Vec<f64> = (0..figures.len()).map(|f| mean(&column(&round.judged, f)).0).collect();
        let named = figures.iter().zip(&values).map(|(name, value)| ((*name).to_owned(), json!(value)));
        line.insert("judge".into(), serde_json::Value::Object(named.collect()));
        if run.validation.first.is_none() && step == 0 {
            run.validation.write_first(&round)?;
            run.validation.first = Some(round.shallow_clone());
        }
        if let Some(first) = &run.validation.first {
            line.insert("distance".into(), distance(&first.images, &round.images).into());
            if let Some(warning) = hacked(figures[0], first, &round) {
                tracing::warn!("step {step}: {warning}");
            }
        }
        let config = &trainer.session.config.validation;
        let best = run.validation.is_best(step, figures[0], values[0]);
        if config.keep_best || config.early_stop > 0 {
            if best && config.keep_best {
                run.write_adapter(trainer, &trainer.lora(), "best")?;
            }
            write_best(&run.validation)?; // so that a resumed run continues the count
        }
    }
    run.journal.write(line)?;
    tracing::info!("step {step}: caption loss on {} {loss:.4}{said}", counted(round.losses.len(), "held-out prompt"));
    run.measured.push((step, round.losses));
    Ok(())
}

/// Measures a rank's share of the prompts.
fn draw(run: &Run, trainer: &mut Trainer) -> Result<Round> {
    let lora = trainer.lora();
    let (session, group) = (&mut trainer.session, &trainer.group);
    let unet = session.frozen(&lora)?;
    let (mut losses, mut judged, mut bytes) = (vec![], vec![], vec![]);
    let mut rewards = vec![vec![]; session.rewards.len()];
    let all = &run.validation.prompts;
    let mine = group.share(all.len());
    for (start, length) in config::pieces(
        mine.len() as i64,
        group.at_a_time(session.config.train.batch_size, session.config.train.accumulation),
    ) {
        let start = mine.start as i64 + start;
        let prompts: Vec<&str> = all[start as usize..][..length as usize].iter().map(|p| p.text.as_str()).collect();
        let places: Vec<u64> = (start as u64..(start + length) as u64).collect();
        let (x, noise) = batch::noise(session, Purpose::Validation, 0, &places)?;
        run.bar.set_message(format!("validation {start}/{}", all.len()));
        let sampler = session.sampler.clone();
        let images = session.draw(unet.as_ref(), &sampler, &prompts, x, noise, || run.tick_unless_stopped())?;
        // one image at a time, so that the mean does not depend on how the prompts are cut into batches
        losses.extend(session.captioner.losses(&images, &prompts)?);
        for (values, other) in rewards.iter_mut().zip(&session.rewards) {
            values.extend(other.reward.values(&images, &prompts)?);
        }
        if let Some(judge) = &run.validation.judge {
            let images = images.clamp(0.0, 1.0);
            judged.extend(judge.judge(&images, &prompts).context("validation.judge")?);
            bytes.push((images.to_kind(Kind::Float) * 255.0).round().to_kind(Kind::Uint8).to_device(Device::Cpu));
        }
    }
    let images = if bytes.is_empty() { Tensor::new() } else { Tensor::cat(&bytes, 0) };
    Ok(Round { losses, rewards, judged, images })
}

/// The whole round, gathered from the ranks' shares.
fn gather(share: Round, session: &Session, run: &Run, group: &ProcessGroup) -> Result<Round> {
    if group.is_alone() {
        return Ok(share);
    }
    let (all, mine) = (run.validation.prompts.len(), share.losses.len() as i64);
    let figures = run.validation.judge.as_ref().map(|judge| judge.metrics().len());
    let first = 1 + share.rewards.len(); // first column of the judge
    let columns = (first + figures.unwrap_or(0)) as i64;
    let rows = share.losses.iter().enumerate().flat_map(|(i, loss)| {
        let rewards = share.rewards.iter().map(move |values| values[i]);
        let judged = share.judged.get(i).into_iter().flatten();
        std::iter::once(*loss).chain(rewards).chain(judged.copied())
    });
    let rows = Tensor::from_slice(&rows.collect::<Vec<f64>>()).view([mine, columns]);
    let rows =
        group.gather(&rows, all)?.unbind(0).into_iter().map(Vec::<f64>::try_from).collect::<Result<Vec<_>, _>>()?;
    let images = match figures {
        Some(_) => {
            let shape = [mine, 3, session.size.height, session.size.width];
            let none = || Tensor::zeros(shape, (Kind::Uint8, Device::Cpu));
            group.gather(&if mine == 0 { none() } else { share.images }, all)?
        }
        None => Tensor::new(),
    };
    let judged = if figures.is_some() { rows.iter().map(|row| row[first..].to_vec()).collect() } else { vec![] };
    let rewards = (1..first).map(|of| column(&rows, of)).collect();
    Ok(Round { losses: column(&rows, 0), rewards, judged, images })
}

fn write_best(validation: &Validation) -> Result<()> {
    let folder = validation.folder.join("best");
    models::make_folder(&folder)?;
    let text = serde_json::to_string_pretty(&validation.best)? + "\n";
    Ok(models::write_text(&validation.best_path(), &text)?)
}

/// The warning for the case that the loss has improved and the judge's metric has become worse, both by more than twice
/// their standard error.
fn hacked(figure: &str, first: &Round, now: &Round) -> Option<String> {
    let change =
        |before: &[f64], after: &[f64]| mean(&before.iter().zip(after).map(|(b, a)| a - b).collect::<Vec<_>>());
    let (loss, loss_error) = change(&first.losses, &now.losses);
    let (value, value_error) = change(&column(&first.judged, 0), &column(&now.judged, 0));
    (loss < -2.0 * loss_error && value < -2.0 * value_error).then(|| {
        format!(
            "the caption loss fell by {:.4} ± {loss_error:.4}, but so did {figure}, by {:.4} ± {value_error:.4}: the captioner is \
             being fooled. Less of optimizer.learning_rate or lora.rank, or [fidelity], may help",
            -loss, -value
        )
    })
}

/// The root mean square change over all pixels, in 0..1.
fn distance(before: &Tensor, after: &Tensor) -> f64 {
    if before.size() != after.size() {
        return 0.0;
    }
    let difference = (before.to_kind(Kind::Float) - after.to_kind(Kind::Float)) / 255.0;
    difference.square().mean(Kind::Double).sqrt().double_value(&[])
}

fn column(rows: &[Vec<f64>], figure: usize) -> Vec<f64> {
    rows.iter().map(|row| row[figure]).collect()
}

/// Mean, and its standard error.
pub(super) fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_their_errors() {
        assert_eq!(mean(&[1.0, 2.0, 3.0, 4.0]), (2.5, (5.0f64 / 3.0 / 4.0).sqrt()));
        assert_eq!(mean(&[2.0]), (2.0, 0.0));
    }

    fn round(losses: &[f64], judged: &[f64]) -> Round {
        let rewards = vec![];
        Round {
            losses: losses.to_vec(),
            rewards,
            judged: judged.iter().map(|v| vec![*v]).collect(),
            images: Tensor::new(),
        }
    }

    #[test]
    fn a_fooled_captioner_is_noticed() {
        let first = round(&[2.0, 2.1, 1.9, 2.0], &[0.5, 0.6, 0.5, 0.4]);
        let better = round(&[1.0, 1.2, 0.9, 1.1], &[0.6, 0.7, 0.5, 0.5]);
        let worse = round(&[1.0, 1.2, 0.9, 1.1], &[0.2, 0.4, 0.3, 0.1]);
        assert_eq!(hacked("bound", &first, &better), None);
        assert_eq!(hacked("bound", &first, &first), None);
        assert!(
            hacked("bound", &first, &worse).unwrap().contains("fell by 0.9500 ± 0.0289, but so did bound, by 0.2500")
        );
        let noisy = round(&[1.0, 1.2, 0.9, 1.1], &[0.9, 0.1, 0.7, 0.0]);
        assert_eq!(hacked("bound", &first, &noisy), None, "what may be chance is not said");
    }

    #[test]
    fn the_best_round_is_kept_in_mind() {
        let mut watch =
            Validation { folder: "x".into(), prompts: vec![], judge: None, first: None, best: None, of: String::new() };
        let better: Vec<bool> =
            [0.1, 0.3, 0.3, 0.2].iter().enumerate().map(|(i, v)| watch.is_best(i as u64, "f", *v)).collect();
        assert_eq!((better, watch.since_best()), (vec![true, true, false, false], 2));
        assert!(!watch.is_best(3, "f", 0.2) && watch.since_best() == 2, "a round that is measured again counts once");
        assert!(watch.is_best(9, "f", 0.4) && watch.since_best() == 0);
        assert!(!watch.is_best(10, "f", f64::NAN));
        watch.resume_at(8);
        assert!(watch.is_best(9, "f", 0.35), "the branch with the better one was left");
    }

    #[test]
    fn distances() {
        let bytes = |value: i64| Tensor::full([2, 3, 4, 4], value, (Kind::Uint8, Device::Cpu));
        assert_eq!(distance(&bytes(7), &bytes(7)), 0.0);
        assert!((distance(&bytes(0), &bytes(51)) - 0.2).abs() < 1e-6);
    }
}
