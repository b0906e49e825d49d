//! Reports: one HTML file that contains everything it shows, so that a browser needs no network.
//!
//! A [`page`] consists of sections. They contain tables ([`compare`]), a [`gallery`] of images, and [`chart`]s of a
//! run's [`log`] ([`training`]). [`write()`] makes the page of any number of runs and evaluations. The miniature world
//! has a page of its own.

pub mod chart;
pub mod compare;
mod evaluation;
mod folder;
pub mod gallery;
pub mod image;
pub mod log;
pub mod numbers;
mod overview;
pub mod page;
mod run;
pub mod samples;
mod scores;
pub mod serve;
pub mod training;

use anyhow::Result;
use evaluation::Evaluation;
use folder::Folder;
use log::Log;
use maud::{Markup, html};
use numbers::counted;
use page::Page;
use run::Run;
use std::path::{Path, PathBuf};

/// What a page shows.
#[derive(Debug, Clone)]
pub struct Request {
    /// Training runs, evaluations, and folders of scored images.
    pub folders: Vec<PathBuf>,
    /// Scored images that evaluations without a base of their own are compared with.
    pub base: Option<PathBuf>,
    pub title: Option<String>,
    /// Number of prompts whose images are shown: for a run, and for each category and outcome of an evaluation.
    pub images: usize,
}

/// Writes the page. Returns notes on gaps in it.
pub fn write(request: &Request, out: &Path) -> Result<Vec<String>> {
    let (title, body, notes) = made(request)?;
    Page { title: &title, body, style: "", script: "" }.save(out)?;
    Ok(notes)
}

/// Title and body of the page, and notes on gaps in it.
fn made(request: &Request) -> Result<(String, Markup, Vec<String>)> {
    let names = folder::names(&request.folders)?;
    let (mut runs, mut evaluations, mut notes) = (vec![], vec![], vec![]);
    for (path, name) in request.folders.iter().zip(names) {
        match Folder::at(path)? {
            Folder::Run => runs.push(Run { name, folder: path.clone(), log: Log::read(path)? }),
            Folder::Evaluation(variants) => evaluations.push(Evaluation::read(name, path, &variants, &mut notes)?),
        }
    }
    if let Some(path) = &request.base {
        evaluation::compare_with(&mut evaluations, path, &mut notes)?;
    }
    runs.iter().for_each(|run| notes.extend(overview::gaps(run)));
    let samples = samples::sections(&runs, request.images, &mut notes)?;
    let scored = evaluations.iter().enumerate().map(|(number, evaluation)| {
        scores::section_of(evaluation, &format!("evaluation-{number}"), request.images, &mut notes)
    });
    let scored: Vec<Markup> = scored.collect();
    let mut sections: Vec<Markup> = [overview::runs(&runs), overview::curves(&runs)].into_iter().flatten().collect();
    sections.extend(samples.into_iter().chain(scored).chain(overview::settings(&runs)));
    sections.push(overview::reading(!runs.is_empty(), evaluations.iter().any(|e| e.base.is_some())));
    let title = request.title.clone().unwrap_or_else(|| title(&runs, &evaluations));
    let body = html! {
        (head(&title, &runs, &evaluations, &notes))
        @for section in sections { (section) }
    };
    Ok((title, body, notes))
}

fn title(runs: &[Run], evaluations: &[Evaluation]) -> String {
    let names = runs.iter().map(|run| &run.name).chain(evaluations.iter().map(|e| &e.name));
    let names: Vec<&str> = names.map(String::as_str).collect();
    match names.len() {
        0..=3 => names.join(", "),
        count => format!("{}, {} and {} more", names[0], names[1], count - 2),
    }
}

fn head(title: &str, runs: &[Run], evaluations: &[Evaluation], notes: &[String]) -> Markup {
    let mut what = vec![];
    if !runs.is_empty() {
        what.push(counted(runs.len(), "training run"));
    }
    if !evaluations.is_empty() {
        what.push(counted(evaluations.len(), "evaluation"));
    }
    html! {
        header {
            p .eyebrow { "CoMat report" }
            h1 { (title) }
            p .lead { (what.join(", ")) }
            @if !notes.is_empty() {
                ul .notes { @for note in notes { li { (note) } } }
            }
        }
    }
}
