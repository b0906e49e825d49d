//! `evaluation.json`: how the images of a folder were made, and which judges scored them. Settings that would mix two
//! kinds of images or scores in one folder are refused.

use crate::image_files::Grid;
use anyhow::{Context, Result, bail};
use benchmarks::records::Benchmark;
use diffusion::{
    pipeline::Overrides,
    settings::{Dtype, Sampling},
};
use models::{Error, write_text};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

pub const FILE: &str = "evaluation.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub benchmark: Benchmark,
    /// Absent if the images already existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawing: Option<Drawing>,
    /// Columns and rows of the files that hold several images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// Each judge's network, as the user named it.
    pub judges: BTreeMap<String, String>,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drawing {
    pub model: String,
    /// Variant of the model's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Tokenizer of a model in a single file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Overrides of the settings in the model's files.
    #[serde(default, skip_serializing_if = "Overrides::is_none")]
    pub overrides: Overrides,
    pub dtype: Dtype,
    /// In the file, one LoRA is an object and several are a list.
    #[serde(rename = "lora", default, skip_serializing_if = "Vec::is_empty", with = "one_or_many")]
    pub loras: Vec<Lora>,
    pub seeds: Vec<u64>,
    pub sampling: Sampling,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    pub file: PathBuf,
    pub scale: f64,
    /// SHA-256 of the file; another file may have the same name.
    pub sha256: String,
}

impl Drawing {
    /// The settings that differ from `before`, except the LoRA and the seeds: the name of each, its old value and its
    /// new value.
    pub fn differences(&self, before: &Self) -> Result<Vec<(String, String, String)>> {
        let named = |name: &Option<String>, none: &str| name.clone().unwrap_or_else(|| none.into());
        let of = |drawing: &Self| {
            [
                ("the model", drawing.model.clone()),
                ("the variant", named(&drawing.variant, "none")),
                ("the tokenizer", named(&drawing.tokenizer, "the model's")),
                ("the precision", drawing.dtype.to_string()),
            ]
        };
        let pairs = of(before).into_iter().zip(of(self));
        let pairs = pairs.map(|((what, then), (_, now))| (what.to_owned(), then, now));
        let mut all: Vec<_> = pairs.filter(|(_, then, now)| then != now).collect();
        for (setting, then, now) in changes(&before.overrides, &self.overrides)? {
            all.push((format!("--{}", setting.replace('_', "-")), then, now));
        }
        for (setting, then, now) in changes(&before.sampling, &self.sampling)? {
            all.push((format!("sampling.{setting}"), then, now));
        }
        Ok(all)
    }
}

impl Lora {
    /// # Errors
    /// A file that cannot be read.
    pub fn of(file: &Path, scale: f64) -> Result<Self> {
        let bytes = fs::read(file).map_err(Error::io(file))?;
        let sha256 = models::hex(&Sha256::digest(&bytes));
        Ok(Self { file: file.to_owned(), scale, sha256 })
    }
}

impl Settings {
    /// Reads the settings of a folder, if it has any.
    ///
    /// # Errors
    /// A file in another format.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        Ok(Some(serde_json::from_str(&text).with_context(|| path.display().to_string())?))
    }

    /// Writes these settings, or refuses if the folder has others. Judges of earlier runs are kept, so that more can be
    /// added; seeds can be added after the existing ones.
    ///
    /// # Errors
    /// Settings that would mix two kinds of images or of scores.
    pub fn claim(&self, folder: &Path) -> Result<()> {
        let mut merged = self.clone();
        if let Some(before) = Self::read(folder)? {
            self.goes_with(&before, folder)?;
            merged.judges = before.judges.into_iter().chain(merged.judges).collect();
            merged.drawing = match (merged.drawing, before.drawing) {
                (Some(now), Some(then)) => {
                    let seeds = if then.seeds.len() > now.seeds.len() { then.seeds } else { now.seeds };
                    let loras = if now.loras.is_empty() { then.loras } else { now.loras };
                    Some(Drawing { loras, seeds, ..now })
                }
                (now, then) => now.or(then),
            };
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        write_text(&folder.join(FILE), &(serde_json::to_string_pretty(&merged)? + "\n"))?;
        Ok(())
    }

    /// Makes the checks of [`Settings::claim`] and writes nothing.
    ///
    /// # Errors
    /// Settings that would mix two kinds of images or of scores.
    pub fn check(&self, folder: &Path) -> Result<()> {
        Self::read(folder)?.map_or(Ok(()), |before| self.goes_with(&before, folder))
    }

    fn goes_with(&self, before: &Self, folder: &Path) -> Result<()> {
        let differs = |what: &str, was: String, is: String| -> Result<()> {
            if was == is {
                return Ok(());
            }
            bail!("{}: {what} was {was} there and is {is} now; choose another folder", folder.display())
        };
        differs("the benchmark", before.benchmark.to_string(), self.benchmark.to_string())?;
        if let (Some(now), Some(then)) = (&self.drawing, &before.drawing) {
            for (what, was, is) in now.differences(then)? {
                differs(&what, was, is)?;
            }
            let one =
                |lora: &Lora| format!("{} of the LoRA {}", lora.scale, lora.sha256.get(..8).unwrap_or(&lora.sha256));
            let loras = |loras: &[Lora]| loras.iter().map(one).collect::<Vec<_>>().join(" and ");
            // a folder may have been made with the base model alone first
            if !then.loras.is_empty() && !now.loras.is_empty() {
                differs("the LoRA", loras(&then.loras), loras(&now.loras))?;
            }
            let shared = now.seeds.len().min(then.seeds.len());
            let seeds = |seeds: &[u64]| format!("{:?}", &seeds[..shared]);
            differs("the seeds", seeds(&then.seeds), seeds(&now.seeds))?;
        }
        if !self.judges.is_empty() && !before.judges.is_empty() {
            let named =
                |grid: Option<Grid>| grid.map_or("whole files".to_owned(), |grid| format!("the cells of {grid}"));
            let (was, is) = (named(before.grid), named(self.grid));
            if was != is {
                bail!(
                    "{}: the scores in it are of {was}, and are to be of {is} now (--grid); remove scores.jsonl and {FILE} from it, \
                     or choose another folder",
                    folder.display()
                );
            }
        }
        for (judge, now) in &self.judges {
            if let Some(then) = before.judges.get(judge) {
                differs(&format!("--{judge}"), then.clone(), now.clone())?;
            }
        }
        Ok(())
    }
}

mod one_or_many {
    use super::Lora;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a LoRA, or a list of them")]
    enum Form {
        One(Lora),
        Many(Vec<Lora>),
    }

    pub fn serialize<S: Serializer>(loras: &[Lora], to: S) -> Result<S::Ok, S::Error> {
        match loras {
            [one] => one.serialize(to),
            many => many.serialize(to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Lora>, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::One(lora) => vec![lora],
            Form::Many(loras) => loras,
        })
    }
}

/// The settings that differ: the name of each, its old value and its new one.
fn changes(before: &impl Serialize, now: &impl Serialize) -> Result<Vec<(String, String, String)>> {
    let [before, now] = [serde_json::to_value(before)?, serde_json::to_value(now)?];
    let keys: BTreeSet<&String> =
        [&before, &now].into_iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
    let text = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
    let of = |key: &String| (key.clone(), text(before.get(key)), text(now.get(key)));
    Ok(keys.into_iter().map(of).filter(|(_, then, now)| then != now).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            benchmark: Benchmark::Dsg,
            drawing: Some(Drawing {
                model: "models/a".into(),
                variant: None,
                tokenizer: None,
                overrides: Overrides::default(),
                dtype: Dtype::Float32,
                loras: vec![],
                seeds: vec![42, 43],
                sampling: Sampling::default(),
            }),
            grid: None,
            judges: [("vqa".to_owned(), "blip".to_owned())].into(),
            version: "1".into(),
        }
    }

    #[test]
    fn a_folder_keeps_to_one_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        settings().claim(&path).unwrap();
        settings().claim(&path).unwrap();
        let refused = |change: &dyn Fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            changed.claim(&path).unwrap_err().to_string()
        };
        fn drawing(s: &mut Settings) -> &mut Drawing {
            s.drawing.as_mut().unwrap()
        }
        assert!(refused(&|s| s.benchmark = Benchmark::Tifa).contains("the benchmark was dsg there and is tifa now"));
        assert!(refused(&|s| drawing(s).model = "b".into()).contains("the model was models/a there and is b now"));
        assert!(
            refused(&|s| drawing(s).variant = Some("fp16".into())).contains("variant was none there and is fp16 now")
        );
        assert!(
            refused(&|s| drawing(s).overrides.clip_skip = Some(2))
                .contains("--clip-skip was not set there and is 2 now")
        );
        assert!(refused(&|s| drawing(s).seeds = vec![42, 44]).contains("the seeds was [42, 43] there"));
        assert!(refused(&|s| drawing(s).sampling.steps = 3).contains("sampling.steps was 50 there and is 3 now"));
        assert!(
            refused(&|s| drop(s.judges.insert("vqa".into(), "other".into())))
                .contains("--vqa was blip there and is other")
        );
        let said = refused(&|s| s.grid = Some("2x2".parse().unwrap()));
        assert!(said.contains("of whole files, and are to be of the cells of 2x2 now"), "{said}");
        assert_eq!(Settings::read(&path).unwrap(), Some(settings()));
    }

    #[test]
    fn more_can_be_added() {
        let folder = tempfile::tempdir().unwrap();
        settings().claim(folder.path()).unwrap();
        let file = folder.path().join("lora");
        fs::write(&file, "1").unwrap();
        let mut more = settings();
        more.judges = [("clip".to_owned(), "clip".to_owned())].into();
        let drawing = more.drawing.as_mut().unwrap();
        drawing.seeds = vec![42, 43, 44];
        drawing.loras = vec![Lora::of(&file, 0.5).unwrap()];
        more.claim(folder.path()).unwrap();
        let mut fewer = settings();
        fewer.drawing.as_mut().unwrap().loras = vec![Lora::of(&file, 0.5).unwrap()];
        fewer.claim(folder.path()).unwrap();
        settings().claim(folder.path()).unwrap();
        let kept = Settings::read(folder.path()).unwrap().unwrap();
        assert_eq!(kept.drawing.as_ref().unwrap().loras, fewer.drawing.as_ref().unwrap().loras);
        assert_eq!(kept.judges.keys().collect::<Vec<_>>(), ["clip", "vqa"]);
        assert_eq!(kept.drawing.unwrap().seeds, [42, 43, 44]);
        // another LoRA with the same name
        fs::write(&file, "2").unwrap();
        fewer.drawing.as_mut().unwrap().loras = vec![Lora::of(&file, 0.5).unwrap()];
        assert!(fewer.claim(folder.path()).unwrap_err().to_string().contains("the LoRA was 0.5 of the LoRA 6b86b273"));
        // two LoRAs are a list in the file
        fewer.drawing.as_mut().unwrap().loras = vec![Lora::of(&file, 0.5).unwrap(), Lora::of(&file, 0.25).unwrap()];
        let text = serde_json::to_string(&fewer).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), fewer);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Settings::read(folder.path()).is_err());
    }
}
