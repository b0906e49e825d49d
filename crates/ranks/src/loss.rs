//! Errors of a rank that loses the others.

use crate::interrupt::{Interrupt, Interrupted};
use anyhow::anyhow;
use std::time::Duration;
use torch_ext::{first_line, nccl};

/// How long a rank waits, and what to say if that was in vain. Every command has its own terms.
#[derive(Clone)]
pub struct Terms {
    pub timeout: Duration,
    /// Name of the setting with the timeout, such as `ranks.timeout`.
    pub setting: &'static str,
    /// What remains of the work, and how to continue.
    pub hint: &'static str,
    /// For work that Ctrl-C ends at once. All ranks are stopped together then, so a missing rank is not reported.
    pub interrupt: Option<Interrupt>,
}

/// Why a message did not arrive.
#[derive(Debug)]
pub enum Loss {
    /// There was no answer within the timeout.
    Silent,
    Gone(String),
    /// NCCL failed: another rank may be gone, or this GPU may have a problem.
    Failed(String),
}

impl From<tch::TchError> for Loss {
    fn from(error: tch::TchError) -> Self {
        let line = first_line(&error);
        if line.contains("Timed out") { Self::Silent } else { Self::Gone(cause(&line)) }
    }
}

impl From<nccl::Error> for Loss {
    fn from(error: nccl::Error) -> Self {
        match error {
            nccl::Error::Timeout => Self::Silent,
            nccl::Error::Failed(why) => Self::Failed(why),
        }
    }
}

impl Terms {
    pub(super) fn error(&self, rank: usize, size: usize, loss: Loss) -> anyhow::Error {
        if self.interrupt.as_ref().is_some_and(Interrupt::is_set) {
            return Interrupted.into();
        }
        let why = match loss {
            Loss::Silent => {
                format!("no answer from another rank for {} s ({})", self.timeout.as_secs_f64(), self.setting)
            }
            Loss::Gone(why) => format!("another rank is gone ({why})"),
            Loss::Failed(why) => why,
        };
        anyhow!("rank {rank} of {size}: {why}; {}", self.hint)
    }
}

/// A message of c10d without its source location.
pub fn cause(line: &str) -> String {
    let line = line.strip_prefix("Internal torch error: ").unwrap_or(line);
    let place = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    place.filter(|(place, _)| place.contains(".cc:") || place.contains(".h:")).map_or(line, |(_, text)| text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_without_their_place() {
        let line = "Internal torch error: [/a/third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:3021";
        assert_eq!(cause(line), "Connection closed by peer [127.0.0.1]:3021");
        assert_eq!(cause("Internal torch error: no sign of rank 2"), "no sign of rank 2");
    }

    #[test]
    fn whoever_was_stopped_says_so() {
        let interrupt = Interrupt::default();
        let terms = Terms {
            timeout: Duration::from_secs(3),
            setting: "--ranks-timeout",
            hint: "the same command goes on",
            interrupt: Some(interrupt.clone()),
        };
        let said = |loss| terms.error(1, 2, loss);
        assert_eq!(
            said(Loss::Silent).to_string(),
            "rank 1 of 2: no answer from another rank for 3 s (--ranks-timeout); the same command goes on"
        );
        assert!(
            said(nccl::Error::Failed("NCCL: x".into()).into()).to_string().starts_with("rank 1 of 2: NCCL: x; the")
        );
        interrupt.set();
        assert!(said(Loss::Silent).is::<Interrupted>());
        let training = Terms { interrupt: None, ..terms };
        assert!(!training.error(1, 2, Loss::Silent).is::<Interrupted>());
    }
}
