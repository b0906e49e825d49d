//! Event files of TensorBoard: numbers and images of a run, by step.
//!
//! A file is a sequence of records ([`record`]), each with an [`message::Event`] as protobuf. A resumed run writes
//! another file in the same folder; TensorBoard reads them in the order of their names.

pub mod message;
pub mod record;

use anyhow::Result;
use message::{Event, Image, SessionLog, Summary, Value};
use models::Error;
use prost::Message;
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// An event file that is open for writing.
pub struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// Creates a new file in a folder, and the folder if it does not exist. `first`: the first step in the file. What
    /// earlier files hold about this step and later ones belongs to an abandoned branch, and TensorBoard is told to
    /// discard it.
    pub fn create(folder: &Path, first: u64) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let seconds = now() as u64;
        let (path, file) =
            unused(|number| folder.join(format!("events.out.tfevents.{seconds:010}.comat.{number:03}")))?;
        let mut writer = Self { path, file };
        writer.write(Event { file_version: Some("brain.Event:2".into()), ..event(0) })?;
        let start = SessionLog { status: SessionLog::START };
        writer.write(Event { session_log: Some(start), ..event(first) })?;
        Ok(writer)
    }

    /// Adds numbers by their tags, such as `train/caption_loss`. The part before the slash is the group on
    /// TensorBoard's page.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let value = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            simple_value: Some(*value as f32),
            ..Value::default()
        };
        self.summary(step, scalars.iter().map(value).collect())
    }

    /// Adds an image, given the bytes of its PNG file.
    pub fn image(&mut self, step: u64, tag: &str, (width, height): (usize, usize), png: Vec<u8>) -> Result<()> {
        let image = Image { height: height as i32, width: width as i32, colorspace: Image::RGB, encoded: png };
        self.summary(step, vec![Value { tag: tag.into(), image: Some(image), ..Value::default() }])
    }

    fn summary(&mut self, step: u64, values: Vec<Value>) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        self.write(Event { summary: Some(Summary { values }), ..event(step) })
    }

    /// Writes one record, whole or not at all.
    fn write(&mut self, event: Event) -> Result<()> {
        let before = self.file.metadata().map_err(Error::io(&self.path))?.len();
        let written = self.file.write_all(&record::frame(&event.encode_to_vec()));
        if written.is_err() {
            let _ = self.file.set_len(before);
        }
        Ok(written.map_err(Error::io(&self.path))?)
    }
}

fn event(step: u64) -> Event {
    Event { wall_time: now(), step: i64::try_from(step).unwrap_or(i64::MAX), ..Event::default() }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Creates a file under the first numbered name that does not exist yet.
fn unused(name: impl Fn(u32) -> PathBuf) -> Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let path = name(number);
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(Error::io(&path)(e).into()),
        }
    }
}

/// All events of a file.
///
/// # Errors
/// A record that is truncated or damaged.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let damaged = |what: String| Error::file(path, what);
    let payloads = record::unframe(&bytes).map_err(|e| damaged(e.to_string()))?;
    let events = payloads.into_iter().map(|payload| Event::decode(payload).map_err(|e| damaged(e.to_string())));
    Ok(events.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("tensorboard");
        let mut writer = Writer::create(&below, 0).unwrap();
        writer.scalars(3, &[("train/loss".into(), 0.5), ("train/rate".into(), 5e-5)]).unwrap();
        writer.scalars(3, &[]).unwrap();
        writer.image(4, "samples/a dög", (2, 1), vec![1, 2, 3]).unwrap();
        let events = read(&writer.path).unwrap();
        assert_eq!(events.len(), 4);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert!(events.iter().all(|event| event.wall_time > 1.6e9));
        let values = &events[2].summary.as_ref().unwrap().values;
        assert_eq!((events[2].step, values[0].simple_value, values[1].simple_value), (3, Some(0.5), Some(5e-5)));
        assert_eq!(values[1].tag, "train/rate");
        let shown = &events[3].summary.as_ref().unwrap().values[0];
        let image = Image { height: 1, width: 2, colorspace: 3, encoded: vec![1, 2, 3] };
        assert_eq!((shown.tag.as_str(), shown.image.as_ref()), ("samples/a dög", Some(&image)));
    }

    #[test]
    fn a_run_that_goes_on_has_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Writer::create(folder.path(), 0).unwrap(), Writer::create(folder.path(), 8).unwrap());
        assert!(first.path < second.path);
        let start = &read(&second.path).unwrap()[1];
        assert_eq!((start.step, start.session_log.as_ref().unwrap().status), (8, 1));
    }

    /// Compared with the output of TensorBoard's own writer: `Event(wall_time=1.5, step=7,
    /// summary=Summary(value=[Summary.Value(tag="a/b", simple_value=0.25)]))`, then with an image.
    #[test]
    fn bytes_are_those_of_tensorboard() {
        let of = |value| Event {
            wall_time: 1.5,
            step: 7,
            summary: Some(Summary { values: vec![value] }),
            ..Event::default()
        };
        let hex = |event: Event| models::hex(&event.encode_to_vec());
        let scalar = Value { tag: "a/b".into(), simple_value: Some(0.25), ..Value::default() };
        assert_eq!(hex(of(scalar)), SCALAR);
        let image = Image { height: 1, width: 300, colorspace: 3, encoded: vec![1, 2] };
        assert_eq!(hex(of(Value { tag: "p".into(), image: Some(image), ..Value::default() })), IMAGE);
        let start = Event { session_log: Some(SessionLog { status: 1 }), ..Event::default() };
        assert_eq!(hex(start), START);
    }

    const SCALAR: &str = "09000000000000f83f10072a0c0a0a0a03612f62150000803e";
    const IMAGE: &str = "09000000000000f83f10072a120a100a0170220b080110ac02180322020102";
    const START: &str = "3a020801";
}
