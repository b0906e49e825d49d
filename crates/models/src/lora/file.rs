//! An adapter file, parsed as far as possible without a model.

use super::{
    Format, LowRank, Name, Network,
    base::{self, Base},
    change::Change,
    entry::Entry,
    foreign, names,
    parts::Part,
    peft::Configuration,
};
use crate::{
    error::{Error, Result},
    tensors::{self, Tensors},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};

/// The layers of an adapter file, its metadata, and the keys that are not understood.
///
/// # Example
/// Any file, of any program, without its model:
/// ```no_run
/// let file = models::lora::AdapterFile::read("style.safetensors".as_ref())?;
/// println!("of {:?}; {} keys are not understood", file.base(), file.foreign.len());
/// for (name, change) in file.changes()? {
///     println!("{}: {}", name.dotted(), change.kind());
/// }
/// # Ok::<(), models::Error>(())
/// ```
pub struct AdapterFile {
    pub path: PathBuf,
    pub metadata: HashMap<String, String>,
    pub formats: BTreeSet<Format>,
    pub entries: BTreeMap<Name, Entry>,
    /// Keys that belong to no layer, each with the reason.
    pub foreign: Vec<(String, String)>,
    /// Names of textual-inversion embeddings in the file. They are words of a tokenizer, not layers, and are left out.
    pub embeddings: BTreeSet<String>,
    /// Number of the network's own weights in a whole state with the adapter's matrices among them; they are left out.
    pub weights: usize,
    keys: Vec<String>,
    configuration: Configuration,
    /// Whether a configuration beside the file says another alpha and is not taken as its own.
    has_stranger: bool,
}

impl AdapterFile {
    /// LDM block names are read as those of a UNet with two layers per block, as in all published ones.
    ///
    /// # Errors
    /// If the file is not a complete safetensors file, or nothing in it belongs to Stable Diffusion; if the metadata,
    /// or an `adapter_config.json` beside it, cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_for(path, 2)
    }

    /// Like [`AdapterFile::read`], for a UNet with this many layers per block.
    pub fn read_for(path: &Path, layers_per_block: usize) -> Result<Self> {
        let (tensors, metadata) = tensors::read(path)?;
        // peft's own files have no metadata; files of diffusers have no such configuration beside them
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_pefts =
            name.starts_with("adapter_model") || tensors.keys().any(|key| names::is_of_pefts(key, layers_per_block));
        // before the keys are looked at: the kind of adapter explains them
        let beside = if is_pefts && Configuration::of(&metadata, path)?.is_empty() {
            Configuration::beside(path)?
        } else {
            Configuration::default()
        };
        let mut file = Self::parse(tensors, metadata, path, layers_per_block)?;
        if file.configuration.is_empty() {
            file.configuration = beside;
        }
        if file.configuration.is_empty() && file.formats.contains(&Format::Peft) {
            file.has_stranger = Configuration::beside(path).is_ok_and(|beside| file.would_scale(&beside));
        }
        Ok(file)
    }

    /// Like [`AdapterFile::read_for`], from tensors in memory; `path` is the file to name in errors.
    pub fn parse(
        tensors: Tensors,
        metadata: HashMap<String, String>,
        path: &Path,
        layers_per_block: usize,
    ) -> Result<Self> {
        if tensors.is_empty() {
            return Err(Error::file(path, "holds no tensors"));
        }
        let configuration = Configuration::of(&metadata, path)?;
        let mut file = Self {
            path: path.to_owned(),
            metadata,
            formats: BTreeSet::new(),
            entries: BTreeMap::new(),
            foreign: vec![],
            embeddings: BTreeSet::new(),
            weights: 0,
            keys: tensors.keys().cloned().collect(),
            configuration,
            has_stranger: false,
        };
        // peft itself never writes the weight beside which it trains; a whole state has it
        let is_state = file.keys.iter().any(|key| key.ends_with(".base_layer.weight"));
        let mut adapters = BTreeMap::new();
        for (key, tensor) in tensors {
            if let Some(rest) = key.strip_prefix("bundle_emb.") {
                file.embeddings.insert(embedding(rest).to_owned());
            } else if let Err(why) = file.take(&key, tensor, layers_per_block, &mut adapters) {
                if is_state && names::is_weight(&key, layers_per_block) {
                    file.weights += 1;
                } else {
                    file.foreign.push((key, why));
                }
            }
        }
        if file.entries.is_empty() {
            return Err(Error::file(path, file.nothing_fits()));
        }
        Ok(file)
    }

    fn take(
        &mut self,
        key: &str,
        tensor: Tensor,
        layers_per_block: usize,
        adapters: &mut BTreeMap<Network, String>,
    ) -> Result<(), String> {
        let parsed = names::parse(key, layers_per_block)?;
        if let Some(adapter) = parsed.adapter {
            let first = adapters.entry(parsed.name.network).or_insert_with(|| adapter.clone());
            if *first != adapter {
                return Err(format!(
                    "belongs to an adapter `{adapter}`, others to `{first}`: a file can have only one"
                ));
            }
        }
        if !parsed.part.is_number() {
            self.formats.insert(parsed.format);
        }
        self.entries.entry(parsed.name).or_default().add(parsed.part, key.to_owned(), tensor).map_err(Into::into)
    }

    /// Why no layer of a file was understood, in words.
    fn nothing_fits(&self) -> String {
        let keys = foreign::first_keys(self.keys());
        let like = match foreign::kind(self.keys()) {
            Some(what) => format!("this looks like {what}"),
            None => "it is nothing that is known here".into(),
        };
        let why = match self.foreign.first() {
            Some((key, why)) if foreign::kind(self.keys()).is_none() => format!("; {key} {why}"),
            _ => String::new(),
        };
        let none =
            if self.keys.len() == 1 { "its only key".into() } else { format!("none of its {} keys", self.keys.len()) };
        let is = if self.keys.len() == 1 { "is not" } else { "is" };
        format!("{none} {is} of a LoRA for a UNet or text encoder of Stable Diffusion ({keys}): {like}{why}")
    }

    /// The other architecture that the keys which are not understood are of, if they show one. Such LoRAs may adapt a
    /// text encoder that Stable Diffusion has too, so that some of their keys are.
    pub fn looks_like(&self) -> Option<&'static str> {
        foreign::architecture(self.foreign.iter().map(|(key, _)| key.as_str()))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Scale of a layer's matrices: alpha / rank, from the layer itself or from the configuration; without either, 1.
    ///
    /// # Errors
    /// If the rank differs from the configuration's.
    pub fn scale(&self, name: &Name) -> Result<f64, String> {
        let Some(entry) = self.entries.get(name).filter(|entry| entry.is_scaled()) else { return Ok(1.0) };
        let configured = self.configuration.scale(name, entry.rank())?;
        Ok(match (entry.alpha, entry.rank()) {
            (Some(alpha), Some(rank)) => alpha / rank as f64,
            (Some(_), None) => 1.0, // LyCORIS: two whole matrices are not scaled
            (None, _) => configured.unwrap_or(1.0),
        })
    }

    /// Whether a configuration would give a layer another scale than 1.
    fn would_scale(&self, other: &Configuration) -> bool {
        let scale = |(name, entry): (&Name, &Entry)| other.scale(name, entry.rank()).ok().flatten();
        self.entries.iter().filter(|(_, entry)| entry.alpha.is_none()).filter_map(scale).any(|scale| scale != 1.0)
    }

    /// Whether alpha is missing for all layers, in a format that has it in a file beside or in the metadata.
    pub fn lacks_configuration(&self) -> bool {
        self.configuration.is_empty()
            && (self.formats.contains(&Format::PeftModel) || self.weights > 0)
            && self.entries.values().all(|entry| entry.alpha.is_none())
    }

    /// Alpha of a layer: the file's own value, that of the configuration, else the rank. `None`: the file does not have the
    /// layer, the layer is a full difference, or it has no alpha of its own and no rank that fits the configuration.
    pub fn alpha(&self, name: &Name) -> Option<f64> {
        let entry = self.entries.get(name).filter(|entry| entry.is_scaled())?;
        // not scale × rank, which need not be alpha again
        let configured =
            |rank| self.configuration.alpha(name, Some(rank)).ok().map(|alpha| alpha.unwrap_or(rank as f64));
        entry.alpha.or_else(|| configured(entry.rank()?))
    }

    /// The change of a layer.
    ///
    /// # Errors
    /// Why it is not known, in a few words.
    pub fn change(&self, name: &Name) -> Result<Change, String> {
        let entry = self.entries.get(name).ok_or("is not in the file")?;
        let mut change = entry.change(self.scale(name)?)?;
        if change.magnitude.is_none() && self.configuration.is_dora(name.network) && !self.has_norms(name.network) {
            return Err(
                "has no norms, but use_dora in its configuration says that it is a DoRA: save it anew with all \
                        of its tensors, or set use_dora to false if it is an ordinary LoRA"
                    .into(),
            );
        }
        if let (Some(super::Delta::LowRank(pair)), Some(alpha), None) =
            (&mut change.delta, self.alpha(name), entry.scalar)
        {
            pair.alpha = alpha; // the very number of the file
        }
        Ok(change)
    }

    /// Whether a layer of the network has the norms of a DoRA.
    fn has_norms(&self, network: Network) -> bool {
        let is_norms = |part| matches!(part, Part::Magnitude | Part::DoraScale);
        let mut entries = self.entries.iter().filter(|(name, _)| name.network == network);
        entries.any(|(_, entry)| entry.pieces().any(|(part, _)| is_norms(part)))
    }

    /// The changes of all layers; values in the file's own precision.
    ///
    /// # Errors
    /// The first key that is not understood, or layer that is incomplete, by name.
    pub fn changes(&self) -> Result<BTreeMap<Name, Change>> {
        if let Some((key, why)) = self.foreign.first() {
            let like = self.looks_like().map_or(String::new(), |what| format!("this looks like {what}: "));
            return Err(Error::file(&self.path, format!("{like}{key} {why}")));
        }
        let whole = |name: &Name| match self.change(name) {
            Ok(change) => Ok((name.clone(), change)),
            Err(why) => Err(Error::file(&self.path, format!("{} {why}", name.dotted()))),
        };
        self.entries.keys().map(whole).collect()
    }

    /// Like [`AdapterFile::changes`], for a file that contains only low-rank pairs.
    ///
    /// # Errors
    /// The same as [`AdapterFile::changes`]; also, naming the layer, if it has anything but a low-rank pair.
    pub fn pairs(&self) -> Result<BTreeMap<Name, LowRank>> {
        let pair = |(name, change): (Name, Change)| match change.plain() {
            Some(pair) => Ok((name, pair.shallow_clone())),
            None => Err(Error::file(&self.path, format!("{} has a {}", name.dotted(), change.kind()))),
        };
        self.changes()?.into_iter().map(pair).collect()
    }

    /// # Errors
    /// If values of a tensor of that network are NaN or infinite, by its key; if an alpha is not a number.
    pub fn check_finite(&self, network: Network) -> Result<()> {
        for (name, entry) in self.entries.iter().filter(|(name, _)| name.network == network) {
            for (_, piece) in entry.pieces() {
                let count = not_finite(&piece.tensor);
                if count > 0 {
                    let message = broken(&piece.key, count);
                    return Err(Error::file(&self.path, message));
                }
            }
            let numbers = [("alpha", entry.alpha), ("scalar", entry.scalar), ("scale", self.scale(name).ok())];
            if let Some((what, Some(number))) = numbers.into_iter().find(|(_, n)| n.is_some_and(|n| !n.is_finite())) {
                return Err(Error::file(&self.path, format!("the {what} of {} is {number}", name.dotted())));
            }
        }
        Ok(())
    }

    pub fn networks(&self) -> BTreeSet<Network> {
        self.entries.keys().map(|name| name.network).collect()
    }

    /// Text width of the UNet's layers, if they agree.
    pub fn text_width(&self) -> Option<i64> {
        let width = |(name, entry): (&Name, &Entry)| base::text_width(name.network, &name.layer, entry.inputs());
        let widths: BTreeSet<i64> = self.entries.iter().filter_map(width).collect();
        if widths.len() == 1 { widths.first().copied() } else { None }
    }

    /// The base model by the shapes, or by the metadata if the shapes do not tell.
    pub fn base(&self) -> Option<Base> {
        match self.text_width() {
            Some(width) => Base::of_text_width(width),
            None => Base::of_metadata(&self.metadata),
        }
    }

    /// Precisions of the matrices.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![];
        for kind in self.entries.values().flat_map(Entry::tensors).map(Tensor::kind) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// Message about what is left out or missing: embeddings, weights of a whole state, alpha, a configuration that is not the
    /// file's own.
    pub fn left_out(&self) -> Option<String> {
        let mut all = vec![];
        if !self.embeddings.is_empty() {
            let names: Vec<&str> = self.embeddings.iter().map(String::as_str).collect();
            all.push(format!(
                "the textual-inversion embeddings in it are left out ({}): prompts with these words draw without them",
                names.join(", ")
            ));
        }
        if self.weights > 0 {
            let alpha =
                if self.lacks_configuration() { ", and alpha, which it does not have, is the rank" } else { "" };
            all.push(format!(
                "it is a whole training state: its {} tensors of the network itself are left out, only the LoRA in it is read{alpha}",
                self.weights
            ));
        }
        if self.weights == 0 && self.lacks_configuration() {
            all.push(
                "alpha is not known, as no adapter_config.json is beside it and its metadata have none: it is taken as the rank"
                    .into(),
            );
        }
        if self.has_stranger {
            all.push(
                "the adapter_config.json beside it is not taken, since its keys are of diffusers' format, where alpha is the \
                 rank; if it is this file's, call the file adapter_model.safetensors"
                    .into(),
            );
        }
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Message that values of a tensor are NaN or infinite.
pub fn broken(key: &str, count: i64) -> String {
    let values = if count == 1 { "1 value of".into() } else { format!("{count} values of") };
    format!("{values} {key} {} NaN or infinite", if count == 1 { "is" } else { "are" })
}

/// Number of values that are NaN or infinite.
pub fn not_finite(tensor: &Tensor) -> i64 {
    tensor.isfinite().logical_not().count_nonzero(None).int64_value(&[])
}

/// The name of a bundled embedding: in its key the text encoder follows, or the key of the embedding's own file.
fn embedding(rest: &str) -> &str {
    let inside = [".string_to_param", ".clip_l", ".clip_g", ".t5", ".emb_params"];
    inside.iter().filter_map(|end| rest.find(end)).min().map_or(rest, |at| &rest[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_embeddings() {
        for key in ["my.word.clip_l", "my.word.clip_g_out", "my.word.string_to_param.*", "my.word"] {
            assert_eq!(embedding(key), "my.word", "{key}");
        }
    }
}
