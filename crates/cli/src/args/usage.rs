//! What is wrong with a command line, in one line: what, and where to read on.

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{env, error::Error as _, process};

/// Ends the program: after a help page that was asked for as clap does, otherwise with one line and exit code 2.
pub fn exit(error: &Error, command: &Command) -> ! {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit()
    }
    let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
    eprintln!("comat: error: {}; see {} --help", what(error), verb(command, words));
    process::exit(2)
}

/// The command that was typed, without options and values: `comat lora info`.
fn verb(command: &Command, words: impl Iterator<Item = String>) -> String {
    let (mut names, mut within) = ("comat".to_owned(), command);
    for word in words.skip(1).filter(|word| !word.starts_with('-')) {
        let Some(inner) = within.find_subcommand(&word) else { break };
        names += &format!(" {}", inner.get_name());
        within = inner;
    }
    names
}

/// What is wrong. A kind of error that is not known here has clap's words, on one line.
fn what(error: &Error) -> String {
    let texts = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => vec![],
    };
    let text = |kind| texts(kind).join(" and ");
    let perhaps = |kind| texts(kind).first().map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    let argument = text(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::MissingRequiredArgument if !argument.is_empty() => {
            let verb = if texts(ContextKind::InvalidArg).len() == 1 { "is" } else { "are" };
            format!("{argument} {verb} missing")
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("unknown option {argument}{}", perhaps(ContextKind::SuggestedArg))
        }
        ErrorKind::UnknownArgument if !argument.is_empty() => format!("`{argument}` is one word too many"),
        ErrorKind::InvalidSubcommand => {
            let typed = text(ContextKind::InvalidSubcommand);
            format!("unknown command {typed}{}", perhaps(ContextKind::SuggestedSubcommand))
        }
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_empty() => format!("{argument} needs a value"),
        ErrorKind::InvalidValue => {
            let (typed, known) = (text(ContextKind::InvalidValue), texts(ContextKind::ValidValue).join(", "));
            format!("{}: unknown value; there are {known}", option(&argument, &typed))
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map_or_else(|| "cannot be read".into(), |source| in_words(&source.to_string()));
            format!("{}: {reason}", option(&argument, &text(ContextKind::InvalidValue)))
        }
        ErrorKind::ArgumentConflict if argument == text(ContextKind::PriorArg) => {
            format!("{argument} is given twice; it can be given once")
        }
        ErrorKind::ArgumentConflict if !argument.is_empty() => {
            let other = text(ContextKind::PriorArg);
            format!("{argument} does not go together with {other}; leave one of them out")
        }
        _ => first_part(&error.to_string()),
    }
}

/// An option with the value that was typed for it: `--steps x`.
fn option(argument: &str, value: &str) -> String {
    let value = if value.is_empty() || value.contains(' ') { format!("'{value}'") } else { value.to_owned() };
    format!("{} {value}", argument.split(' ').next().unwrap_or_default().trim_matches(['<', '>']))
}

/// What Rust says of numbers, in plain words.
fn in_words(reason: &str) -> String {
    if let Some((_, range)) = reason.split_once(" is not in ") {
        return match range.split_once("..") {
            Some((least, most)) if most.is_empty() || most.len() > 18 => format!("must be {least} or more"), // no bound
            Some((least, most)) => format!("must be from {least} to {}", most.trim_start_matches('=')),
            None => reason.to_owned(),
        };
    }
    let whole = "must be a whole number";
    let words = [
        ("invalid digit found in string", whole),
        ("cannot parse integer from empty string", whole),
        ("number too large to fit in target type", "is too large"),
        ("number too small to fit in target type", "is too small"),
        ("invalid float literal", "must be a number"),
        ("cannot parse float from empty string", "must be a number"),
    ];
    words.iter().fold(reason.to_owned(), |reason, (of_rust, plain)| reason.replace(of_rust, plain))
}

/// The lines before the usage as one.
fn first_part(text: &str) -> String {
    let lines =
        text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let words: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{args::Args, paths};
    use clap::CommandFactory;

    #[test]
    fn one_line_for_each_kind() {
        let said = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let error = paths::expanding(Args::command()).try_get_matches_from(&words).unwrap_err();
            let verb = verb(&Args::command(), words.iter().map(|word| (*word).to_owned()));
            format!("{}; see {verb} --help", what(&error))
        };
        let generate = "comat generate --model m --prompt x";
        for (line, expected) in [
            ("comat tarin", "unknown command tarin (did you mean train?); see comat --help"),
            (
                "comat train --config c --dryrun",
                "unknown option --dryrun (did you mean --dry-run?); see comat train --help",
            ),
            ("comat doctor now", "`now` is one word too many; see comat doctor --help"),
            (generate, "--out <DIR> is missing; see comat generate --help"),
            ("comat lora convert f", "--to <FORMAT> and --out <FILE> are missing; see comat lora convert --help"),
            ("comat -v train --config", "--config <FILE|PRESET> needs a value; see comat train --help"),
            (
                "comat completions cmd",
                "SHELL cmd: unknown value; there are bash, elvish, fish, powershell, zsh; see comat completions --help",
            ),
            (
                "comat report r -q -v",
                "--quiet does not go together with --verbose; leave one of them out; see comat report --help",
            ),
        ] {
            assert_eq!(said(line), expected);
        }
        for (rest, expected) in [
            ("--out o --steps x", "--steps x: must be a whole number, 1 or more"),
            ("--out o --steps 0", "--steps 0: must be at least 1"),
            ("--out o --steps 99999999999999999999", "--steps 99999999999999999999: is too large"),
            ("--out o --eta x", "--eta x: must be a number"),
            ("--out o --seed x", "--seed x: must be a whole number, 0 or more"),
            ("--out ", "--out '': it is empty; name a file or folder"),
            ("--out o --device tpu", "--device tpu: unknown device `tpu`; there are auto, cpu, cuda and cuda:N"),
        ] {
            assert_eq!(said(&format!("{generate} {rest}")), format!("{expected}; see comat generate --help"));
        }
        assert!(said("comat prepare --model m --size 64 --out o --steps 0").contains("--steps 0: must be 1 or more"));
    }
}
