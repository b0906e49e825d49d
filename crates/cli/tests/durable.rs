//! What outlives a loss of power: the program runs with a library that writes down what it has the system put on the disk.

use crate::common::{Folder, fixture, train_words};
use stand_in::{PRELOAD, WITNESS_LOG, witness};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A file or a folder was put on the disk (of a folder: the names in it), made, renamed or removed.
#[derive(Debug)]
enum Done {
    Synced(PathBuf),
    Made(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

/// What a training did in this folder, in its order.
fn witnessed(folder: &Folder, words: &str) -> Vec<Done> {
    let log = folder.path("witness.log");
    let mut command = folder.command(&train_words(words));
    let others = std::env::var(PRELOAD).map_or(String::new(), |others| format!("{others}:"));
    command.env(PRELOAD, format!("{others}{}", witness().display())).env(WITNESS_LOG, &log);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    let root = folder.path("").canonicalize().unwrap();
    let done = text.lines().map(|line| {
        let [what, path, to] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        match what {
            "sync" => Done::Synced(path.into()),
            "make" => Done::Made(path.into()),
            "rename" => Done::Renamed(path.into(), to.into()),
            "remove" => Done::Removed(path.into()),
            _ => panic!("{line}"),
        }
    });
    done.filter(|done| match done {
        Done::Synced(path) | Done::Made(path) | Done::Renamed(path, _) | Done::Removed(path) => path.starts_with(&root),
    })
    .collect()
}

/// Names that a loss of power can take back, and files whose content it can: here, and below.
#[derive(Default)]
struct Disk {
    names: BTreeSet<PathBuf>,
    content: BTreeSet<PathBuf>,
}

impl Disk {
    fn pass(&mut self, done: &Done) {
        match done {
            Done::Synced(path) => {
                self.names.retain(|name| name.parent() != Some(path));
                let whole = whole(path);
                if whole != *path {
                    self.names.insert(whole.clone()); // it is renamed next, by a call that cannot be seen
                }
                self.content.insert(whole);
            }
            Done::Made(path) => _ = self.names.insert(path.clone()),
            Done::Renamed(from, to) => {
                let moved = |path: &PathBuf| match path.strip_prefix(from) {
                    Ok(rest) if rest == Path::new("") => to.clone(),
                    Ok(rest) => to.join(rest),
                    Err(_) => path.clone(),
                };
                self.names = self.names.iter().map(moved).collect();
                self.content = self.content.iter().map(moved).collect();
                self.names.insert(to.clone());
            }
            Done::Removed(path) => {
                self.names.retain(|name| !name.starts_with(path));
                self.content.retain(|name| !name.starts_with(path));
            }
        }
    }

    #[track_caller]
    fn holds(&self, path: &Path) {
        assert!(self.content.contains(path), "the content of {} is not on the disk", path.display());
        let lost = path.ancestors().find(|above| self.names.contains(*above));
        assert!(lost.is_none(), "the name of {} is not on the disk", lost.unwrap().display());
    }
}

/// The name that a file has in the end: `NAME` for `NAME.RANDOM.partial`.
fn whole(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let stem =
        name.strip_suffix(".partial").and_then(|name| name.rsplit_once('.')).filter(|(_, random)| random.len() == 6);
    stem.map_or_else(|| path.to_owned(), |(stem, _)| path.with_file_name(stem))
}

#[test]
fn what_matters_of_a_run_outlives_a_loss_of_power() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a white tree\nan orange house\n");
    let judge = fixture("clip_score").display().to_string();
    let done = witnessed(
        &folder,
        &format!(
            "output=runs/out train.steps=2 checkpoints.every=1 train.ema=0.5 fidelity.rank=2 fidelity.latents=latents \
             prompts.validation=held_out.txt validation.every=1 validation.keep_best=true \
             validation.judge={{kind='clip',model='{judge}'}}"
        ),
    );
    let root = folder.path("").canonicalize().unwrap();
    let mut disk = Disk::default();
    for step in &done {
        if let Done::Renamed(from, _) = step {
            let checkpoint = from.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".step-"));
            if checkpoint {
                let below = disk.names.iter().find(|name| name.starts_with(from) && *name != from);
                assert!(below.is_none(), "{below:?} may be missing from a checkpoint that has its name");
            } else if from.is_file() {
                assert!(disk.content.contains(from), "{} gets its name before its content is there", from.display());
            }
        }
        disk.pass(step);
    }
    for path in ["config.toml", "events.jsonl", "adapter", "best/best.json", "checkpoints/latest"] {
        disk.holds(&root.join("runs/out").join(path));
    }
    for (path, bytes) in folder.bytes("runs/out/checkpoints") {
        assert!(!bytes.is_empty());
        disk.holds(&root.join("runs/out/checkpoints").join(path));
    }
    disk.holds(&root.join("latents/latents.json"));
}

/// Of a step that is saved again there is always one checkpoint, the old one or the new one.
#[test]
fn a_step_that_is_saved_again_is_always_there() {
    let folder = Folder::of_run();
    let words = "train.steps=2 checkpoints.every=1 checkpoints.keep=0";
    folder.train(words).ok();
    let done = witnessed(&folder, &format!("{words} --resume out/checkpoints/step-1"));
    let root = folder.path("out/checkpoints").canonicalize().unwrap();
    let [old, new, partial] = ["step-2.replaced", "step-2", ".step-2.partial"].map(|name| root.join(name));
    let place = |is_it: &dyn Fn(&Done) -> bool| done.iter().position(is_it).unwrap_or_else(|| panic!("{done:#?}"));
    let aside = place(&|done| matches!(done, Done::Renamed(from, to) if *from == new && *to == old));
    let named = place(&|done| matches!(done, Done::Renamed(from, to) if *from == partial && *to == new));
    let removed = place(&|done| matches!(done, Done::Removed(path) if path.starts_with(&old)));
    let synced =
        named + done[named..].iter().position(|done| matches!(done, Done::Synced(path) if *path == root)).unwrap();
    assert!(aside < named && synced < removed, "{done:#?}");
    // between the two names nothing else happens that could fail for want of room
    assert_eq!(aside + 1, named, "{done:#?}");
}
