//! From the file's text and `--set` to a checked [`Config`], with errors that say where and what was meant.

use super::{Config, extends};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    num::IntErrorKind,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// Reads `run.toml`, with the files that it extends beneath it, and lays `key=value` settings over it.
pub fn read(path: &Path, settings: &[String]) -> Result<Config> {
    read_with(path, settings, None)
}

/// As [`read`]. `presets`: the folder of the files that `extends` may name without their folder.
pub fn read_with(path: &Path, settings: &[String], presets: Option<&Path>) -> Result<Config> {
    let text = models::text::read(path)?;
    parse(&text, settings, path, presets)
}

fn parse(text: &str, settings: &[String], file: &Path, presets: Option<&Path>) -> Result<Config> {
    let name = file.display().to_string();
    let (mut table, extended) = with_bases(text, &mut vec![file.to_owned()], presets)?;
    for setting in settings {
        apply(&mut table, setting)?;
    }
    extends::leave_out(&mut table);
    check_sections(&table).with_context(|| name.clone())?;
    let config: Config = match serde_path_to_error::deserialize(Value::Table(table)) {
        Ok(config) => config,
        Err(merged) => {
            let (key, merged) = (merged.path().to_string(), merged.into_inner());
            // The text knows line numbers, the merged table does not: prefer its error when it is the same one.
            let over = [
                extended.map(|base| format!(" over {}", base.display())),
                (!settings.is_empty()).then(|| format!(" with {}", settings.join(" "))),
            ];
            let over: String = over.into_iter().flatten().collect();
            return Err(match toml::from_str::<Config>(text) {
                Err(e) if over.is_empty() || e.message() == merged.message() => at_place(&e, &key, text, &name),
                _ => anyhow!("{name}{over}: {}", with_key(&key, merged.message())),
            });
        }
    };
    config.check().with_context(|| name)?;
    Ok(config)
}

/// A file's settings over those of the one that it extends, and which one that is. `chain`: the file, after those that extend it.
fn with_bases(text: &str, chain: &mut Vec<PathBuf>, presets: Option<&Path>) -> Result<(Table, Option<PathBuf>)> {
    let file = chain.last().cloned().unwrap_or_default();
    let name = file.display().to_string();
    let mut table: Table = toml::from_str(text).map_err(|e| at_place(&e, "", text, &name))?;
    let Some(named) = extends::take(&mut table).with_context(|| name.clone())? else { return Ok((table, None)) };
    let base = extends::base(&named, &file, presets).with_context(|| name)?;
    extends::check(chain, &base)?;
    chain.push(base.clone());
    let (mut under, _) = with_bases(&models::text::read(&base)?, chain, presets)?;
    extends::lay(table, &mut under);
    Ok((under, Some(base)))
}

/// `a.b=value`, or `a.0.b=value` of the first of a list of sections; the value is TOML, or a plain text where it is not.
fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let (key, value) = setting.split_once('=').ok_or_else(|| anyhow!("--set {setting}: write key=value"))?;
    let (key, value) = (key.trim(), value.trim());
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    if key == "extends" {
        bail!("--set {setting}: extends is read from the file alone; write it there");
    }
    if value.parse::<i64>().is_err_and(|e| matches!(e.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow)) {
        bail!("--set {setting}: the number is too large");
    }
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut place = table;
    let mut parts = path.into_iter();
    while let Some(part) = parts.next() {
        let nothing = || if part == LIST { Value::Array(vec![]) } else { Value::Table(Table::new()) };
        place = match place.entry(part).or_insert_with(nothing) {
            Value::Table(inner) => inner,
            Value::Array(items) => {
                let count = items.len();
                match parts.next().and_then(|place| items.get_mut(place.parse::<usize>().ok()?)) {
                    Some(Value::Table(inner)) => inner,
                    _ if count == 0 => {
                        bail!("--set {setting}: there is no [[{part}]] to change; write one into the file")
                    }
                    _ => bail!(
                        "--set {setting}: {part} is a list of {count}; write {part}.0.KEY=VALUE for its first section"
                    ),
                }
            }
            _ => bail!("--set {setting}: {part} is a value, not a section"),
        };
    }
    place.insert(last.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned())));
    Ok(())
}

/// The key of the file that is a list of sections.
const LIST: &str = "reward";

/// Keys of the file that are sections.
const SECTIONS: [&str; 19] = [
    "model",
    "captioner",
    "prompts",
    "sampling",
    "replay",
    "anchor",
    "preference",
    "attention",
    "fidelity",
    "mixed",
    "lora",
    "optimizer",
    "train",
    "checkpoints",
    "samples",
    "validation",
    "ranks",
    "memory",
    "logging",
];

/// A list where a section belongs: serde would take it for the section's values, in order.
fn check_sections(table: &Table) -> Result<()> {
    for (key, value) in table {
        if SECTIONS.contains(&key.as_str()) && value.is_array() {
            bail!("`{key}` is one section, not a list: write [{key}] and its settings below it");
        }
    }
    Ok(())
}

/// A table in TOML; what is wrong with it is told with file, line and column.
///
/// # Errors
/// A text that is no TOML.
pub fn parse_table(file: &Path, text: &str) -> Result<Table> {
    toml::from_str(text).map_err(|e| at_place(&e, "", text, &file.display().to_string()))
}

fn at_place(error: &toml::de::Error, key: &str, text: &str, file: &str) -> anyhow::Error {
    let message = what_is_wrong(key, error.message().trim().lines().next().unwrap_or_default());
    match error.span() {
        Some(span) => {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            anyhow!("{file}:{line}:{column}: {message}")
        }
        None => anyhow!("{file}: {message}"),
    }
}

/// What is wrong with the setting of that key.
fn what_is_wrong(key: &str, message: &str) -> String {
    match values_of(key) {
        Some(values) if message.contains("unit variant") || message.contains("wanted string or table") => {
            format!("must be one of {}", values.join(", "))
        }
        _ if message.starts_with("missing field") => prefixed(key, with_suggestion(message)),
        _ => with_suggestion(message),
    }
}

fn prefixed(key: &str, said: String) -> String {
    if key.is_empty() || key == "." { said } else { format!("{key}: {said}") }
}

/// The same with the key before it, where no place in a file says which one it is.
fn with_key(key: &str, message: &str) -> String {
    let said = what_is_wrong(key, message);
    // a key that is missing or unknown is named by what is said
    if said.contains(" key `") { said } else { prefixed(key, said) }
}

/// The part of a schema itself, which may be referred to, with a description beside it, or be an optional section's.
fn resolved<'a>(schema: &'a serde_json::Value, mut part: &'a serde_json::Value) -> &'a serde_json::Value {
    while let Some(inner) = match part.get("$ref").and_then(|place| place.as_str()?.strip_prefix('#')) {
        Some(place) => schema.pointer(place),
        None => ["allOf", "anyOf"].iter().find_map(|of| part.get(of)?.get(0)),
    } {
        part = inner;
    }
    part
}

/// The values of a setting that has a few, from the schema.
fn values_of(key: &str) -> Option<Vec<String>> {
    let schema = crate::reference::schema();
    let mut part = &schema;
    for name in key.split('.') {
        part = resolved(&schema, part.get("properties")?.get(name)?);
    }
    let named = |one: &serde_json::Value| Some(format!("\"{}\"", one.get("const")?.as_str()?));
    let plain = |one: &serde_json::Value| Some(format!("\"{}\"", one.as_str()?));
    match (part.get("oneOf"), part.get("enum")) {
        (Some(all), _) => all.as_array()?.iter().map(named).collect(),
        (_, Some(all)) => all.as_array()?.iter().map(plain).collect(),
        _ => None,
    }
}

/// The settings of that name, in whichever section: `train.batch_size` for `batch_size`.
fn settings_named(name: &str) -> Vec<String> {
    let schema = crate::reference::schema();
    let Some(sections) = schema.get("properties").and_then(serde_json::Value::as_object) else { return vec![] };
    let has = |section: &serde_json::Value| {
        resolved(&schema, section).get("properties").is_some_and(|all| all.get(name).is_some())
    };
    sections.iter().filter(|(_, section)| has(section)).map(|(section, _)| format!("{section}.{name}")).collect()
}

/// What serde says, without Rust's names.
fn in_words(message: &str) -> String {
    let mut message = message.replace("missing field", "missing key");
    let count = "a whole number, 0 or more";
    for (of_rust, word) in [("u64", count), ("usize", count), ("i64", "a whole number"), ("f64", "a number")] {
        message = message.replace(&format!("expected {of_rust}"), &format!("expected {word}"));
    }
    if ["` as i128", "` as u128", "number overflowed", "value was too large"].iter().any(|part| message.contains(part))
    {
        return "the number is too large".into();
    }
    let message = message.replace("expected a sequence", "expected a list: [\"A\", \"B\"]");
    match message.split_once("expected struct ").or_else(|| message.split_once("expected internally tagged enum ")) {
        Some((before, _)) if message.contains("tagged") => format!("{before}expected a section with a `kind`"),
        Some((before, _)) => format!("{before}expected a section: [NAME] and its settings below it"),
        None => message,
    }
}

/// Turns serde's "unknown field `stepz`, expected one of `steps`, …" into a suggestion.
fn with_suggestion(message: &str) -> String {
    let named: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let ("unknown field" | "unknown variant", [unknown, known @ ..]) =
        (message.split(" `").next().unwrap_or_default(), &named[..])
    else {
        return in_words(message);
    };
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    // other forms of a value, as interfaces write it, are accepted, but not proposed
    let known: Vec<&str> = known.iter().copied().filter(|name| !name.contains(char::is_uppercase)).collect();
    let closest =
        known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match closest {
        Some(closest) if strsim::jaro_winkler(unknown, closest) > 0.75 => {
            format!("unknown {what} `{unknown}`; did you mean `{closest}`?")
        }
        _ => match settings_named(unknown) {
            elsewhere if what == "key" && !elsewhere.is_empty() => {
                format!("unknown key `{unknown}`; did you mean {}?", elsewhere.join(" or "))
            }
            _ => format!("unknown {what} `{unknown}`; known here: {}", known.join(", ")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;
    use std::fs;

    const LEAST: &str = "output = 'o'\n[model]\npath = 'm'\n[captioner]\npath = 'c'\n[prompts]\ntrain = 'p.txt'\n";

    fn config(extra: &str, settings: &[&str]) -> Result<Config> {
        parse(
            &format!("{LEAST}{extra}"),
            &settings.iter().map(|s| s.to_string()).collect::<Vec<_>>(),
            Path::new("run.toml"),
            None,
        )
    }

    fn error(extra: &str, settings: &[&str]) -> String {
        format!("{:#}", config(extra, settings).unwrap_err())
    }

    #[test]
    fn defaults_are_the_published_settings() {
        let config = config("", &[]).unwrap();
        assert_eq!((config.sampling.steps, config.replay.tracked, config.lora.rank), (50, 5, 128));
        assert_eq!((config.optimizer.learning_rate, config.optimizer.max_grad_norm), (5e-5, 0.1));
        assert_eq!(config.lora.alpha(), 128.0);
    }

    #[test]
    fn shipped_configurations_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let configs = files.iter().filter(|path| path.extension().is_some_and(|end| end == "toml"));
        let outputs: std::collections::BTreeSet<_> = configs.map(|path| read(path, &[]).unwrap().output).collect();
        assert!(outputs.len() >= 5, "every one has an output of its own: {outputs:?}");
    }

    /// What is the published runs' alone, and what the recommended file has in its place.
    #[test]
    fn published_and_recommended_settings() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let of = |name: &str| {
            let config = read(&folder.join(name), &[]).unwrap();
            let attention = config.attention.unwrap();
            let super::super::Segmenter::Grounded { detector, .. } = attention.segmenter else { panic!("{name}") };
            let detector = detector.typed().to_string_lossy().into_owned();
            (config.replay.mode, config.captioner.label_smoothing, attention.entities, detector)
        };
        let (tiny, base) =
            ("IDEA-Research/grounding-dino-tiny".to_owned(), "IDEA-Research/grounding-dino-base".to_owned());
        assert_eq!(of("sd15.toml"), (Mode::Chained, 0.1, entities::Mode::Reference, tiny.clone()));
        assert_eq!(of("sdxl.toml"), (Mode::Detached, 0.1, entities::Mode::Reference, tiny));
        assert_eq!(of("sd15-recommended.toml"), (Mode::Detached, 0.0, entities::Mode::Repaired, base));

        // apart from these, the short file says what the long one says
        let [mut published, mut recommended] = ["sd15.toml", "sd15-recommended.toml"].map(|name| {
            let mut config = read(&folder.join(name), &[]).unwrap();
            config.lora.alpha = Some(config.lora.alpha());
            toml::Table::try_from(config).unwrap()
        });
        for table in [&mut published, &mut recommended] {
            table.remove("output");
            for (section, key) in [
                ("captioner", "label_smoothing"),
                ("replay", "mode"),
                ("attention", "entities"),
                ("attention", "segmenter"),
            ] {
                table[section].as_table_mut().unwrap().remove(key).unwrap();
            }
        }
        assert_eq!(published, recommended);
    }

    #[test]
    fn settings_win() {
        let config = config(
            "[train]\nsteps = 5",
            &["train.steps=7", "sampling.size=64", "model.device=cpu", "lora.targets=[\"to_q\"]"],
        )
        .unwrap();
        assert_eq!(config.train.steps, 7);
        assert_eq!(config.sampling.size, Some(super::super::Size { width: 64, height: 64 }));
        assert_eq!(config.lora.targets, ["to_q"]);
    }

    #[test]
    fn a_value_where_a_section_belongs_is_refused() {
        assert!(error("", &["lora=[1]"]).contains("`lora` is one section, not a list: write [lora]"));
        assert!(error("[[lora]]\nrank = 1", &[]).contains("`lora` is one section, not a list"));
        let with = error("", &["fidelity=3"]);
        assert_eq!(
            with,
            "run.toml with fidelity=3: fidelity: invalid type: integer `3`, expected a section: [NAME] and its settings below it"
        );
        assert!(error("", &["logging=\"a\""]).contains("expected a section"));
    }

    /// Every object of the schema is in the list, and nothing else.
    #[test]
    fn the_sections_are_those_of_the_schema() {
        let schema = crate::reference::schema();
        let properties = schema["properties"].as_object().unwrap();
        let is_section = |property: &serde_json::Value| {
            let text = property.to_string();
            text.contains("$ref") && property.get("items").is_none()
        };
        let of_schema: Vec<&str> =
            properties.iter().filter(|(_, property)| is_section(property)).map(|(key, _)| key.as_str()).collect();
        let mut known = SECTIONS.to_vec();
        known.sort_unstable();
        let mut found = of_schema.clone();
        found.sort_unstable();
        assert_eq!(found, known);
    }

    #[test]
    fn paths_are_read_as_a_shell_reads_them() {
        let home = std::env::var("HOME").unwrap();
        let config =
            config("[lora]\ninit = '$HOME/a'\n[mixed]\npairs = '${HOME}/b'", &["output=~/c", "model.path=~/d"])
                .unwrap();
        let of = |name: &str| Path::new(&home).join(name);
        assert_eq!((config.lora.init[0].adapter.to_path_buf(), config.mixed.unwrap().pairs), (of("a"), of("b")));
        assert_eq!((config.output, config.model.path.typed()), (of("c"), of("d").as_path()));
        contains(
            "[lora]\ninit = '$COMAT_NOT_SET/a'",
            &[],
            "run.toml:9:8: $COMAT_NOT_SET/a: the variable COMAT_NOT_SET is not set",
        );
        contains("", &["output=$COMAT_NOT_SET"], "the variable COMAT_NOT_SET is not set");
    }

    #[test]
    fn rewards_are_a_list() {
        let clip = "[[reward]]\nkind = 'clip'\npath = 'a'\n[[reward]]\nkind = 'clip'\nname = 'large'\npath = 'b'\nweight = 2\n";
        let of = |settings: &[&str]| {
            let config = config(clip, settings).unwrap();
            assert_eq!(parse(&toml::to_string(&config).unwrap(), &[], Path::new("again"), None).unwrap(), config);
            config.rewards.iter().map(|r| (r.name().to_owned(), r.weight)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [("clip".into(), 1.0), ("large".into(), 2.0)]);
        assert_eq!(of(&["reward.1.weight=7"]), [("clip".into(), 1.0), ("large".into(), 7.0)]);
        assert_eq!(of(&["reward=[]"]), []);
        for setting in ["reward.2.weight=7", "reward.weight=7", "reward.0=7"] {
            assert!(error(clip, &[setting]).contains("reward is a list of 2; write reward.0.KEY=VALUE"), "{setting}");
        }
        assert!(error(&clip.replace("large", "clip"), &[]).contains("both called `clip`"));
        assert!(error(&clip.replace("large", "caption"), &[]).contains("reward[1].name is `caption`"));
        assert!(error(clip, &["reward.0.weight=-1"]).contains("reward[0].weight is -1"));
        assert!(
            error(clip, &["reward.1.words=[['a', 'b']]"]).contains("reward[1].words is for kind = \"certainty\" only")
        );
        let certainty = "[[reward]]\nkind = 'certainty'\npath = 'a'\nwords = [['red', 'blue'], ['old', 'new']]\n";
        assert_eq!(config(certainty, &[]).unwrap().rewards[0].words, [["red", "blue"], ["old", "new"]]);
        for (words, said) in [
            ("[]", "reward[0].words is missing; write lists"),
            ("[['red']]", "it needs two words or more"),
            ("[['red', 'blue'], []]", "it needs two words or more"),
            ("[['red', 'blue', 'Red']]", "each of them once"),
            ("[['red', ' blue']]", "reward[0].words has \" blue\""),
            ("[['red', '']]", "reward[0].words has \"\""),
        ] {
            let error = error(certainty, &[&format!("reward.0.words={words}")]);
            assert!(error.contains(said), "{error}");
        }
    }

    /// Files over files: what each of them says holds over what is beneath it.
    #[test]
    fn a_file_extends_another() {
        let folder = tempfile::tempdir().unwrap();
        let (presets, own) = (folder.path().join("presets"), folder.path().join("own"));
        [&presets, &own].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
        let fidelity = "[fidelity]\nlatents = 'l'\nrank = 8\n[attention]\nsegmenter = { kind = 'world' }\n";
        write(presets.join("small.toml"), &format!("{LEAST}{fidelity}[train]\nsteps = 5\nbatch_size = 3\n"));
        write(own.join("middle.toml"), "extends = 'small'\n[train]\nsteps = 6\n[fidelity]\nrank = 9\n");
        let of = |text: &str, settings: &[&str]| {
            write(own.join("run.toml"), text);
            let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
            read_with(&own.join("run.toml"), &settings, Some(&presets)).map_err(|e| format!("{e:#}"))
        };

        let config = of("extends = 'middle.toml'\noutput = 'mine'\n", &["train.ema=0.5"]).unwrap();
        assert_eq!((config.output, config.model.path.typed()), (PathBuf::from("mine"), Path::new("m")));
        assert_eq!((config.train.steps, config.train.batch_size, config.train.ema), (6, 3, 0.5));
        assert_eq!(config.fidelity.unwrap().rank, 9);
        assert!(config.extends.is_none());

        // a section is left out; one with a kind takes the other's place
        let grounded = "segmenter = { kind = 'grounded', detector = 'd', segmenter = 's' }";
        let config = of(&format!("extends = 'middle.toml'\nfidelity = false\n[attention]\n{grounded}\n"), &[]).unwrap();
        assert!(config.fidelity.is_none());
        assert!(matches!(config.attention.unwrap().segmenter, crate::Segmenter::Grounded { .. }));
        assert!(of("extends = 'small'\n", &["attention=false"]).unwrap().attention.is_none());

        let wrong = |text: &str, part: &str| {
            let error = of(text, &[]).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        wrong("extends = 'nothing'\n", "no preset of that name");
        wrong("extends = 3\n", "extends = 3: write the path");
        wrong("extends = 'run.toml'\n", "run.toml: a circle; remove one `extends`");
        wrong("extends = 'middle.toml'\n[train]\nstepz = 1\n", "unknown key `stepz`; did you mean `steps`?");
        wrong("extends = 'small'\nmodel = false\n", "invalid type");
        write(own.join("middle.toml"), "extends = 'run.toml'\n");
        wrong("extends = 'middle.toml'\n", "middle.toml, which extends ");
        wrong("extends = ''\n", "extends = \"\": it is empty");
    }

    /// The resolved configuration, written into the run's folder, gives the same run again.
    #[test]
    fn written_and_read_back() {
        let config = config("[sampling]\nsize = '96x64'\n", &[]).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(parse(&text, &[], Path::new("again"), None).unwrap(), config);
    }

    #[track_caller]
    fn contains(extra: &str, settings: &[&str], part: &str) {
        let error = error(extra, settings);
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn errors_say_where_and_what_was_meant() {
        assert_eq!(error("[train]\nstepz = 5", &[]), "run.toml:9:1: unknown key `stepz`; did you mean `steps`?");
        assert_eq!(error("[training]\n", &[]), "run.toml:8:2: unknown key `training`; did you mean `train`?");
        contains("[replay]\nmode = 'detach'", &[], "unknown value `detach`; did you mean `detached`?");
        contains("", &["train.stepz=5"], "run.toml with train.stepz=5: unknown key `stepz`; did you mean `steps`?");
        contains(
            "",
            &["memory.keep_decoder=false"],
            "with memory.keep_decoder=false: memory.keep_decoder: must be one of \"auto\", \"always\", \"never\"",
        );
        contains(
            "[memory]\nkeep_decoder = false",
            &[],
            "run.toml:9:16: must be one of \"auto\", \"always\", \"never\"",
        );
        contains("", &["attention.form=3"], "attention.form: must be one of \"reference\", \"paper\"");
        contains("", &["sampling.sampler=3"], "sampling.sampler: must be one of \"ddpm\", ");
        contains("", &["lora.targets=3"], "lora.targets: invalid type: integer `3`, expected a list");
        contains(
            "",
            &["attention.segmenter=1"],
            "attention.segmenter: invalid type: integer `1`, expected a section with a `kind`",
        );
        let no_number = "run.toml:9:9: invalid type: string \"x\", expected a whole number, 0 or more";
        assert_eq!(error("[train]\nsteps = 'x'", &[]), no_number);
        contains(
            "",
            &["train.steps=-2"],
            "train.steps: invalid value: integer `-2`, expected a whole number, 0 or more",
        );
        contains(
            "",
            &["train.steps=99999999999999999999"],
            "--set train.steps=99999999999999999999: the number is too large",
        );
        contains("[train]\nsteps = 99999999999999999999", &[], "too large");
        for wrong in ["sampling.size=1e9", "sampling.size=true", "captioner.micro_batch=1.5"] {
            contains("", &[wrong], ": expected a text or a whole number");
        }
        contains("", &["reward.0.kind=clip"], "there is no [[reward]] to change");
        contains("", &["batch_size=2"], "unknown key `batch_size`; did you mean mixed.batch_size or train.batch_size?");
        contains("", &["train.learning_rate=2"], "did you mean fidelity.learning_rate or optimizer.learning_rate?");
        contains("", &["train.nonsense=2"], "unknown key `nonsense`; known here: steps, ");
        contains("", &["extends=foo"], "extends is read from the file alone; write it there");
        contains(
            "",
            &["validation.judge.kind=clip"],
            "with validation.judge.kind=clip: validation.judge: missing key `model`",
        );
        contains("", &["train.ema=1"], "train.ema is 1, it must be at least 0 and below 1");
        contains("", &["lora.rank=1000000"], "lora.rank is 1000000, it must be from 1 to 4096");
        contains("", &["ranks.timeout=1e9"], "ranks.timeout is 1000000000, it must be above 0 and at most 1000000");
        contains("", &["memory.vae_tile=0"], "memory.vae_tile is 0, it must be 1 or more");
        assert!(error("[train\n", &[]).starts_with("run.toml:8:"));
        contains("[sampling]\nsize = '12y'", &[], "is not a size");
        contains("[lora]\nrank = 0", &[], "lora.rank is 0");
        contains("", &["optimizer.kind=adam"], "unknown value `adam`; did you mean `adamw`?");
        contains("", &["optimizer.kind=prodigy"], "optimizer.learning_rate is 0.00005, too little for prodigy");
        contains("", &["optimizer.prodigy.d0=1"], "optimizer.prodigy belongs to optimizer.kind = \"prodigy\"");
        let prodigy = |more| config("", &["optimizer.kind=prodigy", "optimizer.learning_rate=1", more]);
        assert_eq!(prodigy("optimizer.prodigy={growth_rate=1.02}").unwrap().optimizer.prodigy.unwrap().d0, 1e-6);
        let refused = format!("{:#}", prodigy("optimizer.prodigy.growth_rate=0.5").unwrap_err());
        assert!(refused.contains("optimizer.prodigy.growth_rate is 0.5, it must be above 1"), "{refused}");
        contains("", &["optimizer.learning_rate=inf"], "optimizer.learning_rate is inf, it must be a finite number");
        for key in ["output", "model.path", "prompts.validation", "lora.init"] {
            contains("", &[&format!("{key}=\"\"")], &format!("{key}: it is empty; name a file or folder"));
        }
        contains("[samples]\nsteps = 0", &[], "samples.steps is 0");
        for sampler in ["euler_a", "dpm++_2m", "dpm++_2m_karras"] {
            let refused = format!(
                "sampling.sampler is {sampler}, which draws images but does not train; train with one of ddpm, ddim and euler"
            );
            contains("", &[&format!("sampling.sampler={sampler}")], &refused);
            assert!(config("", &[&format!("samples.sampler={sampler}"), "sampling.sampler=euler"]).is_ok());
        }
        contains("[replay]\ntracked = 60", &[], "more than the 50 sampling steps");
        contains("", &["train"], "write key=value");
        contains("", &["seed=2", "seed.x=1"], "seed is a value");
        let missing = format!("{:#}", parse("output = 'o'", &[], Path::new("run.toml"), None).unwrap_err());
        assert_eq!(missing, "run.toml:1:1: missing key `model`");
    }
}
