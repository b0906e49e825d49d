//! Reads files of questions: CSV with the columns of `dsg-1k-anns.csv`, or JSON objects with the same names.

use super::{Item, Question};
use crate::files;
use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// The benchmark that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Dsg,
    /// The first row is skipped, and so the first question: DPG-Bench does this by mistake.
    Dpg,
}

/// Questions, and warnings about some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items {
    /// The items in the order of the file.
    pub items: Vec<Item>,
    /// One sentence for each problem, with file and line.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Row {
    item_id: String,
    #[serde(default)]
    text: String,
    proposition_id: u32,
    #[serde(deserialize_with = "dependency")]
    dependency: String,
    #[serde(default)]
    category_broad: String,
    #[serde(default)]
    tuple: String,
    question_natural_language: String,
}

/// Reads `0`, `"1,2"` or `[1, 2]` as text, as CSV has it.
fn dependency<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => text,
        Value::Array(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    })
}

/// Reads `.csv`, `.json` (an array) or `.jsonl`.
///
/// DSG's file has a few dependencies that are not only numbers (`5, right`). For such an item all dependencies are
/// dropped, as its authors do. A parent that is not among the item's questions is ignored here. Both give a warning.
///
/// # Errors
/// A file that cannot be read or has no questions; a row in another format; the same question twice; with [`Form::Dpg`]
/// a dependency that is not only numbers.
pub fn read(path: &Path, form: Form) -> Result<Items> {
    let rows = match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => read_csv(path)?,
        _ => files::read_json(path)?,
    };
    let rows = rows.into_iter().skip(usize::from(form == Form::Dpg));
    let (mut items, mut places) = (Vec::<Item>::new(), BTreeMap::<String, usize>::new());
    let mut warnings = vec![];
    let mut independent = vec![];
    for (line, row) in rows {
        let parents = numbers(&row.dependency);
        let at = *places.entry(row.item_id.clone()).or_insert(items.len());
        if at == items.len() {
            items.push(Item { id: row.item_id.clone(), text: row.text, questions: vec![] });
        }
        let item = &mut items[at];
        let number = row.proposition_id;
        if item.questions.iter().any(|q| q.number == number) {
            return Err(files::at(path, line, format!("there is a question {number} of {} already", item.id)));
        }
        if parents.is_none() {
            let message = format!("{}: question {number}: the dependency `{}` is not numbers", item.id, row.dependency);
            if form == Form::Dpg {
                return Err(files::at(path, line, message));
            }
            warnings.push(format!("{}; no question of this item depends on another", files::at(path, line, message)));
            independent.push(at);
        }
        item.questions.push(Question {
            number,
            text: row.question_natural_language,
            parents: parents.unwrap_or_default(),
            category: row.category_broad,
            tuple: row.tuple,
        });
    }
    independent.into_iter().for_each(|at| items[at].questions.iter_mut().for_each(|q| q.parents.clear()));
    warnings.extend(items.iter().filter_map(|item| strangers(path, item)));
    Ok(Items { items: files::not_empty(path, items, "questions")?, warnings })
}

fn read_csv(path: &Path) -> Result<Vec<(usize, Row)>> {
    let text = files::read(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut rows = vec![];
    let headers = reader.headers().map_err(|e| anyhow!("{}: {e}", path.display()))?.clone();
    let mut record = csv::StringRecord::new();
    let mut line = 1;
    // the reader reports the row's first line
    let in_row = |line: usize, e: csv::Error| {
        let message = match e.kind() {
            csv::ErrorKind::Deserialize { err, .. } => match err.field().and_then(|i| headers.get(i as usize)) {
                Some(column) => format!("{column}: {}", err.kind()),
                None => err.kind().to_string(),
            },
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} columns, where the first line has {expected_len}")
            }
            _ => e.to_string(),
        };
        files::at(path, line, message)
    };
    loop {
        let more = reader.read_record(&mut record);
        line = record.position().map_or(line, |p| p.line() as usize);
        if !more.map_err(|e| in_row(e.position().map_or(line, |p| p.line() as usize), e))? {
            return Ok(rows);
        }
        rows.push((line, record.deserialize(Some(&headers)).map_err(|e| in_row(line, e))?));
    }
}

/// The numbers of a dependency; none for `0`. `None` if it is not only numbers.
fn numbers(dependency: &str) -> Option<Vec<u32>> {
    let numbers: Option<Vec<u32>> = dependency.split(',').map(|part| part.trim().parse().ok()).collect();
    numbers.map(|numbers| numbers.into_iter().filter(|n| *n != 0).collect())
}

/// A warning about parents that are not among the item's questions.
fn strangers(path: &Path, item: &Item) -> Option<String> {
    let is_there = |number: &u32| item.questions.iter().any(|q| q.number == *number);
    let mut strangers: Vec<u32> = item.questions.iter().flat_map(|q| &q.parents).copied().collect();
    strangers.retain(|number| !is_there(number));
    strangers.sort_unstable();
    strangers.dedup();
    let list = strangers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let which = format!("{}: {}: questions depend on {list}, which there is no question of", path.display(), item.id);
    (!strangers.is_empty()).then_some(which)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEAD: &str = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n";

    fn file(name: &str, text: &str, form: Form) -> Result<Items> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        read(&path, form)
    }

    fn csv(rows: &str, form: Form) -> Result<Items> {
        file("questions.csv", &format!("{HEAD}{rows}"), form)
    }

    const TWO: &str = "vrd_1,\"A dog,\nrunning\",dog,1,0,entity,whole,entity - whole (dog),Is there a dog?\n\
        vrd_1,\"A dog,\nrunning\",dog,2,\"0, 1\",attribute,state,\"attribute - state (dog, run)\",Does it run?\n";

    #[test]
    fn csv_and_json() {
        let Items { items, warnings } = csv(TWO, Form::Dsg).unwrap();
        assert_eq!((items.len(), warnings.len()), (1, 0));
        assert_eq!((items[0].text.as_str(), items[0].category()), ("A dog,\nrunning", "relation"));
        assert_eq!(
            (items[0].questions[0].parents.as_slice(), items[0].questions[1].parents.as_slice()),
            (&[][..], &[1][..])
        );
        assert_eq!(items[0].questions[1].tuple, "attribute - state (dog, run)");
        let json = r#"[{"item_id": "a_1", "proposition_id": 1, "dependency": 0, "question_natural_language": "A dog?"},
            {"item_id": "a_1", "proposition_id": 2, "dependency": [1], "question_natural_language": "Red?"},
            {"item_id": "a_1", "proposition_id": 3, "dependency": "1,2", "question_natural_language": "Dark?"}]"#;
        let questions = file("q.json", json, Form::Dsg).unwrap().items.remove(0).questions;
        assert_eq!(questions.iter().map(|q| q.parents.len()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn dpg_skips_its_first_row() {
        let item = csv(TWO, Form::Dpg).unwrap().items.remove(0);
        assert_eq!(item.questions.iter().map(|q| q.number).collect::<Vec<_>>(), [2]);
        assert!(csv("", Form::Dpg).unwrap_err().to_string().contains("no questions"));
    }

    #[test]
    fn dependencies_that_are_none() {
        let rows = format!("{TWO}vrd_1,,dog,3,\"1, right\",,,,Right?\nvrd_2,,cat,2,1,,,,Red?\n");
        let Items { items, warnings } = csv(&rows, Form::Dsg).unwrap();
        assert!(items[0].questions.iter().all(|q| q.parents.is_empty()));
        assert!(warnings[0].contains("questions.csv:6: vrd_1: question 3: the dependency `1, right`"), "{warnings:?}");
        assert!(warnings[1].contains("vrd_2: questions depend on 1, which"), "{warnings:?}");
        assert_eq!(warnings.len(), 2);
        assert!(csv(&rows, Form::Dpg).unwrap_err().to_string().contains("`1, right` is not numbers"));
    }

    #[test]
    fn errors_say_where() {
        let error = |rows: &str| csv(rows, Form::Dsg).unwrap_err().to_string();
        let twice = error(&format!("{TWO}vrd_1,,dog,1,0,,,,Again?\n"));
        assert!(twice.contains("questions.csv:6: there is a question 1 of vrd_1 already"), "{twice}");
        let number = error("a_1,,dog,x,0,,,,Again?\n");
        assert!(number.contains("questions.csv:2: proposition_id: invalid digit"), "{number}");
        let short = error("a_1,dog,1,0\n");
        assert!(short.contains("questions.csv:2: 4 columns"), "{short}");
        let other = file("a.csv", "prompt,b\nx,y\n", Form::Dsg).unwrap_err().to_string();
        assert!(other.contains("a.csv:2: missing field `item_id`"), "{other}");
    }
}
