//! Reward: the cosine between image and prompt in CLIP's space, -1 to 1.

use super::PerImage;
use anyhow::Result;
use diffusion::resident::Resident;
use models::clip::ClipScore;
use std::path::Path;
use tch::{Device, Kind};

/// Opens a CLIP from a folder in transformers layout.
///
/// # Errors
/// The folder is missing, or holds another network.
pub fn open(name: &str, folder: &Path, kind: Kind, device: Device) -> Result<PerImage<ClipScore>> {
    let folder = folder.to_owned();
    let network = Resident::open(move || Ok(ClipScore::open(&folder, kind, device)?))?;
    Ok(PerImage::new(name, network, |clip, images, prompts| Ok(clip.similarities(images, prompts)?), kind))
}
