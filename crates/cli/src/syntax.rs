//! Finds syntax in prompts that has a meaning in other programs and none here.

use diffusion::prompts::{foreign_option, unknown_option};
use std::collections::HashSet;

/// Warns once for each kind of foreign syntax, with the first prompt that has it.
pub fn warn<'a>(prompts: impl Iterator<Item = &'a str>) {
    let mut first: [Option<(&str, &str)>; KINDS] = [None; KINDS];
    let mut counts = [0; KINDS];
    let mut seen = HashSet::new();
    for prompt in prompts.filter(|prompt| seen.insert(*prompt)) {
        let found = all(prompt);
        for (kind, found) in found.into_iter().enumerate() {
            if let Some(found) = found {
                first[kind].get_or_insert((found, prompt));
                counts[kind] += 1;
            }
        }
    }
    const ADVICE: [&str; KINDS] = [
        "a weight of words has no meaning here, and brackets and number are read as text; write the words alone",
        "no LoRA is loaded by a prompt; leave it out, and name the file by --lora (or lora.init in a configuration)",
        "it does not divide the prompt here, and is read as text; leave it out",
        "nothing is chosen here, and it is read as text; write a prompt for each choice",
        "the prompt is the same in all steps here, and the brackets are read as text; write the words alone",
        "no embedding is loaded here, and its name is read as text; leave it out",
        "options of another program are read as text here; leave them out, there are options and settings of comat",
        "weights of parts have no meaning here, and colons and number are read as text; write the words alone",
        "the quotes are read as text; leave them out",
        "brackets have no meaning here, so the backslash is read as text; leave it out",
    ];
    for ((first, count), advice) in first.iter().zip(counts).zip(ADVICE) {
        if let Some((found, prompt)) = first {
            let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            tracing::warn!("prompt `{prompt}`{more}: `{found}`: {advice}");
        }
    }
}

const KINDS: usize = 10;

/// The first match of each kind in a prompt.
fn all(prompt: &str) -> [Option<&str>; KINDS] {
    [
        emphasis(prompt),
        extra_network(prompt),
        divider(prompt),
        choice(prompt),
        editing(prompt),
        embedding(prompt),
        foreign_option(prompt).or_else(|| unknown_option(prompt)),
        part(prompt),
        quoted(prompt),
        escaped(prompt),
    ]
}

/// A bracket behind a backslash: `miku \(vocaloid\)`
fn escaped(prompt: &str) -> Option<&str> {
    let is_bracket = |at: &usize| prompt[at + 1..].starts_with(['(', ')', '[', ']', '{', '}']);
    prompt.match_indices('\\').map(|(at, _)| at).find(is_bracket).map(|at| &prompt[at..at + 2])
}

/// Midjourney's weights of parts: `hot::2 dog`
fn part(prompt: &str) -> Option<&str> {
    prompt.match_indices("::").find_map(|(at, _)| {
        let start = prompt[..at].rfind(char::is_whitespace).map_or(0, |space| space + 1);
        let end = at + prompt[at..].find(|c: char| c.is_whitespace() || c == ',').unwrap_or(prompt.len() - at);
        let weight = &prompt[at + 2..end];
        (start < at && (weight.is_empty() || weight.parse::<f64>().is_ok())).then(|| &prompt[start..end])
    })
}

/// A prompt that is in quotes as a whole.
fn quoted(prompt: &str) -> Option<&str> {
    const PAIRS: [(char, char); 3] = [('"', '"'), ('\'', '\''), ('\u{201c}', '\u{201d}')];
    let prompt = prompt.trim();
    let inside = PAIRS.iter().find_map(|(open, close)| {
        let inside = prompt.strip_prefix(*open)?.strip_suffix(*close)?;
        (!inside.contains([*open, *close])).then_some(inside)
    })?;
    (!inside.trim().is_empty()).then_some(prompt)
}

/// `(red:1.3)`, `((red))`, A1111's `[red]`, compel's `red++` and `(red dog)--`
fn emphasis(prompt: &str) -> Option<&str> {
    let doubled = || {
        let start = prompt.find("((")?;
        let end = start + prompt[start..].find("))")?;
        Some(&prompt[start..end + 2])
    };
    weighted(prompt).or_else(doubled).or_else(|| weakened(prompt)).or_else(|| signed(prompt))
}

/// Words in square brackets; not `[12:30]`, not what [`editing`] finds.
fn weakened(prompt: &str) -> Option<&str> {
    prompt.match_indices('[').filter(|(start, _)| !prompt[..*start].ends_with('\\')).find_map(|(start, _)| {
        let end = start + prompt[start..].find(']')?;
        let inside = &prompt[start + 1..end];
        (inside.contains(char::is_alphabetic) && !inside.contains([':', '|'])).then(|| &prompt[start..=end])
    })
}

/// A word of two letters or more, or brackets, with `++` or `--` behind it; `C++` is a name.
fn signed(prompt: &str) -> Option<&str> {
    let is_sign = |c: char| c == '+' || c == '-';
    prompt.split(|c: char| c.is_whitespace() || c == ',').find(|word| {
        let bare = word.trim_end_matches(is_sign);
        let signs = &word[bare.len()..];
        let letters = bare.chars().rev().take(2).filter(|c| c.is_alphabetic()).count();
        (bare.ends_with(')') || letters == 2) && (signs.starts_with("++") || signs.starts_with("--"))
    })
}

fn weighted(prompt: &str) -> Option<&str> {
    prompt.match_indices('(').find_map(|(start, _)| {
        let end = start + prompt[start..].find(')')?;
        let (words, weight) = prompt[start + 1..end].rsplit_once(':')?;
        (!words.trim().is_empty() && weight.trim().parse::<f64>().is_ok()).then(|| &prompt[start..=end])
    })
}

/// `<lora:name:0.8>`
fn extra_network(prompt: &str) -> Option<&str> {
    prompt.match_indices('<').find_map(|(start, _)| {
        let end = start + prompt[start..].find('>')?;
        let inside = prompt[start + 1..end].to_lowercase();
        let is_network = ["lora:", "lyco:", "hypernet:"].iter().any(|kind| inside.starts_with(kind));
        is_network.then(|| &prompt[start..=end])
    })
}

/// `BREAK`, and `AND` between two prompts
fn divider(prompt: &str) -> Option<&str> {
    let words: Vec<&str> = prompt.split_whitespace().collect();
    let is_loud = |word: Option<&&str>| {
        word.is_some_and(|word| word.chars().any(char::is_alphabetic) && !word.chars().any(char::is_lowercase))
    };
    let is_divider = |i: usize| match words[i].trim_matches(',') {
        "BREAK" => true,
        "AND" => !is_loud(i.checked_sub(1).and_then(|before| words.get(before))) && !is_loud(words.get(i + 1)),
        _ => false,
    };
    (0..words.len()).find(|i| is_divider(*i)).map(|i| words[i])
}

/// `[red:blue:0.5]`, `[red|blue]`
fn editing(prompt: &str) -> Option<&str> {
    prompt.match_indices('[').find_map(|(start, _)| {
        let end = start + prompt[start..].find(']')?;
        let inside = &prompt[start + 1..end];
        let timed = inside.rsplit_once(':').is_some_and(|(words, when)| {
            words.chars().any(char::is_alphabetic) && when.trim().parse::<f64>().is_ok() // `[12:30]` is a time
        });
        (timed || inside.contains('|')).then(|| &prompt[start..=end])
    })
}

/// `embedding:name`
fn embedding(prompt: &str) -> Option<&str> {
    prompt.split([' ', ',', '(', ')']).find(|word| word.strip_prefix("embedding:").is_some_and(|name| !name.is_empty()))
}

/// `{a|b}` or `__name__`
fn choice(prompt: &str) -> Option<&str> {
    let braces = || {
        prompt.match_indices('{').find_map(|(start, _)| {
            let end = start + prompt[start..].find('}')?;
            prompt[start..end].contains('|').then(|| &prompt[start..=end])
        })
    };
    let wildcard = || {
        let (before, behind) = prompt.split_once("__")?;
        let name = behind.split_once("__")?.0;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-/*".contains(c));
        is_name.then(|| &prompt[before.len()..before.len() + name.len() + 4])
    };
    braces().or_else(wildcard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_other_programs() {
        assert_eq!(emphasis("a (red:1.3) book"), Some("(red:1.3)"));
        assert_eq!(emphasis("a clock (at 10:30 in the morning) (old)"), None);
        assert_eq!(emphasis("an open (bracket:1"), None);
        assert_eq!(emphasis("a [red] dog"), Some("[red]"));
        assert_eq!(emphasis("a departure at [12:30], a [red:blue:0.5] dog, \\[red\\]"), None);
        assert_eq!(emphasis("a red++ dog"), Some("red++"));
        assert_eq!(emphasis("a dog, (a red hat)--, a cat"), Some("hat)--"));
        assert_eq!(emphasis("a book about C++, well--known -- or not --ar 3, 1--2"), None);
        assert_eq!(escaped("miku \\(vocaloid\\)"), Some("\\("));
        assert_eq!(escaped("C:\\photos"), None);
        assert_eq!(extra_network("a dog <lora:ink:0.8>, two"), Some("<lora:ink:0.8>"));
        assert_eq!(extra_network("a <lora"), None);
        assert_eq!(emphasis("a ((red)) book"), Some("((red))"));
        assert_eq!(divider("a dog BREAK a cat"), Some("BREAK"));
        assert_eq!(divider("a dog AND a cat"), Some("AND"));
        assert_eq!(divider("a BREAKFAST, a break, and"), None);
        assert_eq!(divider("A DOG AND A CAT"), None);
        assert_eq!(divider("a jar labelled SALT AND PEPPER"), None);
        assert_eq!(editing("a departure at [12:30]"), None);
        assert_eq!(editing("a [red:blue:0.5] dog"), Some("[red:blue:0.5]"));
        assert_eq!(editing("a [red|blue] dog"), Some("[red|blue]"));
        assert_eq!(editing("a sign [sic]"), None);
        assert_eq!(embedding("a dog, (embedding:bad-hands:1.2)"), Some("embedding:bad-hands:1.2"));
        assert_eq!(foreign_option("a dog --ar 16:9 --v 6"), Some("--ar 16:9"));
        assert_eq!(all("a dog --unknown 3")[6], Some("--unknown"));
        assert_eq!(part("a red circle::2 square::1"), Some("circle::2"));
        assert_eq!(part("hot:: dog"), Some("hot::"));
        assert_eq!(part("a std::vector :: x"), None);
        assert_eq!(quoted(" \"a red dog\" "), Some("\"a red dog\""));
        assert_eq!(quoted("\u{201c}a red dog\u{201d}"), Some("\u{201c}a red dog\u{201d}"));
        assert_eq!(quoted("\"a\" or \"b\""), None);
        assert_eq!(choice("a {red|blue} dog"), Some("{red|blue}"));
        assert_eq!(choice("a __colour__ dog"), Some("__colour__"));
        for plain in ["a dog (a poodle), 1:2, <3, snake_case", "(ü:x) (:", "{", "__"] {
            assert_eq!(all(plain), [None; KINDS], "{plain}");
        }
    }
}
