//! A question counts only if the questions that it depends on are answered with "yes" (dsg/vqa_utils.py; ELLA,
//! dpg_bench/compute_dpg_bench.py).

use super::Item;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A question scores 0 if the answer to one of its parents is not "yes".
    Dsg,
    /// A question scores 0 if one of its parents scores 0, in the order of the questions. So the 0 passes on to the
    /// questions that depend on it.
    Dpg,
}

/// Scores of an item's questions for one image, in the order of the questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// 1 for each "yes", else 0.
    pub raw: Vec<f64>,
    /// The same, but 0 where a parent failed.
    pub scores: Vec<f64>,
}

impl Scored {
    /// Score of the item; NaN without questions.
    pub fn mean(&self) -> f64 {
        self.scores.iter().sum::<f64>() / self.scores.len() as f64
    }
}

/// Scores the answers, given in the order of the questions. Only exactly "yes" counts as yes.
///
/// # Errors
/// More or fewer answers than questions; with [`Rule::Dpg`], a parent that is not among the questions: the original
/// leaves such items out. With [`Rule::Dsg`] such a parent is ignored ([`read`](super::read) warns about it).
pub fn score(item: &Item, answers: &[&str], rule: Rule) -> Result<Scored> {
    if answers.len() != item.questions.len() {
        bail!("{}: {} answers to {} questions", item.id, answers.len(), item.questions.len());
    }
    let raw: Vec<f64> = answers.iter().map(|answer| f64::from(*answer == "yes")).collect();
    let mut by_number: BTreeMap<u32, f64> = item.questions.iter().map(|q| q.number).zip(raw.iter().copied()).collect();
    let mut scores = raw.clone();
    for (question, score) in item.questions.iter().zip(&mut scores) {
        for parent in &question.parents {
            match by_number.get(parent) {
                Some(parent) if *parent == 0.0 => *score = 0.0,
                None if rule == Rule::Dpg => {
                    bail!("{}: question {} depends on question {parent}, which is not there", item.id, question.number)
                }
                _ => {}
            }
        }
        if rule == Rule::Dpg {
            by_number.insert(question.number, *score);
        }
    }
    Ok(Scored { raw, scores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsg::Question;

    /// Is there a dog; is it red; is its red dark; is there a cat; is the dog beside the cat.
    fn item() -> Item {
        let question = |(number, parents): (u32, &[u32])| Question {
            number,
            text: String::new(),
            parents: parents.to_vec(),
            category: String::new(),
            tuple: String::new(),
        };
        let parents: [(u32, &[u32]); 5] = [(1, &[]), (2, &[1]), (3, &[2]), (4, &[]), (5, &[1, 4])];
        Item { id: "a_1".into(), text: String::new(), questions: parents.map(question).to_vec() }
    }

    #[test]
    fn what_depends_on_a_no() {
        let of = |answers: [&str; 5], rule| score(&item(), &answers, rule).unwrap();
        let all = of(["yes"; 5], Rule::Dsg);
        assert_eq!((all.mean(), &all.raw), (1.0, &all.scores));
        // no dog: 2 and 5 score 0. 3 depends on 2, whose own answer is "yes": 3 keeps its score with DSG and gets 0
        // with DPG
        let no_dog = ["no", "yes", "yes", "yes", "yes"];
        let dsg = of(no_dog, Rule::Dsg);
        assert_eq!((dsg.scores.clone(), dsg.mean()), (vec![0.0, 0.0, 1.0, 1.0, 0.0], 0.4));
        assert_eq!(dsg.raw, [0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(of(no_dog, Rule::Dpg).scores, [0.0, 0.0, 0.0, 1.0, 0.0]);
        // one failed parent of two is enough
        assert_eq!(of(["yes", "yes", "yes", "no", "yes"], Rule::Dsg).scores, [1.0, 1.0, 1.0, 0.0, 0.0]);
        // only exactly "yes" counts
        assert_eq!(of(["Yes", "yes ", "y", "", "yes"], Rule::Dsg).raw, [0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn what_cannot_be_scored() {
        assert!(score(&item(), &["yes"], Rule::Dsg).unwrap_err().to_string().contains("a_1: 1 answers to 5 questions"));
        let mut item = item();
        item.questions.remove(0);
        assert_eq!(score(&item, &["yes"; 4], Rule::Dsg).unwrap().mean(), 1.0);
        let error = score(&item, &["yes"; 4], Rule::Dpg).unwrap_err().to_string();
        assert_eq!(error, "a_1: question 2 depends on question 1, which is not there");
    }
}
