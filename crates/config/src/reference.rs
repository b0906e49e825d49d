//! All settings with their types, bounds, defaults and meaning, taken from the types and doc comments of this crate: as a JSON schema for
//! editors, and as a page for people.

use super::Config;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::fmt::Write;

/// The JSON schema of `run.toml`, of files that extend others, too.
pub fn schema() -> Value {
    let mut schema = of_types();
    super::extends::allow(&mut schema);
    schema
}

/// As the types have it: every required key is in the file.
fn of_types() -> Value {
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>().to_value();
    tidy(&mut schema);
    schema
}

/// As a text, with a line break at its end.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// Takes out what TOML does not have or a reader has no use for: null, formats of numbers, whole sections as defaults. Joins the lines
/// of doc comments.
fn tidy(value: &mut Value) {
    let is_null = |value: &Value| value == "null" || value["type"] == "null";
    match value {
        Value::Object(map) => {
            map.remove("format");
            map.remove("writeOnly");
            if map.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
                map.remove("default");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            for key in ["type", "anyOf"] {
                if let Some(Value::Array(choices)) = map.get_mut(key) {
                    choices.retain(|choice| !is_null(choice));
                    if let [only] = &choices[..] {
                        let only = only.clone();
                        match (key, &only) {
                            ("anyOf", Value::Object(inner)) if inner.contains_key("$ref") => {
                                map.shift_remove(key);
                                map.insert("allOf".into(), vec![only].into()); // beside a reference nothing else counts
                            }
                            ("anyOf", Value::Object(inner)) => {
                                let inner = inner.clone();
                                map.shift_remove(key);
                                map.extend(inner);
                            }
                            _ => drop(map.insert(key.into(), only)),
                        }
                    }
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(all) => all.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The page `docs/config.md`.
pub fn markdown() -> String {
    let schema = of_types();
    let page = Page { definitions: &schema["definitions"] };
    let mut out = String::from("# All settings\n\n");
    out += &wrapped(&format!("{} A key that is not in this list is an error.", text(&schema)), "");
    out += "\n";
    out += &wrapped(
        "`comat config` prints this page, `comat config NAME` a preset to change, and `comat config --schema` the same list as a JSON \
         schema. Editors with a TOML language server (Even Better TOML in VS Code, taplo elsewhere) complete and check a file whose \
         first line names the schema: after `comat config --schema > comat.schema.json` that is `#:schema ./comat.schema.json`.",
        "",
    );
    let (mut plain, mut sections) = (String::new(), String::new());
    for (key, property) in properties(&schema) {
        let listed = property.get("items").map(|items| page.resolved(items));
        let target = listed.unwrap_or_else(|| page.resolved(property));
        if target.get("properties").is_none() {
            plain += &page.entry(key, property, is_required(&schema, key), "");
            continue;
        }
        let name = if listed.is_some() { format!("[[{key}]]") } else { format!("[{key}]") };
        let _ = write!(sections, "\n## {name}\n\n");
        let needed = if is_required(&schema, key) { "Required." } else { "" };
        let about = [text(target), needed, property["description"].as_str().unwrap_or_default()];
        let about: Vec<&str> = about.into_iter().filter(|part| !part.is_empty()).collect();
        sections += &wrapped(&about.join(" "), "");
        sections += "\n";
        for (name, inner) in properties(target) {
            sections += &page.entry(name, inner, is_required(target, name), "");
        }
    }
    format!("{out}\n## At the top of the file\n\n{plain}{sections}")
}

struct Page<'a> {
    definitions: &'a Value,
}

impl Page<'_> {
    /// What a property's reference leads to, or the property.
    fn resolved<'b>(&'b self, property: &'b Value) -> &'b Value {
        let reference = property["$ref"].as_str().or_else(|| property["allOf"][0]["$ref"].as_str());
        reference.and_then(|path| path.strip_prefix("#/definitions/")).map_or(property, |name| &self.definitions[name])
    }

    /// A key: its type, whether it must be there, its default, what it means and what its values mean.
    fn entry(&self, key: &str, property: &Value, required: bool, indent: &str) -> String {
        let target = self.resolved(property);
        let mut notes = vec![self.kind(target)];
        match &property["default"] {
            Value::Null if required => notes.push("required".into()),
            Value::Null => {}
            default => notes.push(format!("default `{default}`")),
        }
        let about = property["description"].as_str().unwrap_or_else(|| text(target));
        let below = format!("{indent}  ");
        let mut out = wrapped(&format!("- **`{key}`** ({}): {about}", notes.join(", ")), indent);
        for variant in target["oneOf"].as_array().into_iter().flatten() {
            let keys: Vec<_> = properties(variant).collect();
            match keys.iter().find_map(|(key, value)| Some((key, value["const"].as_str()?))) {
                Some((tag, name)) => {
                    out += &wrapped(&format!("- `{tag} = \"{name}\"`: {}", text(variant)), &below);
                    for (name, inner) in keys.iter().filter(|(name, _)| name != tag) {
                        out += &self.entry(name, inner, is_required(variant, name), &format!("{below}  "));
                    }
                }
                None => out += &wrapped(&format!("- `{}`: {}", variant["const"], text(variant)), &below),
            }
        }
        for (name, inner) in properties(target) {
            out += &self.entry(name, inner, is_required(target, name), &below);
        }
        out
    }

    /// In words: `number from 0 to 1`.
    fn kind(&self, schema: &Value) -> String {
        if let Some(variants) = schema["oneOf"].as_array() {
            let is_table = variants.iter().any(|variant| variant.get("properties").is_some());
            return if is_table { "table" } else { "one of those below" }.into();
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(" or ");
        }
        let name = match &schema["type"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(" or "),
            kind => word(kind.as_str().unwrap_or_default()).to_owned(),
        };
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let bounds = match (bound("minimum"), bound("exclusiveMinimum"), bound("maximum")) {
            (Some(low), _, Some(high)) => format!(" from {low} to {high}"),
            (Some(low), ..) if schema.get("exclusiveMaximum").is_some() => {
                format!(" from {low} to below {}", schema["exclusiveMaximum"])
            }
            (_, Some(low), Some(high)) => format!(" above {low}, at most {high}"),
            (Some(low), _, None) if name != "text or integer" => format!(", at least {low}"),
            (_, Some(low), None) => format!(" above {low}"),
            _ => String::new(),
        };
        match schema.get("items") {
            Some(items) if schema["type"].is_array() => format!("text, or list: {}", self.kind(items)),
            Some(items) => match schema["maxItems"].as_u64() {
                Some(count) => format!("list of {count}: {}", self.kind(items)),
                None => format!("list: {}", self.kind(items)),
            },
            None => name + &bounds,
        }
    }
}

fn word(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "boolean" => "true or false",
        "object" => "table",
        kind => kind,
    }
}

fn text(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flat_map(Map::iter)
}

fn is_required(schema: &Value, key: &str) -> bool {
    schema["required"].as_array().is_some_and(|keys| keys.iter().any(|name| name == key))
}

/// In lines of at most 100 characters, those of a list's item aligned.
fn wrapped(text: &str, indent: &str) -> String {
    let hang = if text.starts_with("- ") { "  " } else { "" };
    let (mut out, mut line) = (String::new(), indent.to_owned());
    for word in text.split(' ') {
        if line.chars().count() + word.chars().count() > 100 && !line.trim().is_empty() {
            let _ = writeln!(out, "{}", line.trim_end());
            line = format!("{indent}{hang}");
        }
        line += word;
        line.push(' ');
    }
    out + line.trim_end() + "\n"
}
