//! What the runs came to, their curves, and what they were set to.

use super::{
    Run,
    compare::cell,
    html::Text,
    log::Validation,
    numbers::{Scale, counted, gibibytes, thousands, time, verdict},
    page::{self, section},
    training::{self, Named},
};
use benchmarks::statistics::{self, Estimate};
use std::collections::BTreeSet;

/// A table with a row for each run.
pub fn runs(runs: &[Run]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let judge = runs.iter().find_map(|run| run.log.validations.iter().find_map(|v| v.judge.keys().next()));
    let mut headings = vec!["run".to_owned(), "steps".into(), "held-out loss".into(), "change".into(), "best".into()];
    headings.extend(judge.map(|_| "judge".into()));
    headings.extend(["a step".into(), "training".into(), "peak memory".into()]);
    let headings: String = headings.iter().map(|h| format!("<th scope=\"col\">{}</th>", Text(h))).collect();
    let rows: String = runs.iter().map(|run| row(run, judge.is_some())).collect();
    let body = format!(
        "<div class=\"panel scroll\">\n<table class=\"overview\">\n<thead><tr>{headings}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    );
    section("runs", "Training runs", &body)
}

fn row(run: &Run, is_judged: bool) -> String {
    let Run { name, log, .. } = run;
    let first = log.validations.first().filter(|v| v.step == 0);
    let last = log.validations.last();
    let none = || cell("", "–", "");
    let steps = log.steps.last().map_or(0, |s| s.step);
    let state = match log.setting("train.steps").and_then(|n| n.parse::<u64>().ok()) {
        _ if log.finished => "finished".into(),
        Some(all) => format!("of {all}"),
        None => "not finished".into(),
    };
    let mut cells = cell("", &steps.to_string(), &state);
    cells += &last.map_or_else(none, held_out);
    cells += &first.zip(last).filter(|(a, b)| a.step < b.step).map_or_else(none, |(a, b)| change(a, b));
    let best = log.validations.iter().min_by(|a, b| a.caption_loss.total_cmp(&b.caption_loss));
    cells += &best
        .map_or_else(none, |v| cell("", &Scale::LOSS.plain(v.caption_loss), &format!("step {}", thousands(v.step))));
    if is_judged {
        cells += &last.and_then(|last| judged(first, last)).unwrap_or_else(none);
    }
    cells += &log.seconds_a_step().map_or_else(none, |s| cell("", &format!("{s:.2} s"), ""));
    cells += &cell("", &time(log.seconds()), "");
    cells += &log.peak_memory().map_or_else(none, |bytes| cell("", &gibibytes(bytes), ""));
    format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", Text(name))
}

/// The mean loss, with its interval where the log has that of each prompt.
fn held_out(v: &Validation) -> String {
    let loss = Scale::LOSS.plain(v.caption_loss);
    match v.losses.len() {
        0 | 1 => cell("", &loss, &counted(v.prompts, "prompt")),
        _ => cell("", &loss, &Scale::LOSS.interval(&statistics::mean(&by_prompt(v)))),
    }
}

/// From the first to the last: less is better.
fn change(first: &Validation, last: &Validation) -> String {
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

/// The figure that the run goes by, and what it was before.
fn judged(first: Option<&Validation>, last: &Validation) -> Option<String> {
    let figure = last.judge.keys().next()?;
    let now = Scale::LOSS.plain(last.figure(figure)?);
    let before = first.filter(|first| first.step < last.step).and_then(|first| first.figure(figure));
    let name = figure.replace('_', " ");
    let note = before.map_or(name.clone(), |before| format!("{name}, before {}", Scale::LOSS.plain(before)));
    Some(cell("", &now, &note))
}

/// The curves of all runs.
pub fn curves(runs: &[Run]) -> String {
    let named: Vec<Named> = runs.iter().map(|run| (run.name.as_str(), &run.log)).collect();
    let panels = training::panels(&named);
    if panels.is_empty() {
        return String::new();
    }
    let (legend, note) = match named.len() {
        1 => (String::new(), ""),
        _ => (training::legend(&named), "<p class=\"soft\">Losses of steps are means of nearby steps.</p>\n"),
    };
    let body = format!("{legend}<div class=\"columns\">\n{panels}</div>\n{}{note}", training::READING);
    section("curves", "Curves", &body)
}

/// What the log of a run lacks.
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

/// Of one run all; of several those in which they differ, and all to unfold.
pub fn settings(runs: &[Run]) -> String {
    let body = match runs {
        [] => return String::new(),
        [run] => page::settings(&run.log.settings),
        runs => {
            let all: String = runs
                .iter()
                .map(|run| page::folded(&format!("{}: all settings", run.name), &page::settings(&run.log.settings)))
                .collect();
            format!("{}<div class=\"folded\">\n{all}</div>\n", differences(runs))
        }
    };
    section("settings", "Settings", &body)
}

fn differences(runs: &[Run]) -> String {
    let mut seen = BTreeSet::new();
    let keys = runs.iter().flat_map(|run| &run.log.settings).map(|(key, _)| key.as_str());
    let value = |run: &Run, key: &str| run.log.setting(key).map(str::to_owned);
    let differ = |key: &&str| runs.iter().any(|run| value(run, key) != value(&runs[0], key));
    let keys: Vec<&str> = keys.filter(|key| *key != "output" && seen.insert(*key)).filter(differ).collect();
    if keys.is_empty() {
        return "<p>All settings are the same.</p>\n".into();
    }
    let headings: String = runs.iter().map(|run| format!("<th scope=\"col\">{}</th>", Text(&run.name))).collect();
    let row = |key: &&str| {
        let cells: String =
            runs.iter().map(|run| format!("<td>{}</td>", Text(value(run, key).unwrap_or("–".into())))).collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", Text(key))
    };
    let rows: String = keys.iter().map(row).collect();
    format!(
        "<p>In these the runs differ.</p>\n<div class=\"panel scroll\">\n<table class=\"differences\">\n<thead><tr><th scope=\"col\">setting</th>{headings}</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )
}

/// What the words on the page mean.
pub fn reading(has_runs: bool, has_comparisons: bool) -> String {
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
    let terms: String = terms.iter().map(|(term, text)| format!("<dt>{term}</dt><dd>{text}</dd>\n")).collect();
    section("reading", "How to read this page", &format!("<dl class=\"terms\">\n{terms}</dl>\n"))
}
