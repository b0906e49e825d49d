//! The lines of one picture.

use super::{Benchmark, Line, Metric};
use crate::t2i_compbench::blip_vqa;
use anyhow::{Result, bail};

/// What tells a scored picture from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub benchmark: Benchmark,
    pub metric: Metric,
    pub category: String,
    pub prompt_id: String,
    pub index: u64,
}

/// A picture with all its lines of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture(Vec<Line>);

impl Line {
    pub fn key(&self) -> Key {
        Key {
            benchmark: self.benchmark,
            metric: self.metric,
            category: self.category.clone(),
            prompt_id: self.prompt_id.clone(),
            index: self.index,
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.benchmark, self.metric, self.index) == (other.benchmark, other.metric, other.index)
            && self.category == other.category
            && self.prompt_id == other.prompt_id
    }
}

impl Picture {
    /// # Errors
    /// No lines, or lines of several pictures; parts that are missing, twice, or out of order; a score that is not a number.
    pub fn new(lines: Vec<Line>) -> Result<Self> {
        let Some(first) = lines.first() else { bail!("a picture without lines") };
        for (i, line) in lines.iter().enumerate() {
            let name = || format!("{}, picture {} of `{}`", line.metric, line.index, line.prompt);
            if !line.is_of(first) {
                bail!("{}: it stands among lines of another picture", name());
            }
            if line.part != i || line.parts != lines.len() {
                let (part, parts) = (line.part, line.parts);
                bail!("{}: part {part} of {parts} is where part {i} of {} belongs", name(), lines.len());
            }
            if !line.score.is_finite() {
                bail!("{}: the score is not a number", name());
            }
        }
        Ok(Self(lines))
    }

    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    pub fn first(&self) -> &Line {
        &self.0[0]
    }

    pub fn key(&self) -> Key {
        self.first().key()
    }

    /// By the rule of its metric.
    pub fn score(&self) -> f64 {
        let scores: Vec<f64> = self.0.iter().map(|line| line.score).collect();
        match self.first().metric {
            Metric::BlipVqa => blip_vqa::score(&scores),
            _ => scores.iter().sum::<f64>() / scores.len() as f64,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A picture with these lines.
    pub(crate) fn picture(metric: Metric, category: &str, prompt: &str, index: u64, scores: &[f64]) -> Picture {
        let benchmark = match metric {
            Metric::Questions => Benchmark::Tifa,
            Metric::Correct => Benchmark::Geneval,
            _ => Benchmark::T2iCompbench,
        };
        let line = |(part, score): (usize, &f64)| Line {
            benchmark,
            metric,
            category: category.into(),
            kind: None,
            prompt_id: prompt.into(),
            prompt: format!("a {prompt}"),
            index,
            seed: Some(42 + index),
            file: format!("{prompt}_{index:06}.png"),
            part,
            parts: scores.len(),
            question: None,
            question_type: None,
            answer: None,
            probability: None,
            raw: None,
            score: *score,
        };
        Picture::new(scores.iter().enumerate().map(line).collect()).unwrap()
    }

    #[test]
    fn the_score_of_a_picture() {
        assert_eq!(picture(Metric::BlipVqa, "color", "dog", 0, &[0.6667, 0.6667]).score(), 0.4445);
        assert_eq!(picture(Metric::Questions, "coco", "dog", 0, &[1.0, 0.0, 0.0, 1.0]).score(), 0.5);
        assert_eq!(picture(Metric::Clip, "non_spatial", "dog", 0, &[-0.1]).score(), -0.1);
    }

    #[test]
    fn lines_that_make_no_picture() {
        let lines = || picture(Metric::BlipVqa, "color", "dog", 0, &[0.5, 0.5]).lines().to_vec();
        let error = |lines: Vec<Line>| Picture::new(lines).unwrap_err().to_string();
        assert!(error(vec![]).contains("without lines"));
        assert!(
            error(lines()[..1].to_vec()).contains("blip-vqa, picture 0 of `a dog`: part 0 of 2 is where part 0 of 1")
        );
        let mut other = lines();
        other[1].index = 1;
        assert!(error(other).contains("lines of another picture"));
        let mut none = lines();
        none[0].score = f64::NAN;
        assert!(error(none).contains("not a number"));
    }
}
