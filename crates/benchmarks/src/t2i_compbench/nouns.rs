//! The two objects that a prompt relates (T2I-CompBench, UniDet_eval/2D_spatial_eval.py).

use entities::{Parser, Token};

/// Words that may stand between the two objects of a complex prompt.
const PREPOSITIONS: [&str; 7] =
    ["on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near"];

/// The first and the last noun, by the detector's names.
pub fn simple(parser: &Parser, prompt: &str) -> Option<[String; 2]> {
    let tokens = parser.parse(prompt);
    let mut nouns = tokens.iter().filter(|token| token.pos == "NOUN").map(|token| name(&token.text));
    let first = nouns.next()?;
    let last = nouns.next_back().unwrap_or_else(|| first.clone());
    Some([first, last])
}

/// The nouns before and after a preposition, by the detector's names; `None` unless there are exactly two.
pub fn complex(parser: &Parser, prompt: &str) -> Option<[String; 2]> {
    let tokens = parser.parse(prompt);
    let mut nouns = vec![];
    for i in 0..tokens.len() {
        let is_preposition = |length: &usize| PREPOSITIONS.contains(&words(prompt, &tokens, i, *length));
        if let Some(length) = [3, 2, 1].into_iter().find(is_preposition) {
            nouns.extend(tokens[..i].iter().rfind(|token| matches!(token.pos.as_str(), "NOUN" | "PROPN")));
            nouns.extend(behind(tokens.get(i + length..).unwrap_or(&[])));
        }
    }
    let [first, last] = nouns.as_slice() else { return None };
    Some([name(&first.text), name(&last.text)])
}

/// The first noun; if there is none, the last word of the first proper name, unless the text ends with it.
fn behind(tokens: &[Token]) -> Option<&Token> {
    let ends_a_name = |pair: &&[Token]| pair[0].pos == "PROPN" && pair[1].pos != "PROPN";
    let noun = tokens.iter().find(|token| token.pos == "NOUN");
    noun.or_else(|| tokens.windows(2).find(ends_a_name).map(|pair| &pair[0]))
}

/// The text of up to `length` tokens.
fn words<'a>(text: &'a str, tokens: &[Token], from: usize, length: usize) -> &'a str {
    let last = (from + length).min(tokens.len()) - 1;
    text.get(tokens[from].span.start..tokens[last].span.end).unwrap_or("")
}

/// Name of a noun for the detector, which has only "person" for people.
fn name(noun: &str) -> String {
    if matches!(noun, "girl" | "boy" | "man" | "woman") { "person".into() } else { noun.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(objects: Option<[String; 2]>) -> String {
        objects.map_or("none".into(), |names| names.join(" "))
    }

    #[test]
    fn of_simple_prompts() {
        let parser = Parser::shipped().unwrap();
        let of = |prompt| two(simple(&parser, prompt));
        assert_eq!(of("a giraffe next to a lamp"), "giraffe lamp");
        assert_eq!(of("a girl on the left of a man"), "person person");
        assert_eq!(of("a dog"), "dog dog");
        assert_eq!(of("and"), "none");
    }

    #[test]
    fn of_complex_prompts() {
        let parser = Parser::shipped().unwrap();
        let of = |prompt| two(complex(&parser, prompt));
        assert_eq!(of("The black keyboard was on top of the white desk."), "keyboard desk");
        assert_eq!(of("The striped rug was on the left of the black armchair."), "rug armchair");
        assert_eq!(of("The black mug was next to the brown plate."), "mug plate");
        // the original's parser (and ours is the same) takes a bookshelf for a pronoun
        assert_eq!(of("The green plant was next to the brown bookshelf."), "none");
        assert_eq!(of("The fluffy cat was lying on the soft cushion."), "none");
        assert_eq!(of("The cup was near the dog and next to the cat."), "none"); // four nouns
        assert_eq!(of("near"), "none");
        assert_eq!(of(""), "none");
    }

    #[test]
    fn a_name_stands_in_for_a_noun() {
        let token = |text: &str, pos: &str| {
            let mut token = Token::default();
            (token.text, token.pos) = (text.into(), pos.into());
            token
        };
        let tokens = [token("the", "DET"), token("New", "PROPN"), token("York", "PROPN"), token(".", "PUNCT")];
        assert_eq!(behind(&tokens).map(|t| t.text.as_str()), Some("York"));
        assert_eq!(behind(&tokens[..3]), None); // the text ends here, so the original does not find it
        let tokens = [token("York", "PROPN"), token("and", "CCONJ"), token("dog", "NOUN")];
        assert_eq!(behind(&tokens).map(|t| t.text.as_str()), Some("dog"));
    }
}
