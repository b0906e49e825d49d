//! What has changed between the settings that a run began with and those it goes on with.

use crate::Config;
use anyhow::Result;
use models::Error;
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
    let text = fs::read_to_string(file).map_err(Error::io(file))?;
    let before = settings(&toml::from_str(&text).map_err(|e| Error::file(file, e.message()))?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_and_damage_is_told_in_a_line() {
        let presets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let now = crate::read(&presets.join("sd15.toml"), &["train.steps=7".into(), "fidelity=false".into()]).unwrap();
        let before = crate::read(&presets.join("sd15.toml"), &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, toml::to_string(&before).unwrap()).unwrap();
        assert!(changed_settings(&file, &before).unwrap().is_empty());
        let changed = changed_settings(&file, &now).unwrap();
        assert!(changed.contains(&"train.steps: 2000 → 7".into()), "{changed:?}");
        assert!(changed.contains(&"fidelity.weight: 1.0 → nothing".into()), "{changed:?}");
        assert!(
            changed.iter().all(|line| line.starts_with("fidelity.") || line.starts_with("train.steps")),
            "{changed:?}"
        );
        fs::write(&file, "steps = \n[x").unwrap();
        let error = format!("{:#}", changed_settings(&file, &now).unwrap_err());
        assert!(error.starts_with(&file.display().to_string()) && error.lines().count() == 1, "{error}");
    }
}
