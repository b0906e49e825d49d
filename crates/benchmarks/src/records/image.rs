//! The lines of one image.

use super::{Answer, Benchmark, Line, Metric, Subject};
use crate::t2i_compbench::blip_vqa;
use anyhow::{Result, bail};

/// Key that identifies a scored image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub benchmark: Benchmark,
    pub metric: Metric,
    pub category: String,
    pub prompt_id: String,
    pub index: u64,
}

/// An image with all its lines of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Image(Vec<Line>);

impl Image {
    /// From the questions about an image and their answers; without questions, one answer with the score.
    ///
    /// # Errors
    /// No answers; a number that is not finite.
    pub fn new(subject: &Subject, metric: Metric, answers: Vec<Answer>) -> Result<Self> {
        let parts = answers.len();
        let line = |(part, answer)| Line { subject: subject.clone(), metric, part, parts, answer };
        Self::from_lines(answers.into_iter().enumerate().map(line).collect())
    }

    /// # Errors
    /// No lines, or lines of several images; parts that are missing, repeated or out of order; a number that is not
    /// finite.
    pub fn from_lines(lines: Vec<Line>) -> Result<Self> {
        let Some(first) = lines.first() else { bail!("an image without lines") };
        for (i, line) in lines.iter().enumerate() {
            let Line { subject: Subject { index, prompt, .. }, metric, part, parts, answer } = line;
            let name = || format!("{metric}, image {index} of `{prompt}`");
            if (metric, &line.subject) != (&first.metric, &first.subject) {
                bail!("{}: it stands among lines of another image", name());
            }
            if *part != i || *parts != lines.len() {
                bail!("{}: part {part} of {parts} is where part {i} of {} belongs", name(), lines.len());
            }
            if ![Some(answer.score), answer.raw, answer.probability].iter().flatten().all(|v| v.is_finite()) {
                bail!("{}: a score or a probability is not a number", name());
            }
        }
        Ok(Self(lines))
    }

    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    pub fn subject(&self) -> &Subject {
        &self.0[0].subject
    }

    pub fn metric(&self) -> Metric {
        self.0[0].metric
    }

    pub fn key(&self) -> Key {
        self.subject().key(self.metric())
    }

    /// Score by the rule of the image's metric.
    pub fn score(&self) -> f64 {
        let scores: Vec<f64> = self.0.iter().map(|line| line.answer.score).collect();
        match self.metric() {
            Metric::BlipVqa => blip_vqa::score(&scores),
            _ => scores.iter().sum::<f64>() / scores.len() as f64,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An image with these lines.
    pub(crate) fn image(metric: Metric, category: &str, prompt: &str, index: u64, scores: &[f64]) -> Image {
        let benchmark = match metric {
            Metric::Questions => Benchmark::Tifa,
            Metric::Correct => Benchmark::Geneval,
            _ => Benchmark::T2iCompbench,
        };
        let subject = Subject {
            benchmark,
            category: category.into(),
            kind: None,
            prompt_id: prompt.into(),
            prompt: format!("a {prompt}"),
            index,
            seed: Some(42 + index),
            file: format!("{prompt}_{index:06}.png"),
            digest: None,
            asked: None,
        };
        let answer = |score: &f64| Answer { score: *score, ..Answer::default() };
        Image::new(&subject, metric, scores.iter().map(answer).collect()).unwrap()
    }

    #[test]
    fn the_score_of_a_image() {
        assert_eq!(image(Metric::BlipVqa, "color", "dog", 0, &[0.6667, 0.6667]).score(), 0.4445);
        assert_eq!(image(Metric::Questions, "coco", "dog", 0, &[1.0, 0.0, 0.0, 1.0]).score(), 0.5);
        assert_eq!(image(Metric::Clip, "non_spatial", "dog", 0, &[-0.1]).score(), -0.1);
    }

    #[test]
    fn lines_that_make_no_image() {
        let lines = || image(Metric::BlipVqa, "color", "dog", 0, &[0.5, 0.5]).lines().to_vec();
        let error = |lines: Vec<Line>| Image::from_lines(lines).unwrap_err().to_string();
        assert!(error(vec![]).contains("without lines"));
        assert!(
            error(lines()[..1].to_vec()).contains("blip-vqa, image 0 of `a dog`: part 0 of 2 is where part 0 of 1")
        );
        let mut other = lines();
        other[1].subject.index = 1;
        assert!(error(other).contains("lines of another image"));
        let mut none = lines();
        none[0].answer.probability = Some(f64::NAN);
        assert!(error(none).contains("not a number"));
    }
}
