//! Files that are no whole Stable Diffusion model: what they are, and what to do with them.

use super::UNET;
use crate::{
    lora::{architecture, is_adapter, no_model},
    tensors::Tensors,
};

/// Prefixes of what a whole model has beside its UNet.
const PARTS: [&str; 3] = ["first_stage_model.", "cond_stage_model.", "conditioner."];

/// What the file is instead, and what to do. `None`: it has a UNet of Stable Diffusion, or nothing that is known.
pub fn instead(all: &Tensors) -> Option<String> {
    let keys = || all.keys().map(String::as_str);
    let any = |prefix: &str| all.range(prefix.to_owned()..).next().is_some_and(|(key, _)| key.starts_with(prefix));
    if any(&format!("{UNET}input_blocks.")) {
        let is_unclip = any("noise_augmentor.") || any("embedder.model.visual.");
        return is_unclip.then(|| {
            "is a Stable unCLIP model, which draws from the embedding of an image; it cannot be used, take the model of \
             Stable Diffusion 2.1"
                .into()
        });
    }
    if let Some(what) = architecture(keys()) {
        return Some(format!("this looks like {what}; only Stable Diffusion 1.x, 2.x and XL are supported"));
    }
    if PARTS.into_iter().any(any) {
        return None;
    }
    const LORA: &str = "is a LoRA, not a model: name it with --lora (in a run's configuration with lora.init), and the \
                        model that it was made for with --model (model.path)";
    if keys().any(is_adapter) {
        return Some(LORA.into());
    }
    let what = no_model(keys())?;
    Some(format!(
        "this looks like {what}, not a whole Stable Diffusion model in one file; name such a file or a model folder"
    ))
}
