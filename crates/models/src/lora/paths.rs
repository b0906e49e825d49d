//! Finds the layer's path in the part of a key before the matrices. Handles prefixes of networks and wrappers,
//! underscores in place of dots, and the original program's block names.

use super::{Format, Name, Network, ldm};

/// Prefixes of networks in paths; `None`: a wrapper that does not tell which network.
const PREFIXES: [(&str, Option<Network>); 29] = [
    ("base_model.model", None),
    ("base_model", None),
    ("model.diffusion_model", Some(Network::UNet)),
    ("diffusion_model", Some(Network::UNet)),
    ("unet", Some(Network::UNet)),
    ("text_encoder", Some(Network::TextEncoder)),
    ("text_encoder_0", Some(Network::TextEncoder)),
    ("text_encoder_1", Some(Network::TextEncoder)),
    ("text_encoder_2", Some(Network::TextEncoder2)),
    ("text_encoders.clip_l.transformer", Some(Network::TextEncoder)),
    ("text_encoders.clip_g.transformer", Some(Network::TextEncoder2)),
    ("text_encoders.clip_h.transformer", Some(Network::TextEncoder)),
    ("text_encoders.clip_l", Some(Network::TextEncoder)),
    ("text_encoders.clip_g", Some(Network::TextEncoder2)),
    ("text_encoders.clip_h", Some(Network::TextEncoder)),
    ("clip_l.transformer", Some(Network::TextEncoder)),
    ("clip_g.transformer", Some(Network::TextEncoder2)),
    ("clip_h.transformer", Some(Network::TextEncoder)),
    ("clip_l", Some(Network::TextEncoder)),
    ("clip_g", Some(Network::TextEncoder2)),
    ("clip_h", Some(Network::TextEncoder)),
    ("te", Some(Network::TextEncoder)),
    ("te1", Some(Network::TextEncoder)),
    ("te2", Some(Network::TextEncoder2)),
    ("cond_stage_model.transformer", Some(Network::TextEncoder)),
    ("conditioner.embedders.0.transformer", Some(Network::TextEncoder)),
    ("pipe", None),
    ("pipeline", None),
    ("model", None),
];

/// Words that `torch.compile`, DDP, FSDP, DeepSpeed (Lightning's) and activation checkpointing insert anywhere in a
/// path.
const WRAPPERS: [&str; 6] =
    ["_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"];

/// The layer of a stem, and the format of the file, given the format of its matrices.
///
/// # Errors
/// A short text: why the stem is not a layer.
pub fn parse(stem: &str, format: Format, layers_per_block: usize) -> Result<(Name, Format), String> {
    let (path, flat) = match stem.split_once('_') {
        Some((kind @ ("lora" | "lycoris"), rest)) if rest.contains('.') => (rest.to_owned(), Some(kind)),
        Some((kind @ ("lora" | "lycoris"), rest)) => (with_dots(rest), Some(kind)),
        _ => (stem.to_owned(), None),
    };
    let unknown = || {
        let what = if flat.is_some() { "names no network or block" } else { "names no network" };
        format!("{what} of Stable Diffusion")
    };
    let is_model = path.starts_with("base_model.");
    let (network, path) = without_prefixes(&path)?;
    if flat == Some("lora") && network.is_none() {
        return Err(unknown());
    }
    let network = network.unwrap_or(if is_text(&path) { Network::TextEncoder } else { Network::UNet });
    let is_ldm = network == Network::UNet && ldm::is_ldm(&path);
    let layer = if is_ldm { ldm::to_diffusers(&path, layers_per_block).ok_or_else(unknown)? } else { modern(&path) };
    let layer = with_prefix(network, layer);
    if !is_layer(network, &layer) {
        return Err(unknown());
    }
    let format = match (flat, format, is_ldm) {
        (Some("lycoris"), ..) => Format::Lycoris,
        (Some(_), _, true) => Format::KohyaLdm,
        (Some(_), _, false) => Format::Kohya,
        (None, Format::Kohya, true) => Format::DottedLdm,
        (None, Format::Kohya, false) if !is_model => Format::Dotted,
        (None, ..) if is_model => Format::PeftModel,
        (None, ..) => format,
    };
    Ok((Name { network, layer }, format))
}

/// Whether a stem is a layer's path with nothing before it.
pub fn is_bare(stem: &str, layers_per_block: usize) -> bool {
    let is_path = without_prefixes(stem).is_ok_and(|(network, rest)| network.is_none() && rest == stem);
    is_path && stem.contains('.') && parse(stem, Format::Peft, layers_per_block).is_ok()
}

/// The path without wrappers, and the network that the prefixes name. Prefixes may be repeated and in any order.
fn without_prefixes(path: &str) -> Result<(Option<Network>, String), String> {
    let words: Vec<&str> = path.split('.').filter(|word| !WRAPPERS.contains(word)).collect();
    let path = words.join(".");
    let (mut rest, mut network) = (path.as_str(), None);
    let longest = |rest: &str| {
        let begins = |prefix: &str| rest.strip_prefix(prefix).is_some_and(|r| r.starts_with('.'));
        PREFIXES.iter().filter(|(prefix, _)| begins(prefix)).max_by_key(|(prefix, _)| prefix.len())
    };
    while let Some((prefix, of)) = longest(rest) {
        if let (Some(one), Some(other)) = (network, of)
            && one != *other
        {
            return Err(format!("names two networks, {one} and {other}"));
        }
        network = network.or(*of);
        rest = &rest[prefix.len() + 1..];
    }
    Ok((network, rest.to_owned()))
}

/// Whether a path can only belong to a text encoder.
fn is_text(path: &str) -> bool {
    let starts = ["text_model.", "encoder.layers.", "embeddings.", "final_layer_norm", "text_projection"];
    starts.iter().any(|start| path.starts_with(start))
}

/// Whether a network of Stable Diffusion can have a layer with this path, judged by its first words; the size of the
/// network is not checked.
fn is_layer(network: Network, path: &str) -> bool {
    let words: Vec<&str> = path.split('.').collect();
    let in_block = |word: &str| matches!(word, "resnets" | "attentions" | "downsamplers" | "upsamplers");
    match (network, &words[..]) {
        (Network::UNet, ["down_blocks" | "up_blocks", _, inside, ..] | ["mid_block", inside, ..]) => in_block(inside),
        (Network::UNet, ["time_embedding" | "add_embedding", _]) => true,
        (Network::UNet, [alone]) => matches!(*alone, "conv_in" | "conv_norm_out" | "conv_out"),
        (Network::UNet, _) => false,
        (_, ["text_model", "encoder" | "embeddings" | "final_layer_norm", ..] | ["text_projection"]) => true,
        _ => false,
    }
}

/// Translates diffusers' former layer names into those of its checkpoints.
fn modern(layer: &str) -> String {
    let layer = match layer.split_once(".processor.") {
        Some((attention, "to_out")) => format!("{attention}.to_out.0"),
        Some((attention, projection)) => format!("{attention}.{projection}"),
        None => layer.to_owned(),
    };
    // projections of text encoders used to have the names of the UNet's
    match layer.split_once(".self_attn.to_") {
        Some((block, projection)) => format!("{block}.self_attn.{projection}_proj"),
        None => layer,
    }
}

/// Adds the prefix `text_model.`, which transformers 5 drops: all layers of text encoders except the projection have
/// it.
fn with_prefix(network: Network, layer: String) -> String {
    let bare = ["encoder.", "embeddings.", "final_layer_norm"].iter().any(|start| layer.starts_with(start));
    if bare && network != Network::UNet { format!("text_model.{layer}") } else { layer }
}

/// Words of paths that contain an underscore.
const COMPOUNDS: [&str; 56] = [
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "proj_in",
    "proj_out",
    "conv_in",
    "conv_norm_out",
    "conv_out",
    "conv_shortcut",
    "time_emb_proj",
    "time_embedding",
    "add_embedding",
    "linear_1",
    "linear_2",
    // text encoders
    "text_model",
    "text_projection",
    "self_attn",
    "q_proj",
    "k_proj",
    "v_proj",
    "out_proj",
    "token_embedding",
    "position_embedding",
    "layer_norm1",
    "layer_norm2",
    "final_layer_norm",
    // LDM
    "input_blocks",
    "middle_block",
    "output_blocks",
    "time_embed",
    "label_emb",
    "in_layers",
    "emb_layers",
    "out_layers",
    "skip_connection",
    // prefixes and wrappers
    "base_model",
    "diffusion_model",
    "text_encoder",
    "text_encoder_0",
    "text_encoder_1",
    "text_encoder_2",
    "text_encoders",
    "clip_l",
    "clip_g",
    "clip_h",
    "cond_stage_model",
    "_orig_mod",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "base_layer",
];

/// Restores the dots that were replaced by underscores.
fn with_dots(flat: &str) -> String {
    let (mut path, mut rest) = (String::new(), flat);
    while !rest.is_empty() {
        let at_word_end = |word: &&&str| rest.strip_prefix(**word).is_some_and(|r| r.is_empty() || r.starts_with('_'));
        let word = match COMPOUNDS.iter().filter(at_word_end).max_by_key(|word| word.len()) {
            Some(word) => word,
            None => rest.split('_').next().unwrap_or(rest),
        };
        if !path.is_empty() {
            path.push('.');
        }
        path += word;
        rest = &rest[word.len()..];
        rest = rest.strip_prefix('_').unwrap_or(rest);
    }
    path
}
