//! The sections of the page, from top to bottom.

use super::{Also, Outcome, Pairs, SHOWN};
use crate::scores::{Change, Comparison, Measure, Row};
use benchmarks::statistics::Estimate;
use maud::{Markup, html};
use report::{
    chart::{self, Bar, Group},
    compare::{self, Line},
    gallery::{self, Card, Filter},
    log::Log,
    numbers::{Scale, gibibytes, thousands, time, verdict},
    page, training,
};

/// What was done, and the main results. `note`: the author's own words.
pub fn headline(pairs: &Pairs, log: &Log, note: Option<&str>, of_run: bool) -> Option<Markup> {
    let all = &pairs.comparison.all;
    let change = all.get(Measure::Correct)?;
    let manner = pairs.manner();
    let side = |name: &str, i: usize| format!("{name}{}", manner[i]);
    let chosen = manner.iter().any(|manner| manner.contains("best of"));
    let number = |class: &str, name: &str, value: &str, interval: &str| {
        html! {
            div class={ "number " (class) } { span { (name) } strong { (value) } small { (interval) } }
        }
    };
    let share =
        |class: &str, name: &str, e: &Estimate| number(class, name, &percent(e.value), &Scale::PERCENT.interval(e));
    let difference = &change.difference;
    let verdict = format!("difference {}", verdict(difference, Measure::Correct.is_fault()));
    let [value, interval] = [Scale::PERCENT.signed(difference.value), Scale::PERCENT.signed_interval(difference)];
    let has = |section: &str| log.settings.iter().any(|(key, _)| key.starts_with(section));
    let has_anchor = has("anchor.");
    let outcomes: Vec<(Outcome, usize)> = Outcome::ALL.iter().map(|o| (*o, pairs.count(*o))).collect();
    Some(html! {
        header {
            p .eyebrow { "CoMat on the miniature world" }
            h1 { "Do the images show what the prompts say?" }
            p .lead {
                "A text-to-image model was tuned with prompts alone: a frozen captioner told how likely each prompt is, given the \
                 image drawn for it"
                @if !of_run {
                    ", and a LoRA learnt from that. "
                } @else if has("preference.") {
                    ", and of several images of a prompt a LoRA learnt to draw the better ones. "
                } @else {
                    ", and the gradient of that trained a LoRA. "
                }
                @if has_anchor && of_run {
                    "Beside it, an anchor distilled the base model's guidance into the LoRA; in short trainings that does most of \
                     the work (docs/ablation.md). "
                }
                "Here the base model and the tuned one draw the same held-out prompts"
                @if !chosen { " from the same noise" }
                ", and a program judges every image from its pixels."
                @if chosen { " Of an image that is the best of several, the captioner kept the one that fits its prompt best." }
            }
            @if let Some(note) = note { p .soft { (note) } }
        }
        div .panel.headline {
            p .what { "Images in which everything is as asked, and nothing else is there" }
            div .numbers {
                (share("base", &side("base", 0), &change.base))
                (share("tuned", &side("tuned", 1), &change.tuned))
                (number(&verdict, "difference, points", &value, &interval))
            }
            div .outcomes role="img" aria-label="What became of the images" {
                @for (outcome, count) in &outcomes {
                    i class=(outcome.tag()) style={ "flex-grow:" (count) } title={ (count) " " (outcome.words()) } {}
                }
            }
            ul .outcome-keys {
                @for (outcome, count) in &outcomes {
                    li { i class=(outcome.tag()) {} (count) " " (outcome.words()) }
                }
            }
            p .soft {
                (all.images) " images of " (all.prompts) " held-out prompts on each side. Small figures are 95 % intervals."
            }
        }
    })
}

/// Images of the same prompts and seeds, before and after.
pub fn images(filters: &[Vec<Filter>], cards: &[Card]) -> Markup {
    let body = html! {
        p {
            "The first " (SHOWN) " prompts of each category in the prompt file, with their seeds in turn: they are not chosen by how \
             they came out. ✓ is an image in which everything is as asked. A click enlarges."
        }
        (gallery::show(filters, cards))
    };
    page::section("images", "Before and after", &body)
}

/// Images that are all correct, by category: figure, table, and a section with all measures.
pub fn categories(comparison: &Comparison) -> Markup {
    let rows: Vec<(String, &Row<Change>)> = comparison.rows().collect();
    let changes = || rows.iter().filter_map(|(name, row)| Some((name.clone(), row, row.get(Measure::Correct)?)));
    let groups: Vec<Group> = changes().map(|(name, _, change)| group(name, change)).collect();
    let lines: Vec<Line> = changes()
        .map(|(name, row, change)| {
            let note = format!("{} prompts, {} images", row.prompts, row.images);
            line(&name, Some(note), Measure::Correct, change, name == "all")
        })
        .collect();
    let body = html! {
        div .columns {
            div .panel { (sides()) (chart::bars("All correct by category", &groups)) }
            div .panel { (table("all correct", &lines)) }
        }
        div .folded {
            @for (name, row) in &rows { (page::folded(&format!("{name}: every measure"), &measures(row))) }
        }
    };
    page::section("categories", "All correct, by category", &body)
}

/// Other changes: images should not lose quality as they follow prompts better.
pub fn quality(comparison: &Comparison) -> Markup {
    let shares = [Measure::Present, Measure::Bound, Measure::Relation, Measure::Clean, Measure::Extra];
    let groups: Vec<Group> =
        shares.iter().filter_map(|m| Some(group(m.name().into(), comparison.all.get(*m)?))).collect();
    let body = html! {
        p {
            "Of “attributes swapped”, “something extra” and “unexplained”, less is better. Images that stay clean and explained are still drawn as well as \
             before."
        }
        div .columns {
            div .panel { (sides()) (chart::bars("Measures of all images", &groups)) }
            div .panel { (measures(&comparison.all)) }
        }
    };
    page::section("quality", "Objects, attributes and quality", &body)
}

/// Another LoRA compared with the base model: correct images by category, and all measures.
pub fn also(also: &Also) -> Markup {
    let (name, comparison) = (also.name.as_str(), &also.comparison);
    let manner = super::manner(&also.drawn);
    let rows: Vec<(String, &Row<Change>)> = comparison.rows().collect();
    let correct: Vec<Line> = rows
        .iter()
        .filter_map(|(label, row)| {
            Some(line(label, None, Measure::Correct, row.get(Measure::Correct)?, label == "all"))
        })
        .collect();
    let every: Vec<Line> =
        comparison.all.measures.iter().map(|(m, change)| line(m.name(), None, *m, change, false)).collect();
    let body = html! {
        p { "The same prompts and seeds, drawn with another LoRA: " (name) (manner) "." }
        div .columns {
            div .panel { (compare::table("all correct, %", ["base", name], &correct)) }
            div .panel { (compare::table("measure, %", ["base", name], &every)) }
        }
    };
    page::section("also", &format!("Base and {name}"), &body)
}

/// The training curves.
pub fn training(log: &Log) -> Markup {
    let mut facts = vec![("steps", log.steps.len().to_string())];
    facts.extend(log.trainable.map(|n| ("trained weights", thousands(n))));
    facts.push(("training time", time(log.seconds())));
    facts.extend(log.seconds_a_step().map(|seconds| ("a step", format!("{seconds:.2} s"))));
    facts.extend(log.peak_memory().map(|bytes| ("peak memory", gibibytes(bytes))));
    let body = html! {
        (page::facts(&facts))
        div .columns { @for panel in training::panels(&[("", log)]) { (panel) } }
        (training::reading())
    };
    page::section("training", "The training run", &body)
}

/// Explains the terms on this page.
pub fn reading() -> Markup {
    let others = [
        ("won, lost", "all correct only in the tuned, only in the base image of a prompt and seed"),
        (
            "interval",
            "95 %, by drawing the prompts again 2000 times, each with all its images. That of the difference keeps base and tuned \
             image together. Where it does not reach 0, the difference is in colour.",
        ),
    ];
    let body = html! {
        p {
            "The judge finds the connected things in an image, and the shape, colour and texture of each, and holds them against the \
             prompt. It never sees which model drew the image, and has no part in the training."
        }
        (page::terms(Measure::ALL.iter().filter(|m| **m != Measure::Second).map(|m| (m.name(), meaning(*m))).chain(others)))
    };
    page::section("reading", "How to read this page", &body)
}

/// Settings and commands.
pub fn making(log: &Log, commands: &[Vec<String>]) -> Markup {
    let body = html! {
        p { "The commands behind this page; the configuration is the run’s own, as it was resolved." }
        (page::commands(commands))
        div .folded { (page::folded("All settings of the run", &page::settings(&log.settings))) }
    };
    page::section("making", "How it was made", &body)
}

fn meaning(measure: Measure) -> &'static str {
    match measure {
        Measure::Correct => {
            "images with every object that was asked for, its attributes right, lying as asked, and nothing else"
        }
        Measure::Present => "share of the objects asked for, of which there is one of the right shape",
        Measure::Bound => {
            "share of the objects asked for, of which there is one of the right shape, colour and texture"
        }
        Measure::Swapped => {
            "images in which two objects have each other's colours or textures, of those where different ones were asked for"
        }
        Measure::Relation => "images in which the objects lie as asked, of those where that was asked",
        Measure::Clean => "images in which everything is a whole object",
        Measure::Second => "images whose prompt a second judge finds likelier than all captions with one fault",
        Measure::Extra => "images with something that was not asked for",
        Measure::Unexplained => {
            "how far a pixel is, on average, from what the ground and the found objects explain; 100 is from black to white"
        }
    }
}

/// Every measure of some images.
fn measures(row: &Row<Change>) -> Markup {
    let lines: Vec<Line> = row.measures.iter().map(|(m, change)| line(m.name(), None, *m, change, false)).collect();
    table("measure", &lines)
}

fn table(what: &str, lines: &[Line]) -> Markup {
    compare::table(&format!("{what}, %"), ["base", "tuned"], lines)
}

fn line(name: &str, note: Option<String>, measure: Measure, change: &Change, is_total: bool) -> Line {
    Line {
        name: name.into(),
        note,
        base: Some(change.base),
        tuned: change.tuned,
        difference: Some(change.difference),
        scale: measure.scale(),
        is_fault: measure.is_fault(),
        is_total,
    }
}

fn group(label: String, Change { base, tuned, .. }: &Change) -> Group {
    let bar = |side, e: &Estimate| Bar { side, value: e.value, low: e.low, high: e.high };
    let text = format!("{} → {}", percent(base.value), percent(tuned.value));
    Group { label, text, bars: vec![bar("base", base), bar("tuned", tuned)] }
}

fn sides() -> Markup {
    chart::legend(&[("base", "base"), ("tuned", "tuned"), ("interval", "95 % interval")])
}

fn percent(share: f64) -> String {
    format!("{} %", Scale::PERCENT.plain(share))
}
