//! Prints the table as text.

use super::{Row, Table};
use crate::statistics::Estimate;
use std::fmt;

/// Four decimals, as T2I-CompBench publishes scores.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let is_compared = self.rows.iter().any(|row| row.against.is_some());
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max("category".len());
        write!(
            f,
            "{:<13} {:<width$} {:<10} {:>7} {:>6}  {:<23}",
            "benchmark", "category", "metric", "prompts", "images", "mean"
        )?;
        if is_compared {
            write!(f, "  {:<23}  {:<26} {:>6}", "base", "difference", "images")?;
        }
        for row in &self.rows {
            let Row { benchmark, metric, prompts, images, .. } = row;
            write!(f, "\n{benchmark:<13} {:<width$} {metric:<10} {prompts:>7} {images:>6}  ", name(row))?;
            write!(f, "{:<23}", spread(&row.mean, false))?;
            if let Some(against) = &row.against {
                let (base, difference) = (spread(&against.base, false), spread(&against.difference, true));
                write!(f, "  {base:<23}  {difference:<26} {:>6}", against.images)?;
            }
        }
        Ok(())
    }
}

/// Name of a row: `color`, or `all: counting` for questions of a type.
fn name(row: &Row) -> String {
    match &row.question_type {
        Some(question_type) => format!("{}: {question_type}", row.category),
        None => row.category.clone(),
    }
}

/// Prints `0.4123 [0.3500, 0.4730]`.
fn spread(Estimate { value, low, high }: &Estimate, signed: bool) -> String {
    if signed { format!("{value:+.4} [{low:+.4}, {high:+.4}]") } else { format!("{value:.4} [{low:.4}, {high:.4}]") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Metric, image::tests::image};

    #[test]
    fn a_line_for_each_row() {
        let of = |score| [image(Metric::Clip, "non_spatial", "dog", 0, &[score])];
        let text = Table::new(&of(0.5), Some(&of(0.25))).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].trim_end(),
            "benchmark     category    metric     prompts images  mean                     base                     difference                 images"
        );
        assert_eq!(
            lines[1],
            "t2i-compbench non_spatial clip             1      1  0.5000 [0.5000, 0.5000]  0.2500 [0.2500, 0.2500]  +0.2500 [+0.2500, +0.2500]      1"
        );
        let alone = Table::new(&of(0.5), None).to_string();
        assert!(alone.lines().nth(1).unwrap().ends_with("0.5000 [0.5000, 0.5000]"));
        assert!(Table::new(&[], None).to_string().starts_with("benchmark"));
    }
}
