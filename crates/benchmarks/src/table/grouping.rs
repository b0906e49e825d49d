//! Assigns images to the rows of the table.

use super::ALL;
use crate::{
    records::{Benchmark, Image, Line, Metric},
    t2i_compbench::three_in_one::Kind,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub benchmark: Benchmark,
    pub category: String,
    pub metric: Metric,
    pub question_type: Option<String>,
}

/// Values of each image, by category, prompt and index.
#[derive(Debug, Clone, Default)]
pub struct Values(BTreeMap<(String, String), BTreeMap<u64, OfSeed>>);

#[derive(Debug, Clone)]
struct OfSeed {
    /// Seed of the image; its index if the seed is unknown, because benchmarks use the same seeds for every prompt.
    seed: u64,
    /// One value; in a row of questions, one for each question.
    values: Vec<f64>,
}

#[derive(Debug, Default)]
pub struct Scores {
    pub rows: BTreeMap<Key, Values>,
}

impl Scores {
    pub fn new(records: &[Image]) -> Self {
        let mut scores = Self::default();
        for record in records {
            let subject = record.subject();
            let key = |metric| Key {
                benchmark: subject.benchmark,
                category: subject.category.clone(),
                metric,
                question_type: None,
            };
            scores.row(key(record.metric())).add(record, record.score());
            for Line { answer, .. } in record.lines() {
                if let Some(question_type) = &answer.question_type {
                    let of_type = Key {
                        question_type: Some(question_type.clone()),
                        category: ALL.into(),
                        ..key(record.metric())
                    };
                    scores.row(of_type).add(record, answer.raw.unwrap_or(answer.score));
                }
            }
        }
        for (record, score) in three_in_one(records) {
            let (benchmark, category) = (record.subject().benchmark, record.subject().category.clone());
            let key = Key { benchmark, category, metric: Metric::ThreeInOne, question_type: None };
            scores.row(key).add(record, score);
        }
        scores
    }

    fn row(&mut self, key: Key) -> &mut Values {
        self.rows.entry(key).or_default()
    }

    /// The values of all categories of a benchmark, for each of its metrics.
    pub fn all(&self, benchmark: Benchmark) -> BTreeMap<Metric, Values> {
        let mut all = BTreeMap::<Metric, Values>::new();
        let rows = self.rows.iter().filter(|(key, _)| key.benchmark == benchmark && key.question_type.is_none());
        rows.for_each(|(key, values)| all.entry(key.metric).or_default().0.extend(values.0.clone()));
        all
    }
}

/// The three-in-one score of complex images that have all the metrics that apply, each with one of its records.
pub fn three_in_one(records: &[Image]) -> Vec<(&Image, f64)> {
    let mut complex: BTreeMap<_, BTreeMap<Metric, &Image>> = BTreeMap::new();
    for record in records {
        let subject = record.subject();
        if let Some(kind) = subject.kind {
            let image = (subject.category.as_str(), subject.prompt_id.as_str(), subject.index, kind);
            complex.entry(image).or_default().insert(record.metric(), record);
        }
    }
    complex.into_iter().filter_map(|((.., kind), metrics)| complex_score(kind, &metrics)).collect()
}

/// The three-in-one score; `None` if a metric that applies is missing.
fn complex_score<'a>(kind: Kind, metrics: &BTreeMap<Metric, &'a Image>) -> Option<(&'a Image, f64)> {
    let of = |metric, counts| match metrics.get(&metric) {
        Some(record) => Some(record.score()),
        None if counts => None,
        None => Some(0.0),
    };
    let spatial = of(Metric::Spatial, kind != Kind::Action)?;
    let clip = of(Metric::Clip, kind != Kind::Spatial)?;
    let attributes = *metrics.get(&Metric::BlipVqa)?;
    Some((attributes, kind.score(attributes.score(), spatial, clip)))
}

impl Values {
    fn add(&mut self, record: &Image, value: f64) {
        let subject = record.subject();
        let prompt = self.0.entry((subject.category.clone(), subject.prompt_id.clone())).or_default();
        let seed = subject.seed.unwrap_or(subject.index);
        prompt.entry(subject.index).or_insert(OfSeed { seed, values: vec![] }).values.push(value);
    }

    pub fn prompts(&self) -> usize {
        self.0.len()
    }

    pub fn images(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    pub fn by_prompt(&self) -> Vec<Vec<f64>> {
        self.0.values().map(|images| images.values().flat_map(|image| &image.values).copied().collect()).collect()
    }

    /// Values of the prompts, grouped by category.
    pub fn groups(&self) -> Vec<Vec<Vec<f64>>> {
        let mut groups: BTreeMap<&str, Vec<Vec<f64>>> = BTreeMap::new();
        for ((category, _), values) in self.0.keys().zip(self.by_prompt()) {
            groups.entry(category).or_default().push(values);
        }
        groups.into_values().collect()
    }

    /// The images of each seed alone, if prompts have seeds in common; empty if every image has its own seed.
    pub fn by_seed(&self) -> Vec<Self> {
        let mut seeds: BTreeMap<u64, Self> = BTreeMap::new();
        for (prompt, images) in &self.0 {
            for (index, image) in images {
                let of_prompt = seeds.entry(image.seed).or_default().0.entry(prompt.clone()).or_default();
                of_prompt.insert(*index, image.clone());
            }
        }
        if self.images() < 2 * seeds.len() { vec![] } else { seeds.into_values().collect() }
    }

    /// Only the images that `other` has, too.
    pub fn also_in(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (prompt, images) in &self.0 {
            let there: BTreeSet<u64> = other.0.get(prompt).into_iter().flat_map(BTreeMap::keys).copied().collect();
            let images: BTreeMap<_, _> =
                images.iter().filter(|(index, _)| there.contains(index)).map(|(i, v)| (*i, v.clone())).collect();
            if !images.is_empty() {
                both.0.insert(prompt.clone(), images);
            }
        }
        both
    }
}
