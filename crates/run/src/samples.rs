//! Sample images from fixed seeds during training; each round is shown beside the first.

use super::{Run, unless_stopped};
use anyhow::Result;
use comat::{batch, session::Session, train::Trainer};
use diffusion::word_maps::{self, Heatmaps, Word};
use images::{Image, Texts, slug};
use models::{Error, lora::Lora};
use runlog::samples::{GRID, images};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
use torch_ext::Generator;

const MAPS: &str = "attention.safetensors";

/// Draws a round: the images in `samples/step-N`, all of them in `grid.png`, those of the adapter's running average in
/// the subfolder `ema/`; `before-after.png` in the run's folder; and, if configured, the attention maps of each prompt's
/// words. If it is stopped, no partial round is left.
pub fn draw(run: &mut Run, trainer: &mut Trainer) -> Result<()> {
    if run.samples.is_empty() {
        return Ok(());
    }
    unless_stopped(draw_all(run, trainer)).map(drop)
}

fn draw_all(run: &mut Run, trainer: &mut Trainer) -> Result<()> {
    let folder = run.folder.join("samples").join(format!("step-{}", trainer.step));
    let at_a_time =
        trainer.group.at_a_time(trainer.session.config.train.batch_size, trainer.session.config.train.accumulation);
    let (step, lora, session) = (trainer.step, trainer.lora(), &mut trainer.session);
    let watched = session.config.samples.attention;
    let of = |folder: &Path, watched| Round { step, folder: folder.to_owned(), watched, at_a_time };
    let drawn = of(&folder, watched).draw(run, session, &lora)?;
    show(run, step, "samples", &folder, &drawn)?;
    if let Some(ema) = trainer.ema.as_ref().filter(|_| session.config.preference.is_none()) {
        let folder = folder.join("ema");
        let drawn = of(&folder, false).draw(run, session, &ema.lora(&trainer.adapter))?;
        show(run, step, "samples-ema", &folder, &drawn)?;
    }
    compare(&run.folder, &folder, &drawn)?;
    run.journal.write(json!({ "event": "samples", "step": step, "folder": folder }))
}

/// The folder of a round, and how it is sampled.
struct Round {
    step: u64,
    folder: PathBuf,
    /// Whether attention maps of the words are drawn.
    watched: bool,
    at_a_time: usize,
}

impl Round {
    /// Writes the grid last: a folder without it is incomplete and is removed.
    fn draw(&self, run: &Run, session: &mut Session, lora: &Lora) -> Result<Vec<Image>> {
        let drawn = round(self, run, session, lora);
        if drawn.is_err() && !self.folder.join(GRID).exists() {
            let _ = fs::remove_dir_all(&self.folder);
        }
        drawn
    }
}

fn round(round: &Round, run: &Run, session: &mut Session, lora: &Lora) -> Result<Vec<Image>> {
    let Round { step, folder, watched, at_a_time } = round;
    let (step, watched, at_a_time) = (*step, *watched, *at_a_time);
    let config = session.config.clone();
    models::make_folder(folder)?;
    let (unet, sampler) = (session.frozen(lora)?, session.of_samples.clone());
    let mut drawn = vec![];
    let mut maps = word_maps::Store::default();
    for (start, length) in config::pieces(run.samples.len() as i64, at_a_time) {
        let first = start as usize;
        let prompts: Vec<&str> = run.samples[first..][..length as usize].iter().map(String::as_str).collect();
        let seeds: Vec<u64> = (0..length).map(|i| config.samples.seed.wrapping_add((start + i) as u64)).collect();
        let streams = seeds.iter().map(|seed| Generator::seeded(*seed)).collect::<Result<Vec<_>, _>>()?;
        let (x, noise) = batch::noise_from(session, &sampler, streams)?;
        run.bar.set_message(format!("samples {}/{}", start, run.samples.len()));
        let (images, sum) = if watched {
            let (images, sum) =
                session.draw_watched(unet.as_ref(), &sampler, &prompts, x, noise, || run.tick_unless_stopped())?;
            (images, Some(sum))
        } else {
            (session.draw(unet.as_ref(), &sampler, &prompts, x, noise, || run.tick_unless_stopped())?, None)
        };
        for (i, (prompt, seed)) in prompts.iter().zip(seeds).enumerate() {
            let image = Image::from_tensor(&images.get(i as i64))?;
            let path = folder.join(name(first + i, prompt));
            let settings = diffusion::generate::parameters(
                &config.samples.sampling(&config.sampling),
                prompt,
                seed,
                session.size,
                config.model.path.typed(),
                &[],
            );
            let (seed, at) = (seed.to_string(), step.to_string());
            image.save(&path, &[("parameters", &settings), ("prompt", prompt), ("seed", &seed), ("step", &at)])?;
            if let Some(sum) = &sum {
                let words = word_maps::words(prompt, &session.pipeline.text.tokens(prompt)?);
                let looks = Heatmaps { image: image.clone(), maps: sum.of(i as i64, &words)? };
                maps.add(first + i, prompt, &looks);
                let before = first_look(&run.folder.join("samples/step-0"), first + i, prompt)?;
                panel(&folder.join("attention"), first + i, prompt, &words, step, before, &looks)?;
            }
            drawn.push(image);
        }
    }
    if watched {
        maps.write(&folder.join(MAPS))?;
    }
    let columns = (drawn.len() as f64).sqrt().ceil() as usize;
    Image::grid(&drawn, columns).save(&folder.join(GRID), &[("step", &step.to_string())])?;
    Ok(drawn)
}

/// Sends the images of a round to TensorBoard.
fn show(run: &mut Run, step: u64, group: &str, folder: &Path, drawn: &[Image]) -> Result<()> {
    for (number, (prompt, image)) in run.samples.iter().zip(drawn).enumerate() {
        let file = name(number, prompt);
        let tag = format!("{group}/{}", file.trim_end_matches(".png"));
        run.journal.image(step, &tag, (image.width, image.height), &folder.join(file))?;
    }
    Ok(())
}

fn name(number: usize, prompt: &str) -> String {
    format!("{number:03}-{}.png", slug(prompt))
}

/// A sample with its maps from the first round, if its prompt was among the samples then.
fn first_look(round: &Path, number: usize, prompt: &str) -> Result<Option<Heatmaps>> {
    let image = round.join(name(number, prompt));
    if !image.exists() {
        return Ok(None);
    }
    word_maps::read(&round.join(MAPS), number, prompt, Image::open(&image)?)
}

fn panel(
    folder: &Path,
    number: usize,
    prompt: &str,
    words: &[Word],
    step: u64,
    first: Option<Heatmaps>,
    now: &Heatmaps,
) -> Result<()> {
    models::make_folder(folder)?;
    let now_at = format!("step {step}");
    let mut rows = vec![(now_at.as_str(), now)];
    if let Some(first) = first.as_ref().filter(|first| step > 0 && first.maps.size() == now.maps.size()) {
        rows.insert(0, ("step 0", first));
    }
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    word_maps::panel(&texts, &rows).save(&folder.join(name(number, prompt)), &[("prompt", prompt)])
}

/// `before-after.png`: a column for each prompt, the first round above and the newest below. Where prompts, seed or sampling
/// were changed in between there is nothing to compare, and an older comparison is removed.
fn compare(run: &Path, newest: &Path, drawn: &[Image]) -> Result<()> {
    let (first, both) = (run.join("samples/step-0"), run.join("before-after.png"));
    if !first.exists() {
        return Ok(()); // the run was started without samples
    }
    let open =
        |round: &Path| images(round)?.iter().map(|path| Image::open_with_texts(path)).collect::<Result<Vec<_>>>();
    let (before, after) = (open(&first)?, open(newest)?);
    let settings =
        |(_, texts): &(Image, Texts)| Some(texts.get("parameters")?.rsplit_once(", Version: ")?.0.to_owned());
    if !before.iter().map(settings).eq(after.iter().map(settings)) {
        if both.exists() {
            fs::remove_file(&both).map_err(Error::io(&both))?;
        }
        return Ok(());
    }
    let all: Vec<Image> = before.into_iter().map(|(image, _)| image).chain(drawn.iter().cloned()).collect();
    let factor = (256 / drawn.first().map_or(256, |p| p.width.max(1))).max(1);
    Image::grid(&all, drawn.len()).enlarge(factor).save(&both, &[])
}
