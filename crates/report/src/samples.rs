//! Sample images of runs: before and after training, and attention panels.

use super::{
    gallery::{self, Card, Panel, Shot},
    image::{self, Inlined, PANEL, SHOT},
    page::section,
    run::Run,
};
use anyhow::Result;
use images::Image;
use maud::{Markup, html};
use runlog::samples::{images, rounds};
use std::path::{Path, PathBuf};

/// Number of prompts of a run whose attention is shown.
const PANELS: usize = 3;

/// Sections with the first round of samples of each run beside its newest one, and with its attention panels. At most
/// `most` prompts of each run are compared.
pub(super) fn sections(runs: &[Run], most: usize, notes: &mut Vec<String>) -> Result<Vec<Markup>> {
    let (mut compared, mut shown) = (vec![], vec![]);
    for run in runs {
        let all = compare(run, runs.len() > 1)?;
        if all.len() > most {
            notes.push(format!("{}: the first {most} of {} sample prompts are shown", run.name, all.len()));
        }
        for sample in all.into_iter().take(most) {
            add(&mut compared, sample);
        }
        let panels = attention(&run.folder, PANELS)?;
        if !panels.is_empty() {
            shown.push((run.name.as_str(), panels));
        }
    }
    let cards: Vec<Card> = compared.iter().map(|sample| card(sample, notes)).collect();
    let mut sections = vec![];
    if !cards.is_empty() {
        let body = html! {
            p { "Sample prompts from fixed seeds, before the training and at the newest round. A click enlarges." }
            (gallery::show(&[], &cards))
        };
        sections.push(section("samples", "Before and after", &body));
    }
    let named: Vec<_> = shown.iter().map(|(name, panels)| ((runs.len() > 1).then_some(*name), &panels[..])).collect();
    sections.extend(words(&named));
    Ok(sections)
}

/// Attention panels of runs, each run under its name if it has one; `None` where there are no panels.
pub fn words(shown: &[(Option<&str>, &[Panel])]) -> Option<Markup> {
    let body = html! {
        p {
            "The first sample prompts of the run, above before the training and below after it, from one seed. Beside each image, how \
             much of the cross-attention of every place goes to a word, from dark to bright: the mean over all denoising steps, \
             layers and heads. Above and below have one scale."
        }
        @for (name, panels) in shown {
            @if let Some(name) = name { h3 .versus { (name) } }
            div .panels { (gallery::panels(panels)) }
        }
    };
    shown.iter().any(|(_, panels)| !panels.is_empty()).then(|| section("words", "Attention of words", &body))
}

/// Prompts and attention panels of the run's newest samples; at most `most`, and empty if there are none.
pub fn attention(run: &Path, most: usize) -> Result<Vec<Panel>> {
    let Some(folder) = rounds(run)?.pop().map(|(_, round)| round.join("attention")).filter(|f| f.exists()) else {
        return Ok(vec![]);
    };
    let panel = |file: &PathBuf| {
        let (_, texts) = Image::open_with_texts(file)?;
        Ok((texts.get("prompt").cloned().unwrap_or_default(), image::inlined(file, PANEL)?))
    };
    images(&folder)?.iter().take(most).map(panel).collect()
}

/// Samples of a prompt before and after training, of one run or of several.
struct Sample {
    prompt: String,
    /// The image before training, which is the same for all these runs; `None` if there is no earlier round.
    before: Option<(Image, PathBuf)>,
    /// Labels and files of the images after training.
    after: Vec<(String, PathBuf)>,
}

/// The samples of a run's newest round, with those of its first round.
fn compare(run: &Run, is_named: bool) -> Result<Vec<Sample>> {
    let rounds = rounds(&run.folder)?;
    let Some((step, newest)) = rounds.last() else { return Ok(vec![]) };
    let first = rounds.first().filter(|(first, _)| first < step);
    let called = if is_named { format!("{}, step {step}", run.name) } else { format!("step {step}") };
    let sample = |file: PathBuf| {
        let before = first.zip(file.file_name()).map(|((_, round), name)| round.join(name));
        let before = before.and_then(|file| Some((Image::open(&file).ok()?, file)));
        Sample { prompt: prompt(&file), before, after: vec![(called.clone(), file)] }
    };
    Ok(images(newest)?.into_iter().map(sample).collect())
}

/// Adds a sample. Samples of several runs with the same prompt and the same image before training are joined.
fn add(samples: &mut Vec<Sample>, new: Sample) {
    fn start(sample: &Sample) -> Option<&Image> {
        sample.before.as_ref().map(|(image, _)| image)
    }
    let same =
        |sample: &&mut Sample| sample.prompt == new.prompt && start(sample).is_some() && start(sample) == start(&new);
    match samples.iter_mut().find(same) {
        Some(sample) => sample.after.extend(new.after),
        None => samples.push(new),
    }
}

/// The prompt in a sample's text chunks; otherwise the name of its file.
fn prompt(file: &Path) -> String {
    let texts = Image::open_with_texts(file).map(|(_, texts)| texts).unwrap_or_default();
    let of_settings = |text: &String| {
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.iter().rposition(|line| line.starts_with("Steps: "))?;
        let end = lines[..end].iter().rposition(|line| line.starts_with("Negative prompt: ")).unwrap_or(end);
        Some(lines[..end].join(" "))
    };
    let name = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    texts.get("prompt").cloned().or_else(|| texts.get("parameters").and_then(of_settings)).unwrap_or_else(name)
}

fn card(sample: &Sample, notes: &mut Vec<String>) -> Card {
    let mut shot = |side: &str, is_tuned: bool, file: &Path| Shot {
        side: side.into(),
        is_tuned,
        image: or_note(file, notes),
        mark: None,
        note: String::new(),
        answers: vec![],
    };
    let mut shots: Vec<Shot> = vec![];
    shots.extend(sample.before.as_ref().map(|(_, file)| shot("step 0", false, file)));
    shots.extend(sample.after.iter().map(|(side, file)| shot(side, true, file)));
    Card { prompt: sample.prompt.clone(), note: String::new(), tags: vec![], shots }
}

/// Reads an image. If that fails, a note is added.
pub(super) fn or_note(file: &Path, notes: &mut Vec<String>) -> Option<Inlined> {
    match image::inlined(file, SHOT) {
        Ok(image) => Some(image),
        Err(error) => {
            notes.push(format!("an image is missing: {error:#}"));
            None
        }
    }
}
