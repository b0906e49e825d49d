//! The text that CLIP ViT-B/32 compares with images of actions (T2I-CompBench, CLIPScore_eval/CLIP_similarity.py).
//!
//! The score is the cosine of image and text, not scaled and not cut at 0. In `non_spatial` the text is the whole
//! prompt.

use entities::Parser;

/// The text of a `complex` prompt without its adjectives; words and punctuation are joined by spaces.
pub fn text_without_adjectives(parser: &Parser, prompt: &str) -> String {
    let kept = parser.parse(prompt).into_iter().filter(|token| token.pos != "ADJ").map(|token| token.text);
    kept.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjectives_go() {
        let parser = Parser::shipped().unwrap();
        let text = text_without_adjectives(&parser, "The fluffy cat was lying on the soft cushion.");
        assert_eq!(text, "The cat was lying on the cushion .");
    }
}
