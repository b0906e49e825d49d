//! `[logging]`: what a run writes about itself beside `events.jsonl`.

use anyhow::{Result, anyhow, bail};
use diffusion::settings::paths::expanded;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{env, os::unix::fs::PermissionsExt, path::Path};

/// What the run writes about itself, beside `events.jsonl` in its folder.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// Whether to write event files for TensorBoard, into `tensorboard/` in the run's folder.
    pub tensorboard: bool,
    /// Steps between two lines of progress where there is no terminal for a progress bar. 0: by time, after 10 seconds at first, later
    /// every minute.
    pub every: u64,
    /// A program that receives every event as it happens, a line of JSON each, on its standard input: to pass the run on to Weights &
    /// Biases, MLflow and others (docs/logging.md). Words are split as a shell splits them, but no shell is started. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Default for Logging {
    fn default() -> Self {
        Self { tensorboard: true, every: 0, command: None }
    }
}

impl Logging {
    pub(super) fn check(&self) -> Result<()> {
        self.words().map(drop)
    }

    /// Checks that there is such a program on this machine.
    ///
    /// # Errors
    /// There is none, or it cannot be executed; the errors of [`Self::words`].
    pub fn check_program(&self) -> Result<()> {
        let Some(words) = self.words()? else { return Ok(()) };
        let name = &words[0];
        let in_path =
            || env::var_os("PATH").is_some_and(|all| env::split_paths(&all).any(|f| is_program(&f.join(name))));
        match Path::new(name) {
            path if name.contains('/') && path.is_file() && !is_program(path) => {
                bail!(
                    "logging.command: `{name}` is not executable; make it so (chmod +x), or name its interpreter before it"
                )
            }
            path if name.contains('/') && !is_program(path) => {
                bail!("logging.command: there is no program `{name}`; correct the path")
            }
            _ if !name.contains('/') && !in_path() => {
                bail!("logging.command: there is no program `{name}` in PATH; name it by its path")
            }
            _ => Ok(()),
        }
    }

    /// The program that receives the events, and its arguments. `~/` is expanded.
    ///
    /// # Errors
    /// A command line without a word, or with a quote that is not closed.
    pub fn words(&self) -> Result<Option<Vec<String>>> {
        let Some(line) = &self.command else { return Ok(None) };
        match shlex::split(line) {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => {
                words.into_iter().map(at_home).collect::<Result<_>>().map(Some)
            }
            Some(_) => bail!("logging.command is empty; name a program, or leave the key out"),
            None => bail!("logging.command has a quote that is not closed, or ends with a backslash: {line}"),
        }
    }
}

/// A word with its `~/` expanded, as a shell does.
fn at_home(word: String) -> Result<String> {
    if !word.starts_with("~/") {
        return Ok(word);
    }
    let path = expanded(Path::new(&word)).map_err(|what| anyhow!("logging.command: {what}"))?;
    Ok(path.into_os_string().into_string().unwrap_or(word))
}

/// Whether a file can be executed by somebody.
fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_splits_it() {
        let words = |line: &str| Logging { command: Some(line.into()), ..Logging::default() }.words();
        assert_eq!(
            words("python3 'my logger.py' --name \"a b\"").unwrap().unwrap(),
            ["python3", "my logger.py", "--name", "a b"]
        );
        assert_eq!(words("cat $HOME > x").unwrap().unwrap(), ["cat", "$HOME", ">", "x"]);
        let home = env::var("HOME").unwrap();
        let home = home.trim_end_matches('/');
        assert_eq!(
            words("~/log.sh --to ~/x a~/b").unwrap().unwrap(),
            [&format!("{home}/log.sh"), "--to", &format!("{home}/x"), "a~/b"]
        );
        for empty in ["", "  ", "''"] {
            assert!(words(empty).unwrap_err().to_string().starts_with("logging.command is empty"), "{empty:?}");
        }
        assert!(words("python3 'x").unwrap_err().to_string().contains("not closed"));
        assert_eq!(Logging::default().words().unwrap(), None);
    }

    #[test]
    fn whether_the_program_is_there() {
        let check = |line: &str| Logging { command: Some(line.into()), ..Logging::default() }.check_program();
        check("cat -u").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("log.sh");
        let line = script.to_str().unwrap();
        let error = |line: &str| check(line).unwrap_err().to_string();
        assert!(error("no-such-program x").contains("no program `no-such-program` in PATH"));
        assert!(error(line).contains("there is no program"), "{}", error(line));
        std::fs::write(&script, "#!/bin/sh\ncat\n").unwrap();
        assert!(error(line).contains("is not executable"), "{}", error(line));
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        check(line).unwrap();
        Logging::default().check_program().unwrap();
    }
}
