//! What an image must show, clause by clause: `evaluation_metadata.jsonl`.

use crate::files;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A prompt and its clauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The task, for example `two_object`.
    pub tag: String,
    /// All of these must hold.
    #[serde(default)]
    pub include: Vec<Clause>,
    /// None of these may hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Clause>,
    pub prompt: String,
}

/// At least `count` objects of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    pub class: String,
    pub count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<Colour>,
    /// Position of these objects relative to the objects of an earlier clause, and the index of that clause, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(Relation, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    Red,
    Orange,
    Yellow,
    Green,
    Blue,
    Purple,
    Pink,
    Brown,
    Black,
    White,
}

impl Colour {
    /// All colours, in the order in which CLIP compares them.
    pub const ALL: [Self; 10] = [
        Self::Red,
        Self::Orange,
        Self::Yellow,
        Self::Green,
        Self::Blue,
        Self::Purple,
        Self::Pink,
        Self::Brown,
        Self::Black,
        Self::White,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Orange => "orange",
            Self::Yellow => "yellow",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Purple => "purple",
            Self::Pink => "pink",
            Self::Brown => "brown",
            Self::Black => "black",
            Self::White => "white",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relation {
    #[serde(rename = "left of")]
    Left,
    #[serde(rename = "right of")]
    Right,
    #[serde(rename = "above")]
    Above,
    #[serde(rename = "below")]
    Below,
}

impl Relation {
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left of",
            Self::Right => "right of",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

impl Metadata {
    pub(super) fn check(&self) -> Result<()> {
        for (i, clause) in self.include.iter().enumerate() {
            if let Some((_, target)) = clause.position
                && target >= i
            {
                bail!("clause {i}, `{}`: its position is to clause {target}, which is not before it", clause.class);
            }
        }
        Ok(())
    }
}

/// Reads the file, one prompt per line.
///
/// # Errors
/// A file that cannot be read or has no prompts; a line in another format; a position relative to a clause that does
/// not come before.
pub fn read(path: &Path) -> Result<Vec<Metadata>> {
    let text = files::read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let metadata = lines.map(|(i, line)| {
        let metadata: Metadata = files::parse(path, i + 1, line)?;
        metadata.check().map_err(|e| files::at(path, i + 1, e))?;
        Ok(metadata)
    });
    files::not_empty(path, metadata.collect::<Result<_>>()?, "prompts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Vec<Metadata>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluation_metadata.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn lines_of_the_benchmark() {
        let above = r#"{"tag": "position", "include": [{"class": "sink", "count": 1}, {"class": "tie", "count": 1, "position": ["above", 0]}], "prompt": "a photo of a tie above a sink"}"#;
        let two = r#"{"tag": "counting", "include": [{"class": "clock", "count": 2}], "exclude": [{"class": "clock", "count": 3}], "prompt": "a photo of two clocks"}"#;
        let read = file(&format!("{above}\n\n{two}")).unwrap();
        assert_eq!(read[0].include[1].position, Some((Relation::Above, 0)));
        assert_eq!((read[1].exclude[0].count, read[1].include[0].color), (3, None));
        let again: Vec<String> = read.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
        assert_eq!(again, [above, two].map(|line| line.replace(": ", ":").replace(", ", ",")));
        for colour in Colour::ALL {
            assert_eq!(serde_json::to_value(colour).unwrap(), colour.name());
        }
        assert_eq!(serde_json::to_value(Relation::Left).unwrap(), Relation::Left.name());
    }

    #[test]
    fn errors_say_where() {
        let error = |text: &str| file(text).unwrap_err().to_string();
        let teal =
            error(r#"{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "teal"}], "prompt": "x"}"#);
        assert!(teal.contains("evaluation_metadata.jsonl:1: unknown variant `teal`, expected one of `red`"), "{teal}");
        let later = r#"{"tag": "position", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}], "prompt": "x"}"#;
        assert!(error(&format!("\n{later}")).contains(":2: clause 0, `dog`: its position is to clause 0"));
        assert!(error("").contains("no prompts"));
    }
}
