//! Paths as they are typed. `~` and variables are expanded as a shell does, since no shell has expanded paths in files
//! or behind `--set KEY=`.

use serde::{Deserialize, Deserializer, de::Error};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Expands `~`, `~USER`, `$NAME` and `${NAME}`.
///
/// # Errors
/// An empty path; a variable that is not set.
pub fn expanded(path: &Path) -> Result<PathBuf, String> {
    let path = expanded_by(path, &|name| env::var(name).ok(), &home_of)?;
    if path.as_os_str().is_empty() { Err("it is empty; name a file or folder".into()) } else { Ok(path) }
}

/// What is wrong with a path of a model or a LoRA that does not exist. A single word may have been meant as an id.
pub fn not_there(path: &Path) -> &'static str {
    let ends_as_a_file = path.extension().is_some_and(|end| end.to_string_lossy().starts_with(char::is_alphabetic));
    match path.components().count() == 1 && !ends_as_a_file {
        true => "no such file or folder; an id of the hub is OWNER/NAME",
        false => "no such file or folder",
    }
}

fn expanded_by(
    path: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
    home: &dyn Fn(&str) -> Option<String>,
) -> Result<PathBuf, String> {
    let Some(text) = path.to_str().filter(|text| text.starts_with('~') || text.contains('$')) else {
        return Ok(path.to_owned());
    };
    let mut out = String::new();
    let mut rest = text;
    if let Some(behind) = text.strip_prefix('~') {
        let (user, after) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
        let found = if user.is_empty() { variable("HOME") } else { home(user) };
        match found {
            Some(folder) => out.push_str(folder.trim_end_matches('/')),
            None if user.is_empty() => return Err(format!("{text}: HOME is not set, so there is no ~")),
            None => out.push_str(&text[..=user.len()]), // a file name that begins with ~
        }
        rest = after;
    }
    while let Some((before, behind)) = rest.split_once('$') {
        out.push_str(before);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, after) = match behind.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or_else(|| format!("{text}: ${{ without a }}"))?,
            None => behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len())),
        };
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) {
            out.push('$');
            rest = behind;
            continue;
        }
        out.push_str(&variable(name).ok_or_else(|| format!("{text}: the variable {name} is not set"))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out.into())
}

fn home_of(user: &str) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line =
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line.first() == Some(&user))?;
    line.get(5).map(|folder| (*folder).to_owned())
}

/// For `deserialize_with`.
pub fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    expanded(&PathBuf::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Like [`one`], for a path that may be absent.
pub fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Option::<PathBuf>::deserialize(deserializer)?.map(|path| expanded(&path)).transpose().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/me/".to_owned()),
            "SCRATCH" => Some("/scratch".to_owned()),
            _ => None,
        };
        let home = |user: &str| (user == "you").then(|| "/home/you".to_owned());
        expanded_by(Path::new(path), &variable, &home).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn as_a_shell_reads_them() {
        for (typed, meant) in [
            ("~", "/home/me"),
            ("~/runs", "/home/me/runs"),
            ("~you/runs", "/home/you/runs"),
            ("~nobody/runs", "~nobody/runs"),
            ("./~/runs", "./~/runs"),
            ("a~b", "a~b"),
            ("$SCRATCH/a", "/scratch/a"),
            ("${SCRATCH}b/$SCRATCH.c", "/scratchb//scratch.c"),
            ("~/$SCRATCH", "/home/me//scratch"),
            ("5$ and $5, $", "5$ and $5, $"),
            ("OWNER/NAME@main", "OWNER/NAME@main"),
        ] {
            assert_eq!(of(typed).as_deref(), Ok(meant), "{typed}");
        }
        assert_eq!(of("$NOWHERE/x").unwrap_err(), "$NOWHERE/x: the variable NOWHERE is not set");
        assert!(of("${SCRATCH").unwrap_err().contains("without a }"));
        let hint = |path: &str| not_there(Path::new(path)).contains("OWNER/NAME");
        assert!(hint("stable-diffusion-v1-5") && hint("sdxl-1.0"));
        assert!(!hint("a.safetensors") && !hint("models/sd15") && !hint("./sd15"));
        assert_eq!(expanded(Path::new("")).unwrap_err(), "it is empty; name a file or folder");
    }
}
