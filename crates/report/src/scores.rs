//! An evaluation on the page: a summary of its scores, and its images.

use super::{
    chart::{self, Bar, Group},
    compare,
    evaluation::{Evaluation, Image, Place, Variant, images},
    gallery::{self, Card, Filter, Shot},
    numbers::{Scale, counted},
    page::{folded, section, settings},
    samples::or_note,
};
use benchmarks::{
    records::{Answer, Line, Metric},
    statistics::Estimate,
    table::{ALL, Row, Table},
};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// The section of an evaluation, with images of at most `most` prompts of each category and outcome.
pub(super) fn section_of(evaluation: &Evaluation, id: &str, most: usize, notes: &mut Vec<String>) -> Markup {
    let Evaluation { name, settings: how, base, others } = evaluation;
    let heading = |variant: &Variant| match base {
        Some(base) => Some(format!("{} against {}", variant.name, base.name)),
        None => (others.len() > 1).then(|| variant.name.clone()),
    };
    let body = html! {
        @for variant in others {
            @if let Some(heading) = heading(variant) { h3 .versus { (heading) } }
            (tables(variant, base.as_ref()))
            (gallery_of(variant, base.as_ref(), most, notes))
        }
        @if !how.is_empty() {
            div .folded { (folded("How it was made", &settings(how))) }
        }
    };
    section(id, &format!("Evaluation: {name}"), &body)
}

/// Scores by category as a chart and a table, and scores by type of question in a folded part.
fn tables(variant: &Variant, base: Option<&Variant>) -> Markup {
    let Table { rows } = Table::new(&variant.scored, base.map(|base| &base.scored[..]));
    if rows.is_empty() {
        return html! { p { "No image is scored yet." } };
    }
    let of_several = rows.iter().any(|row| row.benchmark != rows[0].benchmark);
    let name = |row: &Row| {
        let part = row.question_type.as_ref().unwrap_or(&row.category);
        if of_several { format!("{}: {part}", row.benchmark) } else { part.clone() }
    };
    let (main, by_type): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.question_type.is_none());
    let sides = [base.map_or("", |base| &base.name), &variant.name];
    let lines = |rows: &[&Row]| rows.iter().map(|row| line(row, name(row))).collect::<Vec<_>>();
    let is_alone = |row: &Row| main.iter().filter(|other| name(other) == name(row)).count() == 1;
    let label = |row: &Row| if is_alone(row) { name(row) } else { format!("{}, {}", name(row), row.metric) };
    let groups: Vec<Group> = main.iter().map(|row| group(row, label(row))).collect();
    let keys = [("base", sides[0]), ("tuned", sides[1]), ("interval", "95 % interval")];
    let keys = if base.is_some() { &keys[..] } else { &keys[1..] };
    let types = html! { div .scroll { (compare::table("share of questions", sides, &lines(&by_type))) } };
    html! {
        div .columns {
            div .panel { (chart::legend(keys)) (chart::bars("Scores by category", &groups)) }
            div .panel.scroll { (compare::table("score", sides, &lines(&main))) }
        }
        @if !by_type.is_empty() {
            div .folded { (folded("By type of question", &types)) }
        }
    }
}

fn line(row: &Row, name: String) -> compare::Line {
    let note = format!("{}; {}, {}", row.metric, counted(row.prompts, "prompt"), counted(row.images, "image"));
    compare::Line {
        name,
        note: Some(note),
        base: row.against.as_ref().map(|against| against.base),
        tuned: row.mean,
        difference: row.against.as_ref().map(|against| against.difference),
        scale: Scale::SCORE,
        is_fault: false,
        is_total: row.category == ALL && row.question_type.is_none(),
    }
}

fn group(row: &Row, label: String) -> Group {
    let bar = |side, Estimate { value, low, high }: Estimate| Bar { side, value, low, high };
    let plain = |e: &Estimate| Scale::SCORE.plain(e.value);
    let (mut bars, mut text) = (vec![], plain(&row.mean));
    if let Some(against) = &row.against {
        bars.push(bar("base", against.base));
        text = format!("{} → {text}", plain(&against.base));
    }
    bars.push(bar("tuned", row.mean));
    Group { label, text, bars }
}

/// How an image's score compares with that of the base model's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Won,
    Lost,
    Even,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::Even];

    fn of(base: &Image, tuned: &Image) -> Self {
        match tuned.score - base.score {
            difference if difference.abs() <= tuned.margin() => Self::Even,
            difference if difference > 0.0 => Self::Won,
            _ => Self::Lost,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Even => "even",
        }
    }
}

/// Images of the first prompts of each category and outcome. Each prompt is shown with its first image of that outcome.
fn gallery_of(variant: &Variant, base: Option<&Variant>, most: usize, notes: &mut Vec<String>) -> Markup {
    let (order, tuned) = images(&variant.scored);
    let before = base.map(|base| images(&base.scored).1).unwrap_or_default();
    let categories: BTreeSet<_> =
        order.iter().map(|(benchmark, category, ..)| (*benchmark, category.clone())).collect();
    let of_several = categories.iter().map(|(benchmark, _)| benchmark).collect::<BTreeSet<_>>().len() > 1;
    let categories: Vec<_> = categories.into_iter().collect();
    let number = |place: &Place| categories.iter().position(|c| *c == (place.0, place.1.clone())).unwrap_or_default();
    let mut shown: BTreeMap<(usize, Option<Outcome>), BTreeSet<&str>> = BTreeMap::new();
    let mut cards = vec![];
    for place in &order {
        let image = &tuned[place];
        let outcome = before.get(place).map(|before| Outcome::of(before, image));
        let prompts = shown.entry((number(place), outcome)).or_default();
        if prompts.len() >= most || !prompts.insert(&place.2) {
            continue;
        }
        let mut shots = vec![];
        if let (Some(base), Some(image)) = (base, before.get(place)) {
            shots.push(shot(base, image, false, notes));
        }
        shots.push(shot(variant, image, true, notes));
        let subject = image.subject();
        let seed = subject.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        let mut tags = vec![format!("category-{}", number(place))];
        tags.extend(outcome.map(|outcome| outcome.name().into()));
        let note = format!("{}, image {}{seed}", subject.category, subject.index);
        cards.push(Card { prompt: subject.prompt.clone(), note, tags, shots });
    }
    if cards.is_empty() {
        return html! {};
    }
    let mut choices = vec![];
    if !before.is_empty() {
        choices.push([all()].into_iter().chain(Outcome::ALL.map(|o| filter(o.name(), o.name()))).collect());
    }
    let category = |(i, (benchmark, category)): (usize, &(_, String))| {
        let label = if of_several { format!("{benchmark}: {category}") } else { category.clone() };
        filter(&format!("category-{i}"), &label)
    };
    choices.push([all()].into_iter().chain(categories.iter().enumerate().map(category)).collect());
    let and_outcome = if before.is_empty() { "" } else { " and outcome" };
    html! {
        p .soft {
            "The first " (most) " prompts of each category" (and_outcome) ", in the order they were scored. A click enlarges."
        }
        (gallery::show(&choices, &cards))
    }
}

fn all() -> Filter {
    filter("", "all")
}

fn filter(tag: &str, label: &str) -> Filter {
    Filter { tag: tag.into(), label: label.into() }
}

fn shot(variant: &Variant, image: &Image, is_tuned: bool, notes: &mut Vec<String>) -> Shot {
    let is_right = |score: f64| (image.metrics[0].metric() == Metric::Correct).then_some(score > 0.5);
    let each = |p: &&benchmarks::records::Image| format!("{} {}", p.metric(), Scale::SCORE.plain(p.score()));
    let score = Scale::SCORE.plain(image.score);
    let note = match image.metrics.len() {
        1 if is_right(image.score).is_some() => String::new(),
        1 => score,
        _ => format!("{score}: {}", image.metrics.iter().map(each).collect::<Vec<_>>().join(", ")),
    };
    let is_one = image.metrics.len() == 1;
    let said = |line: &Line| {
        let text = answer(&line.answer)?;
        Some(if is_one { text } else { format!("{}: {text}", line.metric) })
    };
    Shot {
        side: variant.name.clone(),
        is_tuned,
        image: or_note(&variant.folder.join(&image.subject().file), notes),
        mark: is_right(image.score),
        note,
        answers: image.metrics.iter().flat_map(|metric| metric.lines()).filter_map(said).collect(),
    }
}

/// An answer as text, such as `a red dog? yes, 0.91`.
fn answer(Answer { question, answer, score, .. }: &Answer) -> Option<String> {
    match (question, answer) {
        (Some(question), Some(answer)) => Some(format!("{question} {answer}, {}", short(*score))),
        (Some(question), None) => Some(format!("{question} {}", short(*score))),
        (None, found) => found.clone(),
    }
}

fn short(score: f64) -> String {
    if score.fract() == 0.0 { format!("{score:.0}") } else { format!("{score:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_words() {
        let of = |question: Option<&str>, answer_: Option<&str>, score| {
            answer(&Answer {
                question: question.map(str::to_owned),
                answer: answer_.map(str::to_owned),
                score,
                ..Answer::default()
            })
        };
        assert_eq!(of(Some("a red dog?"), None, 0.9123).as_deref(), Some("a red dog? 0.91"));
        assert_eq!(of(Some("how many?"), Some("two"), 1.0).as_deref(), Some("how many? two, 1"));
        assert_eq!(of(None, Some("0 of 1 dog"), 0.0).as_deref(), Some("0 of 1 dog"));
        assert_eq!(of(None, None, 0.5), None);
    }
}
