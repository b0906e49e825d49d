//! What has changed between the settings that a run began with and those it goes on with.

use crate::Config;
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Settings that differ from those in `file`, a configuration that was written whole, as `key: before → now`.
///
/// # Errors
/// A file that cannot be read, or is not TOML.
pub fn changed_settings(file: &Path, now: &Config) -> Result<Vec<String>> {
    let name = || file.display().to_string();
    let text = fs::read_to_string(file).with_context(name)?;
    let before = settings(&toml::from_str(&text).with_context(name)?);
    let now = settings(&toml::Value::try_from(now)?);
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changed = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
    let text = |value: Option<&String>| value.map_or("nothing".to_owned(), String::clone);
    Ok(changed.map(|key| format!("{key}: {} → {}", text(before.get(key)), text(now.get(key)))).collect())
}

/// Every value that is not a table, by its path.
fn settings(value: &toml::Value) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    collect("", value, &mut all);
    all
}

fn collect(path: &str, value: &toml::Value, all: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            table.iter().for_each(|(key, value)| collect(&join(key), value, all));
        }
        value => _ = all.insert(path.to_owned(), value.to_string()),
    }
}
