//! Attributes: asks for example for "a green bench?" (T2I-CompBench, BLIPvqa_eval/BLIP_vqa.py).

use entities::Parser;

/// Maximum number of noun phrases of a prompt that are asked about.
pub const MOST_QUESTIONS: usize = 8;
/// Noun phrases that name a place, not an object.
const NO_THINGS: [&str; 4] = ["top", "the side", "the left", "the right"];

/// A question for each noun phrase, with its articles: "a green bench?". At most [`MOST_QUESTIONS`].
pub fn questions(parser: &Parser, prompt: &str) -> Vec<String> {
    let phrases = parser.noun_chunks(prompt).into_iter().filter_map(|span| prompt.get(span));
    phrases.filter(|phrase| !NO_THINGS.contains(phrase)).take(MOST_QUESTIONS).map(|p| format!("{p}?")).collect()
}

/// The score of an answer: p(yes) / (p(yes) + p(no)), rounded to four decimals as the original writes it.
pub fn yes(yes: f64, no: f64) -> f64 {
    round((yes / (yes + no)) as f32)
}

/// The score of an image: the product of its answers' scores, in single precision as in the original, rounded to four
/// decimals. 1 without answers.
pub fn score(answers: &[f64]) -> f64 {
    round(answers.iter().fold(1.0, |product: f32, answer| product * *answer as f32))
}

/// Rounds to four decimals by formatting, as the original does.
fn round(value: f32) -> f64 {
    format!("{:.4}", f64::from(value)).parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_each_noun_phrase() {
        let parser = Parser::shipped().unwrap();
        let ask = |prompt| questions(&parser, prompt);
        assert_eq!(ask("a green bench and a red car"), ["a green bench?", "a red car?"]);
        assert_eq!(ask("The black keyboard was on top of the white desk."), ["The black keyboard?", "the white desk?"]);
        assert_eq!(ask("The chair is on the right of the wooden table."), ["The chair?", "the wooden table?"]);
        assert_eq!(ask(""), [""; 0]);
        let many = ["a dog"; 12].join(" and ");
        assert_eq!(ask(&many).len(), MOST_QUESTIONS);
    }

    #[test]
    fn the_product_of_rounded_answers() {
        assert_eq!(yes(0.3, 0.1), 0.75);
        assert_eq!(yes(0.2, 0.1), 0.6667);
        assert_eq!(score(&[]), 1.0);
        assert_eq!(score(&[0.9, 0.5]), 0.45);
        assert_eq!(score(&[0.6667, 0.6667]), 0.4445); // 0.44448889
        assert_eq!(score(&[0.01, 0.004]), 0.0); // 0.00004
        assert!(yes(0.0, 0.0).is_nan());
    }
}
