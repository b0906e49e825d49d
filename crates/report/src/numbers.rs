//! Numbers as text: signs, intervals, times, amounts.

use benchmarks::statistics::Estimate;

/// How a number is written: multiplied by `factor`, with `digits` decimals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub factor: f64,
    pub digits: usize,
}

impl Scale {
    /// A share, in per cent.
    pub const PERCENT: Self = Self { factor: 100.0, digits: 1 };
    /// A score, as benchmarks publish them.
    pub const SCORE: Self = Self { factor: 1.0, digits: 4 };
    /// A loss.
    pub const LOSS: Self = Self { factor: 1.0, digits: 3 };

    pub fn plain(self, value: f64) -> String {
        format!("{:.*}", self.digits, self.factor * value)
    }

    pub fn signed(self, value: f64) -> String {
        sign(&self.plain(value))
    }

    /// The interval of an average: `12–34`.
    pub fn interval(self, e: &Estimate) -> String {
        between(&self.plain(e.low), &self.plain(e.high))
    }

    /// The interval of a difference: `−12 to +34`.
    pub fn signed_interval(self, e: &Estimate) -> String {
        between(&self.signed(e.low), &self.signed(e.high))
    }
}

/// Adds a sign, with a typographic minus. A number that is rounded to 0 gets no sign.
fn sign(number: &str) -> String {
    match number.strip_prefix('-') {
        _ if !number.contains(|c: char| c.is_ascii_digit() && c != '0') => number.trim_start_matches('-').into(),
        Some(number) => format!("−{number}"),
        None => format!("+{number}"),
    }
}

/// `12–34`, or `−12 to +34` where there are signs.
fn between(low: &str, high: &str) -> String {
    if [low, high].iter().any(|end| end.starts_with(['+', '−', '-'])) {
        format!("{low} to {high}")
    } else {
        format!("{low}–{high}")
    }
}

/// CSS class of a difference: `better`, `worse`, or empty if its interval contains 0. `is_fault`: lower is better.
pub fn verdict(difference: &Estimate, is_fault: bool) -> &'static str {
    let (gain, loss) = if is_fault { ("worse", "better") } else { ("better", "worse") };
    match difference {
        Estimate { low, .. } if *low > 0.0 => gain,
        Estimate { high, .. } if *high < 0.0 => loss,
        _ => "",
    }
}

pub fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

pub fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// `1 image`, `2 images`
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{} {noun}s", thousands(count as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!(
            [thousands(0), thousands(999), thousands(1234), thousands(1_234_567)],
            ["0", "999", "1,234", "1,234,567"]
        );
        assert_eq!([time(9.6), time(75.0), time(7300.0)], ["10 s", "1 min 15 s", "2 h 1 min"]);
        let points = |value| Scale::PERCENT.signed(value);
        assert_eq!([points(0.25), points(-0.031), points(-0.0001)], ["+25.0", "−3.1", "0.0"]);
        assert_eq!(Scale::PERCENT.signed_interval(&estimate(-0.02, 0.0)), "−2.0 to 0.0");
        assert_eq!(Scale::LOSS.interval(&estimate(1.0, 1.25)), "1.000–1.250");
        assert_eq!(Scale::SCORE.interval(&estimate(-0.5, 0.25)), "-0.5000 to 0.2500");
        assert_eq!([counted(1, "run"), counted(2000, "run")], ["1 run", "2,000 runs"]);
    }

    fn estimate(low: f64, high: f64) -> Estimate {
        Estimate { value: (low + high) / 2.0, low, high }
    }

    #[test]
    fn only_what_is_clear_is_coloured() {
        assert_eq!(verdict(&estimate(0.1, 0.2), false), "better");
        assert_eq!(verdict(&estimate(-0.1, 0.2), false), "");
        assert_eq!(verdict(&estimate(0.1, 0.2), true), "worse");
        assert_eq!(verdict(&estimate(-0.2, -0.1), true), "better");
    }
}
