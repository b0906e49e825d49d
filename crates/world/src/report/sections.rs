//! The sections of the page, from top to bottom.

use super::{Outcome, Pairs, SHOWN};
use crate::scores::{Change, Comparison, Measure, Row};
use benchmarks::statistics::Estimate;
use comat::report::{
    chart::{self, Bar, Curve, Group, Mark},
    gallery::{self, Card, Filter},
    html::Text,
    log::Log,
    page,
};
use std::collections::BTreeSet;

/// What was done, and what came of it.
pub fn headline(pairs: &Pairs) -> String {
    let all = &pairs.comparison.all;
    let Some(change) = all.get(Measure::Correct) else { return String::new() };
    let number = |side: &str, name: &str, e: &Estimate| {
        format!(
            "<div class=\"number {side}\"><span>{name}</span><strong>{}</strong><small>{}</small></div>\n",
            percent(e.value),
            interval(e)
        )
    };
    let outcomes: String = Outcome::ALL.iter().map(|outcome| outcome_bar(*outcome, pairs.count(*outcome))).collect();
    let keys: String = Outcome::ALL
        .iter()
        .map(|o| format!("<li><i class=\"{}\"></i>{} {}</li>\n", o.tag(), pairs.count(*o), o.words()))
        .collect();
    format!(
        "<header>\n<p class=\"eyebrow\">CoMat on the miniature world</p>\n\
         <h1>Do the pictures show what the prompts say?</h1>\n\
         <p class=\"lead\">CoMat tuned a text-to-image model with prompts alone: a frozen captioner told how likely each \
         prompt is, given the picture drawn for it, and the gradient of that trained a LoRA. \
         Here the base model and the tuned one draw the same held-out prompts from the same seeds, and a program judges \
         every picture from its pixels.</p>\n</header>\n\
         <div class=\"panel headline\">\n<p class=\"what\">Pictures in which everything is as asked, and nothing else is there</p>\n\
         <div class=\"numbers\">\n{}{}<div class=\"number difference {}\"><span>difference, points</span><strong>{}</strong><small>{}</small></div>\n</div>\n\
         <div class=\"outcomes\" role=\"img\" aria-label=\"What became of the pictures\">{outcomes}</div>\n<ul class=\"outcome-keys\">\n{keys}</ul>\n\
         <p class=\"soft\">{} pictures of {} held-out prompts on each side. Small figures are 95 % intervals.</p>\n</div>\n",
        number("base", "base", &change.base),
        number("tuned", "tuned", &change.tuned),
        verdict(Measure::Correct, &change.difference),
        points(change.difference.value),
        between(points(change.difference.low), points(change.difference.high)),
        all.pictures,
        all.prompts,
    )
}

fn outcome_bar(outcome: Outcome, count: usize) -> String {
    let title = format!("{count} {}", outcome.words());
    format!("<i class=\"{}\" style=\"flex-grow:{count}\" title=\"{title}\"></i>", outcome.tag())
}

/// The same prompts and seeds, before and after.
pub fn pictures(filters: &[Filter], cards: &[Card]) -> String {
    let body = format!(
        "<p>The first {SHOWN} prompts of each category in the prompt file, with their seeds in turn: they are not chosen by how \
         they came out. ✓ is a picture in which everything is as asked. A click enlarges.</p>\n{}",
        gallery::html(filters, cards)
    );
    page::section("pictures", "Before and after", &body)
}

/// All correct by category: figure, table, and every measure to unfold.
pub fn categories(comparison: &Comparison) -> String {
    let rows: Vec<(String, &Row<Change>)> = comparison.rows().collect();
    let changes = || rows.iter().filter_map(|(name, row)| Some((name.clone(), row, row.get(Measure::Correct)?)));
    let groups: Vec<Group> = changes().map(|(name, _, change)| group(name, change)).collect();
    let lines: String = changes()
        .map(|(name, row, change)| {
            let note = format!("{} prompts, {} pictures", row.prompts, row.pictures);
            line(&name, Some(&note), Measure::Correct, change, name == "all")
        })
        .collect();
    let folded: String =
        rows.iter().map(|(name, row)| page::folded(&format!("{name}: every measure"), &measures(row))).collect();
    let body = format!(
        "<div class=\"columns\">\n<div class=\"panel\">\n{}{}</div>\n<div class=\"panel\">\n{}</div>\n</div>\n<div class=\"folded\">\n{folded}</div>\n",
        sides(),
        chart::bars("All correct by category", &groups),
        table("all correct", &lines),
    );
    page::section("categories", "All correct, by category", &body)
}

/// What else changed: the pictures should not get worse as they get more faithful.
pub fn quality(comparison: &Comparison) -> String {
    let shares = [Measure::Present, Measure::Bound, Measure::Relation, Measure::Clean, Measure::Extra];
    let groups: Vec<Group> =
        shares.iter().filter_map(|m| Some(group(m.name().into(), comparison.all.get(*m)?))).collect();
    let body = format!(
        "<p>Of “something extra” and “unexplained”, less is better. Pictures that stay clean and explained are still \
         drawn as well as before.</p>\n\
         <div class=\"columns\">\n<div class=\"panel\">\n{}{}</div>\n<div class=\"panel\">\n{}</div>\n</div>\n",
        sides(),
        chart::bars("Measures of all pictures", &groups),
        measures(&comparison.all),
    );
    page::section("quality", "Objects, attributes and quality", &body)
}

/// Where the words of some sample prompts look; nothing where the run did not record it.
pub fn words(panels: &[(String, String)]) -> String {
    if panels.is_empty() {
        return String::new();
    }
    let body = format!(
        "<p>The first sample prompts of the run, above before the training and below after it, from one seed. Beside each picture, \
         how much of the cross-attention of every place goes to a word, from dark to bright: the mean over all denoising steps, \
         layers and heads. Above and below have one scale.</p>\n<div class=\"panels\">\n{}</div>\n",
        gallery::panels(panels)
    );
    page::section("words", "Where words look", &body)
}

/// Figures of a step that only some runs have.
const OTHERS: &[(&str, &str)] = &[
    ("mixed_loss", "Caption loss of mixed latents"),
    ("token_loss", "Attention: token loss"),
    ("pixel_loss", "Attention: pixel loss"),
    ("adversarial_loss", "Adversarial loss"),
    ("discriminator_accuracy", "How often the discriminator is right"),
];

/// The curves of the run.
pub fn training(log: &Log) -> String {
    let points = |of: fn(&comat::report::log::Step) -> f64| -> Vec<(f64, f64)> {
        log.steps.iter().map(|s| (s.step as f64, of(s))).collect()
    };
    let curves = |name: &str, points: Vec<(f64, f64)>, marks: &[Mark]| {
        let smooth = chart::smoothed(&points, points.len() / 20);
        let curves = [Curve { class: "raw", points }, Curve { class: "tuned", points: smooth }];
        chart::curves(name, &curves, marks)
    };
    let marks: Vec<Mark> = log
        .validations
        .iter()
        .map(|v| Mark {
            x: v.step as f64,
            y: v.caption_loss,
            error: v.standard_error,
            text: format!("{} held-out prompts at step {}: {:.4}", v.prompts, v.step, v.caption_loss),
        })
        .collect();
    let mut loss_keys = vec![("raw", "one step"), ("line", "mean of nearby steps")];
    if !marks.is_empty() {
        loss_keys.push(("dot", "held-out prompts, ± standard error"));
    }
    let mut facts = vec![("steps", log.steps.len().to_string())];
    facts.extend(log.trainable.map(|n| ("trained weights", thousands(n))));
    facts.push(("training time", time(log.seconds())));
    if !log.steps.is_empty() {
        facts.push(("a step", format!("{:.2} s", log.seconds() / log.steps.len() as f64)));
    }
    facts.extend(
        log.peak_memory().map(|bytes| ("peak memory", format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)))),
    );
    let panel = |heading: &str, legend: &str, chart: &str| {
        format!("<div class=\"panel\">\n<h3>{heading}</h3>\n{legend}{chart}</div>\n")
    };
    let steps = chart::legend(&loss_keys[..2]);
    let mut panels = panel(
        "Caption loss",
        &chart::legend(&loss_keys),
        &curves("Caption loss over training steps", points(|s| s.caption_loss), &marks),
    );
    panels +=
        &panel("Gradient norm", &steps, &curves("Gradient norm over training steps", points(|s| s.grad_norm), &[]));
    for (key, heading) in OTHERS {
        let points: Vec<(f64, f64)> = log.steps.iter().filter_map(|s| Some((s.step as f64, s.other(key)?))).collect();
        if !points.is_empty() {
            panels += &panel(heading, &steps, &curves(&format!("{heading} over training steps"), points, &[]));
        }
    }
    if log.validations.len() > 1 {
        for figure in log.validations.iter().flat_map(|v| v.judge.keys()).collect::<BTreeSet<_>>() {
            let points = log.validations.iter().filter_map(|v| Some((v.step as f64, *v.judge.get(figure)?))).collect();
            let heading = format!("The judge: {}", figure.replace('_', " "));
            let chart = chart::curves(&heading, &[Curve { class: "tuned", points }], &[]);
            panels += &panel(&heading, &chart::legend(&[("line", "held-out prompts")]), &chart);
        }
    }
    let body = format!(
        "{}<div class=\"columns\">\n{panels}</div>\n\
         <p class=\"soft\">The caption loss is the captioner’s mean negative log-likelihood of a prompt’s tokens, given the \
         picture: lower means that the picture says more of the prompt. Every step has other prompts.</p>\n",
        page::facts(&facts),
    );
    page::section("training", "The training run", &body)
}

/// What the words on this page mean.
pub fn reading() -> String {
    let terms: String =
        Measure::ALL.iter().map(|m| format!("<dt>{}</dt><dd>{}</dd>\n", m.name(), meaning(*m))).collect();
    let body = format!(
        "<p>The judge finds the connected things in a picture, and the shape, colour and texture of each, and holds them against \
         the prompt. It never sees which model drew the picture, and has no part in the training.</p>\n\
         <dl class=\"terms\">\n{terms}<dt>won, lost</dt><dd>all correct only in the tuned, only in the base picture of a prompt and seed</dd>\n\
         <dt>interval</dt><dd>95 %, by drawing the prompts again 2000 times, each with all its pictures. That of the difference \
         keeps base and tuned picture together. Where it does not reach 0, the difference is in colour.</dd>\n</dl>\n"
    );
    page::section("reading", "How to read this page", &body)
}

/// Settings and commands.
pub fn making(log: &Log, commands: &[Vec<String>]) -> String {
    let body = format!(
        "<p>The commands behind this page; the configuration is the run’s own, as it was resolved.</p>\n{}<div class=\"folded\">\n{}</div>\n",
        page::commands(commands),
        page::folded("All settings of the run", &page::settings(&log.settings))
    );
    page::section("making", "How it was made", &body)
}

fn meaning(measure: Measure) -> &'static str {
    match measure {
        Measure::Correct => {
            "pictures with every object that was asked for, its attributes right, lying as asked, and nothing else"
        }
        Measure::Present => "share of the objects asked for, of which there is one of the right shape",
        Measure::Bound => {
            "share of the objects asked for, of which there is one of the right shape, colour and texture"
        }
        Measure::Relation => "pictures in which the objects lie as asked, of those where that was asked",
        Measure::Clean => "pictures in which everything is a whole object",
        Measure::Extra => "pictures with something that was not asked for",
        Measure::Unexplained => {
            "how far a pixel is, on average, from what the ground and the found objects explain; 100 is from black to white"
        }
    }
}

/// Every measure of some pictures.
fn measures(row: &Row<Change>) -> String {
    let lines: String = row.measures.iter().map(|(m, change)| line(m.name(), None, *m, change, false)).collect();
    table("measure", &lines)
}

fn table(what: &str, lines: &str) -> String {
    format!(
        "<table>\n<thead><tr><th scope=\"col\">{}, %</th><th scope=\"col\">base</th><th scope=\"col\">tuned</th><th scope=\"col\">difference</th></tr></thead>\n\
         <tbody>\n{lines}</tbody>\n</table>\n",
        Text(what)
    )
}

fn line(name: &str, note: Option<&str>, measure: Measure, change: &Change, total: bool) -> String {
    let Change { base, tuned, difference } = change;
    let plain = |v: f64| measure.percent(v);
    let signed = |v: f64| sign(&measure.percent(v));
    let cell = |class: &str, e: &Estimate, number: &dyn Fn(f64) -> String| {
        format!(
            "<td class=\"{class}\">{}<small>{}</small></td>",
            number(e.value),
            between(number(e.low), number(e.high))
        )
    };
    let note = note.map_or(String::new(), |note| format!("<small class=\"under\">{}</small>", Text(note)));
    format!(
        "<tr{}><th scope=\"row\">{}{note}</th>{}{}{}</tr>\n",
        if total { " class=\"total\"" } else { "" },
        Text(name),
        cell("", base, &plain),
        cell("", tuned, &plain),
        cell(
            if signed(difference.value).starts_with(['+', '−']) { verdict(measure, difference) } else { "" },
            difference,
            &signed
        ),
    )
}

fn group(label: String, Change { base, tuned, .. }: &Change) -> Group {
    let bar = |side, e: &Estimate| Bar { side, value: e.value, low: e.low, high: e.high };
    let text = format!("{} → {}", percent(base.value), percent(tuned.value));
    Group { label, text, bars: vec![bar("base", base), bar("tuned", tuned)] }
}

fn sides() -> String {
    chart::legend(&[("base", "base"), ("tuned", "tuned"), ("interval", "95 % interval")])
}

/// The style of a difference: neither, where its interval holds 0.
fn verdict(measure: Measure, difference: &Estimate) -> &'static str {
    let (gain, loss) = if measure.is_fault() { ("worse", "better") } else { ("better", "worse") };
    match difference {
        Estimate { low, .. } if *low > 0.0 => gain,
        Estimate { high, .. } if *high < 0.0 => loss,
        _ => "",
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn points(share: f64) -> String {
    sign(&format!("{:.1}", 100.0 * share))
}

/// With a sign, and a proper minus; what is rounded to nothing has none.
fn sign(number: &str) -> String {
    match number.strip_prefix('-') {
        _ if !number.contains(|c: char| c.is_ascii_digit() && c != '0') => number.trim_start_matches('-').into(),
        Some(number) => format!("−{number}"),
        None => format!("+{number}"),
    }
}

fn interval(e: &Estimate) -> String {
    between(format!("{:.1}", 100.0 * e.low), format!("{:.1}", 100.0 * e.high))
}

/// `12–34`, or `−12 to +34` where there are signs.
fn between(low: String, high: String) -> String {
    if [&low, &high].iter().any(|end| end.starts_with(['+', '−'])) {
        format!("{low} to {high}")
    } else {
        format!("{low}–{high}")
    }
}

fn time(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!([thousands(7), thousands(1234), thousands(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([time(9.6), time(75.0), time(7300.0)], ["10 s", "1 min 15 s", "2 h 1 min"]);
        assert_eq!([points(0.25), points(-0.031), points(-0.0001)], ["+25.0", "−3.1", "0.0"]);
        assert_eq!(between(points(-0.02), points(0.0)), "−2.0 to 0.0");
    }

    #[test]
    fn only_what_is_clear_is_coloured() {
        let estimate = |low, high| Estimate { value: (low + high) / 2.0, low, high };
        assert_eq!(verdict(Measure::Correct, &estimate(0.1, 0.2)), "better");
        assert_eq!(verdict(Measure::Correct, &estimate(-0.1, 0.2)), "");
        assert_eq!(verdict(Measure::Extra, &estimate(0.1, 0.2)), "worse");
        assert_eq!(verdict(Measure::Extra, &estimate(-0.2, -0.1)), "better");
    }
}
