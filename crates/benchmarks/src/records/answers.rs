//! The answers that each benchmark writes for an image.

use super::Answer;
use crate::{
    dsg::{self, Item, Rule},
    geneval::Verdict,
    t2i_compbench::blip_vqa,
    tifa,
};
use anyhow::{Result, bail};

impl Answer {
    /// A score without a question: boxes, counts, CLIP. `found` says what was scored, for readers of the file.
    pub fn score(score: f64, found: Option<String>) -> Self {
        Self { score, answer: found, ..Self::default() }
    }

    /// Whether the image is correct, and if not, why.
    pub fn geneval(verdict: &Verdict) -> Self {
        let why = (!verdict.correct).then(|| verdict.reasons.join("; "));
        Self::score(f64::from(verdict.correct), why)
    }

    /// `free` is the network's answer, `choice` the choice that it selects ([`tifa::choose`]).
    pub fn tifa(question: &tifa::Question, free: &str, choice: &str) -> Self {
        Self {
            question: Some(question.question.clone()),
            question_type: Some(question.element_type.clone()),
            answer: Some(if free == choice { free.to_owned() } else { format!("{free} → {choice}") }),
            score: question.score(choice),
            ..Self::default()
        }
    }

    /// Answers from the probabilities of "yes" and "no" for each question ([`blip_vqa::questions`]). A prompt without
    /// questions gets one answer with score 1.
    ///
    /// # Errors
    /// More or fewer probabilities than questions.
    pub fn blip_vqa(questions: &[String], probabilities: &[(f64, f64)]) -> Result<Vec<Self>> {
        if questions.len() != probabilities.len() {
            bail!("{} probabilities for {} questions", probabilities.len(), questions.len());
        }
        if questions.is_empty() {
            return Ok(vec![Self::score(1.0, None)]);
        }
        let answer = |(question, (yes, no)): (&String, &(f64, f64))| Self {
            question: Some(question.clone()),
            probability: Some(yes / (yes + no)),
            score: blip_vqa::yes(*yes, *no),
            ..Self::default()
        };
        Ok(questions.iter().zip(probabilities).map(answer).collect())
    }

    /// Scores answers by the rule of DSG or DPG; `answers` in the order of the questions.
    ///
    /// # Errors
    /// The same as [`dsg::score`].
    pub fn dsg(item: &Item, answers: &[&str], rule: Rule) -> Result<Vec<Self>> {
        let scored = dsg::score(item, answers, rule)?;
        let answer = |(((question, answer), raw), score): (((&dsg::Question, &&str), &f64), &f64)| Self {
            question: Some(question.text.clone()),
            question_type: Some(question_type(question, rule).to_owned()),
            answer: Some((*answer).to_owned()),
            raw: Some(*raw),
            score: *score,
            ..Self::default()
        };
        Ok(item.questions.iter().zip(answers).zip(&scored.raw).zip(&scored.scores).map(answer).collect())
    }
}

fn question_type(question: &dsg::Question, rule: Rule) -> &str {
    match rule {
        Rule::Dpg if !question.tuple.is_empty() => dsg::dpg::categories(&question.tuple).0,
        _ => question.question_type(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Benchmark, Image, Metric, Subject};

    fn score(metric: Metric, answers: Vec<Answer>) -> f64 {
        let subject = Subject {
            benchmark: Benchmark::Dsg,
            category: String::new(),
            kind: None,
            prompt_id: String::new(),
            prompt: String::new(),
            index: 0,
            seed: None,
            file: String::new(),
            digest: None,
            asked: None,
        };
        Image::new(&subject, metric, answers).unwrap().score()
    }

    #[test]
    fn attributes() {
        let questions = ["a red dog?".to_owned(), "a cat?".to_owned()];
        let answers = Answer::blip_vqa(&questions, &[(0.2, 0.1), (0.3, 0.1)]).unwrap();
        assert_eq!((answers[0].score, answers[1].probability), (0.6667, Some(0.3 / 0.4)));
        assert_eq!(score(Metric::BlipVqa, answers), 0.5); // 0.6667 * 0.75 = 0.500025
        assert_eq!(score(Metric::BlipVqa, Answer::blip_vqa(&[], &[]).unwrap()), 1.0);
        assert!(Answer::blip_vqa(&questions, &[]).is_err());
    }

    #[test]
    fn questions() {
        let asked = tifa::Question {
            id: "coco_1".into(),
            caption: "two dogs".into(),
            question: "how many dogs?".into(),
            choices: vec!["1".into(), "2".into()],
            answer: "2".into(),
            element_type: "counting".into(),
            element: "dogs".into(),
        };
        let answer = Answer::tifa(&asked, "a pair", "2");
        assert_eq!((answer.answer.as_deref(), answer.score), (Some("a pair → 2"), 1.0));
        let question = |number, parents: &[u32], tuple: &str| dsg::Question {
            number,
            text: "?".into(),
            parents: parents.to_vec(),
            category: String::new(),
            tuple: tuple.into(),
        };
        let questions = vec![question(1, &[], "entity - whole (dog)"), question(2, &[1], "other - count (dog, ==2)")];
        let item = Item { id: "vrd_1".into(), text: String::new(), questions };
        let answers = Answer::dsg(&item, &["no", "yes"], Rule::Dsg).unwrap();
        assert_eq!((answers[1].raw, answers[1].score), (Some(1.0), 0.0));
        assert_eq!(answers[1].question_type.as_deref(), Some("attribute"));
        assert_eq!(score(Metric::Questions, answers), 0.0);
        let dpg = Answer::dsg(&item, &["yes", "yes"], Rule::Dpg).unwrap();
        assert_eq!(dpg[1].question_type.as_deref(), Some("other"));
    }

    #[test]
    fn right_or_not() {
        let wrong =
            Answer::geneval(&Verdict { correct: false, reasons: vec!["0 of 1 dog".into(), "1 of 2 cat".into()] });
        assert_eq!((wrong.answer.as_deref(), wrong.score), (Some("0 of 1 dog; 1 of 2 cat"), 0.0));
        assert_eq!(Answer::geneval(&Verdict { correct: true, reasons: vec![] }), Answer::score(1.0, None));
    }
}
