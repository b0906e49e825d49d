//! Child processes: never a question on standard input, errors that name the command.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// A command without standard input.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Runs the command, its output going straight through, and passes its exit code on.
pub fn pass_on(command: &mut Command) -> Result<ExitCode> {
    Ok(exit_code(status(command)?))
}

/// Runs the command, its output going straight through; anything but success is an error.
pub fn must(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Does the command run and succeed? Its output is thrown away.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// The command as one would type it, for messages.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("could not start `{}`", line(command)))
}

/// The child's exit code, or 128 + signal as a shell would say.
fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None::<i32>;
    let code = status.code().or(signal.map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn exit_codes_pass_through() {
        let code = |script: &str| format!("{:?}", pass_on(program("sh").args(["-c", script])).unwrap());
        assert_eq!(code("exit 101"), format!("{:?}", ExitCode::from(101)));
        assert_eq!(code("kill -KILL $$"), format!("{:?}", ExitCode::from(137)));
    }

    #[test]
    fn an_error_names_the_command() {
        let error = must(program("no-such-program").arg("--flag")).unwrap_err();
        assert_eq!(error.to_string(), "could not start `no-such-program --flag`");
    }
}
