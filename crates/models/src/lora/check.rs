//! Finds problems in an adapter file, by layer name.

use super::{
    AdapterFile, Base, Delta, Format, Network,
    base::describe_width,
    file::{broken as broken_text, not_finite},
    info,
    of_network::formats,
    write::HASH,
};
use crate::{error::Result, weights::Layout};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

#[derive(Debug, PartialEq)]
pub enum Problem {
    /// It cannot be used, or does not do what it was made for.
    Error(String),
    /// It can be used, but this is rarely intended.
    Warning(String),
}

impl Problem {
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Error(text) => write!(f, "error: {text}"),
            Self::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}

/// The layers of a model's networks, each with the shape of its weight.
pub type Layers = BTreeMap<Network, Layout>;

/// Pairs of residual block and attention in a level of the UNet's down path.
pub fn layers_per_block(layers: &Layers) -> usize {
    layers.get(&Network::UNet).map_or(2, |unet| super::pairs_in_a_level(|layer| unet.contains_key(layer)))
}

/// Runs all checks. Without a model, the UNet's layers are those of the published model that the file's shapes
/// indicate, if any.
pub fn check(file: &AdapterFile, model: Option<&Layers>) -> Result<Vec<Problem>> {
    let mut all = Problems(vec![]);
    if let Some(what) = file.looks_like() {
        all.error(format!("this looks like {what}, not a LoRA of Stable Diffusion"));
    }
    all.each(&file.foreign, |(key, why)| format!("{key} {why}"));
    values(file, &mut all);
    ranks_and_alphas(file, &mut all);
    let published = || Some(Layers::from([(Network::UNet, file.base()?.unet_layers())]));
    if let Some(layers) = model {
        let lacking = file.networks().into_iter().filter(|network| !layers.contains_key(network));
        lacking.for_each(|network| all.error(format!("the model has no {network}")));
        shapes(file, layers, &mut all);
    } else if let Some(layers) = published() {
        shapes(file, &layers, &mut all);
    }
    metadata(file, &mut all)?;
    Ok(all.0)
}

struct Problems(Vec<Problem>);

impl Problems {
    /// Maximum number of messages of one kind; further ones are only counted.
    const SHOWN: usize = 5;

    fn error(&mut self, text: impl Into<String>) {
        self.0.push(Problem::Error(text.into()));
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.0.push(Problem::Warning(text.into()));
    }

    fn each<T>(&mut self, of_a_sort: &[T], text: impl Fn(&T) -> String) {
        of_a_sort.iter().take(Self::SHOWN).for_each(|one| self.error(text(one)));
        if of_a_sort.len() > Self::SHOWN {
            self.error(format!("… and {} more like the last", of_a_sort.len() - Self::SHOWN));
        }
    }
}

/// Missing parts, values that are not finite, matrices without effect.
fn values(file: &AdapterFile, all: &mut Problems) {
    let (mut broken, mut not_whole, mut zero) = (vec![], vec![], vec![]);
    for (name, entry) in &file.entries {
        for (_, piece) in entry.pieces() {
            let count = not_finite(&piece.tensor);
            if count > 0 {
                broken.push((&piece.key, count));
            }
        }
        match file.change(name) {
            Ok(change) if change.delta.as_ref().is_some_and(Delta::is_zero) && change.magnitude.is_none() => {
                zero.push(name.dotted());
            }
            Ok(_) => {}
            Err(why) => not_whole.push((name, why)),
        }
    }
    all.each(&not_whole, |(name, why)| format!("{} {why}", name.dotted()));
    all.each(&broken, |(key, count)| broken_text(key, *count));
    if let Some(text) = file.left_out() {
        all.warn(text);
    }
    if !zero.is_empty() && zero.len() == file.entries.len() {
        all.warn("all matrices are zero: it was not trained, and changes nothing");
    } else if !zero.is_empty() {
        let rest =
            if zero.len() > 1 { format!(" and those of {} more layers are", zero.len() - 1) } else { " is".into() };
        all.warn(format!("the matrix of {}{rest} zero: not trained", zero[0]));
    }
}

fn ranks_and_alphas(file: &AdapterFile, all: &mut Problems) {
    let (mut ranks, mut scales) = (BTreeSet::new(), vec![]);
    for (name, entry) in &file.entries {
        let (Some(rank), Some(alpha)) = (entry.rank(), file.alpha(name)) else { continue };
        ranks.insert(rank);
        scales.push((name, alpha, alpha / rank.max(1) as f64));
    }
    if ranks.len() > 1 {
        let ranks: Vec<String> = ranks.iter().map(i64::to_string).collect();
        all.warn(format!("its layers have different ranks: {}", ranks.join(", ")));
    }
    let odd: Vec<_> = scales.iter().filter(|(_, alpha, _)| !alpha.is_finite()).collect();
    all.each(&odd, |(name, alpha, _)| format!("{}: alpha is {alpha}", name.dotted()));
    for (what, is_odd) in [
        ("the layer does nothing", (|scale| scale == 0.0) as fn(f64) -> bool),
        ("the layer is subtracted", |scale| scale < 0.0 && scale.is_finite()),
        ("more than 16 times the rank", |scale| scale > 16.0 && scale.is_finite()),
    ] {
        let odd: Vec<_> = scales.iter().filter(|(_, _, scale)| is_odd(*scale)).collect();
        if let Some((name, alpha, _)) = odd.first() {
            let more = if odd.len() > 1 { format!("; so in {} more layers", odd.len() - 1) } else { String::new() };
            all.warn(format!("{}: alpha is {alpha}: {what}{more}", name.dotted()));
        }
    }
    if let Some(&(first, alpha, scale)) = scales.first()
        && let Some((other, other_alpha, _)) = scales.iter().find(|(_, _, s)| (s / scale - 1.0).abs() > 1e-6)
    {
        let (first, other) = (first.dotted(), other.dotted());
        all.warn(format!("alpha / rank is not the same everywhere: {first} has alpha {alpha}, {other} {other_alpha}"));
    }
}

/// Compares shapes with the layers of the known networks.
fn shapes(file: &AdapterFile, layers: &Layers, all: &mut Problems) {
    let mut unets = layers.get(&Network::UNet).into_iter().flatten();
    let model = unets.find_map(|(layer, shape)| super::base::text_width(Network::UNet, layer, shape.get(1).copied()));
    if let (Some(theirs), Some(ours)) = (file.text_width(), model)
        && theirs != ours
    {
        all.error(format!(
            "it adapts a UNet for text of width {}, the model's is for {}",
            describe_width(theirs),
            describe_width(ours)
        ));
        return; // no need to hear it of every layer
    }
    let (mut unknown, mut unfit) = (vec![], vec![]);
    for name in file.entries.keys() {
        let Some(layers) = layers.get(&name.network) else { continue };
        match (formats(name).find_map(|layer| layers.get(&layer)), file.change(name)) {
            (None, _) => unknown.push(name),
            (Some(weight), Ok(change)) => unfit.extend(change.misfit(weight).map(|why| (name, why))),
            _ => {} // said already
        }
    }
    all.each(&unknown, |name| format!("{} is no layer of the model", name.dotted()));
    all.each(&unfit, |(name, why)| format!("{}: {why}", name.dotted()));
}

/// Metadata that other programs need.
fn metadata(file: &AdapterFile, all: &mut Problems) -> Result<()> {
    if let (Some(said), Some(shown)) = (Base::of_metadata(&file.metadata), file.base())
        && said != shown
    {
        all.warn(format!("the metadata say that it is for {said}, its shapes that it is for {shown}"));
    }
    if file.formats.len() > 1 {
        let formats: Vec<String> = file.formats.iter().map(Format::to_string).collect();
        all.warn(format!("its keys are in several formats ({}); some programs read only one", formats.join("; ")));
    }
    if let Some(network) = file.networks().into_iter().find(|network| *network != Network::UNet) {
        all.warn(format!("it adapts {network} too: it can be drawn with and merged, but not be trained on"));
    }
    if let Some(hash) = file.metadata.get(HASH) {
        let (_, tensors) = info::digests(&file.path)?;
        if !hash.trim_start_matches("0x").eq_ignore_ascii_case(&tensors) {
            all.error(format!("{HASH} in its metadata is {hash}, but its tensors have {tensors}: changed or damaged"));
        }
    }
    if file.formats.iter().any(|format| format.is_kohya()) {
        let wanted = ["ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", HASH];
        let lacking: Vec<&str> = wanted.into_iter().filter(|key| !file.metadata.contains_key(*key)).collect();
        if !lacking.is_empty() {
            let text = lacking.join(", ");
            all.warn(format!("metadata that ComfyUI and A1111 show or sort by are not in it: {text}"));
        }
        let dim = file.metadata.get("ss_network_dim").and_then(|dim| dim.parse::<i64>().ok());
        let greatest = file.entries.values().filter_map(super::Entry::rank).max();
        if let (Some(dim), Some(rank)) = (dim, greatest)
            && dim != rank
        {
            all.warn(format!("ss_network_dim in its metadata is {dim}, but its rank is {rank}"));
        }
    }
    Ok(())
}
