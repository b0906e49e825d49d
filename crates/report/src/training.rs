//! Charts with the curves of one run or of several.

use super::{
    chart::{self, Curve, Mark},
    log::{Log, Step, Validation},
};
use maud::{Markup, html};
use std::collections::BTreeSet;

/// A run's name in legends, and its log.
pub type Named<'a> = (&'a str, &'a Log);

/// A text that explains the charts.
pub fn reading() -> Markup {
    html! {
        p .soft {
            "The caption loss is the captioner’s mean negative log-likelihood of a prompt’s tokens, given the image: lower means that \
             the image says more of the prompt. Every step has other prompts; the held-out prompts are the same each time, from the \
             same noise."
        }
    }
}

/// Metrics of a step that only some runs have: keys and headings.
const OTHERS: &[(&str, &str)] = &[
    ("smoothed_loss", "Caption loss with smoothed labels"),
    ("mixed_loss", "Caption loss of mixed latents"),
    ("anchor_loss", "Anchor loss"),
    ("preference_loss", "Preference loss"),
    ("preference_gap", "Reward of the best image less that of the worst"),
    ("preference_distance", "Distance to the original model"),
    ("caption_cotangent", "Caption loss: norm of its gradient at the latents"),
    ("token_loss", "Attention: token loss"),
    ("pixel_loss", "Attention: pixel loss"),
    ("adversarial_loss", "Adversarial loss"),
    ("adversarial_cotangent", "Adversarial loss: norm of its gradient at the latents"),
    ("discriminator_loss", "Loss of the discriminator"),
    ("discriminator_accuracy", "How often the discriminator is right"),
];

/// Prefix of the keys of rewards.
const REWARD: &str = "reward_";

type Points = Vec<(f64, f64)>;

/// A panel for every metric that any of the runs has.
pub fn panels(runs: &[Named]) -> Vec<Markup> {
    let mut out = vec![steps(runs, "Caption loss", |s| Some(s.caption_loss), true)];
    if runs.len() > 1 {
        out.push(held_out(runs, "Caption loss on held-out prompts", |v| Some(v.caption_loss), |v| v.standard_error));
    }
    for key in rewards(runs) {
        let heading = format!("Reward: {}", &key[REWARD.len()..]);
        out.push(steps(runs, &heading, |s| s.other(&key), false));
        out.push(held_out(runs, &format!("{heading}, held-out prompts"), |v| v.other(&key), |_| 0.0));
    }
    for figure in figures(runs) {
        let heading = format!("The judge: {}", figure.replace('_', " "));
        out.push(held_out(runs, &heading, |v| v.metric(&figure), |_| 0.0));
    }
    out.push(steps(runs, "Gradient norm", |s| Some(s.grad_norm), false));
    out.push(exact(runs, "Learning rate", |s| s.other("learning_rate")));
    out.extend(OTHERS.iter().map(|(key, heading)| steps(runs, heading, |s| s.other(key), false)));
    out.into_iter().flatten().collect()
}

/// Legend with the colours of several runs.
pub fn legend(runs: &[Named]) -> Markup {
    let keys: Vec<(String, &str)> =
        runs.iter().enumerate().map(|(i, (name, _))| (format!("line {}", chart::series(i)), *name)).collect();
    let keys: Vec<(&str, &str)> = keys.iter().map(|(class, name)| (class.as_str(), *name)).collect();
    html! { div .runs { (chart::legend(&keys)) } }
}

/// Keys of the rewards other than the caption loss, each once.
fn rewards(runs: &[Named]) -> Vec<String> {
    let keys = runs.iter().filter_map(|(_, log)| log.steps.last()).flat_map(|step| step.others.keys());
    let keys: BTreeSet<&String> = keys.filter(|key| key.starts_with(REWARD)).collect();
    keys.into_iter().cloned().collect()
}

/// Names of the judge's metrics, each once.
fn figures(runs: &[Named]) -> Vec<String> {
    let mut figures: Vec<String> = vec![];
    let watched = runs.iter().filter(|(_, log)| log.validations.len() > 1);
    for name in watched.flat_map(|(_, log)| &log.validations).flat_map(|v| v.judge.keys()) {
        if !figures.contains(name) {
            figures.push(name.clone());
        }
    }
    figures
}

/// A panel of a metric of the steps, smoothed. For a single run, it also has the raw values and, if `with_held_out`,
/// the losses on held-out prompts.
fn steps(runs: &[Named], heading: &str, of: impl Fn(&Step) -> Option<f64>, with_held_out: bool) -> Option<Markup> {
    let points = |log: &Log| -> Points { log.steps.iter().filter_map(|s| Some((s.step as f64, of(s)?))).collect() };
    let smooth = |points: &[(f64, f64)]| chart::thinned(&chart::smoothed(points, points.len() / 20));
    let name = format!("{heading} over training steps");
    let [(_, log)] = runs else {
        let curves = curves(runs, |log| smooth(&points(log)));
        return panel(heading, None, chart::curves(&name, &curves, &[]));
    };
    let raw = points(log);
    let marks = match with_held_out {
        true => marks("", &log.validations, |v| Some(v.caption_loss), |v| v.standard_error),
        false => vec![],
    };
    let mut keys = vec![("raw", "one step"), ("line", "mean of nearby steps")];
    if !marks.is_empty() {
        keys.push(("dot", "held-out prompts, ± standard error"));
    }
    let curve = |class: &str, points| Curve { class: class.into(), name: String::new(), points };
    let curves = [curve("raw", chart::thinned(&raw)), curve("tuned", smooth(&raw))];
    panel(heading, Some(chart::legend(&keys)), chart::curves(&name, &curves, &marks))
}

/// A panel of a value of the steps that is not measured, such as the learning rate. It is not smoothed.
fn exact(runs: &[Named], heading: &str, of: impl Fn(&Step) -> Option<f64>) -> Option<Markup> {
    let curves = curves(runs, |log| {
        chart::thinned(&log.steps.iter().filter_map(|s| Some((s.step as f64, of(s)?))).collect::<Points>())
    });
    panel(heading, None, chart::curves(&format!("{heading} over training steps"), &curves, &[]))
}

/// A panel of a metric on the held-out prompts.
fn held_out(
    runs: &[Named],
    heading: &str,
    of: impl Fn(&Validation) -> Option<f64>,
    error: impl Fn(&Validation) -> f64,
) -> Option<Markup> {
    let curves =
        curves(runs, |log| log.validations.iter().filter_map(|v| Some((v.step as f64, of(v)?))).collect::<Points>());
    let marks: Vec<Mark> = runs
        .iter()
        .enumerate()
        .flat_map(|(i, (_, log))| marks(&class(runs, i), &log.validations, &of, &error))
        .collect();
    panel(heading, None, chart::curves(heading, &curves, &marks))
}

fn marks(
    class: &str,
    validations: &[Validation],
    of: impl Fn(&Validation) -> Option<f64>,
    error: impl Fn(&Validation) -> f64,
) -> Vec<Mark> {
    let mark = |v: &Validation| {
        let y = of(v)?;
        let text = format!("{} held-out prompts at step {}: {y:.4}", v.prompts, v.step);
        Some(Mark { class: class.into(), x: v.step as f64, y, error: error(v), text })
    };
    validations.iter().filter_map(mark).collect()
}

fn curves(runs: &[Named], points: impl Fn(&Log) -> Points) -> Vec<Curve> {
    let curve = |(i, (name, log)): (usize, &Named)| Curve {
        class: class(runs, i),
        name: if runs.len() > 1 { (*name).into() } else { String::new() },
        points: points(log),
    };
    runs.iter().enumerate().map(curve).collect()
}

/// CSS class that sets the colour of the i-th run.
fn class(runs: &[Named], i: usize) -> String {
    if runs.len() == 1 { "tuned".into() } else { chart::series(i) }
}

/// A panel with a heading and a chart; `None` if there is no chart.
fn panel(heading: &str, legend: Option<Markup>, chart: Option<Markup>) -> Option<Markup> {
    let chart = chart?;
    Some(html! {
        div .panel {
            h3 { (heading) }
            @if let Some(legend) = legend { (legend) }
            (chart)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(loss: f64) -> Log {
        let mut text = String::new();
        for step in 1..=3 {
            text += &format!(
                "{{\"event\":\"step\",\"step\":{step},\"caption_loss\":{loss},\"grad_norm\":1,\"learning_rate\":0.1,\"seconds\":1}}\n"
            );
        }
        for step in [0, 3] {
            text += &format!(
                "{{\"event\":\"validation\",\"step\":{step},\"caption_loss\":{loss},\"standard_error\":0,\"prompts\":2,\"judge\":{{\"zeal\":1,\"art\":0.5}}}}\n"
            );
        }
        Log::parse(&text)
    }

    fn panels(runs: &[Named]) -> String {
        super::panels(runs).into_iter().map(Markup::into_string).collect()
    }

    fn headings(page: &str) -> Vec<&str> {
        page.split("<h3>").skip(1).map(|part| part.split("</h3>").next().unwrap()).collect()
    }

    #[test]
    fn a_panel_for_what_there_is() {
        let (one, other) = (log(1.0), log(2.0));
        let single = panels(&[("", &one)]);
        assert_eq!(
            headings(&single),
            ["Caption loss", "The judge: zeal", "The judge: art", "Gradient norm", "Learning rate"]
        );
        let rewarded =
            |event: &str, others: &str| format!("{{\"event\":\"{event}\",\"step\":3,\"caption_loss\":1,{others}}}\n");
        let rewarded = Log::parse(
            &(rewarded("step", "\"grad_norm\":1,\"seconds\":1,\"reward_clip\":0.3")
                + &rewarded("validation", "\"standard_error\":0,\"prompts\":2,\"reward_clip\":0.2")),
        );
        let page = panels(&[("", &rewarded)]);
        assert_eq!(headings(&page)[..3], ["Caption loss", "Reward: clip", "Reward: clip, held-out prompts"], "{page}");
        assert!(single.contains("mean of nearby steps") && !single.contains("s0"), "{single}");
        let both = panels(&[("a", &one), ("b", &other)]);
        assert_eq!(headings(&both)[..2], ["Caption loss", "Caption loss on held-out prompts"]);
        assert!(both.contains("polyline class=\"s1 d0\"") && both.contains("<title>b</title>"), "{both}");
        assert_eq!(panels(&[("", &Log::default())]), "", "a run without steps");
        assert!(legend(&[("a<", &one)]).into_string().contains("a&lt;"));
    }
}
