//! Questions count only if what they presuppose is there (dsg/vqa_utils.py; ELLA, dpg_bench/compute_dpg_bench.py).

use super::Item;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A question whose parent's own answer is not "yes" scores 0.
    Dsg,
    /// A question whose parent scores 0 scores 0, in the order of the questions: what depends on a question that fell, falls too.
    Dpg,
}

/// The questions of an item, answered for one image; all in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// 1 for each "yes".
    pub raw: Vec<f64>,
    /// The same, 0 where a parent failed.
    pub scores: Vec<f64>,
}

impl Scored {
    /// Of the item. Not a number without questions.
    pub fn mean(&self) -> f64 {
        self.scores.iter().sum::<f64>() / self.scores.len() as f64
    }
}

/// `answers` in the order of the questions; only exactly "yes" is one.
///
/// # Errors
/// More or fewer answers than questions; with [`Rule::Dpg`], a parent that is none of the questions: the original leaves such items
/// out. With [`Rule::Dsg`] such a parent does not matter ([`read`](super::read) warns of it).
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

    /// A dog; it is red; its red is dark; a cat; the dog is beside the cat.
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
        // no dog: 2 and 5 fall. 3 depends on 2, which itself was answered by "yes": it stays with DSG, and falls with DPG
        let no_dog = ["no", "yes", "yes", "yes", "yes"];
        let dsg = of(no_dog, Rule::Dsg);
        assert_eq!((dsg.scores.clone(), dsg.mean()), (vec![0.0, 0.0, 1.0, 1.0, 0.0], 0.4));
        assert_eq!(dsg.raw, [0.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(of(no_dog, Rule::Dpg).scores, [0.0, 0.0, 0.0, 1.0, 0.0]);
        // one parent of two is enough
        assert_eq!(of(["yes", "yes", "yes", "no", "yes"], Rule::Dsg).scores, [1.0, 1.0, 1.0, 0.0, 0.0]);
        // nothing but "yes" is one
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
