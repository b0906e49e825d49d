//! Changes values in the text of a preset and keeps its comments.

use anyhow::{Context, Result};
use std::ops::Range;

/// Sets `section.key` to `value`, which is in TOML syntax. The section is empty for keys at the top of the file. A
/// missing key is inserted as the section's first line.
///
/// # Errors
/// The preset has no such section.
pub fn set(text: &str, section: &str, key: &str, value: &str) -> Result<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let place = range(text, section).with_context(|| format!("the preset has no [{section}]"))?;
    match lines[place.clone()].iter().position(|line| is_of(line, key)) {
        Some(line) => lines[place.start + line] = with_value(&lines[place.start + line], key, value),
        None => lines.insert(place.start, format!("{key} = {value}")),
    }
    Ok(lines.join("\n") + "\n")
}

/// Takes `section.key` out, with the comments directly above it, where the text has it.
pub fn remove(text: &str, section: &str, key: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let place = range(text, section).unwrap_or_default();
    if let Some(line) = lines[place.clone()].iter().position(|line| is_of(line, key)) {
        let line = place.start + line;
        let comments = lines[place.start..line].iter().rev().take_while(|line| line.starts_with('#')).count();
        lines.drain(line - comments..=line);
    }
    lines.join("\n") + "\n"
}

/// Takes a section out, with its heading, its comments and the empty lines behind it, where the text has it.
pub fn remove_section(text: &str, section: &str) -> String {
    let place = range(text, section).map_or(0..0, |place| place.start - 1..place.end);
    let kept = text.lines().enumerate().filter(|(line, _)| !place.contains(line));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// Inserts a section of another text, with its heading and comments, before one of this text.
///
/// # Errors
/// One of the texts lacks its section.
pub fn insert_section(text: &str, before: &str, other: &str, section: &str) -> Result<String> {
    let lines = |text: &str, section: &str| {
        let place = range(text, section).with_context(|| format!("the preset has no [{section}]"))?;
        anyhow::Ok(place.start - 1..place.end)
    };
    let (at, new) = (lines(text, before)?.start, lines(other, section)?);
    let [all, other] = [text, other].map(|text| text.lines().collect::<Vec<&str>>());
    Ok([&all[..at], &other[new], &all[at..]].concat().join("\n") + "\n")
}

/// The lines of a section, without its heading. The section is empty for the top of the file.
fn range(text: &str, section: &str) -> Option<Range<usize>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_it = |line: &&str| line.strip_prefix('[').and_then(|rest| rest.split(']').next()) == Some(section);
    let start = if section.is_empty() { 0 } else { 1 + lines.iter().position(is_it)? };
    let length = lines[start..].iter().position(|line| line.starts_with('['));
    Some(start..length.map_or(lines.len(), |length| start + length))
}

/// Whether a line sets this key.
fn is_of(line: &str, key: &str) -> bool {
    line.split('=').next().is_some_and(|name| name.trim() == key)
}

/// Replaces the value in a line. The comment keeps its column if the new value is short enough.
fn with_value(line: &str, key: &str, value: &str) -> String {
    let new = format!("{key} = {value}");
    match line.find(" #") {
        Some(comment) => {
            format!("{new:<width$}{}", line[comment..].trim_start(), width = (comment + 1).max(new.chars().count() + 1))
        }
        None => new,
    }
}

/// A text as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_and_comments_stay() {
        let text = "seed = 0\n[model]\npath = \"a\"   # an id\n[captioner]\npath = \"b\"\n";
        let text = set(text, "captioner", "path", &quoted("c \"d\"")).unwrap();
        let text = set(&text, "model", "path", &quoted("longer than before")).unwrap();
        let text = set(&text, "", "seed", "3").unwrap();
        assert!(text.contains("path = \"longer than before\" # an id\n"), "{text}");
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["captioner"]["path"].as_str(), Some("c \"d\""));
        assert_eq!(
            (table["model"]["path"].as_str(), table["seed"].as_integer()),
            (Some("longer than before"), Some(3))
        );
        let text = set(&text, "model", "seed", "4").unwrap();
        assert!(text.contains("[model]\nseed = 4\npath = "), "{text}");
        assert!(set(&text, "memory", "offload", "true").is_err());
    }

    #[test]
    fn keys_and_sections_come_and_go_with_their_comments() {
        let text = "seed = 0\n\n[replay]\n# chained or\n# detached\nmode = \"chained\"\ntracked = 5\n\n[mixed] # off\na = 1\n\n[lora]\nrank = 4\n";
        assert_eq!(remove(text, "replay", "mode"), text.replace("# chained or\n# detached\nmode = \"chained\"\n", ""));
        assert_eq!(remove(text, "replay", "rank"), text);
        assert_eq!(remove(text, "none", "mode"), text);
        assert_eq!(remove_section(text, "mixed"), text.replace("[mixed] # off\na = 1\n\n", ""));
        assert_eq!(remove_section(text, "none"), text);
        let other = "[a]\nb = 1\n\n[c] # why\nd = 2 # e\n\n[f]\n";
        let both = insert_section(text, "lora", other, "c").unwrap();
        assert_eq!(both, text.replace("[lora]", "[c] # why\nd = 2 # e\n\n[lora]"));
        assert!(insert_section(text, "none", other, "c").is_err() && insert_section(text, "lora", other, "x").is_err());
    }
}
