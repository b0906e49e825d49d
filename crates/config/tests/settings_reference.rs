//! `docs/config.md` and `docs/config.schema.json` are what the code says, and the code keeps to them.

use config::reference;
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
                    if said.is_none() && property.get("allOf").is_none() {
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

#[test]
fn presets_are_valid() {
    let validator = jsonschema::draft7::new(&reference::schema()).unwrap();
    let mut presets = 0;
    for folder in ["configs", "configs/world"] {
        for entry in fs::read_dir(checkout(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_none_or(|end| end != "toml") || !text.contains("[captioner]") {
                continue;
            }
            let preset = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&preset).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", path.display());
            presets += 1;
        }
    }
    assert!(presets >= 6, "{presets}");
}

/// What the schema refuses, the program refuses; what it allows at its bounds, too.
#[test]
fn the_schema_and_the_program_agree() {
    let validator = jsonschema::draft7::new(&reference::schema()).unwrap();
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
        let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert_eq!(errors.is_empty(), good, "{settings:?}: {errors:?}");
    };
    let grounded = "attention.segmenter={ kind = 'grounded', detector = 'd', segmenter = 's' }";
    agree(&[grounded], true);
    agree(&["attention.segmenter={ kind = 'grounded', detector = 'd' }"], false);
    agree(&["attention.segmenter={ kind = 'grounded', detector = 'd', segmenter = 's', box_threshold = 1.5 }"], false);
    agree(&["attention.segmenter={ kind = 'world' }"], true);
    agree(&["attention.segmenter={ kind = 'other' }"], false);
    agree(&["attention.steps=1"], false);
    agree(&["validation.judge={ kind = 'clip', model = 'm' }"], true);
    agree(&["validation.judge={ kind = 'clip' }"], false);
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
    ] {
        agree(&[good], true);
    }
    for bad in [
        "sampling.size='12y'",
        "sampling.size=0",
        "sampling.steps=0",
        "sampling.sampler='euler'",
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
    ] {
        agree(&[bad], false);
    }
    assert_eq!(
        json!(config::Sampling::default())["steps"],
        reference::schema()["definitions"]["Sampling"]["properties"]["steps"]["default"]
    );
}
