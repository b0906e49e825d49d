//! How well entities are found, against hand-labelled prompts: `cargo run -p entities --release --example gold -- FILE.jsonl`.
//!
//! A line is `{"prompt", "entities": [{"noun_span": [from, to], "attr_spans": [[from, to], …]}], "optional_nouns": [span, …],
//! "optional_pairs": …}`, spans in characters. What is optional is not scored. Also says how many prompts a second are parsed.

use entities::{Mode, Parser};
use serde_json::Value;
use std::{collections::BTreeSet, error::Error, time::Instant};

type Pair = (usize, usize);

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("a file of hand-labelled prompts is needed")?;
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let parser = Parser::shipped()?;
    for mode in [Mode::Repaired, Mode::Reference] {
        let (mut nouns, mut pairs) = (Counts::default(), Counts::default());
        let began = Instant::now();
        for line in &lines {
            let prompt = line["prompt"].as_str().ok_or("a line without a prompt")?;
            let place = |byte: usize| prompt[..byte].chars().count();
            let found = parser.entities(prompt, mode);
            let from = |span: &Value| span[0].as_u64().unwrap_or(0) as usize;
            let listed = |key: &str| line[key].as_array().cloned().unwrap_or_default();
            let mut gold_nouns = BTreeSet::new();
            let mut gold_pairs: BTreeSet<Pair> = BTreeSet::new();
            for entity in listed("entities") {
                let noun = from(&entity["noun_span"]);
                gold_nouns.insert(noun);
                let attributes = entity["attr_spans"].as_array().cloned().unwrap_or_default();
                gold_pairs.extend(attributes.iter().map(|a| (noun, from(a))));
            }
            let optional_nouns: BTreeSet<usize> = listed("optional_nouns").iter().map(from).collect();
            let optional_pairs: BTreeSet<Pair> =
                listed("optional_pairs").iter().map(|p| (from(&p[0]), from(&p[1]))).collect();
            let found_nouns = found.iter().map(|e| place(e.head.start));
            let of = |e: &entities::Entity| {
                let head = place(e.head.start);
                e.compounds.iter().chain(&e.attributes).map(move |a| (head, a.start)).collect::<Vec<_>>()
            };
            let found_pairs = found.iter().flat_map(of).map(|(head, a)| (head, place(a)));
            nouns.add(&gold_nouns, &optional_nouns, found_nouns.collect());
            pairs.add(&gold_pairs, &optional_pairs, found_pairs.filter(|p| !optional_nouns.contains(&p.0)).collect());
        }
        let rate = lines.len() as f64 / began.elapsed().as_secs_f64();
        println!("{mode:?}: nouns F1 {:.3}, attachments F1 {:.3}, {rate:.0} prompts/s", nouns.f1(), pairs.f1());
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    right: usize,
    wrong: usize,
    missed: usize,
}

impl Counts {
    fn add<T: Ord>(&mut self, gold: &BTreeSet<T>, optional: &BTreeSet<T>, found: BTreeSet<T>) {
        self.right += found.intersection(gold).count();
        self.wrong += found.iter().filter(|f| !gold.contains(f) && !optional.contains(f)).count();
        self.missed += gold.iter().filter(|g| !found.contains(g) && !optional.contains(g)).count();
    }

    fn f1(&self) -> f64 {
        2.0 * self.right as f64 / (2 * self.right + self.wrong + self.missed).max(1) as f64
    }
}
