//! Selects the files of a repository that this program needs: no pickles, no weights of other frameworks, one variant.

use crate::{Id, adapters::adapter};

/// Folder layout of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// diffusers': `model_index.json` and a folder for every part.
    Diffusion,
    /// transformers': `config.json` and `model.safetensors`, with a tokenizer if the network reads text.
    Network { tokenizer: bool },
    /// Only the tokenizer of either.
    Tokenizer,
    /// A LoRA, in one file.
    Adapter,
}

/// What a list of files lacks to be a model.
#[derive(Debug, PartialEq)]
pub(crate) enum Lack {
    /// The missing file, or its possible names.
    File(String),
    /// Where weights are missing, and the pickle that is there instead.
    Weights { stem: String, pickle: Option<String> },
    /// No part has weights of the wanted variant; `known` are the existing variants.
    Variant { wanted: String, known: Vec<String> },
    /// No file that can be taken for the adapter, in words.
    Adapter(String),
}

impl Lack {
    pub fn on_the_hub(&self, page: &str) -> String {
        match self {
            Self::File(file) => {
                format!("this repository has no {file}, so it is not of the layout that is needed here; see {page}")
            }
            Self::Weights { stem, pickle: Some(pickle) } => {
                format!(
                    "this repository has {pickle} but no {stem}.safetensors; pickles can run code and are not read: look for another revision or model with safetensors ({page})"
                )
            }
            Self::Weights { stem, pickle: None } => {
                format!("this repository has no {stem}.safetensors; see {page} for what it has")
            }
            Self::Variant { .. } => self.variant(),
            Self::Adapter(why) => format!("this repository {why}; see {page}"),
        }
    }

    pub fn in_the_cache(&self, folder: &std::path::Path) -> String {
        let folder = folder.display();
        match self {
            Self::File(file) => format!("{file} is missing in {folder}"),
            Self::Weights { stem, .. } => format!("{stem}.safetensors is missing in {folder}"),
            Self::Variant { .. } => format!("{} in {folder}", self.variant()),
            Self::Adapter(why) => format!("{folder} {why}"),
        }
    }

    fn variant(&self) -> String {
        let Self::Variant { wanted, known } = self else { return String::new() };
        match &known[..] {
            [] => format!("there are no weights of variant {wanted}, only the plain ones"),
            _ => format!("there are no weights of variant {wanted}; there are {}, or the plain ones", known.join(", ")),
        }
    }
}

/// Files that a tokenizer may have; it needs `tokenizer.json`, or a vocabulary.
const TOKENIZER: [&str; 7] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Image preprocessing settings of a network.
const IMAGES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// The files to use for an id, from a list of files. `strictly`: as in [`select`].
pub(crate) fn of_id<'a>(files: &[&'a str], layout: Layout, id: &Id, strictly: bool) -> Result<Vec<&'a str>, Lack> {
    if layout != Layout::Adapter {
        return select(files, layout, id.variant.as_deref(), strictly);
    }
    let adapter = adapter(files, id.file.as_deref()).map_err(Lack::Adapter)?;
    let folder = adapter.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let configuration = format!("{folder}adapter_config.json");
    Ok([adapter].into_iter().chain(files.iter().copied().filter(|file| *file == configuration)).collect())
}

/// The needed files, from a list of files.
///
/// One variant of each part's weights: the one asked for, otherwise the plain one, otherwise fp16. `strictly`: only the
/// first choice.
pub(crate) fn select<'a>(
    files: &[&'a str],
    layout: Layout,
    variant: Option<&str>,
    strictly: bool,
) -> Result<Vec<&'a str>, Lack> {
    let mut selection = Selection { files, variant, strictly, wanted: vec![], has_variant: false };
    match layout {
        Layout::Diffusion => {
            selection.file("model_index.json")?;
            for (part, stem) in [
                ("unet", "diffusion_pytorch_model"),
                ("vae", "diffusion_pytorch_model"),
                ("text_encoder", "model"),
                ("text_encoder_2", "model"),
            ] {
                if part == "text_encoder_2" && !selection.any(&format!("{part}/")) {
                    continue; // SDXL's alone
                }
                selection.file(&format!("{part}/config.json"))?;
                selection.weights(&format!("{part}/{stem}"))?;
                if let Some(number) = part.strip_prefix("text_encoder") {
                    selection.tokenizer(&format!("tokenizer{number}/"))?;
                }
            }
            selection.file("scheduler/scheduler_config.json")?;
        }
        Layout::Network { tokenizer } => {
            selection.file("config.json")?;
            selection.weights("model")?;
            if tokenizer {
                selection.tokenizer("")?;
            }
            IMAGES.iter().for_each(|name| selection.take(name));
        }
        Layout::Tokenizer => selection.tokenizer("")?,
        Layout::Adapter => {} // [`of_id`]
    }
    match variant {
        Some(wanted) if !selection.has_variant && layout != Layout::Tokenizer => {
            Err(Lack::Variant { wanted: wanted.into(), known: selection.variants() })
        }
        _ => Ok(selection.wanted),
    }
}

struct Selection<'a, 'f> {
    files: &'f [&'a str],
    variant: Option<&'f str>,
    strictly: bool,
    wanted: Vec<&'a str>,
    has_variant: bool,
}

impl Selection<'_, '_> {
    fn any(&self, start: &str) -> bool {
        self.files.iter().any(|file| file.starts_with(start))
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains(&name)
    }

    fn take(&mut self, name: &str) {
        self.wanted.extend(self.files.iter().find(|file| **file == name));
    }

    fn file(&mut self, name: &str) -> Result<(), Lack> {
        if !self.has(name) {
            return Err(Lack::File(name.into()));
        }
        self.take(name);
        Ok(())
    }

    fn tokenizer(&mut self, folder: &str) -> Result<(), Lack> {
        let has = |name: &str| self.has(&format!("{folder}{name}"));
        if !(has("tokenizer.json") || has("vocab.txt") || (has("vocab.json") && has("merges.txt"))) {
            return Err(Lack::File(format!("{folder}tokenizer.json (or vocabulary)")));
        }
        TOKENIZER.iter().for_each(|name| self.take(&format!("{folder}{name}")));
        Ok(())
    }

    fn weights(&mut self, stem: &str) -> Result<(), Lack> {
        let mut choices = vec![self.variant];
        if !self.strictly {
            choices.extend([None, Some("fp16")]);
        }
        for choice in choices {
            if let Some(files) = self.weights_of(stem, choice) {
                self.has_variant |= choice.is_some() && choice == self.variant;
                self.wanted.extend(files);
                return Ok(());
            }
        }
        let folder = stem.rsplit_once('/').map_or("", |(folder, _)| folder);
        let pickle = self.files.iter().find(|file| {
            let here = file.rsplit_once('/').map_or("", |(f, _)| f) == folder;
            here && [".bin", ".ckpt", ".pt"].iter().any(|end| file.ends_with(end))
        });
        Err(Lack::Weights { stem: stem.into(), pickle: pickle.map(|file| file.to_string()) })
    }
}

impl<'a> Selection<'a, '_> {
    /// The single weight file, or an index with all of its parts.
    fn weights_of(&self, stem: &str, variant: Option<&str>) -> Option<Vec<&'a str>> {
        let find = |name: String| self.files.iter().copied().find(|file| *file == name);
        let dotted = variant.map(|v| format!(".{v}")).unwrap_or_default();
        if let Some(whole) = find(format!("{stem}{dotted}.safetensors")) {
            return Some(vec![whole]);
        }
        // diffusers puts the variant into one of two places
        let index = find(format!("{stem}{dotted}.safetensors.index.json"))
            .or_else(|| find(format!("{stem}.safetensors.index{dotted}.json")))?;
        let mut total = None;
        let mut parts: Vec<&str> = vec![];
        for file in self.files.iter().copied() {
            let Some(rest) = file.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors")) else {
                continue;
            };
            let numbers = match rest.strip_prefix(&dotted).and_then(|r| r.strip_prefix('-')) {
                Some(numbers) => numbers,
                None => match rest.strip_suffix(&dotted).and_then(|r| r.strip_prefix('-')) {
                    Some(numbers) => numbers,
                    None => continue,
                },
            };
            let Some((number, of)) = numbers.split_once("-of-") else { continue };
            if let (Ok(_), Ok(of)) = (number.parse::<usize>(), of.parse::<usize>()) {
                total = Some(of);
                parts.push(file);
            }
        }
        (total == Some(parts.len())).then(|| [vec![index], parts].concat())
    }

    /// The variants that some part has weights of.
    fn variants(&self) -> Vec<String> {
        let mut found: Vec<String> = vec![];
        for file in self.files {
            let name = file.rsplit('/').next().unwrap_or(file);
            let stem = ["diffusion_pytorch_model.", "model."].iter().find_map(|stem| name.strip_prefix(stem));
            let Some(variant) = stem.and_then(|rest| rest.strip_suffix(".safetensors")) else { continue };
            let variant = variant.split('-').next().unwrap_or(variant);
            if !variant.contains('.') && !found.iter().any(|known| known == variant) {
                found.push(variant.to_owned());
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SD: [&str; 26] = [
        "README.md",
        "v1-5.safetensors",
        "v1-5.ckpt",
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_flax_model.msgpack",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae_1_0/config.json",
    ];

    fn weights<'a>(files: &[&'a str], variant: Option<&str>) -> Vec<&'a str> {
        let all = select(files, Layout::Diffusion, variant, false).unwrap();
        all.into_iter().filter(|file| file.ends_with(".safetensors")).collect()
    }

    #[test]
    fn only_what_is_read() {
        let plain = select(&SD, Layout::Diffusion, None, false).unwrap();
        assert_eq!(plain.len(), 12, "{plain:?}");
        assert!(plain.iter().all(|file| !file.contains("safety") && !file.ends_with(".bin")), "{plain:?}");
        let all = "diffusion_pytorch_model.safetensors";
        assert_eq!(
            weights(&SD, None),
            [&format!("unet/{all}"), &format!("vae/{all}"), "text_encoder/model.safetensors"]
        );
    }

    #[test]
    fn a_variant_where_there_is_one() {
        let half = "diffusion_pytorch_model.fp16.safetensors";
        assert_eq!(
            weights(&SD, Some("fp16")),
            [&format!("unet/{half}"), &format!("vae/{half}"), "text_encoder/model.safetensors"]
        );
        let lack = select(&SD, Layout::Diffusion, Some("fp61"), false).unwrap_err().on_the_hub("");
        assert_eq!(lack, "there are no weights of variant fp61; there are fp16, non_ema, or the plain ones");
        assert!(select(&SD, Layout::Diffusion, Some("fp16"), true).is_err(), "the text encoder has none");
    }

    #[test]
    fn without_plain_weights_fp16_is_taken() {
        let files = ["config.json", "model.fp16.safetensors"];
        let network = Layout::Network { tokenizer: false };
        assert_eq!(select(&files, network, None, false).unwrap(), files);
        assert!(select(&files, network, None, true).is_err());
    }

    #[test]
    fn weights_in_parts_are_there_with_all_of_them() {
        let network = Layout::Network { tokenizer: false };
        for (index, first, second) in [
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            (
                "model.fp16.safetensors.index.json",
                "model.fp16-00001-of-00002.safetensors",
                "model.fp16-00002-of-00002.safetensors",
            ),
            (
                "model.safetensors.index.fp16.json",
                "model-00001-of-00002.fp16.safetensors",
                "model-00002-of-00002.fp16.safetensors",
            ),
        ] {
            let files = ["config.json", index, first, second];
            assert_eq!(select(&files, network, None, false).unwrap(), files);
            let lack = select(&files[..3], network, None, false).unwrap_err();
            assert_eq!(lack, Lack::Weights { stem: "model".into(), pickle: None });
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |name: &str| SD.iter().copied().filter(|file| *file != name).collect::<Vec<_>>();
        let lack = |name| select(&without(name), Layout::Diffusion, None, false).unwrap_err().on_the_hub("PAGE");
        assert!(lack("model_index.json").contains("no model_index.json"));
        assert!(lack("tokenizer/merges.txt").contains("no tokenizer/tokenizer.json"));
        let pickled = lack("text_encoder/model.safetensors");
        assert!(pickled.contains("text_encoder/pytorch_model.bin but no text_encoder/model.safetensors"), "{pickled}");
    }

    #[test]
    fn a_network_with_its_tokenizer() {
        let files = [
            "README.md",
            "config.json",
            "merges.txt",
            "model.safetensors",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "vocab.json",
        ];
        let all = select(&files, Layout::Network { tokenizer: true }, None, false).unwrap();
        assert_eq!(all, ["config.json", "model.safetensors", "vocab.json", "merges.txt", "preprocessor_config.json"]);
        assert_eq!(select(&files, Layout::Tokenizer, Some("fp16"), false).unwrap(), ["vocab.json", "merges.txt"]);
        assert!(select(&files[..6], Layout::Network { tokenizer: true }, None, false).is_err());
    }
}
