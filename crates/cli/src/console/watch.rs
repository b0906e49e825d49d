//! Occasional log lines in place of a progress bar, where there is no terminal.

use indicatif::{ProgressBar, WeakProgressBar};
use run::duration;
use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause before the first line. Each later pause is twice as long as the one before, up to [`LAST`].
const FIRST: Duration = Duration::from_secs(10);
const LAST: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

/// An estimate in seconds from which on nothing is said, 100 days.
const MOST_LEFT: f64 = 100.0 * 86_400.0;

/// Name of the bar that gets no lines here, since a training run logs its own.
pub const SPEAKS: &str = "train";

/// Watches the bar until it is finished or dropped.
pub fn start(bar: &ProgressBar) {
    let bar = bar.downgrade();
    // if the thread cannot start, there are no lines, but the work goes on
    let _ = thread::Builder::new().name("progress".into()).spawn(move || watch(&bar));
}

fn watch(bar: &WeakProgressBar) {
    let (mut told, mut pause, mut position) = (Instant::now(), FIRST, 0);
    loop {
        thread::sleep(LOOK);
        let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) else { return };
        if told.elapsed() < pause || bar.position() == position || bar.prefix() == SPEAKS {
            continue;
        }
        (told, pause, position) = (Instant::now(), (pause * 2).min(LAST), bar.position());
        tracing::info!("{}", line(&bar));
    }
}

fn line(bar: &ProgressBar) -> String {
    let (at, of) = (bar.position(), bar.length());
    let mut parts = vec![match of {
        Some(of) if of > 10_000_000 => format!("{} {:.0}/{:.0} MB", bar.prefix(), at as f64 / 1e6, of as f64 / 1e6),
        Some(of) => format!("{} {at}/{of}", bar.prefix()),
        None => format!("{} {at}", bar.prefix()),
    }];
    parts.extend(Some(bar.message()).filter(|message| !message.is_empty()));
    if of.is_some_and(|of| of > at) {
        // after a suspension nothing is known, and the estimate is of centuries
        let left = bar.eta().as_secs_f64();
        if left < MOST_LEFT {
            parts.push(format!("{} left", duration(left)));
        }
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_says() {
        let bar = ProgressBar::hidden();
        bar.set_prefix("generate");
        bar.set_position(3);
        assert_eq!(line(&bar), "generate 3");
        bar.set_length(4);
        assert!(line(&bar).starts_with("generate 3/4 · ") && line(&bar).ends_with(" left"), "{}", line(&bar));
        bar.set_length(20_000_000);
        bar.set_message("unet.safetensors");
        assert!(line(&bar).starts_with("generate 0/20 MB · unet.safetensors · "), "{}", line(&bar));
    }
}
