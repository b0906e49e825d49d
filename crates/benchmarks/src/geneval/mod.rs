//! GenEval (Ghosh et al. 2023): objects, counts, colours and positions, by rules on a detector's boxes
//! (evaluation/evaluate_images.py).

mod folders;
mod metadata;
mod rules;

pub use folders::{Folder, image_path, scan};
pub use metadata::{Clause, Colour, Metadata, Relation, read};
pub use rules::{Colours, Thresholds, Verdict, colour_prompts, judge, relations, select};

/// The six tasks, in the order of reports.
pub const TASKS: [&str; 6] = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];

/// The share of correct images of each task, and the score of the benchmark: the mean over tasks, each with the same
/// weight. `None` without images (evaluation/summary_scores.py).
pub fn summary<'a>(images: impl IntoIterator<Item = (&'a str, bool)>) -> Option<(Vec<(String, f64)>, f64)> {
    let mut tasks: Vec<(String, Vec<bool>)> = vec![];
    for (tag, correct) in images {
        match tasks.iter_mut().find(|(task, _)| task == tag) {
            Some((_, all)) => all.push(correct),
            None => tasks.push((tag.to_owned(), vec![correct])),
        }
    }
    let share = |all: &[bool]| all.iter().filter(|correct| **correct).count() as f64 / all.len() as f64;
    let shares: Vec<(String, f64)> = tasks.into_iter().map(|(task, all)| (task, share(&all))).collect();
    let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / shares.len() as f64;
    (!shares.is_empty()).then_some((shares, mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_count_the_same() {
        let images = [("counting", true), ("colors", true), ("colors", false), ("colors", false), ("colors", false)];
        let (shares, mean) = summary(images).unwrap();
        assert_eq!(shares, [("counting".into(), 1.0), ("colors".into(), 0.25)]);
        assert_eq!(mean, 0.625);
        assert_eq!(summary([]), None);
    }
}
