//! Folders as other versions of transformers and diffusers saved them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

mod common;
mod edited;

use common::{device, fixture};
use edited::{assert_error, copy};
use models::sam::Segmenter;
use tch::Kind;

/// transformers 4.29 wrote every key of its base class into every part; unknown keys are no error, and numbers may be Python's.
#[test]
fn configurations_of_other_versions() {
    let old = ["is_decoder", "tie_word_embeddings", "tie_encoder_decoder", "use_bfloat16", "output_scores"];
    let mut folder = copy(&fixture("sam"));
    for part in ["vision_config.", "mask_decoder_config.", "prompt_encoder_config.", ""] {
        for key in old {
            folder = folder.set("config.json", &format!("{part}{key}"), false.into());
        }
        folder = folder.set("config.json", &format!("{part}pruned_heads"), serde_json::json!({}));
        folder = folder.set("config.json", &format!("{part}key_of_a_newer_version"), 3.into());
    }
    Segmenter::open(folder.path(), Kind::Float, device()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let pruned = folder.set("config.json", "vision_config.pruned_heads", serde_json::json!({"0": [1]}));
    assert_error(Segmenter::open(pruned.path(), Kind::Float, device()), &["vision_config.pruned_heads"]);
    let of_python = pruned.write("config.json", &format!("\u{feff}{{\"worst\": -Infinity, {}", &text[1..]));
    assert!(Segmenter::open(of_python.path(), Kind::Float, device()).is_ok());
}

/// What diffusers' running average leaves in the configuration of a UNet and an autoencoder.
#[test]
fn of_a_running_average() {
    for (name, file) in [("unet_sd1", "config.json"), ("vae", "config.json")] {
        let mut folder = copy(&fixture(name));
        for key in ["decay", "min_decay", "inv_gamma", "power", "optimization_step"] {
            folder = folder.set(file, key, 0.5.into());
        }
        folder = folder.set(file, "use_ema_warmup", false.into());
        let path = folder.path().join(file);
        match name {
            "vae" => drop(models::vae::Config::read(&path).unwrap()),
            _ => drop(models::unet::Config::read(&path).unwrap()),
        }
    }
}
