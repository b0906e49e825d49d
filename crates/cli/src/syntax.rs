//! Prompts written for another program: what has a meaning there and none here.

/// Warns of each kind once, with its first prompt.
pub fn warn<'a>(prompts: impl Iterator<Item = &'a str>) {
    let mut first: [Option<(&str, &str)>; 4] = [None; 4];
    let mut counts = [0; 4];
    for prompt in prompts {
        let found = [emphasis(prompt), extra_network(prompt), break_word(prompt), choice(prompt)];
        for (kind, found) in found.into_iter().enumerate() {
            if let Some(found) = found {
                first[kind].get_or_insert((found, prompt));
                counts[kind] += 1;
            }
        }
    }
    const ADVICE: [&str; 4] = [
        "a weight of words has no meaning here, and brackets and number are read as text; write the words alone",
        "no LoRA is loaded by a prompt; leave it out, and name the file by --lora (or lora.init in a configuration)",
        "it does not divide the prompt here; leave it out",
        "nothing is chosen here, and it is read as text; write a prompt for each choice",
    ];
    for ((first, count), advice) in first.iter().zip(counts).zip(ADVICE) {
        if let Some((found, prompt)) = first {
            let more = if count > 1 { format!(" (and {} more prompts)", count - 1) } else { String::new() };
            tracing::warn!("prompt `{prompt}`{more}: `{found}`: {advice}");
        }
    }
}

/// `(red:1.3)`
fn emphasis(prompt: &str) -> Option<&str> {
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

fn break_word(prompt: &str) -> Option<&str> {
    prompt.split_whitespace().find(|word| word.trim_matches(',') == "BREAK")
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
        assert_eq!(extra_network("a dog <lora:ink:0.8>, two"), Some("<lora:ink:0.8>"));
        assert_eq!(extra_network("a <lora"), None);
        assert_eq!(break_word("a dog BREAK a cat"), Some("BREAK"));
        assert_eq!(break_word("a BREAKFAST, a break"), None);
        assert_eq!(choice("a {red|blue} dog"), Some("{red|blue}"));
        assert_eq!(choice("a __colour__ dog"), Some("__colour__"));
        for plain in ["a dog (a poodle), 1:2, <3, snake_case", "(ü:x) (:", "{", "__"] {
            let all = [emphasis(plain), extra_network(plain), break_word(plain), choice(plain)];
            assert_eq!(all, [None; 4], "{plain}");
        }
    }
}
