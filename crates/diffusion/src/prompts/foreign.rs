//! What prompt files of other programs hold besides prompts: comments and options, as sd-scripts' sample prompts and Midjourney's have
//! them, and the lines that A1111 writes below a prompt.

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

/// Keys of a `.jsonl` line that are settings elsewhere: here they change nothing.
const SETTINGS: [&str; 14] = [
    "negative_prompt",
    "negative",
    "seed",
    "seeds",
    "width",
    "height",
    "steps",
    "num_inference_steps",
    "guidance_scale",
    "cfg",
    "cfg_scale",
    "sampler",
    "sampler_name",
    "scheduler",
];

/// What was met in one file.
#[derive(Default)]
pub struct Met {
    comments: usize,
    infos: usize,
    settings: BTreeSet<&'static str>,
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
        if is_info(line) {
            self.infos += 1;
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

    /// Notes the settings among the keys of a `.jsonl` line.
    pub fn keys<'a>(&mut self, keys: impl Iterator<Item = &'a String>) {
        self.settings.extend(keys.filter_map(|key| SETTINGS.into_iter().find(|setting| setting == key)));
    }

    /// One warning for each kind.
    pub fn warn(&self, path: &Path) {
        let path = path.display();
        if self.comments > 0 {
            tracing::warn!("{path}: {} lines that begin with # are comments and were left out", self.comments);
        }
        if self.infos > 0 {
            tracing::warn!(
                "{path}: {} lines are what A1111 writes below a prompt (Negative prompt: …, Steps: …) and were left out",
                self.infos
            );
        }
        if !self.settings.is_empty() {
            let names: Vec<&str> = self.settings.iter().copied().collect();
            tracing::warn!(
                "{path}: {} of its lines have no effect: they are the same for all prompts here, options or settings",
                names.join(", ")
            );
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

/// Whether A1111 writes such a line below a prompt: the negative prompt, and how the image was drawn.
fn is_info(line: &str) -> bool {
    let lower = line.to_lowercase();
    lower.starts_with("negative prompt:") || (lower.starts_with("steps: ") && lower.contains("sampler: "))
}

/// The first option of another program in a prompt, with its value.
pub fn option(prompt: &str) -> Option<&str> {
    let all = options(prompt);
    let (start, _) = all.first()?;
    let end = all.get(1).map_or(prompt.len(), |(next, _)| *next);
    Some(prompt[*start..end].trim())
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
            ("Negative prompt: blurry, low quality", None),
            ("Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1", None),
            ("steps: a red staircase", Some("steps: a red staircase")),
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
