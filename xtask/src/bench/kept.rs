//! Ratios of an earlier measurement, and which of today's are worse. Seconds of two machines cannot be compared; ratios that were measured
//! side by side can.

use super::measure::median;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

pub const FILE: &str = "docs/benchmarks.json";
/// A ratio may be so many times what it was before it counts as worse: shared machines vary by a tenth.
const TOLERATED: f64 = 1.1;

/// One ratio: the less the better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Ratio {
    fn of(values: &[f64]) -> Self {
        Self {
            median: median(values.to_vec()),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Worse than the worst of before, and by more than is tolerated.
    fn is_worse_than(&self, before: &Self) -> bool {
        self.median > before.most.max(before.median * TOLERATED)
    }

    fn to_json(self) -> Value {
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        json!({ "median": rounded(self.median), "least": rounded(self.least), "most": rounded(self.most) })
    }

    fn of_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value[key].as_f64();
        Some(Self { median: number("median")?, least: number("least")?, most: number("most")? })
    }
}

/// What the benchmarks of one run have found, by name.
#[derive(Default)]
pub struct Ratios(RefCell<BTreeMap<String, Ratio>>);

impl Ratios {
    /// Takes note of one ratio, measured once or several times.
    pub fn add(&self, name: &str, values: &[f64]) {
        self.0.borrow_mut().insert(name.to_owned(), Ratio::of(values));
    }

    /// Writes them into the file; others that are there stay.
    pub fn keep(&self, path: &Path) -> Result<()> {
        let mut kept = read(path)?;
        kept.extend(self.0.borrow().iter().map(|(name, ratio)| (name.clone(), *ratio)));
        let all: serde_json::Map<String, Value> =
            kept.into_iter().map(|(name, ratio)| (name, ratio.to_json())).collect();
        let text = serde_json::to_string_pretty(&all)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Holds them against the file: a line for each, and how many are worse.
    pub fn compare(&self, path: &Path) -> Result<(Vec<String>, usize)> {
        let kept = read(path)?;
        if !self.0.borrow().keys().any(|name| kept.contains_key(name)) {
            bail!("{}: there is nothing in it to compare with; --keep writes what is measured", path.display());
        }
        let mut worse = 0;
        let line = |(name, now): (&String, &Ratio)| match kept.get(name) {
            None => format!("{name}: {:.3}; nothing to compare it with (--keep writes it)", now.median),
            Some(before) => {
                let is_worse = now.is_worse_than(before);
                worse += usize::from(is_worse);
                let verdict = if is_worse { "WORSE" } else { "no worse" };
                let Ratio { median, least, most } = before;
                format!("{name}: {:.3}, before {median:.3} ({least:.3} to {most:.3}): {verdict}", now.median)
            }
        };
        let lines = self.0.borrow().iter().map(line).collect();
        Ok((lines, worse))
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Ratio>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.with_context(|| path.display().to_string())?,
    };
    let all: BTreeMap<String, Value> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let one = |(name, value): (String, Value)| {
        let ratio = Ratio::of_json(&value)
            .with_context(|| format!("{}: {name}: median, least and most are expected", path.display()))?;
        Ok((name, ratio))
    };
    all.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("benchmarks.json");
        let before = Ratios::default();
        before.add("steady", &[1.0, 0.9, 1.1]);
        before.add("noisy", &[1.0, 0.5, 2.0]);
        before.add("memory", &[0.2]);
        assert!(before.compare(&path).unwrap_err().to_string().contains("nothing in it to compare with"));
        before.keep(&path).unwrap();
        let now = Ratios::default();
        now.add("steady", &[1.05, 1.2, 1.15]); // above the worst of before, and by more than a tenth
        now.add("noisy", &[1.9]);
        now.add("memory", &[0.21]);
        now.add("new", &[3.0]);
        let (lines, worse) = now.compare(&path).unwrap();
        assert_eq!(worse, 1, "{lines:#?}");
        assert!(lines.contains(&"steady: 1.150, before 1.000 (0.900 to 1.100): WORSE".to_owned()), "{lines:#?}");
        assert!(lines.iter().any(|line| line.starts_with("new: 3.000; nothing to compare")), "{lines:#?}");
        now.keep(&path).unwrap();
        assert_eq!(now.compare(&path).unwrap().1, 0);
        assert_eq!(read(&path).unwrap()["noisy"], Ratio { median: 1.9, least: 1.9, most: 1.9 });
        fs::write(&path, "{\"a\": 1}").unwrap();
        assert!(now.compare(&path).unwrap_err().to_string().contains("a: median, least and most"));
    }
}
