//! TIFA: captions with their questions.

use super::{Prompt, Task};
use anyhow::{Result, bail};
use benchmarks::tifa::{self, Question};
use std::{collections::BTreeMap, path::Path};

/// The prompts in the order of the file.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let (mut prompts, mut places) = (Vec::<(Prompt, Vec<Question>)>::new(), BTreeMap::<String, usize>::new());
    for question in tifa::read(path)? {
        let at = *places.entry(question.id.clone()).or_insert(prompts.len());
        if at == prompts.len() {
            let prompt = Prompt {
                id: question.id.clone(),
                category: question.source().into(),
                kind: None,
                text: question.caption.clone(),
                number: at as u64,
                tasks: vec![],
            };
            prompts.push((prompt, vec![]));
        }
        let (prompt, questions) = &mut prompts[at];
        if prompt.text != question.caption {
            let (id, first, other) = (&prompt.id, &prompt.text, &question.caption);
            bail!("{}: {id} has two captions, `{first}` and `{other}`", path.display());
        }
        questions.push(question);
    }
    Ok(prompts.into_iter().map(|(prompt, all)| Prompt { tasks: vec![Task::Choices(all)], ..prompt }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn captions_with_their_questions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let line = |id: &str, caption: &str, question: &str| {
            format!(
                r#"{{"id": "{id}", "caption": "{caption}", "question": "{question}", "choices": ["yes", "no"], "answer": "yes", "element_type": "object"}}"#
            )
        };
        let lines =
            [line("coco_7", "a dog", "dog?"), line("drawbench_1", "a cat", "cat?"), line("coco_7", "a dog", "one?")];
        fs::write(&path, lines.join("\n")).unwrap();
        let prompts = read(&path).unwrap();
        assert_eq!(
            prompts.iter().map(|p| (p.id.as_str(), p.category.as_str())).collect::<Vec<_>>(),
            [("coco_7", "coco"), ("drawbench_1", "drawbench")]
        );
        let Task::Choices(questions) = &prompts[0].tasks[0] else { panic!() };
        assert_eq!(questions.iter().map(|q| q.question.as_str()).collect::<Vec<_>>(), ["dog?", "one?"]);
        fs::write(&path, [line("coco_7", "a dog", "dog?"), line("coco_7", "a cat", "cat?")].join("\n")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("coco_7 has two captions, `a dog` and `a cat`"));
    }
}
