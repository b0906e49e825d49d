//! `logging.command`: events to the standard input of another program.

use crate::common::Folder;
use std::time::{Duration, Instant};

fn set(command: &str) -> Vec<String> {
    ["train", "--config", "run.toml", "--set", &format!("logging.command={command}")].map(str::to_owned).to_vec()
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

#[test]
fn every_event_reaches_the_program() {
    let folder = Folder::of_run();
    folder.write(
        "logger.py",
        "import json, os, sys\n\
         with open(os.environ['COMAT_RUN'] + '/' + sys.argv[1], 'a') as seen:\n    \
         for line in sys.stdin:\n        \
         assert json.loads(line)['event']\n        \
         seen.write(line)\n",
    );
    let command = set("python3 logger.py 'my copy.jsonl'");
    folder.comat(&words(&command)).ok();
    let log = folder.read("out/events.jsonl");
    assert!(log.lines().count() > 5 && log.contains("\"finished\""), "{log}");
    assert_eq!(folder.read("out/my copy.jsonl"), log);
    // a run that goes on starts it again
    let more = [command, ["--resume", "--set", "train.steps=5"].map(str::to_owned).to_vec()].concat();
    assert_eq!(folder.comat(&words(&more)).code, Some(0));
    assert_eq!(folder.read("out/my copy.jsonl"), folder.read("out/events.jsonl"));
}

/// A dry run looks whether it is there, as the run would.
#[test]
fn a_dry_run_looks_for_the_program() {
    let folder = Folder::of_run();
    let dry = |command: &str| folder.comat(&words(&[set(command), vec!["--dry-run".to_owned()]].concat()));
    dry("no-such-logger --x").error(&["logging.command: there is no program `no-such-logger` in PATH"]);
    dry("~/no-such-logger").error(&["logging.command: there is no program `/", "no-such-logger`"]);
    dry("cat").ok();
}

#[test]
fn a_program_that_cannot_start_is_an_error() {
    let folder = Folder::of_run();
    folder.comat(&words(&set("no-such-logger --x"))).error(&[
        "logging.command",
        "cannot start `no-such-logger`",
        "PATH",
    ]);
    assert!(!folder.exists("out/events.jsonl"));
    folder.comat(&words(&set("cat 'x"))).error(&["run.toml", "logging.command has a quote that is not closed"]);
    folder.comat(&words(&set(" "))).error(&["logging.command is empty"]);
}

#[test]
fn the_run_survives_the_program() {
    let folder = Folder::of_run();
    let began = Instant::now();
    let done = folder.comat(&words(&set("sh -c 'read line; exit 7'")));
    assert_eq!(done.code, Some(0), "{done:?}");
    let ended = done.stderr.lines().filter(|line| line.contains("exit status: 7")).count();
    assert!((1..=2).contains(&ended) && done.stderr.contains("events did not reach `sh`"), "{done:?}");
    assert!(folder.exists("out/adapter"));
    assert!(began.elapsed() < Duration::from_secs(60));
}
