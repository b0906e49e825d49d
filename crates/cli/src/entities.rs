//! `comat entities`: shows which words of a prompt belong together.

use crate::console::print;
use anyhow::{Context, Result};
use clap::{Args as Group, ValueEnum};
use diffusion::prompts::{self, Prompt};
use entities::{Entity, Mode, Parser};
use serde_json::json;
use std::path::PathBuf;

/// Show which words of a prompt belong together
///
/// A line for each noun, with the words that say something about it. English only: prompts in other languages need their
/// entities in the prompt file, which then win. Of lists of tags: --mode tags.
#[derive(Group)]
pub struct Entities {
    /// A prompt; several can be given
    #[arg(value_name = "TEXT", required_unless_present = "prompts")]
    pub text: Vec<String>,
    /// Prompt file: .txt (a prompt a line), .jsonl, .json, .csv or .tsv
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// How entities are found
    #[arg(long, value_enum, default_value = "repaired")]
    pub mode: Which,
    /// A line of JSON for each prompt, places in bytes
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Which {
    /// By the parser, its usual mistakes put right
    Repaired,
    /// Exactly as the authors' program takes them
    Reference,
    /// Each tag of a list by itself: 1girl, red hair
    Tags,
}

pub fn run(args: Entities) -> Result<()> {
    let mut all: Vec<Prompt> = args.text.iter().map(|text| text.as_str().into()).collect();
    if let Some(path) = &args.prompts {
        all.extend(prompts::read(path)?);
    }
    let parser = Parser::shipped()?;
    let mode = match args.mode {
        Which::Repaired => Mode::Repaired,
        Which::Reference => Mode::Reference,
        Which::Tags => Mode::Tags,
    };
    let mut text = String::new();
    for prompt in &all {
        let found = match prompt.found().with_context(|| format!("prompt `{}`", prompt.text))? {
            Some(explicit) => explicit,
            None => parser.entities(&prompt.text, mode),
        };
        text += &if args.json { line(&prompt.text, &found) } else { readable(&prompt.text, &found, all.len() > 1) };
    }
    print(format_args!("{text}"))
}

fn line(prompt: &str, found: &[Entity]) -> String {
    let of = |e: &Entity| {
        let attributes: Vec<&str> = e.attributes.iter().map(|a| &prompt[a.clone()]).collect();
        json!({ "noun": e.noun(prompt), "attributes": attributes, "head": e.head, "compounds": e.compounds, "spans": e.attributes })
    };
    format!("{}\n", json!({ "prompt": prompt, "entities": found.iter().map(of).collect::<Vec<_>>() }))
}

fn readable(prompt: &str, found: &[Entity], named: bool) -> String {
    let mut text = if named { format!("{prompt}\n") } else { String::new() };
    let indent = if named { "  " } else { "" };
    let width = found.iter().map(|e| e.noun(prompt).chars().count()).max().unwrap_or(0);
    for entity in found {
        let attributes: Vec<&str> = entity.attributes.iter().map(|a| &prompt[a.clone()]).collect();
        text += format!("{indent}{:width$}  {}", entity.noun(prompt), attributes.join(", ")).trim_end();
        text += "\n";
    }
    if found.is_empty() {
        text += &format!("{indent}no nouns found\n");
    }
    text
}
