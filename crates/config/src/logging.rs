//! `[logging]`: what a run writes about itself beside `events.jsonl`.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// The program that receives the events, and its arguments.
    ///
    /// # Errors
    /// A command line without a word, or with a quote that is not closed.
    pub fn words(&self) -> Result<Option<Vec<String>>> {
        let Some(line) = &self.command else { return Ok(None) };
        match shlex::split(line) {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(Some(words)),
            Some(_) => bail!("logging.command is empty; name a program, or leave the key out"),
            None => bail!("logging.command has a quote that is not closed, or ends with a backslash: {line}"),
        }
    }
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
        for empty in ["", "  ", "''"] {
            assert!(words(empty).unwrap_err().to_string().starts_with("logging.command is empty"), "{empty:?}");
        }
        assert!(words("python3 'x").unwrap_err().to_string().contains("not closed"));
        assert_eq!(Logging::default().words().unwrap(), None);
    }
}
