//! Runs a network on several images at once.

use super::shot::Shot;
use crate::{
    judges::{Judge, Judges, detect},
    prompts::Task,
};
use anyhow::{Result, anyhow};
use benchmarks::{boxes::Detection, geneval::Metadata};
use models::clip::ClipScore;
use std::collections::BTreeSet;
use tch::Tensor;

/// A network's output for one image.
pub enum Seen {
    /// Probabilities of "yes" and "no", for each question.
    Probabilities(Vec<(f64, f64)>),
    /// An answer to each question.
    Words(Vec<String>),
    Cosine(f64),
    Boxes(Vec<Detection>),
}

/// Runs the network on images whose tasks are all of the same kind.
pub fn at(judges: &Judges, asked: &[(&Shot, &Task)]) -> Result<Vec<Seen>> {
    let images: Vec<Tensor> = asked.iter().map(|(shot, _)| shot.image.shallow_clone()).collect();
    let vqa = || judges.vqa.as_ref().ok_or_else(|| missing(Judge::Vqa));
    let questions = || asked.iter().map(|(_, task)| questions(task)).collect::<Vec<_>>();
    Ok(match asked.first() {
        None | Some((_, Task::SecondOpinion)) => vec![],
        Some((_, Task::Attributes(_))) => {
            vqa()?.probabilities_each(&images, &questions())?.into_iter().map(Seen::Probabilities).collect()
        }
        Some((_, Task::Choices(_) | Task::YesOrNo(..))) => {
            vqa()?.answer_each(&images, &questions())?.into_iter().map(Seen::Words).collect()
        }
        Some((_, Task::Similarity(_))) => {
            let clip = judges.clip.as_ref().ok_or_else(|| missing(Judge::Clip))?;
            let texts: Vec<&str> = asked.iter().map(|(_, task)| text(task)).collect();
            cosines(clip, &images, &texts)?.into_iter().map(Seen::Cosine).collect()
        }
        Some((_, Task::Places { .. } | Task::Counts(_) | Task::Clauses(_))) => {
            let detector = judges.detector.as_ref().ok_or_else(|| missing(Judge::Detector))?;
            let names: Vec<Vec<String>> = asked.iter().map(|(_, task)| names(task)).collect();
            detect(detector, &images, &names)?.into_iter().map(Seen::Boxes).collect()
        }
    })
}

pub fn missing(judge: Judge) -> anyhow::Error {
    anyhow!("there is no {judge} to ask; give one by --{judge}")
}

fn questions(task: &Task) -> Vec<String> {
    match task {
        Task::Attributes(questions) => questions.clone(),
        Task::Choices(questions) => questions.iter().map(|q| q.question.clone()).collect(),
        Task::YesOrNo(item, _) => item.questions.iter().map(|q| q.text.clone()).collect(),
        _ => vec![],
    }
}

fn text(task: &Task) -> &str {
    if let Task::Similarity(text) = task { text } else { "" }
}

/// The names that a detector looks for, without repetitions.
fn names(task: &Task) -> Vec<String> {
    let all: Vec<&String> = match task {
        Task::Places { objects, .. } => objects.iter().flatten().collect(),
        Task::Counts(wanted) => wanted.iter().map(|w| &w.object).collect(),
        Task::Clauses(Metadata { include, exclude, .. }) => include.iter().chain(exclude).map(|c| &c.class).collect(),
        _ => vec![],
    };
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|name| seen.insert(*name)).cloned().collect()
}

/// Cosine of each image and its text (−1..1). Images of the same size are one batch; otherwise each runs alone.
fn cosines(clip: &ClipScore, images: &[Tensor], texts: &[&str]) -> Result<Vec<f64>> {
    if images.windows(2).all(|pair| pair[0].size() == pair[1].size()) {
        return Ok(clip.cosines(&Tensor::stack(images, 0), texts)?);
    }
    let one = |(image, text): (&Tensor, &&str)| Ok(clip.cosines(&image.unsqueeze(0), &[text])?[0]);
    images.iter().zip(texts).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detector_looks_for_each_thing_once() {
        let clause = r#"{"tag": "x", "prompt": "", "include": [{"class": "dog", "count": 2}, {"class": "cat", "count": 1}], "exclude": [{"class": "dog", "count": 3}]}"#;
        let metadata = serde_json::from_str(clause).unwrap();
        assert_eq!(names(&Task::Clauses(metadata)), ["dog", "cat"]);
        let same = Some(["dog".to_owned(), "dog".to_owned()]);
        assert_eq!(names(&Task::Places { objects: same, locality: None }), ["dog"]);
        assert_eq!(names(&Task::Places { objects: None, locality: None }), [""; 0]);
    }
}
