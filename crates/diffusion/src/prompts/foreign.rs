//! What prompt files of other programs hold besides prompts: comments and options, as sd-scripts' sample prompts and Midjourney's have
//! them, and the weights of A1111.

use std::{collections::BTreeSet, path::Path};

/// The options that may stand behind a prompt: sd-scripts' first, then Midjourney's.
const OPTIONS: [&str; 43] = [
    "n",
    "w",
    "h",
    "d",
    "l",
    "s",
    "ss",
    "ow",
    "oh",
    "nl",
    "t",
    "cn",
    "ctr",
    "ar",
    "aspect",
    "chaos",
    "c",
    "cref",
    "cw",
    "draft",
    "exp",
    "hd",
    "iw",
    "niji",
    "no",
    "p",
    "personalize",
    "q",
    "quality",
    "r",
    "raw",
    "repeat",
    "seed",
    "sref",
    "stop",
    "style",
    "stylize",
    "sw",
    "tile",
    "v",
    "version",
    "video",
    "weird",
];

/// What was met in one file.
#[derive(Default)]
pub struct Met {
    comments: usize,
    options: BTreeSet<&'static str>,
    with_options: usize,
}

impl Met {
    /// The prompt in a line of text; `None`: there is none.
    pub fn prompt_of<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let line = line.trim();
        if line.starts_with('#') {
            self.comments += 1;
            return None;
        }
        let all = options(line);
        let prompt = line[..all.first().map_or(line.len(), |(at, _)| *at)].trim();
        if let Some((_, first)) = all.first() {
            self.with_options += 1;
            self.options.insert(first);
            self.options.extend(all.iter().map(|(_, name)| *name));
        }
        (!prompt.is_empty()).then_some(prompt)
    }

    /// One warning for each kind.
    pub fn warn(&self, path: &Path) {
        let path = path.display();
        if self.comments > 0 {
            tracing::warn!("{path}: {} lines that begin with # are comments and were left out", self.comments);
        }
        if self.with_options > 0 {
            let names: Vec<String> = self.options.iter().map(|name| format!("--{name}")).collect();
            tracing::warn!(
                "{path}: what follows the prompt in {} lines are options of another program ({}), and was left out: negative prompt, \
                 size, seed, guidance and steps are options or settings here",
                self.with_options,
                names.join(", ")
            );
        }
    }
}

/// Where options begin, ` --NAME` behind a space and before a space or the end.
fn options(line: &str) -> Vec<(usize, &'static str)> {
    let starts =
        line.match_indices("--").map(|(at, _)| at).filter(|at| *at == 0 || line[..*at].ends_with(char::is_whitespace));
    let named = starts.filter_map(|at| {
        let name = line[at + 2..].split(|c: char| c.is_whitespace() || c == '=').next()?;
        Some((at, *OPTIONS.iter().find(|option| **option == name)?))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_comments() {
        for (line, prompt) in [
            ("a red dog --n low quality --w 512 --h 768 --d 42 --l 7.5 --s 28", Some("a red dog")),
            ("a red dog --ar 16:9 --v 6 --raw", Some("a red dog")),
            ("a red dog --d=42", Some("a red dog")),
            ("  # a comment --n x", None),
            ("--n only options", None),
            ("a dog -- and a cat", Some("a dog -- and a cat")),
            ("well--known --unknown 3", Some("well--known --unknown 3")),
            ("a dog, number #1", Some("a dog, number #1")),
        ] {
            assert_eq!(Met::default().prompt_of(line), prompt, "{line}");
        }
        let mut met = Met::default();
        ["# x", "a --n b --d 1", "a --w 5"].iter().for_each(|line| _ = met.prompt_of(line));
        assert_eq!(
            (met.comments, met.with_options, met.options.into_iter().collect::<Vec<_>>()),
            (1, 2, vec!["d", "n", "w"])
        );
    }
}
