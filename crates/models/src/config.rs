//! Reads the JSON configuration of a checkpoint, and refuses what this program does not implement.
//!
//! Every key is either read, known to make no difference, or required to have the one value that we implement: with any
//! other value the network would silently differ from the trained one. An unknown key is most likely housekeeping of a
//! newer version: it causes a warning, or an error after [`be_strict`].

use crate::{
    error::{Error, Result},
    json, text,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

static STRICT: AtomicBool = AtomicBool::new(false);

/// Sets whether unknown keys are errors from now on, in the whole process.
pub fn be_strict(strict: bool) {
    STRICT.store(strict, Relaxed);
}

pub struct Json {
    path: PathBuf,
    section: String,
    values: Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
}

impl Json {
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&text::read(path)?, path)
    }

    /// Reads a configuration from a text of this program; `path` is the file to name in errors.
    pub fn of(text: &str, path: &Path) -> Result<Self> {
        let value: Value = json::from_str(text).map_err(|e| Error::file(path, e.to_string()))?;
        match value {
            Value::Object(values) => {
                Ok(Self { path: path.to_owned(), section: String::new(), values, seen: RefCell::default() })
            }
            _ => Err(Error::file(path, "expected a JSON object")),
        }
    }

    /// A nested object, such as BLIP's `text_config`.
    pub fn section(&self, key: &str) -> Result<Self> {
        self.seen.borrow_mut().insert(key.to_owned());
        match self.values.get(key) {
            Some(Value::Object(values)) => Ok(Self {
                path: self.path.clone(),
                section: format!("{}{key}.", self.section),
                values: values.clone(),
                seen: RefCell::default(),
            }),
            _ => Err(self.error(key, "is missing, or no JSON object; is this the folder of another kind of model?")),
        }
    }

    /// Settings of a folder's image preprocessing: `preprocessor_config.json`, or its part of `processor_config.json`
    /// in newer folders.
    pub fn of_image_processor(folder: &Path) -> Result<Option<Self>> {
        let (own, shared) = (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
        if own.exists() {
            Self::read(&own).map(Some)
        } else if shared.exists() {
            Self::read(&shared)?.section("image_processor").map(Some)
        } else {
            Ok(None)
        }
    }

    /// A required value.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.maybe(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A value, with upstream's default if it is absent.
    pub fn get_or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.maybe(key)?.unwrap_or(default))
    }

    /// A value that may be absent or null.
    pub fn maybe<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.seen.borrow_mut().insert(key.to_owned());
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|_| self.error(key, &format!("has the unsupported value {value}"))),
        }
    }

    /// A value that Python uses as a condition: null is false, an absent key has the default.
    pub fn truth_or(&self, key: &str, default: bool) -> Result<bool> {
        let is_null = self.values.get(key).is_some_and(Value::is_null);
        Ok(!is_null && self.get_or(key, default)?)
    }

    /// The unparsed value.
    pub fn raw(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A key that must be absent, null, or equal to the only value we implement.
    pub fn only(&self, key: &str, value: impl Into<Value>) -> Result<()> {
        self.seen.borrow_mut().insert(key.to_owned());
        let value = value.into();
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(v) if *v == value || matches!((v.as_f64(), value.as_f64()), (Some(a), Some(b)) if a == b) => Ok(()),
            Some(v) => Err(self.error(key, &format!("is {v}; only {value} is supported"))),
        }
    }

    /// Keys that make no difference to what the network computes.
    pub fn ignore(&self, keys: &[&str]) {
        self.seen.borrow_mut().extend(keys.iter().map(|k| k.to_string()));
    }

    /// Warns once of each key that was not read, or refuses it. Null values and keys like `_private` are allowed.
    pub fn finish(&self) -> Result<()> {
        let seen = self.seen.borrow();
        for (key, value) in &self.values {
            if seen.contains(key) || key.starts_with('_') || value.is_null() {
                continue;
            }
            let what = self.error(key, &format!("is not known to this program (its value is {value})"));
            // In preprocessor files: a step that we do not implement.
            let is_step = key.starts_with("do_") && *value == Value::Bool(true);
            if STRICT.load(Relaxed) || is_step {
                return Err(what);
            }
            warn_once(format!(
                "{what}; it is taken to make no difference (--strict, or model.strict = true, refuses it)"
            ));
        }
        Ok(())
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.values.keys()
    }

    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::file(&self.path, format!("{}{key} {message}", self.section))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Networks that are loaded repeatedly read their configuration again.
fn warn_once(message: String) {
    if first_time(&message) {
        tracing::warn!("{message}");
    }
}

/// Prints a message once in a process.
pub fn inform_once(message: String) {
    if first_time(&message) {
        tracing::info!("{message}");
    }
}

fn first_time(message: &str) -> bool {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    !said.contains(message) && said.insert(message.to_owned())
}
