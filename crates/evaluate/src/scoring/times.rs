//! Time spent on each part of the scoring.

use super::WAITING;
use std::{fmt, time::Instant};

#[derive(Debug, Clone, Default)]
pub struct Times {
    /// Images that were scored now.
    pub images: usize,
    /// Images that had been scored before.
    pub before: usize,
    /// Name of the part, seconds, images.
    parts: Vec<(&'static str, f64, usize)>,
}

impl Times {
    pub(super) fn add(&mut self, what: &'static str, since: Instant, images: usize) {
        let seconds = since.elapsed().as_secs_f64();
        match self.parts.iter_mut().find(|(name, ..)| *name == what) {
            Some((_, all, number)) => (*all, *number) = (*all + seconds, *number + images),
            None => self.parts.push((what, seconds, images)),
        }
    }
}

/// Prints `40 images scored in 12.3 s, 3.3 a second (60 before): blip-vqa 8.0 s, 5.0 a second; …`.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let rate = |images: usize, seconds: f64| images as f64 / seconds.max(1e-9);
        let total: f64 = self.parts.iter().map(|(_, seconds, _)| seconds).sum();
        let word = if self.images == 1 { "image" } else { "images" };
        write!(f, "{} {word} scored", self.images)?;
        if self.images > 0 {
            write!(f, " in {total:.1} s, {:.1} a second", rate(self.images, total))?;
        }
        if self.before > 0 {
            write!(f, " ({} before)", self.before)?;
        }
        for (i, (what, seconds, images)) in self.parts.iter().enumerate() {
            let sign = if i == 0 { ": " } else { "; " };
            write!(f, "{sign}{what} {seconds:.1} s")?;
            if *what != WAITING {
                write!(f, ", {:.1} a second", rate(*images, *seconds))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line() {
        let parts = vec![(WAITING, 0.5, 40), ("clip", 7.5, 30)];
        let times = Times { images: 40, before: 60, parts };
        assert_eq!(
            times.to_string(),
            "40 images scored in 8.0 s, 5.0 a second (60 before): waiting for images 0.5 s; clip 7.5 s, 4.0 a second"
        );
        assert_eq!(Times { before: 3, ..Times::default() }.to_string(), "0 images scored (3 before)");
    }
}
