//! Tests that the program accepts every command in the documents, and that the settings in them exist.

#[path = "../tests/common/markdown.rs"]
mod markdown;

use crate::args::Args;
use clap::{Parser, error::ErrorKind};
use serde_json::Value;
use std::{fs, path::Path};

/// The `comat` commands in the code of a Markdown text.
fn commands(text: &str) -> Vec<String> {
    markdown::code(text).into_iter().filter(|code| code.starts_with("comat ")).collect()
}

/// The words that a shell would pass to the program, without comments, pipes and redirections. Placeholders are
/// resolved: `…` and `$variable` are dropped (`$variable/file` is a file), `[OPTIONAL]` loses its brackets, and `N` becomes 1.
fn words(command: &str) -> Option<Vec<String>> {
    let all = shlex::split(command)?;
    let end = all.iter().position(|word| ["|", ">", ">>", "&", ";", "2>&1"].contains(&word.as_str()));
    let shown =
        |word: &&String| !["…", "..."].contains(&word.as_str()) && (!word.starts_with('$') || word.contains('/'));
    let number =
        |word: &str| if word.len() == 1 && word.chars().all(char::is_uppercase) { "1".into() } else { word.to_owned() };
    let optional = |word: &String| number(word.trim_start_matches('[').trim_end_matches(']'));
    Some(all[..end.unwrap_or(all.len())].iter().filter(shown).map(optional).collect())
}

/// Whether the schema has this setting.
fn is_setting(schema: &Value, key: &str) -> bool {
    let mut place = schema;
    for part in key.split('.').filter(|part| part.parse::<usize>().is_err()) {
        let mut inside = place;
        // follow references: direct ones, in `allOf` or `anyOf`, or to the items of a list
        loop {
            let next = ["/$ref", "/allOf/0/$ref", "/anyOf/0/$ref", "/anyOf/0/allOf/0/$ref", "/items/$ref"]
                .iter()
                .find_map(|pointer| inside.pointer(pointer)?.as_str());
            match next.and_then(|target| schema.pointer(target.trim_start_matches('#'))) {
                Some(target) => inside = target,
                None => break,
            }
        }
        match inside["properties"].get(part) {
            Some(property) => place = property,
            None => return inside.get("oneOf").is_some(), // kinds of a judge or a segmenter, each with keys of its own
        }
    }
    true
}

#[test]
fn commands_in_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec!["README.md", "GUIDE.md", "CONTRIBUTING.md", "weights/world/README.md"]
        .into_iter()
        .map(|f| root.join(f))
        .collect::<Vec<_>>();
    files.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let schema = config::reference::schema();
    let (mut checked, mut wrong) = (0, vec![]);
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "md")) {
        for command in commands(&fs::read_to_string(file).unwrap()) {
            let place = format!("{}: {command}", file.strip_prefix(&root).unwrap().display());
            let Some(words) = words(&command) else {
                wrong.push(format!("{place}\n    a shell could not split it"));
                continue;
            };
            if words.get(1).is_some_and(|verb| verb.chars().all(|c| c.is_uppercase())) {
                continue; // a placeholder such as COMMAND
            }
            for pair in words.windows(2).filter(|pair| pair[0] == "--set") {
                let key = pair[1].split('=').next().unwrap();
                if !key.chars().all(char::is_uppercase) && !is_setting(&schema, key) {
                    wrong.push(format!("{place}\n    there is no setting {key}"));
                }
            }
            checked += 1;
            if let Err(error) = Args::try_parse_from(&words) {
                match error.kind() {
                    // running text may name a command without its required arguments
                    ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelp
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::DisplayVersion => {}
                    _ => wrong.push(format!("{place}\n    {}", error.to_string().lines().next().unwrap_or_default())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_wrong_command_is_seen() {
    let schema = config::reference::schema();
    assert!(
        is_setting(&schema, "train.steps")
            && is_setting(&schema, "reward.0.weight")
            && is_setting(&schema, "fidelity.rank")
    );
    assert!(!is_setting(&schema, "train.stepz") && !is_setting(&schema, "trains"));
    assert_eq!(
        commands("a `comat x` b `comat\nu --t` ` c\n\n    comat y \\\n      --z\n```\ncomat w && comat v\n```\n"),
        ["comat x", "comat u --t", "comat y        --z", "comat w", "comat v"]
    );
    assert_eq!(words("comat lora merge [--x Y] … > out # why").unwrap(), ["comat", "lora", "merge", "--x", "1"]);
}
