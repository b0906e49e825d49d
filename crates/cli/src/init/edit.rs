//! Changes values in the text of a preset and keeps its comments.

use anyhow::{Context, Result};

/// Sets `section.key` to `value`, which is in TOML syntax. The section is empty for keys at the top of the file. A
/// missing key is inserted as the section's first line.
///
/// # Errors
/// The preset has no such section.
pub fn set(text: &str, section: &str, key: &str, value: &str) -> Result<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let heading = |line: &String| line.starts_with('[');
    let start = match section {
        "" => 0,
        _ => {
            let is_it = |line: &String| line.strip_prefix('[').and_then(|rest| rest.split(']').next()) == Some(section);
            1 + lines.iter().position(is_it).with_context(|| format!("the preset has no [{section}]"))?
        }
    };
    let end = lines[start..].iter().position(heading).map_or(lines.len(), |length| start + length);
    let is_it = |line: &String| line.split('=').next().is_some_and(|name| name.trim() == key);
    match lines[start..end].iter().position(is_it) {
        Some(place) => lines[start + place] = with_value(&lines[start + place], key, value),
        None => lines.insert(start, format!("{key} = {value}")),
    }
    Ok(lines.join("\n") + "\n")
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
}
