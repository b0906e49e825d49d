//! Asks the same questions to a network behind an endpoint.

use super::{look::missing, shot::Shot};
use crate::{
    judges::{Judge, Judges},
    prompts::{Prompt, Task},
};
use anyhow::Result;
use benchmarks::{records::Answer, tifa};

/// Tells the endpoint the form of its answer.
const YES_OR_NO: &str = "Answer with yes or no only.";

pub fn ask<'a>(
    judges: &Judges,
    asked: &[(&Shot, &Task)],
    prompts: impl Iterator<Item = &'a Prompt>,
) -> Result<Vec<Vec<Answer>>> {
    let endpoint = judges.endpoint.as_ref().ok_or_else(|| missing(Judge::Endpoint))?;
    let of = |((shot, _), prompt): (&(&Shot, &Task), &Prompt)| {
        let words = endpoint.ask_all(&shot.bytes, &questions(prompt))?;
        answers(prompt, &words)
    };
    asked.iter().zip(prompts).map(of).collect()
}

/// The first of a prompt's tasks that has questions.
fn task(prompt: &Prompt) -> Option<&Task> {
    let asks = |task: &&Task| match task {
        Task::Attributes(questions) => !questions.is_empty(),
        Task::Choices(_) | Task::YesOrNo(..) => true,
        _ => false,
    };
    prompt.tasks.iter().find(asks)
}

fn questions(prompt: &Prompt) -> Vec<String> {
    match task(prompt) {
        Some(Task::Attributes(questions)) => {
            let ask =
                |question: &String| format!("Is there {} in the image? {YES_OR_NO}", question.trim_end_matches('?'));
            questions.iter().map(ask).collect()
        }
        Some(Task::Choices(questions)) => {
            let ask =
                |q: &tifa::Question| format!("{} Answer with one of these only: {}.", q.question, q.choices.join("; "));
            questions.iter().map(ask).collect()
        }
        Some(Task::YesOrNo(item, _)) => item.questions.iter().map(|q| format!("{} {YES_OR_NO}", q.text)).collect(),
        _ => vec![format!("Does the image show this: {}? {YES_OR_NO}", prompt.text.trim_end_matches(['.', ' ']))],
    }
}

fn answers(prompt: &Prompt, words: &[String]) -> Result<Vec<Answer>> {
    let yes = |text: &String, said: &String| Answer {
        question: Some(text.clone()),
        answer: Some(said.clone()),
        score: f64::from(is_yes(said)),
        ..Answer::default()
    };
    Ok(match task(prompt) {
        Some(Task::Choices(questions)) => {
            let answer = |(question, said): (&tifa::Question, &String)| match chosen(said, &question.choices) {
                Some(choice) => Answer::tifa(question, said, choice),
                None => Answer { score: 0.0, ..Answer::tifa(question, said, said) },
            };
            questions.iter().zip(words).map(answer).collect()
        }
        Some(Task::YesOrNo(item, rule)) => {
            let plain: Vec<&str> = words.iter().map(|said| if is_yes(said) { "yes" } else { "no" }).collect();
            Answer::dsg(item, &plain, *rule)?
        }
        _ => questions(prompt).iter().zip(words).map(|(question, said)| yes(question, said)).collect(),
    })
}

/// Whether the first word is "yes".
fn is_yes(said: &str) -> bool {
    let word = said.split(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty());
    word.is_some_and(|word| word.eq_ignore_ascii_case("yes"))
}

/// The choice that an answer names: the choice that equals the whole answer, or the only choice whose words occur in
/// it.
fn chosen<'a>(said: &str, choices: &'a [String]) -> Option<&'a str> {
    let plain = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let said = plain(said);
    let whole = choices.iter().find(|choice| plain(choice) == said);
    let mut within = choices.iter().filter(|choice| {
        let words = plain(choice);
        !words.is_empty() && said.windows(words.len()).any(|part| part == words)
    });
    whole.or_else(|| within.next().filter(|_| within.next().is_none())).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(tasks: Vec<Task>) -> Prompt {
        Prompt { id: "1".into(), category: "x".into(), kind: None, text: "a dog runs.".into(), number: 0, tasks }
    }

    #[test]
    fn what_is_asked() {
        let attributes = prompt(vec![Task::Attributes(vec!["a red dog?".into(), "a cat?".into()])]);
        assert_eq!(questions(&attributes)[0], "Is there a red dog in the image? Answer with yes or no only.");
        let said = ["Yes, there is.".to_owned(), "No".to_owned()];
        let scores: Vec<f64> = answers(&attributes, &said).unwrap().iter().map(|a| a.score).collect();
        assert_eq!(scores, [1.0, 0.0]);
        let whole = prompt(vec![Task::Attributes(vec![]), Task::Similarity("a dog".into())]);
        assert_eq!(questions(&whole), ["Does the image show this: a dog runs? Answer with yes or no only."]);
        assert_eq!(answers(&whole, &["**yes**".to_owned()]).unwrap()[0].score, 1.0);
    }

    #[test]
    fn a_choice_is_named() {
        let choices = ["red", "dark red", "two", "Two dogs"].map(str::to_owned);
        assert_eq!(chosen("Red.", &choices), Some("red"));
        assert_eq!(chosen("dark red", &choices), Some("dark red"));
        assert_eq!(chosen("It is red", &choices), Some("red"));
        assert_eq!(chosen("It is dark red", &choices), None); // "red" is in it too
        assert_eq!(chosen("reddish", &choices), None);
        assert_eq!(chosen("", &choices), None);
        let question = tifa::Question {
            id: "coco_1".into(),
            caption: "c".into(),
            question: "What colour?".into(),
            choices: choices.to_vec(),
            answer: "red".into(),
            element_type: "color".into(),
            element: String::new(),
        };
        let prompt = prompt(vec![Task::Choices(vec![question])]);
        let score = |said: &str| answers(&prompt, &[said.to_owned()]).unwrap()[0].score;
        assert_eq!((score("It is red"), score("two"), score("blue")), (1.0, 0.0, 0.0));
        assert!(questions(&prompt)[0].ends_with("Answer with one of these only: red; dark red; two; Two dogs."));
    }
}
