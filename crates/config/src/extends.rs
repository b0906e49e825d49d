//! `extends`: a file that lays its own settings over those of another one.

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Sections that a run can be without.
const OPTIONAL: [&str; 5] = ["anchor", "attention", "fidelity", "mixed", "preference"];

/// Which file an `extends` means: a path relative to the folder of the file that says it, or the name of a preset.
pub fn base(named: &str, file: &Path, presets: Option<&Path>) -> Result<PathBuf> {
    let path =
        diffusion::settings::paths::expanded(Path::new(named)).map_err(|e| anyhow!("extends = \"{named}\": {e}"))?;
    let beside = file.parent().unwrap_or(Path::new("")).join(&path);
    if beside.is_file() {
        return Ok(beside);
    }
    let preset = presets.map(|folder| folder.join(&path).with_extension("toml"));
    match preset.filter(|preset| path.components().count() == 1 && preset.is_file()) {
        Some(preset) => Ok(preset),
        None => bail!("extends = \"{named}\": no such file ({}), and no preset of that name", beside.display()),
    }
}

/// Takes the key out of a file's settings.
pub fn take(table: &mut Table) -> Result<Option<String>> {
    match table.remove("extends") {
        None => Ok(None),
        Some(Value::String(named)) => Ok(Some(named)),
        Some(other) => bail!("extends = {other}: write the path of a file, or the name of a preset, in quotes"),
    }
}

/// A file cannot extend itself, be it by way of others.
pub fn check(chain: &[PathBuf], base: &Path) -> Result<()> {
    let same = |other: &PathBuf| other.canonicalize().ok() == base.canonicalize().ok();
    let Some((first, rest)) = chain.split_first().filter(|_| chain.iter().any(same)) else { return Ok(()) };
    let names: Vec<_> =
        rest.iter().map(PathBuf::as_path).chain([base]).map(|file| file.display().to_string()).collect();
    bail!("{} extends {}: a circle; remove one `extends`", first.display(), names.join(", which extends "))
}

/// Lays settings over others. Sections are joined key by key, but one that has a `kind` takes the place of the other; so does
/// every other value.
pub fn lay(over: Table, under: &mut Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) if !above.contains_key("kind") => lay(above, below),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// `fidelity = false` is as good as no section `[fidelity]`.
pub fn leave_out(table: &mut Table) {
    table.retain(|key, value| !(OPTIONAL.contains(&key) && *value == Value::Boolean(false)));
}

/// Makes a schema of whole files one of these files: optional sections can be `false`, and what a file with `extends` does not say may be
/// in the other one.
pub fn allow(schema: &mut Json) {
    let Some(required) = schema.as_object_mut().and_then(|schema| schema.remove("required")) else { return };
    let mut sections = Map::new();
    let Json::Object(properties) = schema["properties"].take() else { return };
    for name in properties.keys() {
        let definition =
            properties[name].pointer("/allOf/0/$ref").or(properties[name].get("$ref")).and_then(Json::as_str);
        let definition = definition.and_then(|place| schema.pointer_mut(place.trim_start_matches('#')));
        let inside =
            definition.and_then(Json::as_object_mut).and_then(|definition| definition.shift_remove("required"));
        sections.extend(inside.map(|inside| (name.clone(), json!({ "required": inside }))));
    }
    let whole = json!({ "required": required, "properties": sections });
    schema["anyOf"] = json!([{ "required": ["extends"] }, whole]);
    schema["properties"] = Json::Object(properties);
    for section in OPTIONAL {
        let section = &mut schema["properties"][section];
        let (description, itself) = (section["description"].clone(), section.take());
        *section = json!({ "description": description, "anyOf": [itself, { "const": false }] });
    }
}
