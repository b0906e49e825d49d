//! Images side by side, with buttons that filter them.

use super::image::Inlined;
use maud::{Markup, html};

/// An image and the text below it.
pub struct Shot {
    /// Label of the image, such as `base` or `step 100`.
    pub side: String,
    /// Whether the image is of the tuned model.
    pub is_tuned: bool,
    /// `None` where the file is missing.
    pub image: Option<Inlined>,
    /// Whether the image is right, if that was judged.
    pub mark: Option<bool>,
    pub note: String,
    /// Questions about the image, with their answers.
    pub answers: Vec<String>,
}

/// The images of one prompt.
pub struct Card {
    pub prompt: String,
    pub note: String,
    /// Tags by which the buttons select the card; see [`Filter::tag`].
    pub tags: Vec<String>,
    pub shots: Vec<Shot>,
}

/// A button that shows the cards with its tag; all cards if the tag is empty.
pub struct Filter {
    pub tag: String,
    pub label: String,
}

/// Rows of buttons, and the cards. In each row one button is pressed. A card is shown if it has the tags of all pressed
/// buttons.
pub fn show(choices: &[Vec<Filter>], cards: &[Card]) -> Markup {
    let rows: Vec<&Vec<Filter>> = choices.iter().filter(|filters| filters.len() > 1).collect();
    html! {
        @if !rows.is_empty() {
            div .filters {
                @for filters in rows { (row(filters, cards)) }
            }
        }
        div .cards {
            @for card in cards { (shown_card(card)) }
        }
    }
}

fn row(filters: &[Filter], cards: &[Card]) -> Markup {
    let count = |tag: &String| cards.iter().filter(|card| tag.is_empty() || card.tags.contains(tag)).count();
    html! {
        div role="group" aria-label="Which images" {
            @for (i, Filter { tag, label }) in filters.iter().enumerate() {
                button type="button" data-tag=(tag) aria-pressed=(i == 0) { (label) " " small { (count(tag)) } }
            }
        }
    }
}

/// A prompt and an image that is wider than it is high.
pub type Panel = (String, Inlined);

/// Shows the panels, one below the other.
pub fn panels(panels: &[Panel]) -> Markup {
    html! {
        @for (prompt, image) in panels {
            article .card.wide {
                h3 { (prompt) }
                (enlarge(image, prompt))
            }
        }
    }
}

fn shown_card(Card { prompt, note, tags, shots }: &Card) -> Markup {
    html! {
        article .card data-tags=(tags.join(" ")) {
            h3 { (prompt) }
            p .note { (note) }
            div .shots {
                @for shot in shots { (shown_shot(shot, prompt)) }
            }
        }
    }
}

/// An image that a click enlarges.
fn enlarge(Inlined { address, is_tiny }: &Inlined, alt: &str) -> Markup {
    html! {
        button .enlarge type="button" aria-label="enlarge" {
            img .tiny[*is_tiny] src=(address) alt=(alt);
        }
    }
}

fn shown_shot(shot: &Shot, prompt: &str) -> Markup {
    let Shot { side, is_tuned, image, mark, note, answers } = shot;
    html! {
        figure {
            @match image {
                Some(image) => (enlarge(image, &format!("{side}: {prompt}"))),
                None => div .missing { "no image" },
            }
            figcaption {
                span .side .tuned[*is_tuned] { (side) } " "
                @match mark {
                    Some(true) => { b .right role="img" aria-label="right" { "✓" } " " }
                    Some(false) => { b .wrong role="img" aria-label="wrong" { "✗" } " " }
                    None => {}
                }
                @if !note.is_empty() { span { (note) } }
                @if !answers.is_empty() {
                    ul .answers {
                        @for answer in answers { li { (answer) } }
                    }
                }
            }
        }
    }
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
        let html = show(&[filters.into(), vec![]], &[card("won"), card("lost")]).into_string();
        assert!(html.contains("all <small>2</small>") && html.contains("won <small>1</small>"), "{html}");
        assert!(html.contains("alt=\"base: a &lt;b&gt; &quot;dog&quot;\""), "{html}");
        assert!(html.contains("<li>a &lt;dog&gt;? no</li>") && html.matches("role=\"group\"").count() == 1, "{html}");
        assert!(html.contains("missing: &lt;i&gt;") && html.contains("color &amp; more") && !html.contains("<b> "));
    }
}
