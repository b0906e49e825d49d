//! `docs/config.md` and `docs/config.schema.json` are what the code says, and the code keeps to them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use config::reference;
use fancy_regex::Regex;
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf};

fn checkout(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// With `COMAT_RENEW_DOCS` in the environment the file is written (`cargo xtask docs`).
#[track_caller]
fn same(file: &str, made: &str) {
    let path = checkout(file);
    if env::var_os("COMAT_RENEW_DOCS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "{file} is not what the code says; `cargo xtask docs` renews it");
}

#[test]
fn the_page_is_up_to_date() {
    same("docs/config.md", &reference::markdown());
}

#[test]
fn the_schema_is_up_to_date() {
    same("docs/config.schema.json", &reference::schema_text());
}

#[test]
fn every_key_is_explained() {
    fn walk(at: &str, schema: &Value, unexplained: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                for (key, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    let said = property.get("description").or(property.get("$ref")).or(property.get("const"));
                    let says_what_is_required = property.as_object().is_some_and(|p| p.keys().eq(["required"]));
                    if said.is_none() && property.get("allOf").is_none() && !says_what_is_required {
                        unexplained.push(format!("{at}.{key}"));
                    }
                }
                map.iter().for_each(|(key, inner)| walk(&format!("{at}/{key}"), inner, unexplained));
            }
            Value::Array(all) => all.iter().for_each(|inner| walk(at, inner, unexplained)),
            _ => {}
        }
    }
    let mut unexplained = vec![];
    walk("", &reference::schema(), &mut unexplained);
    assert_eq!(unexplained, [""; 0]);
}

/// What is wrong with a value by its schema: as much of JSON Schema as ours has, and no keyword passed over.
fn errors(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = vec![];
    let number = |bound: &Value| value.as_f64().zip(bound.as_f64());
    let length = |bound: &Value| value.as_array().map(|all| all.len() as u64).zip(bound.as_u64());
    for (keyword, said) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" | "required" => true,
            "$ref" => {
                let target = root.pointer(said.as_str().unwrap().trim_start_matches('#')).unwrap();
                found.extend(errors(root, target, value, at));
                true
            }
            "allOf" => {
                said.as_array().unwrap().iter().for_each(|part| found.extend(errors(root, part, value, at)));
                true
            }
            "anyOf" => said.as_array().unwrap().iter().any(|part| errors(root, part, value, at).is_empty()),
            "oneOf" => {
                said.as_array().unwrap().iter().filter(|part| errors(root, part, value, at).is_empty()).count() == 1
            }
            "const" => value == said,
            "enum" => said.as_array().unwrap().contains(value),
            "type" => match said {
                Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
                kind => is_of(kind, value),
            },
            "pattern" => {
                value.as_str().is_none_or(|text| Regex::new(said.as_str().unwrap()).unwrap().is_match(text).unwrap())
            }
            "minimum" => number(said).is_none_or(|(value, bound)| value >= bound),
            "exclusiveMinimum" => number(said).is_none_or(|(value, bound)| value > bound),
            "maximum" => number(said).is_none_or(|(value, bound)| value <= bound),
            "exclusiveMaximum" => number(said).is_none_or(|(value, bound)| value < bound),
            "minItems" => length(said).is_none_or(|(length, bound)| length >= bound),
            "maxItems" => length(said).is_none_or(|(length, bound)| length <= bound),
            "items" => {
                let all = value.as_array().into_iter().flatten().enumerate();
                all.for_each(|(i, item)| found.extend(errors(root, said, item, &format!("{at}[{i}]"))));
                true
            }
            "properties" | "additionalProperties" => true, // below
            keyword => panic!("{at}: the keyword {keyword} is not known here"),
        };
        if !holds {
            found.push(format!("{at}: {value} against {keyword} {said}"));
        }
    }
    let keys = value.as_object().into_iter().flatten();
    for (key, inner) in keys {
        match schema["properties"].get(key) {
            Some(property) => found.extend(errors(root, property, inner, &format!("{at}.{key}"))),
            None if schema["additionalProperties"] == false => found.push(format!("{at}.{key} is not known")),
            None => {}
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    found.extend(required.filter(|key| value.get(key).is_none()).map(|key| format!("{at}.{key} is missing")));
    found
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        kind => panic!("the type {kind} is not known here"),
    }
}

#[test]
fn presets_are_valid() {
    let schema = reference::schema();
    let mut presets = 0;
    for folder in ["configs", "configs/world"] {
        for entry in fs::read_dir(checkout(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_none_or(|end| end != "toml") || !text.contains("[captioner]") {
                continue;
            }
            let preset = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
            let errors = errors(&schema, &schema, &preset, "");
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            presets += 1;
        }
    }
    assert!(presets >= 6, "{presets}");
}

/// What the schema refuses, the program refuses; what it allows at its bounds, too.
#[test]
fn the_schema_and_the_program_agree() {
    let schema = reference::schema();
    let folder = tempfile::tempdir().unwrap();
    let agree = |settings: &[&str], good: bool| {
        let least =
            "output = 'o'\n[model]\npath = 'm'\n[captioner]\npath = 'c'\n[prompts]\ntrain = 'p'\nvalidation = 'v'\n";
        let mut text = least.to_owned();
        for setting in settings {
            let (key, value) = setting.split_once('=').unwrap();
            let (section, key) = key.split_once('.').unwrap();
            let heading = format!("[{section}]\n");
            if !text.contains(&heading) {
                text += &heading;
            }
            text = text.replace(&heading, &format!("{heading}{key} = {value}\n"));
        }
        let file = folder.path().join("run.toml");
        fs::write(&file, &text).unwrap();
        let read = config::read(&file, &[]);
        let value = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
        assert_eq!(read.is_ok(), good, "{settings:?}: {read:?}");
        let errors = errors(&schema, &schema, &value, "");
        assert_eq!(errors.is_empty(), good, "{settings:?}: {errors:?}");
    };
    // what a file does not say may be in the one that it extends
    let with_base: Value =
        serde_json::json!({ "extends": "sd15", "model": { "dtype": "bfloat16" }, "fidelity": false });
    assert_eq!(errors(&schema, &schema, &with_base, ""), [""; 0]);
    let without = serde_json::json!({ "model": { "dtype": "bfloat16" } });
    assert!(!errors(&schema, &schema, &without, "").is_empty());

    let grounded = "attention.segmenter={ kind = 'grounded', detector = 'd', segmenter = 's' }";
    agree(&[grounded], true);
    agree(&["attention.segmenter={ kind = 'grounded', detector = 'd' }"], false);
    agree(&["attention.segmenter={ kind = 'grounded', detector = 'd', segmenter = 's', box_threshold = 1.5 }"], false);
    agree(&["attention.segmenter={ kind = 'world' }"], true);
    agree(&["attention.segmenter={ kind = 'other' }"], false);
    agree(&["attention.steps=1"], false);
    agree(&["validation.judge={ kind = 'clip', model = 'm' }"], true);
    agree(&["validation.judge={ kind = 'clip' }"], false);
    agree(&["optimizer.kind='prodigy'", "optimizer.learning_rate=1", "optimizer.prodigy={ d_coef = 2 }"], true);
    for good in [
        "sampling.size=512",
        "sampling.size='768x512'",
        "sampling.eta=1",
        "replay.micro_batch='auto'",
        "replay.micro_batch='3'",
        "replay.micro_batch=0",
        "model.device='cuda:3'",
        "model.prediction_type='v_prediction'",
        "train.ema=0",
        "logging.command='cat'",
        "sampling.sampler='euler'",
        "samples.sampler='dpm++_2m_karras'",
    ] {
        agree(&[good], true);
    }
    for bad in [
        "sampling.size='12y'",
        "sampling.size=0",
        "sampling.steps=0",
        "sampling.sampler='pndm'",
        "sampling.eta=1.5",
        "replay.micro_batch='all'",
        "replay.discount=2",
        "replay.stepz=2",
        "model.device='gpu'",
        "lora.rank=0",
        "lora.targets=[]",
        "optimizer.learning_rate=0",
        "optimizer.betas=[0.9]",
        "fidelity.learning_rate=0.0",
        "prompts.chunks=7",
        "ranks.timeout=0",
        "train.batch_size=0",
        "train.steps=-1",
        "train.ema=1.0",
        "anchor.weight=0",
        "optimizer.kind='lion'",
        "optimizer.prodigy={ d0 = 0 }",
    ] {
        agree(&[bad], false);
    }
    assert_eq!(
        json!(config::Sampling::default())["steps"],
        reference::schema()["definitions"]["Sampling"]["properties"]["steps"]["default"]
    );
}
