//! The table of results: a row for each category, compared with a base model if there is one.

mod grouping;
mod show;

use crate::{
    geneval,
    records::{Benchmark, Image, Metric},
    statistics::{self, Estimate},
    t2i_compbench::Category,
};
pub use grouping::three_in_one;
use grouping::{Scores, Values};
use serde::{Deserialize, Serialize};

/// A row: the mean of some images, with its 95 % interval over prompts and, if prompts have seeds in common, over
/// seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub benchmark: Benchmark,
    /// Category of the benchmark; `all` for the score over all categories.
    pub category: String,
    pub metric: Metric,
    /// The type, in a row of questions of one type: the mean is then over questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_type: Option<String>,
    pub prompts: usize,
    pub images: usize,
    pub mean: Estimate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// The same images of the base model, matched by prompt and index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Number of images that both models have; the others do not count here.
    pub images: usize,
    pub base: Estimate,
    /// Difference of the means, tuned minus base, with a paired interval.
    pub difference: Estimate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub rows: Vec<Row>,
}

/// Category name of a benchmark's overall score.
pub const ALL: &str = "all";

impl Table {
    /// Sums up the images and compares them with those of a base model. Means are over images. The three metrics of
    /// complex prompts become one for images that have all that apply. `all` is the mean over images for TIFA, DSG and
    /// DPG, and over tasks for GenEval; T2I-CompBench has no `all`.
    pub fn new(images: &[Image], base: Option<&[Image]>) -> Self {
        let (tuned, base) = (Scores::new(images), base.map(Scores::new));
        let mut rows = vec![];
        for (key, values) in &tuned.rows {
            let against = base.as_ref().map(|base| base.rows.get(key).cloned().unwrap_or_default());
            rows.push(row(key, values, against.as_ref(), false));
        }
        for benchmark in [Benchmark::Tifa, Benchmark::Dsg, Benchmark::Dpg, Benchmark::Geneval] {
            let others = base.as_ref().map(|base| base.all(benchmark));
            for (metric, values) in tuned.all(benchmark) {
                let key = grouping::Key { benchmark, category: ALL.into(), metric, question_type: None };
                let against = others.as_ref().map(|base| base.get(&metric).cloned().unwrap_or_default());
                rows.push(row(&key, &values, against.as_ref(), benchmark == Benchmark::Geneval));
            }
        }
        rows.sort_by_cached_key(|row| {
            (row.benchmark, row.question_type.is_some(), rank(&row.category), row.category.clone(), row.metric)
        });
        Self { rows }
    }
}

/// Position of a category in its benchmark; the overall score is last.
fn rank(category: &str) -> usize {
    let known = Category::ALL.iter().map(|c| c.name()).chain(geneval::TASKS);
    let last = known.clone().count();
    if category == ALL { last + 1 } else { known.clone().position(|name| name == category).unwrap_or(last) }
}

fn row(key: &grouping::Key, values: &Values, base: Option<&Values>, by_group: bool) -> Row {
    let groups = |values: &Values| if by_group { values.groups() } else { vec![values.by_prompt()] };
    let mean_of = |values: &Values| statistics::value_of_groups(&groups(values));
    let mean = |values: &Values| {
        let of_seeds: Vec<f64> = values.by_seed().iter().map(mean_of).collect();
        statistics::over_seeds(statistics::mean_of_groups(&groups(values)), &of_seeds)
    };
    let against = base.map(|base| (base.also_in(values), values.also_in(base))).filter(|(_, both)| both.images() > 0);
    let against = against.map(|(base, tuned)| {
        let of_seed = |tuned: &Values| mean_of(tuned) - mean_of(&base.also_in(tuned));
        let of_seeds: Vec<f64> = tuned.by_seed().iter().map(of_seed).collect();
        let over_prompts = statistics::difference_of_groups(&groups(&base), &groups(&tuned));
        Against {
            images: tuned.images(),
            difference: statistics::over_seeds(over_prompts, &of_seeds),
            base: mean(&base),
        }
    });
    Row {
        benchmark: key.benchmark,
        category: key.category.clone(),
        metric: key.metric,
        question_type: key.question_type.clone(),
        prompts: values.prompts(),
        images: values.images(),
        mean: mean(values),
        against,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        records::{Line, image::tests::image},
        t2i_compbench::three_in_one::Kind,
    };

    fn with(image: &Image, change: impl Fn(&mut Line)) -> Image {
        let mut lines = image.lines().to_vec();
        lines.iter_mut().for_each(change);
        Image::from_lines(lines).unwrap()
    }

    fn find<'a>(table: &'a Table, category: &str, metric: Metric) -> &'a Row {
        table.rows.iter().find(|r| r.category == category && r.metric == metric && r.question_type.is_none()).unwrap()
    }

    #[test]
    fn categories_are_means_over_images() {
        let images = [
            image(Metric::BlipVqa, "color", "dog", 0, &[1.0]),
            image(Metric::BlipVqa, "color", "cat", 0, &[0.5, 0.5]),
            image(Metric::BlipVqa, "color", "cat", 1, &[0.25]),
            image(Metric::Numeracy, "numeracy", "dog", 0, &[0.75]),
        ];
        let table = Table::new(&images, None);
        let row = find(&table, "color", Metric::BlipVqa);
        assert_eq!((row.mean.value, row.prompts, row.images, &row.against), (0.5, 2, 3, &None));
        assert_eq!(table.rows.len(), 2); // no overall score
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Table>(&json).unwrap(), table);
    }

    #[test]
    fn differences_are_of_images_that_both_have() {
        let of = |add: f64, indices: &[u64]| -> Vec<Image> {
            let one = |(prompt, value): (&str, f64)| {
                let one = |index: &u64| image(Metric::Clip, "non_spatial", prompt, *index, &[value + add]);
                indices.iter().map(one).collect::<Vec<_>>()
            };
            [("dog", 0.2), ("cat", 0.3), ("cow", 0.7)].map(one).concat()
        };
        let (base, tuned) = (of(0.0, &[0, 1]), of(0.1, &[1, 2, 3]));
        let table = Table::new(&tuned, Some(&base));
        let row = find(&table, "non_spatial", Metric::Clip);
        let against = row.against.as_ref().unwrap();
        assert_eq!((row.images, against.images), (9, 3));
        assert!((row.mean.value - 0.5).abs() < 1e-12 && (against.base.value - 0.4).abs() < 1e-12);
        // every prompt gained the same: the difference has no variation although the prompts differ
        let Estimate { value, low, high } = against.difference;
        assert!([value, low, high].iter().all(|v| (v - 0.1).abs() < 1e-12) && row.mean.high - row.mean.low > 0.2);
        let none = Table::new(&tuned, Some(&of(0.0, &[7])));
        assert_eq!(find(&none, "non_spatial", Metric::Clip).against, None);
    }

    #[test]
    fn seeds_in_common_widen_the_interval() {
        // every prompt has the same score; all variation is between the seeds
        let scores = [0.2, 0.5, 0.4, 0.7];
        let of = |own: bool| -> Vec<Image> {
            let prompts = (0..20).flat_map(|prompt| (0..4).map(move |index| (prompt, index)));
            let one = |(prompt, index): (u64, u64)| {
                let name = format!("{prompt:02}");
                let image = image(Metric::Clip, "non_spatial", &name, index, &[scores[index as usize]]);
                let seed = if own { 100 * prompt + index } else { 42 + index };
                with(&image, |line| line.subject.seed = Some(seed))
            };
            prompts.map(one).collect()
        };
        let width = |e: Estimate| e.high - e.low;
        let mean = |own| find(&Table::new(&of(own), None), "non_spatial", Metric::Clip).mean;
        assert!(width(mean(true)) < 1e-9, "{:?}", mean(true));
        let error = (0.1300f64 / 3.0 / 4.0).sqrt(); // of four seeds
        assert!((width(mean(false)) - 2.0 * 3.182 * error).abs() < 1e-9, "{:?}", mean(false));
        // a gain that is equal for all seeds has no variation
        let tuned: Vec<Image> = of(false).iter().map(|p| with(p, |line| line.answer.score += 0.1)).collect();
        let table = Table::new(&tuned, Some(&of(false)));
        let against = find(&table, "non_spatial", Metric::Clip).against.as_ref().unwrap();
        assert!((against.difference.value - 0.1).abs() < 1e-9 && width(against.difference) < 1e-9, "{against:?}");
    }

    #[test]
    fn complex_prompts_have_one_score_of_three() {
        let of = |prompt: &str, kind: Kind, scores: [Option<f64>; 3]| -> Vec<Image> {
            let metrics = [Metric::BlipVqa, Metric::Spatial, Metric::Clip];
            let lines = metrics.into_iter().zip(scores);
            let images = lines.filter_map(|(m, score)| Some(image(m, "complex", prompt, 0, &[score?])));
            images.map(|p| with(&p, |line| line.subject.kind = Some(kind))).collect()
        };
        let mut images = of("dog", Kind::Spatial, [Some(0.5), Some(1.0), Some(0.3)]); // 0.75
        images.extend(of("cat", Kind::Action, [Some(0.5), None, Some(0.3)])); // 0.4: spatial does not count
        images.extend(of("cow", Kind::SpatialAction, [Some(0.5), None, Some(0.3)])); // spatial is missing
        let table = Table::new(&images, None);
        let row = find(&table, "complex", Metric::ThreeInOne);
        assert_eq!((row.images, row.prompts), (2, 2));
        assert!((row.mean.value - 0.575).abs() < 1e-12);
        assert_eq!(find(&table, "complex", Metric::BlipVqa).images, 3);
    }

    #[test]
    fn geneval_is_the_mean_of_its_tasks() {
        let of = |task: &str, prompt: &str, scores: &[f64]| -> Vec<Image> {
            let one = |(i, score): (usize, &f64)| image(Metric::Correct, task, prompt, i as u64, &[*score]);
            scores.iter().enumerate().map(one).collect()
        };
        let images =
            [of("counting", "0", &[1.0]), of("colors", "1", &[1.0, 0.0]), of("colors", "2", &[0.0, 0.0])].concat();
        let base: Vec<Image> = images.iter().map(|p| with(p, |line| line.answer.score = 0.0)).collect();
        let table = Table::new(&images, Some(&base));
        let row = find(&table, ALL, Metric::Correct);
        assert_eq!((row.mean.value, row.prompts, row.images), (0.625, 3, 5)); // (1 + 0.25) / 2
        assert_eq!(row.against.as_ref().unwrap().difference.value, 0.625);
        let order: Vec<&str> = table.rows.iter().map(|r| r.category.as_str()).collect();
        assert_eq!(order, ["counting", "colors", "all"]);
    }

    #[test]
    fn a_second_opinion_has_a_score_of_its_own() {
        let of = |metric, scores: &[f64]| {
            let image = image(metric, "coco", "coco_1", 0, scores);
            with(&image, |line| line.subject.benchmark = Benchmark::Tifa)
        };
        let table = Table::new(&[of(Metric::Questions, &[1.0, 0.0]), of(Metric::Clip, &[0.25])], None);
        assert_eq!(find(&table, ALL, Metric::Questions).mean.value, 0.5);
        assert_eq!(find(&table, ALL, Metric::Clip).mean.value, 0.25);
    }

    #[test]
    fn questions_by_type() {
        let types = ["object", "object", "color"];
        let images: Vec<Image> = [("coco", "coco_1", [1.0, 1.0, 0.0]), ("drawbench", "drawbench_2", [1.0, 0.0, 0.0])]
            .map(|(source, id, scores)| {
                let image = image(Metric::Questions, source, id, 0, &scores);
                with(&image, |line| line.answer.question_type = Some(types[line.part].into()))
            })
            .to_vec();
        let table = Table::new(&images, None);
        assert_eq!(find(&table, ALL, Metric::Questions).mean.value, 0.5);
        let of = |name: &str| table.rows.iter().find(|r| r.question_type.as_deref() == Some(name)).unwrap();
        assert_eq!((of("object").mean.value, of("color").mean.value, of("object").images), (0.75, 0.0, 2));
        // uses an answer's own score (`raw`), if there is one
        let raw: Vec<Image> = images.iter().map(|p| with(p, |line| line.answer.raw = Some(1.0))).collect();
        assert_eq!(Table::new(&raw, None).rows.iter().find(|r| r.question_type.is_some()).unwrap().mean.value, 1.0);
    }
}
