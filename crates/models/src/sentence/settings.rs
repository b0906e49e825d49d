use crate::{
    config::Json,
    error::{Error, Result},
    text,
};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The settings that sentence-transformers writes beside a network: the steps from tokens to an embedding.
pub struct Settings {
    /// Folder of the network.
    pub network: PathBuf,
    /// Maximum number of tokens, if the files give it.
    pub max_length: Option<usize>,
    pooling: Option<(PathBuf, i64)>,
}

/// A step in `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    /// The class, for example `sentence_transformers.models.Pooling`.
    r#type: String,
}

impl Settings {
    /// Reads the settings. A folder without `modules.json` is a network alone; the usual steps follow it: mean pooling,
    /// and scaling to length 1.
    pub fn read(folder: &Path) -> Result<Self> {
        let (path, mut settings) = (folder.join("modules.json"), Self::alone(folder)?);
        if !path.exists() {
            return Ok(settings);
        }
        let text = text::read(&path)?;
        let modules: Vec<Module> = serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
        let steps: Vec<&str> = modules.iter().map(|m| m.r#type.rsplit('.').next().unwrap_or_default()).collect();
        // Without the last step, upstream's embeddings have other lengths; the cosine does not depend on them.
        if !matches!(steps[..], ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]) {
            let message = format!("has the steps {steps:?}; only Transformer, Pooling and Normalize are supported");
            return Err(Error::file(&path, message));
        }
        if let [network, pooling, ..] = &modules[..] {
            settings = Self::alone(&folder.join(&network.path))?;
            settings.pooling = Some(pooling_of(&folder.join(&pooling.path))?);
        }
        Ok(settings)
    }

    fn alone(folder: &Path) -> Result<Self> {
        let path = folder.join("sentence_bert_config.json");
        let mut max_length = None;
        if path.exists() {
            let json = Json::read(&path)?;
            max_length = json.maybe::<usize>("max_seq_length")?;
            if max_length.is_some_and(|length| length < 2) {
                return Err(
                    json.error("max_seq_length", "leaves no space for the start and end tokens; it must be at least 2")
                );
            }
            json.only("do_lower_case", false)?; // the tokenizer's own setting counts
            json.finish()?;
        }
        Ok(Self { network: folder.to_owned(), max_length, pooling: None })
    }

    pub fn check_width(&self, hidden_size: i64) -> Result<()> {
        match &self.pooling {
            Some((path, width)) if *width != hidden_size => {
                Err(Error::file(path, format!("word_embedding_dimension is {width}, but hidden_size is {hidden_size}")))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses any pooling except the mean, and returns the width that the file expects.
fn pooling_of(folder: &Path) -> Result<(PathBuf, i64)> {
    let path = folder.join("config.json");
    let json = Json::read(&path)?;
    let width = json.get("word_embedding_dimension")?;
    json.only("pooling_mode_mean_tokens", true)?;
    for mode in ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"] {
        json.only(&format!("pooling_mode_{mode}"), false)?;
    }
    json.ignore(&["include_prompt"]); // about instructions before a text, which are not used here
    json.finish()?;
    Ok((path, width))
}
