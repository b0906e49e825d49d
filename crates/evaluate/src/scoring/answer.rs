//! Turns the networks' outputs into answers and scores, by the rules of the benchmark.

use super::look::{Seen, missing};
use crate::{
    judges::{ByClip, Judge, Judges},
    prompts::Task,
};
use anyhow::{Result, bail};
use benchmarks::{
    boxes::Detection,
    geneval,
    records::Answer,
    t2i_compbench::{numeracy, spatial},
    tifa,
};
use tch::Tensor;

/// `image`: `[3, H, W]` in 0..1.
pub fn to(task: &Task, image: &Tensor, seen: Seen, judges: &Judges) -> Result<Vec<Answer>> {
    Ok(match (task, seen) {
        (Task::Attributes(questions), Seen::Probabilities(all)) => Answer::blip_vqa(questions, &all)?,
        (Task::Similarity(text), Seen::Cosine(cosine)) => vec![Answer::score(cosine, Some(text.clone()))],
        (Task::Choices(questions), Seen::Words(words)) => {
            let sentences = judges.sentences.as_ref().ok_or_else(|| missing(Judge::Sentences))?;
            let answer = |(question, free): (&tifa::Question, &String)| {
                let choice = tifa::choose(free, &question.choices, sentences)?;
                Ok(Answer::tifa(question, free, choice))
            };
            questions.iter().zip(&words).map(answer).collect::<Result<_>>()?
        }
        (Task::YesOrNo(item, rule), Seen::Words(words)) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Answer::dsg(item, &words, *rule)?
        }
        (Task::Places { objects, locality }, Seen::Boxes(boxes)) => {
            let size = image.size();
            let near = spatial::near(size[2] as f64, size[1] as f64);
            let score = spatial::score(objects.as_ref(), *locality, &boxes, judges.threshold, near);
            vec![Answer::score(score, Some(list(&boxes)))]
        }
        (Task::Counts(wanted), Seen::Boxes(boxes)) => {
            vec![Answer::score(numeracy::score(wanted, &boxes, judges.threshold), Some(list(&boxes)))]
        }
        (Task::Clauses(metadata), Seen::Boxes(boxes)) => {
            let clip = judges.clip.as_ref().ok_or_else(|| missing(Judge::Clip))?;
            let verdict = geneval::judge(metadata, &boxes, judges.thresholds(), &ByClip { clip, image })?;
            let answer = Answer::geneval(&verdict);
            let found = list(&boxes);
            let why = answer.answer.map_or(found.clone(), |why| format!("{why}; {found}"));
            vec![Answer { answer: Some(why), ..answer }]
        }
        _ => bail!("a network answered another question than was asked"),
    })
}

/// Lists boxes as `dog 0.81 (12, 30, 200, 310), cat 0.40 (…)`, so that a reader can check a score.
fn list(boxes: &[Detection]) -> String {
    if boxes.is_empty() {
        return "found nothing".into();
    }
    let one = |found: &Detection| {
        let b = &found.bounds;
        format!("{} {:.2} ({:.0}, {:.0}, {:.0}, {:.0})", found.label, found.score, b.left, b.top, b.right, b.bottom)
    };
    format!("found {}", boxes.iter().map(one).collect::<Vec<_>>().join(", "))
}
