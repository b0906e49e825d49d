//! Results of an ablation, as a table in Markdown.

use super::cost::{Cost, OfSteps, median};
use crate::scores::{Measure, values};
use benchmarks::statistics::{self, Estimate};
use scenes::{judging::Judged, prompts::Category};
use serde::Serialize;
use std::fmt;

/// One training of a variant, and its images.
pub struct Trained {
    pub seed: u64,
    pub judged: Vec<Judged>,
    pub cost: Cost,
}

#[derive(Debug, Serialize)]
pub struct Table {
    pub prompts: usize,
    /// Number of images of each prompt.
    pub images: usize,
    /// The base model, then the variants with at least one training, in the plan's order. The first variant is the
    /// reference for comparisons.
    pub columns: Vec<Column>,
}

#[derive(Debug, Serialize)]
pub struct Column {
    pub name: String,
    /// Seeds of its trainings; empty for the base model.
    pub seeds: Vec<u64>,
    pub rows: Vec<Row>,
    /// Passes of the UNet in a training, and for an image that is kept; `None` for the base model.
    pub training_passes: Option<f64>,
    pub drawing_passes: Option<f64>,
    /// Median over the trainings' medians.
    pub seconds: Option<f64>,
    pub trajectories: Option<f64>,
    pub peak_memory: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub measure: Measure,
    /// `None`: all images.
    pub category: Option<Category>,
    pub mean: Estimate,
    /// Value of each training.
    pub trainings: Vec<f64>,
    /// Difference from the first variant.
    pub difference: Option<Estimate>,
}

/// One variant's values: by training, prompt and image.
type Values = Vec<Vec<Vec<f64>>>;

impl Table {
    pub fn new(base: &[Judged], variants: Vec<(String, Vec<Trained>)>) -> Self {
        let prompts = by_prompts(base);
        let images = base.len() / prompts.max(1);
        let mut columns = vec![Column::of_base(base)];
        let reference = variants.first().map(|(_, trained)| trained.as_slice()).unwrap_or_default();
        for (i, (name, trained)) in variants.iter().enumerate().filter(|(_, (_, trained))| !trained.is_empty()) {
            columns.push(Column::new(name, trained, (i > 0).then_some(reference)));
        }
        Self { prompts, images, columns }
    }

    fn rows(&self) -> impl Iterator<Item = (Measure, Option<Category>)> {
        self.columns[0].rows.iter().map(|row| (row.measure, row.category))
    }
}

fn by_prompts(images: &[Judged]) -> usize {
    values(Measure::Correct, images.iter()).map_or(0, |prompts| prompts.len())
}

/// All measures of all images; `correct` and `bound` also by category.
fn kinds() -> impl Iterator<Item = (Measure, Option<Category>)> {
    Measure::ALL.iter().flat_map(|&measure| {
        let by_category = matches!(measure, Measure::Correct | Measure::Bound);
        let categories = Category::ALL.iter().copied().filter(move |_| by_category).map(Some);
        [None].into_iter().chain(categories).map(move |category| (measure, category))
    })
}

/// `None` where the measure applies to none of the images.
fn values_of(judged: &[Judged], measure: Measure, category: Option<Category>) -> Option<Vec<Vec<f64>>> {
    values(measure, judged.iter().filter(|j| category.is_none_or(|c| c == j.category)))
}

impl Column {
    fn of_base(base: &[Judged]) -> Self {
        let row = |(measure, category)| {
            let mean = statistics::mean(&values_of(base, measure, category)?);
            Some(Row { measure, category, mean, trainings: vec![], difference: None })
        };
        Self {
            name: "base".into(),
            seeds: vec![],
            rows: kinds().filter_map(row).collect(),
            training_passes: None,
            drawing_passes: None,
            seconds: None,
            trajectories: None,
            peak_memory: None,
        }
    }

    /// `reference`: trainings to compare with, matched by their seeds.
    fn new(name: &str, trained: &[Trained], reference: Option<&[Trained]>) -> Self {
        let row = |(measure, category)| {
            let of = |trained: &Trained| values_of(&trained.judged, measure, category);
            let all = trained.iter().map(of).collect::<Option<Values>>()?;
            let pairs: (Values, Values) = trained
                .iter()
                .filter_map(|t| Some((of(reference?.iter().find(|r| r.seed == t.seed)?)?, of(t)?)))
                .unzip();
            let difference = (!pairs.0.is_empty()).then(|| statistics::difference_of_trainings(&pairs.0, &pairs.1));
            let trainings =
                all.iter().map(|training| statistics::mean_of_trainings(std::slice::from_ref(training)).value);
            let trainings = trainings.collect();
            Some(Row { measure, category, mean: statistics::mean_of_trainings(&all), trainings, difference })
        };
        let of_costs = |of: &dyn Fn(&Cost) -> Option<f64>| median(trained.iter().filter_map(|t| of(&t.cost)).collect());
        let of_steps = |of: &dyn Fn(OfSteps) -> Option<f64>| of_costs(&|cost| of(cost.steps?));
        Self {
            name: name.into(),
            seeds: trained.iter().map(|t| t.seed).collect(),
            rows: kinds().filter_map(row).collect(),
            training_passes: of_costs(&|cost| Some(cost.training)),
            drawing_passes: of_costs(&|cost| Some(cost.drawing)),
            seconds: of_steps(&|steps| Some(steps.seconds)),
            trajectories: of_steps(&|steps| Some(steps.trajectories)),
            peak_memory: of_steps(&|steps| steps.peak_memory),
        }
    }

    pub fn row(&self, measure: Measure, category: Option<Category>) -> Option<&Row> {
        self.rows.iter().find(|row| (row.measure, row.category) == (measure, category))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let line = |f: &mut fmt::Formatter, label: &str, cell: &dyn Fn(&Column) -> String| {
            let cells: Vec<String> = self.columns.iter().map(cell).collect();
            writeln!(f, "| {label} | {} |", cells.join(" | "))
        };
        line(f, &format!("{} prompts × {} images, %", self.prompts, self.images), &|column| column.name.clone())?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len() + 1))?;
        for (measure, category) in self.rows() {
            let label = match category {
                Some(category) => format!("— {category}"),
                None => measure.name().to_owned() + if measure.is_fault() { " (less is better)" } else { "" },
            };
            line(f, &label, &|column| column.row(measure, category).map_or("".into(), |row| row.to_string()))?;
        }
        line(f, "all correct, each training", &|column| {
            let row = column.row(Measure::Correct, None);
            let each = row.iter().flat_map(|row| &row.trainings).map(|v| Measure::Correct.percent(*v));
            each.collect::<Vec<_>>().join(" · ")
        })?;
        let number = |value: Option<f64>, digits: usize| value.map_or("".into(), |v| format!("{v:.digits$}"));
        line(f, "UNet passes of a training, thousands", &|column| {
            number(column.training_passes.map(|passes| passes / 1e3), 1)
        })?;
        line(f, "UNet passes of an image", &|column| number(column.drawing_passes, 0))?;
        line(f, "seconds a step", &|column| number(column.seconds, 2))?;
        line(f, "a step, in trajectories", &|column| number(column.trajectories, 2))?;
        line(f, "peak memory, MiB", &|column| number(column.peak_memory.map(|bytes| bytes / f64::from(1 << 20)), 0))
    }
}

/// `8.4 [6.1, 10.9], **+2.1** [+0.4, +3.9]`: a difference is bold if its interval excludes zero and there are at least
/// two trainings.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |value: f64| self.measure.percent(value).replace('-', "−");
        let signed = |value: f64| {
            let text = percent(value);
            if text.starts_with('−') { text } else { format!("+{text}") }
        };
        let Estimate { value, low, high } = self.mean;
        write!(f, "{}", percent(value))?;
        match self.difference {
            None => write!(f, " [{}, {}]", percent(low), percent(high)),
            Some(Estimate { value, low, high }) => {
                // one training does not show how trainings vary
                let clear = self.trainings.len() > 1 && (low > 0.0 || high < 0.0);
                let bold = if clear { "**" } else { "" };
                write!(f, ", {bold}{}{bold} [{}, {}]", signed(value), signed(low), signed(high))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenes::judge::{Look, Verdict};

    /// Ten prompts with two images each, `right` of which are correct.
    fn images(right: usize) -> Vec<Judged> {
        let judged = |i: usize| Judged {
            prompt: format!("prompt {}", i / 2),
            category: [Category::Color, Category::Shape][i / 2 % 2],
            seed: i as u64 % 2,
            file: "a.png".into(),
            look: Look::default(),
            second: None,
            digest: None,
            verdict: Verdict {
                wanted: 1,
                present: 1,
                bound: usize::from(i < right),
                relation: None,
                extra: usize::from(i >= right),
                clean: true,
                correct: i < right,
            },
        };
        (0..20).map(judged).collect()
    }

    fn trained(seed: u64, right: usize) -> Trained {
        let steps = OfSteps { seconds: seed as f64, trajectories: 4.0, peak_memory: Some(f64::from(300 << 20)) };
        let cost = Cost { training: 63_000.0, drawing: 10.0, steps: Some(steps) };
        Trained { seed, judged: images(right), cost }
    }

    #[test]
    fn trainings_add_up() {
        let variants = vec![
            ("caption".to_owned(), vec![trained(1, 10), trained(2, 12)]),
            ("nothing yet".to_owned(), vec![]),
            ("+ more".to_owned(), vec![trained(2, 16)]),
        ];
        let table = Table::new(&images(4), variants);
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!((names, table.prompts, table.images), (vec!["base", "caption", "+ more"], 10, 2));
        let correct = |column: usize| table.columns[column].row(Measure::Correct, None).unwrap();
        assert_eq!((correct(0).mean.value, correct(1).mean.value), (0.2, 0.55));
        assert_eq!(correct(1).trainings, [0.5, 0.6]);
        assert!(correct(1).difference.is_none());
        // the only reference is the training with the same seed
        assert!((correct(2).difference.unwrap().value - 0.2).abs() < 1e-12);
        let text = table.to_string();
        assert!(text.starts_with(
            "| 10 prompts × 2 images, % | base | caption | + more |\n|---|---|---|---|\n| all correct | 20.0 ["
        ));
        assert!(text.contains("| 80.0, +20.0 ["), "{text}");
        assert!(
            text.contains(
                "| all correct, each training |  | 50.0 · 60.0 | 80.0 |\n| UNet passes of a training, thousands |  | 63.0 | 63.0 |\n\
                 | UNet passes of an image |  | 10 | 10 |\n| seconds a step |  | 1.50 | 2.00 |"
            )
        );
        assert!(text.contains("something extra (less is better)") && text.ends_with("|  | 300 | 300 |\n"), "{text}");
        assert!(!text.contains("relation"), "nothing was asked of it");
    }
}
