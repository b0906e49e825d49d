//! Results, curves and settings of the training runs.

use super::{
    compare::cell,
    log::Validation,
    numbers::{Scale, counted, gibibytes, thousands, time, verdict},
    page::{self, section},
    run::Run,
    training::{self, Named},
};
use benchmarks::statistics::{self, Estimate};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// A table with a row for each run.
pub fn runs(runs: &[Run]) -> Option<Markup> {
    let judge = runs.iter().find_map(|run| run.log.validations.iter().find_map(|v| v.judge.keys().next()));
    let mut headings = vec!["run", "steps", "held-out loss", "change", "best"];
    headings.extend(judge.map(|_| "judge"));
    headings.extend(["a step", "training", "peak memory"]);
    let body = html! {
        div .panel.scroll {
            table .overview {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody { @for run in runs { (row(run, judge.is_some())) } }
            }
        }
    };
    (!runs.is_empty()).then(|| section("runs", "Training runs", &body))
}

fn row(run: &Run, is_judged: bool) -> Markup {
    let Run { name, log, .. } = run;
    let first = log.comparable().next().filter(|v| v.step == 0);
    let last = log.validations.last();
    let none = || cell("", "–", "");
    let steps = log.steps.last().map_or(0, |s| s.step);
    let state = match log.setting("train.steps").and_then(|n| n.parse::<u64>().ok()) {
        _ if log.finished => "finished".into(),
        Some(all) => format!("of {all}"),
        None => "not finished".into(),
    };
    let best = log.comparable().min_by(|a, b| a.caption_loss.total_cmp(&b.caption_loss));
    let best = best.map(|v| cell("", &Scale::LOSS.plain(v.caption_loss), &format!("step {}", thousands(v.step))));
    html! {
        tr {
            th scope="row" { (name) }
            (cell("", &steps.to_string(), &state))
            (last.map_or_else(none, held_out))
            (first.zip(last).filter(|(a, b)| a.step < b.step).map_or_else(none, |(a, b)| change(a, b)))
            (best.unwrap_or_else(none))
            @if is_judged { (last.and_then(|last| judged(first, last)).unwrap_or_else(none)) }
            (log.seconds_a_step().map_or_else(none, |s| cell("", &format!("{s:.2} s"), "")))
            (cell("", &time(log.seconds()), ""))
            (log.peak_memory().map_or_else(none, |bytes| cell("", &gibibytes(bytes), "")))
        }
    }
}

/// Cell with the mean loss, and its interval if the log has the loss of each prompt.
fn held_out(v: &Validation) -> Markup {
    let loss = Scale::LOSS.plain(v.caption_loss);
    match v.losses.len() {
        0 | 1 => cell("", &loss, &counted(v.prompts, "prompt")),
        _ => cell("", &loss, &Scale::LOSS.interval(&statistics::mean(&by_prompt(v)))),
    }
}

/// Cell with the change of the loss from the first to the last validation. Lower is better.
fn change(first: &Validation, last: &Validation) -> Markup {
    let difference = last.caption_loss - first.caption_loss;
    if first.losses.len() != last.losses.len() || first.losses.len() < 2 {
        return cell("", &Scale::LOSS.signed(difference), "");
    }
    let e: Estimate = statistics::difference(&by_prompt(first), &by_prompt(last));
    cell(verdict(&e, true), &Scale::LOSS.signed(e.value), &Scale::LOSS.signed_interval(&e))
}

fn by_prompt(v: &Validation) -> Vec<Vec<f64>> {
    v.losses.iter().map(|loss| vec![*loss]).collect()
}

/// Cell with the judge's first metric, now and at the first validation.
fn judged(first: Option<&Validation>, last: &Validation) -> Option<Markup> {
    let figure = last.judge.keys().next()?;
    let now = Scale::LOSS.plain(last.metric(figure)?);
    let before = first.filter(|first| first.step < last.step).and_then(|first| first.metric(figure));
    let name = figure.replace('_', " ");
    let note = before.map_or(name.clone(), |before| format!("{name}, before {}", Scale::LOSS.plain(before)));
    Some(cell("", &now, &note))
}

/// The curves of all runs.
pub fn curves(runs: &[Run]) -> Option<Markup> {
    let named: Vec<Named> = runs.iter().map(|run| (run.name.as_str(), &run.log)).collect();
    let panels = training::panels(&named);
    let body = html! {
        @if named.len() > 1 { (training::legend(&named)) }
        div .columns { @for panel in &panels { (panel) } }
        (training::reading())
        @if named.len() > 1 { p .soft { "Losses of steps are means of nearby steps." } }
    };
    (!panels.is_empty()).then(|| section("curves", "Curves", &body))
}

/// Notes on what the log of a run lacks.
pub fn gaps(run: &Run) -> Vec<String> {
    let Run { name, log, .. } = run;
    let mut gaps = vec![];
    match (&log.damaged[..], log.steps.is_empty()) {
        ([], _) => {}
        ([line], _) => gaps.push(format!("{name}: line {line} of events.jsonl is not whole; it is left out")),
        (lines, _) => {
            gaps.push(format!("{name}: {} lines of events.jsonl are not whole; they are left out", lines.len()))
        }
    }
    match log.skipped.len() {
        0 => {}
        count => gaps.push(format!(
            "{name}: skipped, since something was not finite: {} of {}",
            counted(count, "step"),
            count + log.steps.len()
        )),
    }
    if log.steps.is_empty() {
        gaps.push(format!("{name}: no step is done yet"));
    } else if !log.finished {
        gaps.push(format!("{name}: the run is not finished; this is how far it is"));
    }
    gaps
}

/// All settings of a single run. For several runs: the settings in which they differ, and all settings in folded parts.
pub fn settings(runs: &[Run]) -> Option<Markup> {
    let body = match runs {
        [] => return None,
        [run] => page::settings(&run.log.settings),
        runs => html! {
            (differences(runs))
            div .folded {
                @for run in runs {
                    (page::folded(&format!("{}: all settings", run.name), &page::settings(&run.log.settings)))
                }
            }
        },
    };
    Some(section("settings", "Settings", &body))
}

fn differences(runs: &[Run]) -> Markup {
    let mut seen = BTreeSet::new();
    let keys = runs.iter().flat_map(|run| &run.log.settings).map(|(key, _)| key.as_str());
    let value = |run: &Run, key: &str| run.log.setting(key).map(str::to_owned);
    let differ = |key: &&str| runs.iter().any(|run| value(run, key) != value(&runs[0], key));
    let keys: Vec<&str> = keys.filter(|key| *key != "output" && seen.insert(*key)).filter(differ).collect();
    if keys.is_empty() {
        return html! { p { "All settings are the same." } };
    }
    html! {
        p { "In these the runs differ." }
        div .panel.scroll {
            table .differences {
                thead {
                    tr {
                        th scope="col" { "setting" }
                        @for run in runs { th scope="col" { (run.name) } }
                    }
                }
                tbody {
                    @for key in keys {
                        tr {
                            th scope="row" { (key) }
                            @for run in runs { td { (value(run, key).unwrap_or("–".into())) } }
                        }
                    }
                }
            }
        }
    }
}

/// Explains the terms on the page.
pub fn reading(has_runs: bool, has_comparisons: bool) -> Markup {
    let mut terms = vec![(
        "interval",
        "95 %, by drawing the prompts again 2000 times, each with all its images. That of a change is paired, prompt by prompt and \
         image by image; where it does not reach 0, the change is in colour.",
    )];
    if has_runs {
        terms.push(("held-out loss", "the caption loss on prompts that are not trained on, when it was last measured"));
        terms
            .push(("change, best", "from before the training to the last measurement; the lowest of all measurements"));
        terms.push((
            "judge",
            "the figure of another network or program that looks at the same images and has no part in the losses",
        ));
    }
    if has_comparisons {
        terms.push((
            "won, lost, even",
            "whether the image scores higher or lower than the base model’s image of the same prompt and number. Up to 0.05 apart \
             (CLIP: 0.01) they are even; right and wrong are always told apart.",
        ));
    }
    section("reading", "How to read this page", &page::terms(terms))
}
