//! Results of a sweep, in Markdown.

use super::{At, Request};
use crate::scores::{self, Change, Comparison, Measure, Scores, spread};
use anyhow::Result;
use benchmarks::statistics::Estimate;
use scenes::judging::Judged;
use serde::Serialize;
use std::{collections::BTreeSet, fmt, path::Path};

#[derive(Debug, Serialize)]
pub struct Sweep {
    /// The model's name as given.
    pub model: String,
    /// Name of the settings that the LoRAs were trained with.
    pub name: String,
    /// A file for each training.
    pub loras: Vec<String>,
    pub prompts: usize,
    /// Number of images of each prompt.
    pub images: usize,
    /// DDIM steps.
    pub steps: usize,
    /// One row per guidance.
    pub rows: Vec<Row>,
    /// `None` if there was only one guidance.
    pub chosen: Option<Chosen>,
    /// `None` without a LoRA.
    pub best: Option<Best>,
}

/// Both sides at one guidance.
#[derive(Debug, Serialize)]
pub struct Row {
    pub guidance: f64,
    pub base: Side,
    pub tuned: Option<Side>,
    /// tuned − base.
    pub comparison: Option<Comparison>,
}

#[derive(Debug, Serialize)]
pub struct Side {
    pub scores: Scores,
    /// Share of all-correct images, on the prompts that choose the guidance.
    pub choosing: Option<Estimate>,
}

/// Each side's best guidance, by all-correct images on the choosing prompts.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Description of those prompts.
    pub on: String,
    pub prompts: usize,
    /// How many of them are judged too.
    pub also_judged: usize,
    pub base: f64,
    pub tuned: Option<f64>,
}

/// Base and tuned model, each at its best guidance.
#[derive(Debug, Serialize)]
pub struct Best {
    pub base: f64,
    pub tuned: f64,
    pub comparison: Comparison,
    /// The same tuned images, compared with the base model at the guidance where it has the most all-correct images on
    /// the judged prompts, which favours the base: that guidance, and the change in all-correct images. `None` if that
    /// is the chosen guidance.
    pub strictest: Option<(f64, Change)>,
}

const COLUMNS: &[Measure] =
    &[Measure::Correct, Measure::Present, Measure::Bound, Measure::Relation, Measure::Clean, Measure::Extra];

impl Sweep {
    /// `drawn`: images of the base model, then of each training, at every guidance of the request.
    pub(super) fn new(request: &Request, model: &Path, drawn: &[Vec<At>]) -> Result<Self> {
        let (base, trainings) = drawn.split_first().map_or((&[][..], &[][..]), |(base, rest)| (base.as_slice(), rest));
        let all = |place: usize, of: fn(&At) -> &[Judged]| trainings.iter().map(|t| of(&t[place])).collect::<Vec<_>>();
        let row = |(place, guidance): (usize, &f64)| {
            let (mine, theirs) = (&base[place], all(place, |at| &at.judged));
            let tuned = (!theirs.is_empty()).then(|| Side::new(&theirs, &all(place, |at| &at.choosing)));
            let comparison = tuned.as_ref().map(|_| scores::compare_trainings(&mine.judged, &theirs)).transpose()?;
            Ok(Row { guidance: *guidance, base: Side::new(&[&mine.judged], &[&mine.choosing]), tuned, comparison })
        };
        let rows = request.guidances.iter().enumerate().map(row).collect::<Result<Vec<_>>>()?;
        let base_at = best(rows.iter().map(|row| Some(&row.base)));
        let tuned_at = (!trainings.is_empty()).then(|| best(rows.iter().map(|row| row.tuned.as_ref())));
        let best = tuned_at.map(|tuned| {
            let comparison = scores::compare_trainings(&base[base_at].judged, &all(tuned, |at| &at.judged))?;
            let of_base = rows.iter().map(|row| row.base.scores.all.get(Measure::Correct));
            let most = greatest(of_base);
            let strictest = if most == base_at {
                None
            } else {
                let strict = scores::compare_trainings(&base[most].judged, &all(tuned, |at| &at.judged))?;
                strict.all.get(Measure::Correct).map(|change| (rows[most].guidance, *change))
            };
            anyhow::Ok(Best { base: rows[base_at].guidance, tuned: rows[tuned].guidance, comparison, strictest })
        });
        let judged: BTreeSet<&str> = request.questions.iter().map(|q| q.prompt.as_str()).collect();
        let chosen = (rows.len() > 1).then(|| Chosen {
            on: request.chosen_on.clone(),
            prompts: request.choosing.len(),
            also_judged: request.choosing.iter().filter(|q| judged.contains(q.prompt.as_str())).count(),
            base: rows[base_at].guidance,
            tuned: tuned_at.map(|place| rows[place].guidance),
        });
        Ok(Self {
            model: model.display().to_string(),
            name: request.name.clone(),
            loras: request.loras.iter().map(|path| path.display().to_string()).collect(),
            prompts: request.questions.len(),
            images: request.count,
            steps: request.steps,
            best: best.transpose()?,
            rows,
            chosen,
        })
    }
}

impl Side {
    fn new(judged: &[&[Judged]], choosing: &[&[Judged]]) -> Self {
        let choosing = scores::scores_of_trainings(choosing).all.get(Measure::Correct).copied();
        Self { scores: scores::scores_of_trainings(judged), choosing }
    }
}

/// Index of the side that is best on the choosing prompts.
fn best<'a>(sides: impl Iterator<Item = Option<&'a Side>>) -> usize {
    greatest(sides.map(|side| side.and_then(|side| side.choosing.as_ref())))
}

/// Index of the largest value; of equal ones the first, which has the least guidance.
fn greatest<'a>(all: impl Iterator<Item = Option<&'a Estimate>>) -> usize {
    let values = all.map(|e| e.map_or(f64::NEG_INFINITY, |e| e.value));
    let better = |best: (usize, f64), (place, value)| if value > best.1 { (place, value) } else { best };
    values.enumerate().fold((0, f64::NEG_INFINITY), better).0
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = self.name.replace('|', "\\|");
        writeln!(
            f,
            "{} prompts × {} images, {} DDIM steps; every image has noise of its own, the same for all models. Base: {}.{} \
             In per cent, with 95 % intervals over prompts{}.\n",
            self.prompts,
            self.images,
            self.steps,
            self.model,
            match self.loras.len() {
                0 => String::new(),
                1 => format!(" {}: {}.", self.name, self.loras[0]),
                n => format!(" {}: {n} trainings, {}.", self.name, self.loras.join(", ")),
            },
            if self.loras.len() > 1 { "; those of trainings also over trainings" } else { "" },
        )?;
        let heading = |m: &Measure| m.name().to_owned() + if m.is_fault() { " (less is better)" } else { "" };
        let headings: Vec<String> = COLUMNS.iter().map(heading).collect();
        writeln!(f, "| guidance | model | {} | all correct, to base |", headings.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(COLUMNS.len() + 3))?;
        for row in &self.rows {
            let line = |f: &mut fmt::Formatter, name: &str, side: &Side, difference: &str| {
                let cell = |m: &Measure| side.scores.all.get(*m).map_or("–".into(), |e| plain(*m, e));
                let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
                writeln!(f, "| {} | {name} | {} | {difference} |", row.guidance, cells.join(" | "))
            };
            line(f, "base", &row.base, "")?;
            if let Some(tuned) = &row.tuned {
                let change = row.comparison.as_ref().and_then(|c| c.all.get(Measure::Correct));
                let difference = change.map(|c| self.signed(Measure::Correct, &c.difference)).unwrap_or_default();
                line(f, &name, tuned, &difference)?;
            }
        }
        if let Some(best) = &self.best {
            let title = if self.chosen.is_some() { "Best against best" } else { "Base and tuned" };
            writeln!(f, "\n## {title}\n")?;
            writeln!(f, "| | base, guidance {} | {name}, guidance {} | difference |", best.base, best.tuned)?;
            writeln!(f, "|---|---|---|---|")?;
            self.differences(f, &best.comparison)?;
        }
        let notes = self.notes();
        if notes.is_empty() { Ok(()) } else { writeln!(f, "\n{}", notes.join("\n")) }
    }
}

impl Sweep {
    /// All measures of all images; `correct` and `bound` also by category.
    fn differences(&self, f: &mut fmt::Formatter, comparison: &Comparison) -> fmt::Result {
        for measure in Measure::ALL {
            let by_category = matches!(measure, Measure::Correct | Measure::Bound);
            let categories = comparison.categories.iter().filter(|_| by_category);
            let all = [(
                measure.name().to_owned() + if measure.is_fault() { " (less is better)" } else { "" },
                &comparison.all,
            )];
            for (label, row) in all.into_iter().chain(categories.map(|(c, row)| (format!("— {c}"), row))) {
                if let Some(change) = row.get(*measure) {
                    let [base, tuned] = [&change.base, &change.tuned].map(|e| plain(*measure, e));
                    writeln!(f, "| {label} | {base} | {tuned} | {} |", self.signed(*measure, &change.difference))?;
                }
            }
        }
        Ok(())
    }

    /// How the guidances were chosen, and the limits of the results.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![];
        if let Some(chosen) = &self.chosen {
            let tuned = chosen.tuned.map(|guidance| (self.name.as_str(), guidance));
            let sides: Vec<(&str, f64)> = [("base", chosen.base)].into_iter().chain(tuned).collect();
            let on = match chosen.also_judged {
                0 => format!("{} other prompts ({})", chosen.prompts, chosen.on),
                n => format!("{} prompts ({}), of which {n} are judged here", chosen.prompts, chosen.on),
            };
            let named: Vec<String> = sides.iter().map(|(side, at)| format!("{side} {at}")).collect();
            notes.push(format!(
                "- Each model's guidance was chosen by all correct on {on}: {}. All correct there, by guidance:{}.",
                named.join(", "),
                self.choosing()
            ));
            if chosen.also_judged > 0 {
                notes.push(
                    "- Guidance chosen on prompts that are judged favours all models; --choose-on takes other prompts."
                        .into(),
                );
            }
            let most = self.rows.last().map_or(f64::NAN, |row| row.guidance);
            for (side, _) in sides.iter().filter(|(_, at)| *at == most) {
                notes.push(format!("- {side} is best at the largest guidance tried; a larger one may be better."));
            }
        }
        if let Some((guidance, change)) = self.best.as_ref().and_then(|best| best.strictest.as_ref()) {
            notes.push(format!(
                "- On the judged prompts themselves the base is best at guidance {guidance}. Against that, which favours the base, \
                 all correct differs by {}.",
                self.signed(Measure::Correct, &change.difference)
            ));
        }
        if self.loras.len() == 1 {
            notes.push("- One training: the intervals leave out what another training changes.".into());
        }
        notes
    }

    /// All-correct images of each model at each guidance, on the choosing prompts.
    fn choosing(&self) -> String {
        let line = |name: &str, side: fn(&Row) -> Option<&Side>| {
            let of = |row: &Row| {
                let value = side(row)?.choosing?.value;
                Some(format!("{}: {}", row.guidance, Measure::Correct.percent(value)))
            };
            let all: Vec<String> = self.rows.iter().filter_map(of).collect();
            if all.is_empty() { String::new() } else { format!(" {name} {}", all.join(", ")) }
        };
        let tuned = line(&self.name, |row| row.tuned.as_ref());
        line("base", |row| Some(&row.base)) + if tuned.is_empty() { "" } else { ";" } + &tuned
    }

    /// A difference; bold if its interval excludes zero and there are at least two trainings.
    fn signed(&self, measure: Measure, difference: &Estimate) -> String {
        let text = spread(measure, difference, true).replace('-', "−");
        // one training does not show how trainings vary
        let clear = self.loras.len() > 1 && (difference.low > 0.0 || difference.high < 0.0);
        match text.split_once(' ') {
            Some((value, interval)) if clear => format!("**{value}** {interval}"),
            _ => text,
        }
    }
}

fn plain(measure: Measure, estimate: &Estimate) -> String {
    spread(measure, estimate, false).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tests::{questions, request};
    use scenes::{
        judge::{Look, Verdict},
        judging::Question,
    };

    /// Two images of each prompt; `right` of all are correct.
    fn images(questions: &[Question], right: usize) -> Vec<Judged> {
        let judged = |i: usize| Judged {
            prompt: questions[i / 2].prompt.clone(),
            category: questions[i / 2].category,
            seed: i as u64,
            file: "".into(),
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
        (0..2 * questions.len()).map(judged).collect()
    }

    /// Models at guidances 1 and 4: number of correct images of the two of the choosing prompts, and of the four of the
    /// others.
    fn sweep(models: &[[(usize, usize); 2]], request: &Request) -> Sweep {
        let at = |(choosing, judged): &(usize, usize)| At {
            choosing: images(&request.choosing, *choosing),
            judged: images(&request.questions, *judged),
        };
        let drawn: Vec<Vec<At>> = models.iter().map(|model| model.iter().map(at).collect()).collect();
        Sweep::new(request, Path::new("sd"), &drawn).unwrap()
    }

    fn of(loras: &[&str]) -> Request {
        Request {
            loras: loras.iter().map(Into::into).collect(),
            guidances: vec![1.0, 4.0],
            questions: questions("a red star\na blue circle above a green square\n"),
            ..request()
        }
    }

    #[test]
    fn the_best_guidance_is_chosen_on_other_prompts() {
        // on the judged prompts the base would be best at guidance 1, and the LoRA at 4
        let sweep = sweep(&[[(0, 3), (1, 1)], [(2, 2), (1, 4)]], &of(&["a.safetensors"]));
        let best = sweep.best.as_ref().unwrap();
        assert_eq!((best.base, best.tuned), (4.0, 1.0));
        let change = best.comparison.all.measures[&Measure::Correct];
        assert_eq!((change.base.value, change.tuned.value, change.difference.value), (0.25, 0.5, 0.25));
        let text = sweep.to_string();
        assert!(text.starts_with("2 prompts × 2 images, 10 DDIM steps; "), "{text}");
        assert!(text.contains("\n| 1 | base | 75.0 [50.0, 100.0] | 100.0 [100.0, 100.0] | 75.0 "), "{text}");
        assert!(text.contains("\n| 4 | tuned | 100.0 [100.0, 100.0] |"), "{text}");
        assert!(text.contains(
            "| | base, guidance 4 | tuned, guidance 1 | difference |\n|---|---|---|---|\n| all correct | 25.0 ["
        ));
        assert!(text.contains("\n| — spatial | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] | +0.0 [+0.0, +0.0] |\n"), "{text}");
        assert!(text.contains("on 1 other prompts (training prompts): base 4, tuned 1."), "{text}");
        assert!(text.contains("by guidance: base 1: 0.0, 4: 50.0; tuned 1: 100.0, 4: 50.0.\n"), "{text}");
        assert!(text.contains("\n- base is best at the largest guidance tried") && !text.contains("- tuned is best"));
        let strict = "- On the judged prompts themselves the base is best at guidance 1. Against that, which favours the base, all \
                      correct differs by −25.0 [";
        assert!(text.contains(strict), "{text}");
        assert!(text.ends_with("- One training: the intervals leave out what another training changes.\n"), "{text}");
    }

    #[test]
    fn several_trainings_have_one_guidance() {
        // the first is best at 1, the second at 4, both together at 4
        let models = [[(1, 1), (1, 1)], [(1, 2), (0, 3)], [(0, 1), (2, 4)]];
        let sweep = sweep(&models, &of(&["a.safetensors", "b.safetensors"]));
        let best = sweep.best.as_ref().unwrap();
        assert_eq!((best.base, best.tuned), (1.0, 4.0), "of equals the least guidance");
        let change = best.comparison.all.measures[&Measure::Correct];
        assert_eq!((change.tuned.value, change.difference.value), (0.875, 0.625));
        assert!(change.difference.low < 0.0, "two trainings say little: {change:?}");
        let text = sweep.to_string();
        assert!(
            text.contains(" tuned: 2 trainings, a.safetensors, b.safetensors. In per cent")
                && !text.contains("One training")
        );
    }

    #[test]
    fn without_a_lora_and_without_a_choice() {
        let base = sweep(&[[(0, 3), (1, 1)]], &of(&[]));
        assert!(base.best.is_none() && base.chosen.as_ref().unwrap().base == 4.0);
        assert!(!base.to_string().contains("tuned"), "{base}");
        let one = Request { guidances: vec![2.0], choosing: vec![], ..of(&["a.safetensors"]) };
        let at = |right| vec![At { choosing: vec![], judged: images(&one.questions, right) }];
        let one = Sweep::new(&one, Path::new("sd"), &[at(1), at(2)]).unwrap();
        let text = one.to_string();
        assert!(one.chosen.is_none() && text.contains("## Base and tuned") && !text.contains("chosen"), "{text}");
    }

    #[test]
    fn a_choice_on_judged_prompts_is_told() {
        let mut request = of(&[]);
        request.choosing = request.questions.clone();
        let text = sweep(&[[(0, 3), (1, 1)]], &request).to_string();
        assert!(text.contains("on 2 prompts (training prompts), of which 2 are judged here: base 4."), "{text}");
        assert!(text.contains("- Guidance chosen on prompts that are judged favours all models"), "{text}");
    }
}
