//! Aggregates the results of judged images, by category.

use anyhow::{Result, bail};
use benchmarks::statistics::{self, Estimate};
use report::numbers::Scale;
use scenes::{judge, judging::Judged, prompts::Category, wording::Demand};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A measure of an image; results are means over images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Everything matches the prompt, and there is nothing else.
    Correct,
    /// Share of the requested objects with a match of the right shape.
    Present,
    /// Share of the requested objects with a match that has all the right attributes.
    Bound,
    /// Whether two objects have each other's colours or textures; only for images where two different ones were requested.
    Swapped,
    /// Whether the objects are placed as requested; only for images where that was requested.
    Relation,
    /// Whether everything in the image is a whole object.
    Clean,
    /// Whether there is something that was not requested.
    Extra,
    /// Mean distance of a pixel from what the background and the objects found explain.
    Unexplained,
    /// Whether the second judge finds the prompt likelier than all captions with one fault.
    Second,
}

impl Measure {
    pub const ALL: &[Self] = &[
        Self::Correct,
        Self::Present,
        Self::Bound,
        Self::Swapped,
        Self::Relation,
        Self::Clean,
        Self::Extra,
        Self::Unexplained,
        Self::Second,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Correct => "all correct",
            Self::Present => "objects present",
            Self::Bound => "attributes bound",
            Self::Swapped => "attributes swapped",
            Self::Relation => "relation",
            Self::Clean => "clean",
            Self::Extra => "something extra",
            Self::Unexplained => "unexplained",
            Self::Second => "second judge",
        }
    }

    /// The measure of one image; `None` if the prompt does not ask for it.
    pub fn of(self, Judged { prompt, verdict, look, second, .. }: &Judged) -> Option<f64> {
        let share = |objects: usize| (verdict.wanted > 0).then(|| objects as f64 / verdict.wanted as f64);
        match self {
            Self::Correct => Some(f64::from(verdict.correct)),
            Self::Present => share(verdict.present),
            Self::Bound => share(verdict.bound),
            Self::Swapped => judge::swapped(&Demand::parse(prompt)?, look).map(f64::from),
            Self::Relation => verdict.relation.map(f64::from),
            Self::Clean => Some(f64::from(verdict.clean)),
            Self::Extra => Some(f64::from(verdict.extra > 0)),
            Self::Unexplained => Some(f64::from(look.unexplained)),
            Self::Second => second.map(f64::from),
        }
    }

    /// Whether smaller values are better.
    pub fn is_fault(self) -> bool {
        matches!(self, Self::Swapped | Self::Extra | Self::Unexplained)
    }

    /// As a percentage; for `Unexplained`, a percentage of the distance from black to white.
    pub fn percent(self, value: f64) -> String {
        self.scale().plain(value)
    }

    pub fn scale(self) -> Scale {
        let digits = if self == Self::Unexplained { 2 } else { Scale::PERCENT.digits };
        Scale { digits, ..Scale::PERCENT }
    }
}

/// A group of images, and each measure that applies to any of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row<T> {
    pub prompts: usize,
    pub images: usize,
    pub measures: BTreeMap<Measure, T>,
}

/// All images, and those of each category that occurs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table<T> {
    pub all: Row<T>,
    pub categories: BTreeMap<Category, Row<T>>,
}

pub type Scores = Table<Estimate>;
pub type Comparison = Table<Change>;

/// A measure before and after. The interval of the difference is narrower than the two others suggest, since prompts
/// and seeds are the same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub base: Estimate,
    pub tuned: Estimate,
    /// tuned − base.
    pub difference: Estimate,
}

impl<T> Table<T> {
    /// The categories in their order, then all.
    pub fn rows(&self) -> impl Iterator<Item = (String, &Row<T>)> {
        self.categories.iter().map(|(c, row)| (c.to_string(), row)).chain([("all".into(), &self.all)])
    }

    fn new(images: &[Judged], row: impl Fn(Option<Category>) -> Row<T>) -> Self {
        let mut categories: Vec<Category> = images.iter().map(|j| j.category).collect();
        categories.sort();
        categories.dedup();
        Self { all: row(None), categories: categories.into_iter().map(|c| (c, row(Some(c)))).collect() }
    }
}

impl<T> Row<T> {
    pub fn get(&self, measure: Measure) -> Option<&T> {
        self.measures.get(&measure)
    }

    fn new<'a>(images: impl Iterator<Item = &'a Judged>, of: impl Fn(Measure) -> Option<T>) -> Self {
        let prompts: Vec<usize> = by_prompt(images).values().map(Vec::len).collect();
        let measures = Measure::ALL.iter().filter_map(|m| Some((*m, of(*m)?))).collect();
        Self { prompts: prompts.len(), images: prompts.iter().sum(), measures }
    }
}

/// Scores of these images.
pub fn scores(images: &[Judged]) -> Scores {
    scores_of_trainings(&[images])
}

/// Scores of the images of several trainings with the same settings, each with the same prompts and seeds. Numbers of
/// prompts and images are those of one training; intervals are over prompts and, if there are at least two trainings,
/// over trainings.
pub fn scores_of_trainings(trainings: &[&[Judged]]) -> Scores {
    let first = trainings.first().copied().unwrap_or_default();
    Table::new(first, |category| {
        let within = |training| of_category(training, category);
        Row::new(within(first), |measure| {
            let all: Option<Vec<_>> = trainings.iter().map(|training| values(measure, within(training))).collect();
            Some(statistics::mean_of_trainings(&all?))
        })
    })
}

fn of_category(images: &[Judged], category: Option<Category>) -> impl Iterator<Item = &Judged> {
    images.iter().filter(move |j| category.is_none_or(|c| c == j.category))
}

/// Compares images of the same prompts and seeds.
pub fn compare(base: &[Judged], tuned: &[Judged]) -> Result<Comparison> {
    compare_trainings(base, &[tuned])
}

/// Compares images of the same prompts and seeds in each of several trainings with the same settings. Intervals are
/// over prompts, with base and tuned image together, and, if there are at least two trainings, over trainings.
pub fn compare_trainings(base: &[Judged], trainings: &[&[Judged]]) -> Result<Comparison> {
    let base = index(base, "base")?;
    let trainings = trainings.iter().map(|tuned| index(tuned, "tuned")).collect::<Result<Vec<_>>>()?;
    for tuned in &trainings {
        for (one, other, [here, there]) in [(&base, tuned, ["base", "tuned"]), (tuned, &base, ["tuned", "base"])] {
            if let Some((prompt, seed)) = one.keys().find(|key| !other.contains_key(*key)) {
                bail!(
                    "the {here} images have one of `{prompt}` from seed {seed}, the {there} images have none; draw both from the same prompts, --seed and --count"
                );
            }
        }
    }
    if base.is_empty() || trainings.is_empty() {
        bail!("there are no images to compare");
    }
    let images: Vec<Judged> = base.values().map(|j| (*j).clone()).collect();
    Ok(Table::new(&images, |category| {
        // the category as in the base images
        let keys = || base.iter().filter(move |(_, j)| category.is_none_or(|c| c == j.category)).map(|(key, _)| key);
        let of = |side: &Index, measure| values(measure, keys().map(|key| side[key]));
        Row::new(keys().map(|key| base[key]), |measure| {
            let before = of(&base, measure)?;
            let after = trainings.iter().map(|tuned| of(tuned, measure)).collect::<Option<Vec<_>>>()?;
            Some(Change {
                base: statistics::mean(&before),
                tuned: statistics::mean_of_trainings(&after),
                difference: statistics::difference_of_trainings(&vec![before; after.len()], &after),
            })
        })
    }))
}

type Index<'a> = BTreeMap<(&'a str, u64), &'a Judged>;

fn index<'a>(images: &'a [Judged], side: &str) -> Result<Index<'a>> {
    let mut index = BTreeMap::new();
    for judged in images {
        if index.insert((judged.prompt.as_str(), judged.seed), judged).is_some() {
            bail!("the {side} images have two of `{}` from seed {}", judged.prompt, judged.seed);
        }
    }
    Ok(index)
}

fn by_prompt<'a>(images: impl Iterator<Item = &'a Judged>) -> BTreeMap<&'a str, Vec<&'a Judged>> {
    let mut prompts: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for judged in images {
        prompts.entry(&judged.prompt).or_default().push(judged);
    }
    prompts
}

/// A measure of the images of each prompt, in the order of the prompts; `None` if it applies to none.
pub(crate) fn values<'a>(measure: Measure, images: impl Iterator<Item = &'a Judged>) -> Option<Vec<Vec<f64>>> {
    let values: Vec<Vec<f64>> =
        by_prompt(images).values().map(|images| images.iter().filter_map(|j| measure.of(j)).collect()).collect();
    values.iter().any(|v: &Vec<f64>| !v.is_empty()).then_some(values)
}

/// In per cent, with the interval of `correct`.
impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:<8} {:>7} {:>8}  {:>19}", "%", "prompts", "images", "all correct")?;
        let columns = || COLUMNS.iter().filter(|(_, m)| !ONLY_IF_THERE.contains(m) || self.all.get(*m).is_some());
        for (heading, _) in columns() {
            write!(f, " {heading:>11}")?;
        }
        for (name, row) in self.rows() {
            let correct = row.get(Measure::Correct).map_or("–".into(), |e| spread(Measure::Correct, e, false));
            write!(f, "\n{name:<8} {:>7} {:>8}  {correct:>19}", row.prompts, row.images)?;
            for (_, measure) in columns() {
                write!(f, " {:>11}", row.get(*measure).map_or("–".into(), |e| measure.percent(e.value)))?;
            }
        }
        Ok(())
    }
}

const COLUMNS: &[(&str, Measure)] = &[
    ("present", Measure::Present),
    ("bound", Measure::Bound),
    ("swapped", Measure::Swapped),
    ("relation", Measure::Relation),
    ("clean", Measure::Clean),
    ("extra", Measure::Extra),
    ("unexplained", Measure::Unexplained),
    ("2nd judge", Measure::Second),
];

/// Columns that are left out where no image has them.
const ONLY_IF_THERE: &[Measure] = &[Measure::Swapped, Measure::Second];

/// In per cent: `correct` by category, then all measures of all images.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let heading = |f: &mut fmt::Formatter, title: &str| {
            write!(f, "{title:<16} {:>19} {:>19} {:>22}", "base", "tuned", "difference")
        };
        let line = |f: &mut fmt::Formatter, name: &str, measure: Measure, change: &Change| {
            let [base, tuned] = [&change.base, &change.tuned].map(|e| spread(measure, e, false));
            write!(f, "\n{name:<16} {base:>19} {tuned:>19} {:>22}", spread(measure, &change.difference, true))
        };
        heading(f, "all correct, %")?;
        for (name, row) in self.rows() {
            if let Some(change) = row.get(Measure::Correct) {
                line(f, &name, Measure::Correct, change)?;
            }
        }
        write!(f, "\n\n")?;
        heading(f, "all images, %")?;
        for (measure, change) in &self.all.measures {
            line(f, measure.name(), *measure, change)?;
        }
        Ok(())
    }
}

/// `41.2 [35.0, 47.3]`
pub(crate) fn spread(measure: Measure, estimate: &Estimate, signed: bool) -> String {
    let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|v| {
        let text = measure.percent(v);
        if signed && !text.starts_with('-') { format!("+{text}") } else { text }
    });
    format!("{value} [{low}, {high}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::judge::{Look, Verdict};

    fn judged(prompt: &str, category: Category, seed: u64, bound: usize) -> Judged {
        Judged {
            prompt: prompt.into(),
            category,
            seed,
            file: format!("{seed}.png").into(),
            look: Look { unexplained: 0.01, ..Look::default() },
            second: None,
            digest: None,
            verdict: Verdict {
                wanted: 2,
                present: 2,
                bound,
                relation: (category == Category::Spatial).then_some(bound == 2),
                extra: 2 - bound,
                clean: true,
                correct: bound == 2,
            },
        }
    }

    /// Two seeds of ten prompts; `right` of them are correct.
    fn images(right: usize) -> Vec<Judged> {
        let categories = [Category::Color, Category::Spatial];
        (0..20)
            .map(|i| {
                judged(&format!("prompt {}", i / 2), categories[i / 2 % 2], i as u64 % 2, 1 + usize::from(i < right))
            })
            .collect()
    }

    #[test]
    fn rows_hold_what_was_asked() {
        let scores = scores(&images(10));
        assert_eq!((scores.all.prompts, scores.all.images), (10, 20));
        assert_eq!(scores.all.measures[&Measure::Correct].value, 0.5);
        assert_eq!(scores.all.measures[&Measure::Bound].value, 0.75);
        assert_eq!(scores.all.measures[&Measure::Extra].value, 0.5);
        assert_eq!(scores.categories.len(), 2);
        assert_eq!(scores.categories[&Category::Color].measures[&Measure::Correct].value, 0.6);
        assert!(scores.categories[&Category::Color].get(Measure::Relation).is_none());
        assert_eq!(scores.all.measures[&Measure::Relation].value, 0.4);
        let text = serde_json::to_string(&scores).unwrap();
        assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), scores);
        assert_eq!(scores.to_string().lines().count(), 4, "{scores}");
    }

    #[test]
    fn images_are_compared_by_prompt_and_seed() {
        let (base, mut tuned) = (images(10), images(14));
        tuned.reverse();
        let comparison = compare(&base, &tuned).unwrap();
        let change = comparison.all.measures[&Measure::Correct];
        assert_eq!((change.base.value, change.tuned.value), (0.5, 0.7));
        assert!((change.difference.value - 0.2).abs() < 1e-12);
        assert!(change.difference.low >= 0.0 && change.difference.high < 0.6, "{change:?}");
        assert!(comparison.to_string().contains("+20.0 ["), "{comparison}");
    }

    #[test]
    fn trainings_widen_the_interval() {
        let (base, one, two) = (images(6), images(10), images(14));
        let both = compare_trainings(&base, &[&one, &two]).unwrap().all.measures[&Measure::Correct];
        let alone = compare(&base, &one).unwrap().all.measures[&Measure::Correct];
        assert!((both.difference.value - 0.3).abs() < 1e-12 && (alone.difference.value - 0.2).abs() < 1e-12);
        // t of one degree of freedom times the standard error of 0.2 and 0.4
        assert!(both.difference.low < 0.3 - 12.7 * 0.1 && both.difference.high > 0.3 + 12.7 * 0.1, "{both:?}");
        assert!(alone.difference.low > -0.1, "{alone:?}");
        let scores = scores_of_trainings(&[&one, &two]);
        assert_eq!((scores.all.prompts, scores.all.images), (10, 20));
        assert_eq!(scores.all.measures[&Measure::Correct], both.tuned);
        assert!(compare_trainings(&base, &[]).unwrap_err().to_string().contains("no images"));
    }

    #[test]
    fn other_images_are_no_comparison() {
        let all = images(10);
        let error = |base: &[Judged], tuned: &[Judged]| compare(base, tuned).unwrap_err().to_string();
        assert!(error(&all, &all[1..]).contains("`prompt 0` from seed 0, the tuned images have none"));
        assert!(error(&all[1..], &all).contains("`prompt 0` from seed 0, the base images have none"));
        assert!(error(&[all.clone(), all.clone()].concat(), &all).contains("two of `prompt 0`"));
        assert!(error(&[], &[]).contains("no images"));
    }
}
