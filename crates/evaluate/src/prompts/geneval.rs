//! GenEval: prompts with the clauses that must hold.

use super::{Prompt, Task};
use anyhow::Result;
use benchmarks::geneval::{self, Metadata};
use std::path::Path;

pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let prompt = |(number, metadata): (u64, Metadata)| Prompt {
        id: format!("{number:05}"),
        category: metadata.tag.clone(),
        kind: None,
        text: metadata.prompt.clone(),
        number,
        tasks: vec![Task::Clauses(metadata)],
    };
    Ok((0..).zip(geneval::read(path)?).map(prompt).collect())
}
