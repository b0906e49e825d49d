//! Prompts whose questions depend on each other.

use super::{Prompt, Task};
use anyhow::Result;
use benchmarks::dsg::{self, Form, Item, Rule};
use std::path::Path;

/// The prompts in the order of the file. Items that the rule cannot score are left out with a warning, as the
/// benchmark's authors do.
pub fn read(path: &Path, rule: Rule) -> Result<Vec<Prompt>> {
    let form = if rule == Rule::Dpg { Form::Dpg } else { Form::Dsg };
    let read = dsg::read(path, form)?;
    read.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let scored = read.items.into_iter().filter(|item| {
        let answers = vec!["yes"; item.questions.len()];
        let checked = dsg::score(item, &answers, rule);
        if let Err(error) = &checked {
            tracing::warn!("{}: {error}; it is left out", path.display());
        }
        checked.is_ok()
    });
    let prompt = |(number, item): (u64, Item)| Prompt {
        id: item.id.clone(),
        category: item.category().into(),
        kind: None,
        text: item.text.clone(),
        number,
        tasks: vec![Task::YesOrNo(item, rule)],
    };
    Ok((0..).zip(scored).map(prompt).collect())
}
