//! Syntax of other programs in prompt files: comments, options of sd-scripts' sample prompts and of Midjourney, and the
//! lines that A1111 writes below a prompt.

use serde_json::Value;
use std::{collections::BTreeSet, path::Path};

/// Options that may follow a prompt: sd-scripts' first, then Midjourney's, then those of A1111's prompts from files.
const OPTIONS: [&str; 84] = [
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
    "g",
    "am",
    "f",
    "fs",
    "i",
    "ci",
    "bs",
    "cl",
    "ct",
    "nt",
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
    "oref",
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
    "sv",
    "sw",
    "tile",
    "v",
    "version",
    "video",
    "weird",
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "cfg_scale",
    "sampler_name",
    "sampler_index",
    "scheduler",
    "sd_model",
    "outpath_samples",
    "outpath_grids",
    "prompt_for_display",
    "styles",
    "batch_size",
    "n_iter",
    "subseed",
    "subseed_strength",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "restore_faces",
    "tiling",
    "do_not_save_samples",
    "do_not_save_grid",
    "negative",
    "cfg",
    "guidance_scale",
    "sampler",
    "size",
];

/// Keys of a `.jsonl` line that are settings in other programs; here they have no effect.
const SETTINGS: [&str; 22] = [
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
    "sd_model",
    "outpath_samples",
    "batch_size",
    "n_iter",
    "styles",
    "diffusion_steps",
    "noise_scheduler",
    "random_seed",
];

/// The foreign syntax that was found in one file.
#[derive(Default)]
pub struct Met {
    comments: usize,
    infos: usize,
    disabled: usize,
    settings: BTreeSet<&'static str>,
    options: BTreeSet<&'static str>,
    with_options: usize,
}

impl Met {
    /// The prompts in the lines of a text, numbered from 1.
    pub fn prompts_of<'a>(&mut self, lines: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
        let lines: Vec<&str> = lines.map(str::trim).collect();
        let (mut prompts, mut at) = (vec![], 0);
        while let Some(line) = lines.get(at) {
            let more = continued(&lines[at..]);
            self.infos += more;
            prompts.extend(self.prompt_of(line).map(|prompt| (at + 1, prompt)));
            at += 1 + more;
        }
        prompts
    }

    /// The prompt in a line of text; `None` if there is none.
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
        let before = line[..all.first().map_or(line.len(), |first| first.start)].trim();
        let named = all.iter().position(|option| option.name == PROMPT).filter(|_| before.is_empty());
        let prompt = named.map_or(before, |i| value(line, &all, i));
        let mut others =
            all.iter().enumerate().filter(|(i, _)| Some(*i) != named).map(|(_, option)| option.name).peekable();
        if others.peek().is_some() {
            self.with_options += 1;
            self.options.extend(others);
        }
        (!prompt.is_empty()).then_some(prompt)
    }

    /// Whether an entry of a list is switched off, as in the samples of OneTrainer.
    pub fn is_disabled(&mut self, entry: &Value) -> bool {
        let is_disabled = entry.get("enabled") == Some(&Value::Bool(false));
        self.disabled += usize::from(is_disabled);
        is_disabled
    }

    /// Records the settings among the keys of a `.jsonl` line.
    pub fn keys<'a>(&mut self, keys: impl Iterator<Item = &'a String>) {
        self.settings.extend(keys.filter_map(|key| SETTINGS.into_iter().find(|setting| setting == key)));
    }

    /// Logs one warning for each kind.
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
        if self.disabled > 0 {
            tracing::warn!("{path}: {} entries with \"enabled\": false were left out", self.disabled);
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

/// Whether a line is one that A1111 or its extensions write below a prompt: the negative prompt, the settings of the
/// image, or what the prompt was made from.
fn is_info(line: &str) -> bool {
    is_negative(line) || is_settings(line) || ["Template:", "Negative Template:"].iter().any(|t| line.starts_with(t))
}

fn is_negative(line: &str) -> bool {
    line.to_lowercase().starts_with("negative prompt:")
}

/// Steps and sampler, or three settings or more with one of them: `Size: 512x512, Steps: 20, Seed: 1`.
fn is_settings(line: &str) -> bool {
    let lower = line.to_lowercase();
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '/' | '_');
    let name = |part: &str| Some(part.split_once(": ")?.0.trim().to_owned()).filter(|name| name.chars().all(is_name));
    let names: Vec<String> = lower.split(',').filter_map(name).collect();
    let has_one = names.iter().any(|name| name == "steps" || name == "sampler");
    (lower.starts_with("steps: ") && lower.contains("sampler: ")) || (names.len() >= 3 && has_one)
}

/// Number of lines after the first that continue its negative prompt: up to the settings, an empty line or the end.
/// None if another negative prompt comes first: then there is a prompt between the two.
fn continued(lines: &[&str]) -> usize {
    let [first, rest @ ..] = lines else { return 0 };
    if !is_negative(first) {
        return 0;
    }
    let end = rest.iter().position(|line| line.is_empty() || is_negative(line) || is_settings(line));
    match end {
        Some(end) if is_negative(rest[end]) => 0,
        _ => end.unwrap_or(rest.len()),
    }
}

/// The first option of another program in a prompt, with its value.
pub fn option(prompt: &str) -> Option<&str> {
    let all = options(prompt);
    let first = all.first()?;
    let end = all.get(1).map_or(prompt.len(), |next| next.start);
    Some(prompt[first.start..end].trim())
}

/// Text that looks like an option, ` --word`, but is not a known one.
pub fn unknown_option(prompt: &str) -> Option<&str> {
    let known = options(prompt);
    dashes(prompt).filter(|(start, _)| !known.iter().any(|option| option.start == *start)).find_map(|(start, name)| {
        let end = name
            + prompt[name..]
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
                .unwrap_or(prompt.len() - name);
        let is_word = prompt[name..].starts_with(char::is_alphabetic) && prompt[start..].starts_with("--");
        is_word.then(|| &prompt[start..end])
    })
}

/// An option in a line.
struct Found {
    start: usize,
    /// Byte offset of its value.
    value: usize,
    name: &'static str,
}

/// A1111's option that holds the prompt itself.
const PROMPT: &str = "prompt";

/// Options ` --NAME`: after a space, and before a space or the end. A dash, which word processors put in place of two
/// hyphens, counts before a number and for negative prompts.
fn options(line: &str) -> Vec<Found> {
    let mut all: Vec<Found> = vec![];
    let mut quoted = 0..0;
    for (start, at) in dashes(line) {
        let length = line[at..].find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len() - at);
        // after one space of any width, or an equals sign
        let value = at + length + line[at + length..].chars().next().map_or(0, char::len_utf8);
        let Some(name) = OPTIONS.into_iter().find(|option| option.eq_ignore_ascii_case(&line[at..at + length])) else {
            continue;
        };
        let is_sure = line[start..].starts_with("--")
            || matches!(name, "n" | "no" | "negative_prompt")
            || line[value..].trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
        if is_sure && !quoted.contains(&start) {
            if name == PROMPT {
                quoted = in_quotes(line, value).unwrap_or(0..0);
            }
            all.push(Found { start, value, name });
        }
    }
    all
}

/// Positions of two hyphens or a dash at the beginning of a word, and where the word continues.
fn dashes(line: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    ["--", "\u{2014}", "\u{2013}"]
        .into_iter()
        .flat_map(|dash| line.match_indices(dash))
        .map(|(start, dash)| (start, start + dash.len()))
        .filter(|(start, _)| *start == 0 || line[..*start].ends_with(char::is_whitespace))
        .collect::<std::collections::BTreeMap<_, _>>()
        .into_iter()
}

/// The value of the `number`-th option, without quotes around it.
fn value<'a>(line: &'a str, all: &[Found], number: usize) -> &'a str {
    let from = all[number].value;
    match in_quotes(line, from) {
        Some(inside) => line[inside].trim(),
        None => line[from..all.get(number + 1).map_or(line.len(), |next| next.start)].trim(),
    }
}

/// The range of the text in quotes at `from`, if a space or the end follows the quotes.
fn in_quotes(line: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let rest = &line[from..];
    let start = from + rest.len() - rest.trim_start().len();
    let quote = line[start..].chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let ends = line[start + 1..].match_indices(quote).map(|(at, _)| start + 1 + at);
    let is_end = |end: &usize| line[end + 1..].chars().next().is_none_or(char::is_whitespace);
    ends.filter(is_end).map(|end| start + 1..end).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_comments() {
        for (line, prompt) in [
            ("a red dog --n low quality --w 512 --h 768 --d 42 --l 7.5 --s 28", Some("a red dog")),
            ("a red dog --W 512 --N blurry", Some("a red dog")),
            ("a red dog --ar 16:9 --v 6 --raw", Some("a red dog")),
            ("a red dog --d=42", Some("a red dog")),
            ("  # a comment --n x", None),
            ("--n only options", None),
            ("Negative prompt: blurry, low quality", None),
            ("Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1", None),
            ("Size: 512x768, Steps: 20, Seed: 1", None),
            ("Template: a {red|blue} dog", None),
            ("Negative Template: {blurry|dark}", None),
            (
                "a poster, title: red, subtitle: dog, author: me",
                Some("a poster, title: red, subtitle: dog, author: me"),
            ),
            ("steps: a red staircase", Some("steps: a red staircase")),
            ("a dog -- and a cat", Some("a dog -- and a cat")),
            ("well--known --unknown 3", Some("well--known --unknown 3")),
            ("a dog, number #1", Some("a dog, number #1")),
            ("a red dog --negative_prompt bad --width 512 --steps 20", Some("a red dog")),
            ("a red dog --am 0.8", Some("a red dog")),
            ("a red dog --cfg_scale 7 --sampler_name \"Euler a\"", Some("a red dog")),
            ("--prompt \"a red dog\" --seed 3", Some("a red dog")),
            ("--prompt a red dog --steps 3", Some("a red dog")),
            ("--seed 3 --prompt 'a dog --n it' --steps 3", Some("a dog --n it")),
            ("--prompt \"it's a dog\"", Some("it's a dog")),
            ("--prompt=\"a red dog\"", Some("a red dog")),
            ("--prompt \"\"", None),
            ("--prompt\u{3000}a red dog\u{3000}--seed\u{3000}3", Some("a red dog")),
            ("a red dog --seed\u{3000}\u{ff13}", Some("a red dog")),
            ("a red dog \u{2014}n bad", Some("a red dog")),
            ("a red dog \u{2013}w 512", Some("a red dog")),
            ("a dog \u{2014}i think \u{2014} and a cat", Some("a dog \u{2014}i think \u{2014} and a cat")),
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

    /// As A1111 writes below an image; a list of prompts with a negative prompt each keeps its prompts.
    #[test]
    fn negative_prompts_of_several_lines() {
        let prompts = |text: &str| {
            let mut met = Met::default();
            let prompts: Vec<_> = met.prompts_of(text.lines()).into_iter().map(|(i, p)| (i, p.to_owned())).collect();
            (prompts, met.infos)
        };
        let at = |i: usize, text: &str| (i, text.to_owned());
        let settings = "Steps: 20, Sampler: Euler a, Seed: 1";
        let text = format!("a red dog\nNegative prompt: blurry,\nlow quality\n\ntwo cats\n{settings}\na tree");
        assert_eq!(prompts(&text), (vec![at(1, "a red dog"), at(5, "two cats"), at(7, "a tree")], 3));
        let text = format!("a red dog\nNegative prompt: blurry,\nlow quality\n{settings}\ntwo cats");
        assert_eq!(prompts(&text), (vec![at(1, "a red dog"), at(5, "two cats")], 3));
        assert_eq!(prompts("a red dog\nNegative prompt: blurry,\nlow quality"), (vec![at(1, "a red dog")], 2));
        let text = "a red dog\nNegative prompt: blurry\ntwo cats\nNegative prompt: dark";
        assert_eq!(prompts(text), (vec![at(1, "a red dog"), at(3, "two cats")], 2));
    }

    #[test]
    fn what_looks_like_an_option() {
        for (prompt, found) in [
            ("a dog --unknown 3", Some("--unknown")),
            ("a dog --w 5 --other-one", Some("--other-one")),
            ("a dog --w 5", None),
            ("well--known -- or not --- --3", None),
            ("a dog \u{2014}unknown", None),
        ] {
            assert_eq!(unknown_option(prompt), found, "{prompt}");
        }
        assert_eq!(option("a dog --am 0.8 --d 1"), Some("--am 0.8"));
    }
}
