//! Every help page, as `docs/commands.md` has them: what users read is seen when it changes. After a change on purpose:
//! `cargo xtask docs`.

use crate::common::Folder;
use std::{env, fs, path::Path};

/// Adds the page of a command, and those of its own commands.
fn add(folder: &Folder, command: &[&str], pages: &mut String) {
    let words: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
    let help = folder.command(&words).env_remove("COLUMNS").output().unwrap();
    assert!(help.status.success(), "{words:?}: {help:?}");
    let help = String::from_utf8(help.stdout).unwrap();
    let name: Vec<&str> = ["comat"].iter().chain(command).copied().collect();
    let text: Vec<&str> = help.lines().map(str::trim_end).collect();
    *pages += &format!("\n## {}\n\n```text\n{}\n```\n", name.join(" "), text.join("\n").trim());
    for below in commands(&help) {
        add(folder, &[command, &[below]].concat(), pages);
    }
}

/// What a help page lists below `Commands:`, but for `help`.
fn commands(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect()
}

#[test]
fn every_page_is_as_it_was() {
    let folder = Folder::new();
    let mut pages =
        "# Commands\n\nWhat `comat COMMAND --help` says. Made by a test (crates/cli/tests/help.rs).\n".to_owned();
    add(&folder, &[], &mut pages);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
    if env::var_os("COMAT_RENEW_DOCS").is_some() {
        fs::write(&file, &pages).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let differs = pages.lines().zip(kept.lines()).find(|(now, before)| now != before);
    assert!(pages == kept, "docs/commands.md is of another version; the first line that differs: {differs:?}");
}
