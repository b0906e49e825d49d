//! TIFA (Hu et al. 2023): questions about a caption, each with its answer; the score is the share of correct answers
//! (tifascore/tifa_score.py).

use crate::files;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// A question of `tifa_v1.0_question_answers.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Id of the caption: `coco_301091`.
    pub id: String,
    pub caption: String,
    pub question: String,
    pub choices: Vec<String>,
    pub answer: String,
    /// `object`, `color`, `counting`, …
    pub element_type: String,
    #[serde(default)]
    pub element: String,
}

impl Question {
    /// Source of the caption: `coco` for `coco_301091`.
    pub fn source(&self) -> &str {
        self.id.rsplit_once('_').map_or(&self.id, |(source, _)| source)
    }

    /// 1 if this is the right choice, else 0.
    pub fn score(&self, choice: &str) -> f64 {
        f64::from(choice == self.answer)
    }
}

/// Similarity of sentences: the original uses SBERT's cosine (all-mpnet-base-v2), tifascore/mc_sbert.py.
pub trait Similarity {
    /// Similarity of an answer to each choice.
    ///
    /// # Errors
    /// Errors of the network.
    fn similarities(&self, answer: &str, choices: &[String]) -> Result<Vec<f64>>;
}

/// Reads questions from a JSON array, or from `.jsonl`.
///
/// # Errors
/// A file that cannot be read; a question without choices, or with an answer that is not among the choices.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    let mut questions = vec![];
    for (number, question) in files::read_json::<Question>(path)? {
        let Question { question: text, choices, answer, .. } = &question;
        if !choices.contains(answer) {
            let choices = choices.join(", ");
            bail!("{}: question {number}, `{text}`: the answer `{answer}` is none of [{choices}]", path.display());
        }
        questions.push(question);
    }
    files::not_empty(path, questions, "questions")
}

/// The choice that a free answer selects: the answer itself if it is a choice, else the most similar choice; of equal
/// ones the first.
///
/// # Errors
/// Errors of the network; no choices.
pub fn choose<'a>(answer: &'a str, choices: &'a [String], similarity: &dyn Similarity) -> Result<&'a str> {
    if choices.iter().any(|choice| choice == answer) {
        return Ok(answer);
    }
    let similarities = similarity.similarities(answer, choices)?;
    let best = choices.iter().zip(&similarities).reduce(|best, next| if next.1 > best.1 { next } else { best });
    match best {
        Some((choice, _)) if similarities.len() == choices.len() => Ok(choice),
        Some(_) => bail!("{} similarities for {} choices", similarities.len(), choices.len()),
        None => bail!("there is nothing to choose from for the answer `{answer}`"),
    }
}

/// Summary of scored questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Mean over captions of the mean over their questions.
    pub tifa_average: f64,
    /// Standard deviation of the captions' means, with n − 1; `None` with fewer than two captions.
    pub tifa_stdev: Option<f64>,
    /// Mean over the questions of each type.
    pub accuracy_by_type: BTreeMap<String, f64>,
    pub caption_scores: BTreeMap<String, f64>,
}

/// Sums up the scores of questions about one image of each caption. `None` without questions.
pub fn summary<'a>(scored: impl IntoIterator<Item = (&'a Question, f64)>) -> Option<Summary> {
    let (mut captions, mut types) = (BTreeMap::<_, Vec<f64>>::new(), BTreeMap::<_, Vec<f64>>::new());
    for (question, score) in scored {
        captions.entry(question.id.clone()).or_default().push(score);
        types.entry(question.element_type.clone()).or_default().push(score);
    }
    let means = |groups: BTreeMap<String, Vec<f64>>| -> BTreeMap<String, f64> {
        groups.into_iter().map(|(name, scores)| (name, mean(&scores))).collect()
    };
    let caption_scores = means(captions);
    let values: Vec<f64> = caption_scores.values().copied().collect();
    let average = mean(&values);
    let squares: f64 = values.iter().map(|v| (v - average).powi(2)).sum();
    (!values.is_empty()).then(|| Summary {
        tifa_average: average,
        tifa_stdev: (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt()),
        accuracy_by_type: means(types),
        caption_scores,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The captions with questions, with their ids; images are drawn from these captions.
pub fn captions(questions: &[Question]) -> BTreeSet<(&str, &str)> {
    questions.iter().map(|q| (q.id.as_str(), q.caption.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Similarity of numbers by their distance; other words are not similar.
    struct Close;

    impl Similarity for Close {
        fn similarities(&self, answer: &str, choices: &[String]) -> Result<Vec<f64>> {
            let number = |text: &str| text.parse::<f64>().unwrap_or(-100.0);
            Ok(choices.iter().map(|c| -(number(answer) - number(c)).abs()).collect())
        }
    }

    fn question(id: &str, text: &str, choices: &[&str], answer: &str, element_type: &str) -> Question {
        Question {
            id: id.into(),
            caption: "three cats and two dogs".into(),
            question: text.into(),
            choices: choices.iter().map(|c| (*c).into()).collect(),
            answer: answer.into(),
            element_type: element_type.into(),
            element: String::new(),
        }
    }

    #[test]
    fn free_answers_choose() {
        let choices = ["4", "2", "0"].map(String::from);
        let chosen = |answer| choose(answer, &choices, &Close).unwrap();
        assert_eq!((chosen("2"), chosen("5"), chosen("1"), chosen("cat")), ("2", "4", "2", "0"));
        assert!(choose("2", &[], &Close).unwrap_err().to_string().contains("nothing to choose"));
    }

    /// The answers of the sample published with TIFA: eleven questions about one caption, all answered correctly, and
    /// eight about another, three of them answered wrongly. Published: 0.8125, standard deviation 0.2651650429449553.
    #[test]
    fn the_published_sample() {
        let yes_no = ["yes", "no"];
        let (surfer, cats) = ("coco_301091", "drawbench_52");
        let types = ["animal/human", "object", "location", "activity", "color"];
        let mut scored: Vec<(Question, f64)> = vec![];
        for (element_type, number) in types.into_iter().zip([2, 1, 2, 2, 4]) {
            let right = question(surfer, "is this so?", &yes_no, "yes", element_type);
            scored.extend((0..number).map(|_| (right.clone(), right.score("yes"))));
        }
        let asked: [(&str, &[&str], &str, &str, &str); 8] = [
            ("cats?", &yes_no, "yes", "animal/human", "yes"),
            ("dogs?", &yes_no, "yes", "animal/human", "no"),
            ("grass?", &yes_no, "yes", "object", "yes"),
            ("on what?", &["grass", "sand", "floor"], "grass", "object", "grass"),
            ("sitting?", &yes_no, "yes", "activity", "yes"),
            ("how many cats?", &["1", "2", "3", "4"], "3", "counting", "3"),
            ("two dogs?", &yes_no, "yes", "counting", "no"),
            ("how many dogs?", &["1", "2", "3", "4"], "2", "counting", "0"), // not a choice: the nearest is 1
        ];
        for (text, choices, answer, element_type, free) in asked {
            let question = question(cats, text, choices, answer, element_type);
            let choice = choose(free, &question.choices, &Close).unwrap().to_owned();
            let score = question.score(&choice);
            scored.push((question, score));
        }
        let summary = summary(scored.iter().map(|(q, s)| (q, *s))).unwrap();
        assert_eq!(summary.tifa_average, 0.8125);
        assert!((summary.tifa_stdev.unwrap() - 0.265_165_042_944_955_3).abs() < 1e-15);
        assert_eq!(summary.caption_scores, BTreeMap::from([(surfer.into(), 1.0), (cats.into(), 0.625)]));
        let by_type = [("activity", 1.0), ("animal/human", 0.75), ("color", 1.0), ("counting", 1.0 / 3.0)];
        let by_type = by_type.into_iter().chain([("location", 1.0), ("object", 1.0)]);
        assert_eq!(summary.accuracy_by_type, by_type.map(|(name, mean)| (name.to_owned(), mean)).collect());
        assert_eq!(scored[0].0.source(), "coco");
    }

    #[test]
    fn few_captions() {
        let one = question("a", "?", &["yes", "no"], "yes", "object");
        assert_eq!(summary([(&one, 1.0)]).unwrap().tifa_stdev, None);
        assert_eq!(summary([]), None);
    }

    #[test]
    fn files_of_questions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.json");
        let mut questions = vec![question("coco_1", "a dog?", &["yes", "no"], "yes", "object")];
        std::fs::write(&path, serde_json::to_string(&questions).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), questions);
        assert_eq!(captions(&questions).into_iter().collect::<Vec<_>>(), [("coco_1", "three cats and two dogs")]);
        questions.push(question("coco_1", "which?", &["cat", "dog"], "cow", "object"));
        std::fs::write(&path, serde_json::to_string(&questions).unwrap()).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("question 2, `which?`: the answer `cow` is none of [cat, dog]"), "{error}");
        std::fs::write(&path, "[]").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no questions"));
    }
}
