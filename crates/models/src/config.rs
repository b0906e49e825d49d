//! Reads the JSON configuration beside a checkpoint, and refuses what this program does not implement.
//!
//! Every key must be accounted for: read, known to make no difference, or at the one value that we implement. Anything
//! else would silently give another network than the one that was trained.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub struct Json {
    path: PathBuf,
    section: String,
    values: Map<String, Value>,
    seen: RefCell<BTreeSet<String>>,
}

impl Json {
    pub fn read(path: &Path) -> Result<Self> {
        Self::of(&fs::read_to_string(path).map_err(Error::io(path))?, path)
    }

    /// A configuration that is part of the program; `path` is the file to name in errors.
    pub fn of(text: &str, path: &Path) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::file(path, e.to_string()))?;
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
            _ => Err(self.error(key, "an object of that name is missing")),
        }
    }

    /// How a folder's images are prepared: `preprocessor_config.json`, or its part of newer folders' `processor_config.json`.
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

    /// A value with the default that upstream gives to an absent one.
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

    /// Refuses the keys that nobody asked for. Null and `_private` ones pass.
    pub fn finish(&self) -> Result<()> {
        let seen = self.seen.borrow();
        match self.values.iter().find(|(k, v)| !seen.contains(*k) && !k.starts_with('_') && !v.is_null()) {
            None => Ok(()),
            Some((key, value)) => Err(self.error(key, &format!("is not known to this program (its value is {value})"))),
        }
    }

    pub fn error(&self, key: &str, message: &str) -> Error {
        Error::file(&self.path, format!("{}{key} {message}", self.section))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
