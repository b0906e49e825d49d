//! Prompts written for another program: what has a meaning there and none here.

/// Warns of each kind once, with its first prompt.
pub fn warn<'a>(prompts: impl Iterator<Item = &'a str>) {
    let mut first: [Option<(&str, &str)>; 3] = [None; 3];
    let mut counts = [0; 3];
    for prompt in prompts {
        for (kind, found) in [emphasis(prompt), extra_network(prompt), break_word(prompt)].into_iter().enumerate() {
            if let Some(found) = found {
                first[kind].get_or_insert((found, prompt));
                counts[kind] += 1;
            }
        }
    }
    const ADVICE: [&str; 3] = [
        "a weight of words has no meaning here, and brackets and number are read as text; write the words alone",
        "no LoRA is loaded by a prompt; leave it out, and name the file by --lora (or lora.init in a configuration)",
        "it does not divide the prompt here; leave it out",
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
    ["<lora:", "<lyco:", "<hypernet:"].iter().find_map(|begin| {
        let start = prompt.find(begin)?;
        let end = prompt[start..].find('>')?;
        Some(&prompt[start..=start + end])
    })
}

fn break_word(prompt: &str) -> Option<&str> {
    prompt.split_whitespace().find(|word| word.trim_matches(',') == "BREAK")
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
    }
}
