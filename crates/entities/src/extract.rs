//! Takes nouns and their attributes from a parsed text (section 3 of the method).

use crate::token::{Token, children};
use std::collections::{BTreeMap, BTreeSet};

/// Dependency labels of words that modify their head.
const MODIFIERS: [&str; 6] = ["amod", "nmod", "compound", "npadvmod", "advmod", "acomp"];

/// A noun and its attributes, as indices of tokens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub noun: usize,
    pub attributes: Vec<usize>,
}

fn is_modifier(token: &Token) -> bool {
    MODIFIERS.contains(&token.dep.as_str())
}

fn is_verb(token: &Token) -> bool {
    matches!(token.pos.as_str(), "AUX" | "VERB")
}

/// Modifiers, and words joined to them by a conjunction.
fn is_plain(token: &Token) -> bool {
    is_modifier(token) || token.dep == "conj"
}

/// Like [`is_plain`], and also relative clauses.
fn is_relative(token: &Token) -> bool {
    is_plain(token) || token.dep == "relcl"
}

/// A parsed text as a tree.
struct Tree<'a> {
    tokens: &'a [Token],
    children: Vec<Vec<usize>>,
}

impl Tree<'_> {
    /// The dependents of a token for which `holds` is true.
    fn of(&self, i: usize, holds: impl Fn(&Token) -> bool) -> Vec<usize> {
        self.children[i].iter().copied().filter(|c| holds(&self.tokens[*c])).collect()
    }

    /// All descendants of the roots that are reached through tokens for which `follow` is true.
    fn below(&self, roots: &[usize], follow: fn(&Token) -> bool) -> Vec<usize> {
        let mut open: Vec<usize> = roots.iter().flat_map(|i| self.children[*i].iter().copied()).collect();
        let mut found = vec![];
        while let Some(i) = open.pop() {
            if follow(&self.tokens[i]) {
                found.push(i);
                open.extend(&self.children[i]);
            }
        }
        found
    }

    /// The roots and their descendants ([`Self::below`]), filtered by `want`.
    fn reach(&self, roots: &[usize], follow: fn(&Token) -> bool, want: impl Fn(&Token) -> bool) -> Vec<usize> {
        let all = roots.iter().copied().chain(self.below(roots, follow));
        all.filter(|i| want(&self.tokens[*i])).collect()
    }
}

/// Every noun that is not itself a modifier, with its modifiers and the words joined to them, also those in relative
/// clauses ("a dog that is red"), and the adjectives that a form of "be" assigns to it ("the car is blue").
pub fn groups(tokens: &[Token]) -> Vec<Group> {
    let tree = Tree { tokens, children: children(tokens) };
    let mut groups: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (i, token) in tokens.iter().enumerate().filter(|(_, token)| !is_modifier(token)) {
        if token.is_noun() {
            let group = groups.entry(i).or_default();
            group.extend(tree.reach(&tree.of(i, is_modifier), is_plain, |_| true));
            let clauses = tree.of(i, |t| is_modifier(t) || t.dep == "relcl");
            group.extend(tree.reach(&clauses, is_relative, |t| !is_verb(t)));
        }
        if token.pos == "AUX" {
            let said = tree.of(i, |t| is_modifier(t) && !is_verb(t));
            let is_subject = |t: &Token| t.is_noun() && matches!(t.dep.as_str(), "nsubj" | "nsubjpass");
            for subject in tree.of(i, is_subject).into_iter().filter(|_| !said.is_empty()) {
                groups.entry(subject).or_default().extend(tree.reach(&said, is_plain, |t| t.pos != "AUX"));
            }
        }
    }
    groups.into_iter().map(|(noun, attributes)| Group { noun, attributes: attributes.into_iter().collect() }).collect()
}

/// The groups of words that the authors' program takes, with its errors: relative clauses only for the first noun; in
/// "the car is red", "red" in the place of the noun; groups of four or more words are dropped. The last word of a group
/// counts as its noun.
pub fn reference_groups(tokens: &[Token]) -> Vec<Group> {
    let tree = Tree { tokens, children: children(tokens) };
    let (mut plain, mut predicates, mut relatives) = (vec![], vec![], vec![]);
    let mut seen_a_noun = false;
    for (i, token) in tokens.iter().enumerate().filter(|(_, token)| !is_modifier(token)) {
        let with_noun = |mut group: Vec<usize>| {
            let is_empty = group.is_empty();
            group.push(i);
            (!is_empty).then_some(group)
        };
        if token.is_noun() {
            plain.extend(with_noun(tree.reach(&tree.of(i, is_modifier), is_plain, |_| true)));
            if !std::mem::replace(&mut seen_a_noun, true) {
                let clauses = tree.of(i, |t| is_modifier(t) || t.dep == "relcl");
                relatives.extend(with_noun(tree.reach(&clauses, is_relative, |t| !is_verb(t))));
            }
        }
        if token.pos == "AUX" {
            let parts = tree.of(i, |t| is_modifier(t) || t.is_noun());
            let mut group: Vec<usize> = parts.iter().copied().filter(|c| !is_verb(&tokens[*c])).collect();
            if group.len() >= 2 {
                group.extend(tree.below(&parts, is_plain).into_iter().filter(|c| tokens[*c].pos != "AUX"));
                predicates.push(group);
            }
        }
    }
    let mut all: Vec<Vec<usize>> = [plain, predicates, relatives].concat();
    all.sort_by_key(Vec::len);
    let mut kept: Vec<Vec<usize>> = vec![];
    for (i, group) in all.iter().enumerate() {
        let is_part = all[i + 1..].iter().any(|g| group.len() < g.len() && group.iter().all(|x| g.contains(x)));
        if !is_part && !kept.contains(group) {
            kept.push(group.clone());
        }
    }
    let split = |mut group: Vec<usize>| group.pop().map(|noun| Group { noun, attributes: group });
    kept.into_iter().filter(|group| group.len() < 4).filter_map(split).collect()
}
