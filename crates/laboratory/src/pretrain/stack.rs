//! The folder of the miniature models: `sd/` in diffusers layout, `blip/` in transformers layout, `state/` for
//! resuming.

use super::course::Files;
use anyhow::{Context, Result, bail};
use models::Error;
use scenes::wording;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};
use tch::Device;

/// Configuration files that are written unchanged, except that vocabulary sizes are filled in.
const FILES: &[(&str, &str)] = &[
    ("sd/model_index.json", include_str!("../../stack/sd/model_index.json")),
    ("sd/unet/config.json", include_str!("../../stack/sd/unet/config.json")),
    ("sd/vae/config.json", include_str!("../../stack/sd/vae/config.json")),
    ("sd/scheduler/scheduler_config.json", include_str!("../../stack/sd/scheduler/scheduler_config.json")),
    ("sd/tokenizer/tokenizer_config.json", include_str!("../../stack/sd/tokenizer/tokenizer_config.json")),
    ("sd/tokenizer/special_tokens_map.json", include_str!("../../stack/sd/tokenizer/special_tokens_map.json")),
    ("blip/preprocessor_config.json", include_str!("../../stack/blip/preprocessor_config.json")),
    ("blip/tokenizer_config.json", include_str!("../../stack/blip/tokenizer_config.json")),
];
const TEXT_ENCODER: &str = include_str!("../../stack/sd/text_encoder/config.json");
const BLIP: &str = include_str!("../../stack/blip/config.json");

pub struct Stack {
    root: PathBuf,
    /// Device of the networks.
    pub device: Device,
}

impl Stack {
    /// Creates the folder with all its configuration files; existing weights are kept.
    pub fn create(root: &Path, device: Device) -> Result<Self> {
        let this = Self { root: root.to_owned(), device };
        for (name, text) in FILES {
            if !(*name == "sd/vae/config.json" && this.root.join(name).exists()) {
                this.write(name, text)?;
            }
        }
        let clip = clip_vocabulary();
        this.write("sd/tokenizer/vocab.json", &serde_json::to_string(&clip.ids)?)?;
        this.write("sd/tokenizer/merges.txt", &clip.merges)?;
        let words = clip.ids.len();
        let mut encoder: Value = serde_json::from_str(TEXT_ENCODER)?;
        encoder["vocab_size"] = json!(words);
        encoder["bos_token_id"] = json!(words - 2);
        encoder["eos_token_id"] = json!(words - 1);
        encoder["pad_token_id"] = json!(words - 1);
        this.write("sd/text_encoder/config.json", &serde_json::to_string_pretty(&encoder)?)?;
        let bert = bert_vocabulary();
        this.write("blip/vocab.txt", &(bert.join("\n") + "\n"))?;
        let mut blip: Value = serde_json::from_str(BLIP)?;
        blip["text_config"]["vocab_size"] = json!(bert.len());
        blip["text_config"]["bos_token_id"] = json!(bert.len() - 2); // [DEC], the same as in BLIP
        this.write("blip/config.json", &serde_json::to_string_pretty(&blip)?)?;
        Ok(this)
    }

    /// Opens an existing folder.
    pub fn open(root: &Path, device: Device) -> Result<Self> {
        let this = Self { root: root.to_owned(), device };
        for part in [this.sd("model_index.json"), this.blip().join("config.json")] {
            if !part.exists() {
                bail!("{}: not there; a stack is a folder that `comat world pretrain` made", part.display());
            }
        }
        Ok(this)
    }

    /// Copies the autoencoder of another folder, unless there is one already.
    ///
    /// # Errors
    /// The other folder has none, or it cannot be copied.
    pub fn take_autoencoder(&self, from: &Self) -> Result<()> {
        let weights = "vae/diffusion_pytorch_model.safetensors";
        if self.sd(weights).exists() {
            return Ok(());
        }
        for name in ["vae/config.json", weights] {
            let (source, target) = (from.sd(name), self.sd(name));
            models::write_whole(&target, |file| fs::copy(&source, file).map(drop).map_err(|e| Error::io(&source)(e)))?;
        }
        Ok(())
    }

    pub fn sd(&self, part: &str) -> PathBuf {
        self.root.join("sd").join(part)
    }

    pub fn blip(&self) -> PathBuf {
        self.root.join("blip")
    }

    pub fn files(&self, course: &str) -> Files {
        let folder = self.root.join("state");
        Files { state: folder.join(format!("{course}.safetensors")), log: folder.join(format!("{course}.jsonl")) }
    }

    /// Sets one value of the autoencoder's configuration.
    pub fn set_scaling_factor(&self, factor: f64) -> Result<()> {
        let path = self.sd("vae/config.json");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let mut config: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        config["scaling_factor"] = json!(factor);
        self.write("sd/vae/config.json", &serde_json::to_string_pretty(&config)?)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        let folder = path.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(fs::write(&path, text).map_err(Error::io(&path))?)
    }
}

struct ClipVocabulary {
    ids: Map<String, Value>,
    merges: String,
}

/// A byte-pair vocabulary in CLIP's format: 256 bytes, 256 bytes that end a word, the merges that make each word of
/// this world one token, and the two special tokens.
fn clip_vocabulary() -> ClipVocabulary {
    let bytes: Vec<String> = byte_letters().iter().map(char::to_string).collect();
    let mut tokens: Vec<String> = bytes.iter().cloned().chain(bytes.iter().map(|b| format!("{b}</w>"))).collect();
    let mut merges: Vec<(String, String)> = vec![];
    for word in wording::vocabulary() {
        let mut pieces = apply(&merges, word);
        while pieces.len() > 1 {
            let pair = (pieces[0].clone(), pieces[1].clone());
            let merged = format!("{}{}", pair.0, pair.1);
            tokens.push(merged);
            merges.push(pair);
            pieces = apply(&merges, word); // the new merge may apply a second time in the word
        }
    }
    tokens.extend(["<|startoftext|>".into(), "<|endoftext|>".into()]);
    let mut seen = BTreeSet::new();
    tokens.retain(|token| seen.insert(token.clone()));
    let ids = tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let lines: String = merges.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    ClipVocabulary { ids, merges: format!("#version: 0.2\n{lines}") }
}

/// The pieces of a word after the merges so far. New merges come after all others, so they never change a word that is
/// already one piece.
fn apply(merges: &[(String, String)], word: &str) -> Vec<String> {
    let mut pieces: Vec<String> = word.chars().map(String::from).collect();
    if let Some(last) = pieces.last_mut() {
        last.push_str("</w>");
    }
    loop {
        let rank = |pair: &[String]| merges.iter().position(|(a, b)| *a == pair[0] && *b == pair[1]);
        let best = pieces.windows(2).enumerate().filter_map(|(i, pair)| Some((rank(pair)?, i))).min();
        let Some((_, i)) = best else { return pieces };
        let merged = pieces[i].clone() + &pieces[i + 1];
        pieces.splice(i..i + 2, [merged]);
    }
}

/// The letter for each byte, in the order of GPT-2's vocabulary: printable bytes stand for themselves, the others are
/// letters from 256 on.
fn byte_letters() -> Vec<char> {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let stand_ins = (256..).take((0..256).filter(|b| !printable(b)).count());
    (0..256).filter(printable).chain(stand_ins).filter_map(char::from_u32).collect()
}

fn bert_vocabulary() -> Vec<&'static str> {
    let mut words = wording::vocabulary();
    words.push(",");
    words.sort_unstable();
    words.dedup();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    special.into_iter().chain(words).chain(["[DEC]", "[ENC]"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::tokenizer::{BertTokenizer, ClipTokenizer};

    #[test]
    fn every_word_is_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let stack = Stack::create(folder.path(), Device::Cpu).unwrap();
        let clip = ClipTokenizer::open(&stack.sd("tokenizer")).unwrap();
        let bert = BertTokenizer::open(&stack.blip()).unwrap();
        for word in wording::vocabulary() {
            let ids = clip.encode(word).unwrap().ids;
            assert_eq!(ids.len(), clip.max_length());
            assert!(ids[1] != ids[2] && ids[2] == ids[3], "{word}: {ids:?}");
            assert_eq!(bert.encode(word, 32).unwrap().ids.len(), 3, "{word}");
        }
    }
}
