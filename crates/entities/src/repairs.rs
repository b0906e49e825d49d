//! Rules that repair frequent errors of the parser in captions. Each was measured on hand-labelled prompts.

use crate::{extract::Group, token::Token};

/// Words ending in -ing that are nouns; other such words after a noun are verbs ("a man sitting").
const ING_NOUNS: &str = "awning bedding beginning being building carving ceiling clothing covering crossing darling decking dining \
    drawing dressing duckling dumpling earring ending engraving evening everything feeling fencing filling flooring frosting \
    gathering hanging herring icing king landing lighting lightning lining living marking meeting molding morning nothing \
    offspring opening padding painting parking paving piping plumbing pudding railing rigging ring roofing scaffolding seating \
    setting sibling siding skiing-resort sling something spring sting stocking string stuffing swimming swing thing topping tubing \
    anything warning wedding wing wiring writing";

/// Plurals that occur after "a": their final s does not make them verbs.
const PLURALS: &str = "binoculars blinds boots bubbles cars clothes curtains earphones earrings glasses gloves goggles hangers \
    headphones jeans leggings lights overalls pajamas panties pants pliers sandals scissors shoes shorts skis slippers sneakers socks \
    stairs sunglasses tights tongs trousers tweezers";

fn is_in(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|entry| entry == word)
}

pub fn repair(tokens: &[Token], groups: &mut [Group]) {
    let lower: Vec<String> = tokens.iter().map(|t| t.text.to_lowercase()).collect();
    for group in groups.iter_mut() {
        if is_really_a_verb(tokens, &lower, group.noun) {
            group.noun -= 1;
            group.attributes.retain(|i| *i < group.noun);
        }
    }
    join_comparatives(tokens, &lower, groups);
    let is_place = |i: usize| lower[i] == "next" && lower.get(i + 1).is_some_and(|word| word == "to");
    for group in groups.iter_mut() {
        group.attributes.retain(|i| !is_place(*i) && tokens[*i].tag != "WRB");
    }
    groups.sort();
}

/// Whether a supposed noun is the verb of the noun before it: "a white tank top walks near", "a man skiing", "The bench
/// and table stand on".
fn is_really_a_verb(tokens: &[Token], lower: &[String], noun: usize) -> bool {
    let Some(before) = noun.checked_sub(1).map(|i| &tokens[i]) else { return false };
    let is_compound = before.head == noun
        && matches!(before.dep.as_str(), "compound" | "amod" | "nmod")
        && matches!(before.pos.as_str(), "NOUN" | "PROPN");
    if !is_compound {
        return false;
    }
    let (token, word) = (&tokens[noun], lower[noun].as_str());
    let next = tokens.get(noun + 1).map_or("", |t| t.pos.as_str());
    let has_singular_article = (0..noun).any(|i| {
        tokens[i].head == noun
            && matches!(lower[i].as_str(), "a" | "an" | "one" | "this" | "each" | "every" | "another")
    });
    let plural_after_one = matches!(token.tag.as_str(), "NNS" | "NNPS")
        && word.ends_with('s')
        && has_singular_article
        && !is_in(PLURALS, word)
        && matches!(next, "ADP" | "ADV" | "DET" | "PART" | "PRON" | "SCONJ");
    let participle = word.ends_with("ing") && !is_in(ING_NOUNS, word);
    let has_verb = tokens.iter().any(|t| matches!(t.pos.as_str(), "VERB" | "AUX"));
    let base_form = !has_verb
        && tokens[0].text == "The"
        && lower[..noun].iter().any(|word| word == "and")
        && matches!(token.tag.as_str(), "NN" | "NNS")
        && matches!(next, "ADP" | "ADV")
        && matches!(token.dep.as_str(), "ROOT" | "conj" | "nsubj")
        && before.dep == "compound";
    plural_after_one || participle || base_form
}

/// Joins "bigger than a cup and smaller than a box": both describe the same object.
fn join_comparatives(tokens: &[Token], lower: &[String], groups: &mut [Group]) {
    let compares = |i: usize| tokens[i].pos == "ADJ" && lower.get(i + 1).is_some_and(|word| word == "than");
    for second in (1..tokens.len()).filter(|i| compares(*i)) {
        if !matches!(lower[second - 1].as_str(), "and" | "," | "or" | "but") {
            continue;
        }
        let Some(first) = (1..second - 1).rev().find(|i| compares(*i)) else { continue };
        let Some(own) = groups.iter().position(|g| g.attributes.contains(&first)) else { continue };
        if !groups[own].attributes.contains(&second) {
            groups.iter_mut().for_each(|g| g.attributes.retain(|i| *i != second));
            groups[own].attributes.push(second);
            groups[own].attributes.sort_unstable();
        }
    }
}
