//! Scored images of one prompt list: of the base model and of tuned models.

use super::folder::{BASE, EVALUATION, Folder, SCORES};
use anyhow::{Context, Result, bail};
use benchmarks::{
    records::{self, Benchmark, Metric, Subject},
    table,
};
use models::Error;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Scored images of a base model and of others, or of others alone.
pub struct Evaluation {
    pub name: String,
    /// Contents of `evaluation.json` as keys and values, whatever they are.
    pub settings: Vec<(String, String)>,
    /// `None` if there is nothing to compare with.
    pub base: Option<Variant>,
    pub others: Vec<Variant>,
}

/// The images of one model.
pub struct Variant {
    pub name: String,
    pub folder: PathBuf,
    pub scored: Vec<records::Image>,
}

impl Evaluation {
    /// Reads the scores and settings. `variants`: names and folders with scores, the base first.
    pub fn read(name: String, folder: &Path, variants: &[(String, PathBuf)], notes: &mut Vec<String>) -> Result<Self> {
        let mut read = vec![];
        for (side, folder) in variants {
            read.push(Variant::read(side, folder, notes)?);
        }
        let has_base = read.len() > 1 && read[0].name == BASE;
        let base = has_base.then(|| read.remove(0));
        Ok(Self { name, settings: settings(&folder.join(EVALUATION))?, base, others: read })
    }
}

impl Variant {
    fn read(name: &str, folder: &Path, notes: &mut Vec<String>) -> Result<Self> {
        let records::Images { images, warning, .. } = records::read(&folder.join(SCORES))?;
        notes.extend(warning);
        if images.is_empty() {
            notes.push(format!("{}: no image is scored yet", folder.display()));
        }
        Ok(Self { name: name.into(), folder: folder.to_owned(), scored: images })
    }
}

/// Gives every evaluation without a base the one at `path`: a folder of scored images, or an evaluation with `base` in
/// it.
///
/// # Errors
/// There are no such images at `path`, or every evaluation already has a base.
pub fn compare_with(evaluations: &mut [Evaluation], path: &Path, notes: &mut Vec<String>) -> Result<()> {
    if evaluations.is_empty() {
        bail!("--base {}: there is no evaluation here to compare with it; leave --base out", path.display());
    }
    let in_want = evaluations.iter_mut().filter(|evaluation| evaluation.base.is_none());
    let mut in_want: Vec<&mut Evaluation> = in_want.collect();
    if in_want.is_empty() {
        bail!("--base {}: every evaluation here has its own base; leave --base out", path.display());
    }
    let Folder::Evaluation(variants) = Folder::at(path)? else {
        bail!("--base {} is a training run, not a folder of scored images", path.display());
    };
    let Some((_, folder)) = variants.iter().find(|(name, _)| variants.len() == 1 || name == BASE) else {
        bail!("--base {} has several folders of scored images, and none is called {BASE}", path.display());
    };
    for evaluation in &mut in_want {
        evaluation.base = Some(Variant::read(BASE, folder, notes)?);
    }
    Ok(())
}

fn settings(path: &Path) -> Result<Vec<(String, String)>> {
    if !path.exists() {
        return Ok(vec![]);
    }
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let value: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut settings = vec![];
    flatten("", &value, &mut settings);
    Ok(settings)
}

fn flatten(key: &str, value: &Value, settings: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            let join = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
            fields.iter().for_each(|(name, value)| flatten(&join(name), value, settings));
        }
        Value::String(text) => settings.push((key.into(), text.clone())),
        Value::Null => settings.push((key.into(), "–".into())),
        value => settings.push((key.into(), value.to_string())),
    }
}

/// Key of an image, the same for all its metrics: benchmark, category, prompt id, index.
pub type Place = (Benchmark, String, String, u64);

/// An image with its records of all metrics.
pub struct Image<'a> {
    /// The benchmark's own metric first.
    pub metrics: Vec<&'a records::Image>,
    /// Score by the first metric; for complex prompts, by the three metrics together.
    pub score: f64,
}

impl Image<'_> {
    pub fn subject(&self) -> &Subject {
        self.metrics[0].subject()
    }

    /// Largest difference between two scores that count as even.
    pub fn margin(&self) -> f64 {
        match self.metrics[0].metric() {
            Metric::Correct => 0.0,
            Metric::Clip => 0.01,
            _ => 0.05,
        }
    }
}

/// The keys of a variant's images in the order of its file, and the images by their keys.
pub fn images(scored: &[records::Image]) -> (Vec<Place>, BTreeMap<Place, Image<'_>>) {
    let (mut order, mut images) = (vec![], BTreeMap::<Place, Image>::new());
    for image in scored {
        let place = place(image.subject());
        if !images.contains_key(&place) {
            order.push(place.clone());
        }
        images.entry(place).or_insert(Image { metrics: vec![], score: 0.0 }).metrics.push(image);
    }
    for image in images.values_mut() {
        image.metrics.sort_by_key(|scored| scored.metric());
        image.score = image.metrics[0].score();
    }
    for (whole, score) in table::three_in_one(scored) {
        if let Some(image) = images.get_mut(&place(whole.subject())) {
            image.score = score;
        }
    }
    (order, images)
}

fn place(Subject { benchmark, category, prompt_id, index, .. }: &Subject) -> Place {
    (*benchmark, category.clone(), prompt_id.clone(), *index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use benchmarks::{records::Answer, t2i_compbench::three_in_one::Kind};

    fn scored(index: u64, metric: Metric, score: f64) -> records::Image {
        let subject = Subject {
            benchmark: Benchmark::T2iCompbench,
            category: "complex".into(),
            kind: Some(Kind::Action),
            prompt_id: "7".into(),
            prompt: "a dog".into(),
            index,
            seed: None,
            file: format!("{index}.png"),
            digest: None,
            asked: None,
        };
        records::Image::new(&subject, metric, vec![Answer::score(score, None)]).unwrap()
    }

    #[test]
    fn an_image_has_one_score_of_all_its_metrics() {
        let all = [
            scored(1, Metric::BlipVqa, 0.5),
            scored(0, Metric::BlipVqa, 0.2),
            scored(1, Metric::Clip, 0.3),
            scored(0, Metric::Spatial, 0.8),
            scored(1, Metric::Spatial, 0.9),
        ];
        let (order, images) = images(&all);
        assert_eq!(order.iter().map(|place| place.3).collect::<Vec<_>>(), [1, 0]);
        let of = |place: &Place| (images[place].metrics.len(), images[place].score);
        assert_eq!(of(&order[0]), (3, 0.4), "attributes and CLIP are what counts for an action");
        assert_eq!(of(&order[1]), (2, 0.2), "without CLIP there is no score of three");
    }

    #[test]
    fn settings_are_shown_whatever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(EVALUATION);
        assert_eq!(settings(&path).unwrap(), []);
        fs::write(&path, r#"{"b": {"c": [1, 2], "d": null}, "a": "x"}"#).unwrap();
        let expected = [("b.c", "[1,2]"), ("b.d", "–"), ("a", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(settings(&path).unwrap(), expected);
        fs::write(&path, "{").unwrap();
        assert!(format!("{:#}", settings(&path).unwrap_err()).contains("evaluation.json"));
    }
}
