//! Images in pairs, with buttons that choose among them.

use super::{html::Text, image::Inlined};

/// An image and what is said of it.
pub struct Shot {
    /// The side that it stands for, such as `base` or `step 100`.
    pub side: String,
    /// Whether that is the tuned one.
    pub is_tuned: bool,
    /// `None` where the file is missing.
    pub image: Option<Inlined>,
    /// Right or wrong, where that was judged.
    pub mark: Option<bool>,
    pub note: String,
    /// What was asked about it, and answered.
    pub answers: Vec<String>,
}

/// The images of one prompt.
pub struct Card {
    pub prompt: String,
    pub note: String,
    /// By which the buttons choose: [`Filter::tag`].
    pub tags: Vec<String>,
    pub shots: Vec<Shot>,
}

/// A button: shows the cards that have its tag; all of them when the tag is empty.
pub struct Filter {
    pub tag: String,
    pub label: String,
}

/// Rows of buttons, of each of which one is pressed: a card is shown when it has the tags of all of them.
pub fn html(choices: &[Vec<Filter>], cards: &[Card]) -> String {
    let rows: String = choices.iter().filter(|filters| filters.len() > 1).map(|filters| row(filters, cards)).collect();
    let cards: String = cards.iter().map(card).collect();
    let filters = if rows.is_empty() { rows } else { format!("<div class=\"filters\">\n{rows}</div>\n") };
    format!("{filters}<div class=\"cards\">\n{cards}</div>\n")
}

fn row(filters: &[Filter], cards: &[Card]) -> String {
    let button = |(i, Filter { tag, label }): (usize, &Filter)| {
        let count = cards.iter().filter(|card| tag.is_empty() || card.tags.contains(tag)).count();
        format!(
            "<button type=\"button\" data-tag=\"{}\" aria-pressed=\"{}\">{} <small>{count}</small></button>\n",
            Text(tag),
            i == 0,
            Text(label)
        )
    };
    let buttons: String = filters.iter().enumerate().map(button).collect();
    format!("<div role=\"group\" aria-label=\"Which images\">\n{buttons}</div>\n")
}

/// Images that are wider than they are high, one below the other.
pub fn panels(panels: &[(String, Inlined)]) -> String {
    let panel = |(prompt, image): &(String, Inlined)| {
        let prompt = Text(prompt);
        format!(
            "<article class=\"card wide\">\n<h3>{prompt}</h3>\n{}\n</article>\n",
            enlarge(image, &prompt.to_string())
        )
    };
    panels.iter().map(panel).collect()
}

fn card(card: &Card) -> String {
    let shots: String = card.shots.iter().map(|s| shot(s, &card.prompt)).collect();
    format!(
        "<article class=\"card\" data-tags=\"{}\">\n<h3>{}</h3>\n<p class=\"note\">{}</p>\n<div class=\"shots\">\n{shots}</div>\n</article>\n",
        Text(card.tags.join(" ")),
        Text(&card.prompt),
        Text(&card.note),
    )
}

/// An image that a click enlarges. `alt` is escaped.
fn enlarge(Inlined { address, is_tiny }: &Inlined, alt: &str) -> String {
    let class = if *is_tiny { " class=\"tiny\"" } else { "" };
    format!(
        "<button type=\"button\" class=\"enlarge\" aria-label=\"enlarge\"><img{class} src=\"{address}\" alt=\"{alt}\"></button>"
    )
}

fn shot(shot: &Shot, prompt: &str) -> String {
    let Shot { side, is_tuned, image, mark, note, answers } = shot;
    let mark = match mark {
        Some(true) => "<b class=\"right\" role=\"img\" aria-label=\"right\">✓</b> ",
        Some(false) => "<b class=\"wrong\" role=\"img\" aria-label=\"wrong\">✗</b> ",
        None => "",
    };
    let (side, prompt) = (Text(side), Text(prompt));
    let image = match image {
        Some(image) => enlarge(image, &format!("{side}: {prompt}")),
        None => "<div class=\"missing\">no image</div>".into(),
    };
    let answers: String = answers.iter().map(|answer| format!("<li>{}</li>\n", Text(answer))).collect();
    let note = if note.is_empty() { String::new() } else { format!("<span>{}</span>\n", Text(note)) };
    let answers = if answers.is_empty() { answers } else { format!("<ul class=\"answers\">\n{answers}</ul>\n") };
    let class = if *is_tuned { "side tuned" } else { "side" };
    format!(
        "<figure>\n{image}\n<figcaption><span class=\"{class}\">{side}</span> {mark}{note}{answers}</figcaption>\n</figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_counted_and_escaped() {
        let card = |tag: &str| Card {
            prompt: "a <b> \"dog\"".into(),
            note: "color & more".into(),
            tags: vec![tag.into()],
            shots: vec![Shot {
                side: "base".into(),
                is_tuned: false,
                image: Some(Inlined { address: "data:,".into(), is_tiny: true }),
                mark: Some(false),
                note: "missing: <i>".into(),
                answers: vec!["a <dog>? no".into()],
            }],
        };
        let filters = [("", "all"), ("won", "won")].map(|(tag, label)| Filter { tag: tag.into(), label: label.into() });
        let html = html(&[filters.into(), vec![]], &[card("won"), card("lost")]);
        assert!(html.contains("all <small>2</small>") && html.contains("won <small>1</small>"), "{html}");
        assert!(html.contains("alt=\"base: a &lt;b&gt; &quot;dog&quot;\""), "{html}");
        assert!(html.contains("<li>a &lt;dog&gt;? no</li>") && html.matches("role=\"group\"").count() == 1, "{html}");
        assert!(html.contains("missing: &lt;i&gt;") && html.contains("color &amp; more") && !html.contains("<b> "));
    }
}
