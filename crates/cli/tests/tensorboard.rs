//! Event files for TensorBoard beside `events.jsonl`.

use crate::common::Folder;
use runlog::tensorboard::{self, message::Event};
use std::collections::BTreeMap;

/// All events of a run, file after file.
fn events(folder: &Folder, run: &str) -> Vec<Event> {
    let below = format!("{run}/tensorboard");
    let files = folder.names(&below);
    files.iter().flat_map(|file| tensorboard::read(&folder.path(&format!("{below}/{file}"))).unwrap()).collect()
}

/// Steps and values of each tag.
fn scalars(events: &[Event]) -> BTreeMap<String, Vec<(i64, f32)>> {
    let mut tags: BTreeMap<String, Vec<(i64, f32)>> = BTreeMap::new();
    for event in events {
        for value in event.summary.iter().flat_map(|s| &s.values) {
            if let Some(number) = value.simple_value {
                tags.entry(value.tag.clone()).or_default().push((event.step, number));
            }
        }
    }
    tags
}

#[test]
fn numbers_and_samples_are_those_of_the_run() {
    let folder = Folder::of_run();
    folder.write("held_out.txt", "a white tree\n");
    let done = folder
        .train("prompts.validation=held_out.txt samples.count=1 samples.every=2 validation.every=2 train.ema=0.5");
    assert_eq!(done.code, Some(0), "{done:#?}");
    let events = events(&folder, "out");
    let tags = scalars(&events);
    let log = folder.events("out");
    for (kind, tag) in [("step", "train"), ("validation", "validation")] {
        let expected: Vec<(i64, f32)> = log
            .iter()
            .filter(|line| line["event"] == kind)
            .map(|line| (line["step"].as_i64().unwrap(), line["caption_loss"].as_f64().unwrap() as f32))
            .collect();
        assert!(expected.len() >= 3);
        assert_eq!(tags[&format!("{tag}/caption_loss")], expected);
    }
    for tag in ["train/learning_rate", "train/grad_norm", "time/seconds", "time/seconds_replay"] {
        assert_eq!(tags[tag].len(), 4, "{tag}");
    }
    for tag in ["samples/000-a-white-tree", "samples-ema/000-a-white-tree"] {
        let of_tag = |event: &Event| {
            let values = event.summary.as_ref().map(|s| s.values.clone()).unwrap_or_default();
            let image = values.into_iter().find(|v| v.tag == tag)?.image?;
            Some((event.step, image))
        };
        let images: Vec<_> = events.iter().filter_map(of_tag).collect();
        assert_eq!(images.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 2, 4], "{tag}");
        let (_, last) = images.last().unwrap();
        assert_eq!((last.width, last.height), (32, 32));
        let file = if tag.contains("ema") { "ema/000-a-white-tree.png" } else { "000-a-white-tree.png" };
        assert_eq!(last.encoded, std::fs::read(folder.path(&format!("out/samples/step-4/{file}"))).unwrap());
    }
}

/// What lies behind the checkpoint is told to be forgotten, and the steps go on.
#[test]
fn a_resumed_run_goes_on_in_another_file() {
    let folder = Folder::of_run();
    folder.train("checkpoints.every=1 train.steps=3").ok();
    folder.train("train.steps=4 --resume out/checkpoints/step-2").ok();
    assert_eq!(folder.names("out/tensorboard").len(), 2);
    let events = events(&folder, "out");
    let starts: Vec<i64> = events.iter().filter(|e| e.session_log.is_some()).map(|e| e.step).collect();
    assert_eq!(starts, [0, 3]);
    let steps: Vec<i64> = scalars(&events)["train/caption_loss"].iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3, 3, 4]);
}

#[test]
fn nobody_is_forced_to_have_them() {
    let folder = Folder::of_run();
    folder.train("train.steps=1 logging.tensorboard=false").ok();
    assert!(!folder.exists("out/tensorboard"));
    folder.train("logging.tensorbord=false").error(&["unknown key `tensorbord`; did you mean `tensorboard`?"]);
}
