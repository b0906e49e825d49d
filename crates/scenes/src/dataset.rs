//! Writes scenes as files: images, masks of their objects, captions.

use crate::{
    prompts::Category,
    render,
    scene::{Object, SIDE, Scene},
    staging, wording,
};
use anyhow::{Result, bail};
use images::Image;
use indicatif::ProgressBar;
use models::Error;
use models::write_text;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ranks::interrupt::Interrupt;
use serde_json::json;
use std::{collections::BTreeSet, fs, path::PathBuf};

/// Which scenes to write, and where.
pub struct Request {
    pub count: usize,
    pub seed: u64,
    /// Scenes that match prompts of this category; `None`: any scenes.
    pub category: Option<Category>,
    pub out: PathBuf,
    pub overwrite: bool,
}

/// Largest number of captions of a scene, all different.
const CAPTIONS: usize = 4;

/// Writes `NNNNNN.png`, `NNNNNN.mask-K.png` for the K-th object (white where it covers a pixel), and last `scenes.jsonl`.
pub fn write(request: &Request, bar: &ProgressBar, interrupt: &Interrupt) -> Result<()> {
    let Request { count, seed, category, out, overwrite } = request;
    let list = out.join("scenes.jsonl");
    if list.exists() && !overwrite {
        bail!("{} exists already; choose another --out, or pass --overwrite", list.display());
    }
    fs::create_dir_all(out).map_err(Error::io(out))?;
    bar.set_length(*count as u64);
    let mut lines = String::new();
    for number in 0..*count {
        // each scene has a stream of its own, so that the first ones stay the same when there are more
        let mut rng = ChaCha8Rng::seed_from_u64(*seed);
        rng.set_stream(number as u64);
        let (scene, prompt) = scene(*category, &mut rng);
        let file = format!("{number:06}.png");
        render::image(&scene).save(&out.join(&file), &[])?;
        let masks: Vec<String> = (0..scene.objects.len()).map(|k| format!("{number:06}.mask-{k}.png")).collect();
        for (object, mask) in scene.objects.iter().zip(&masks) {
            mask_image(object).save(&out.join(mask), &[])?;
        }
        let captions = captions(&scene, prompt, &mut rng);
        lines += &format!("{}\n", json!({ "file": file, "scene": scene, "captions": captions, "masks": masks }));
        bar.inc(1);
        interrupt.check()?;
    }
    Ok(write_text(&list, &lines)?)
}

/// A scene, and the prompt that it was drawn for.
fn scene(category: Option<Category>, rng: &mut impl Rng) -> (Scene, Option<String>) {
    let Some(category) = category else { return (Scene::any(rng), None) };
    loop {
        let demand = category.demand(rng);
        if let Some(scene) = staging::scene_for(&demand, rng) {
            return (scene, Some(demand.words(rng)));
        }
    }
}

/// Different captions, including the prompt.
fn captions(scene: &Scene, prompt: Option<String>, rng: &mut impl Rng) -> BTreeSet<String> {
    let mut captions: BTreeSet<String> = prompt.into_iter().collect();
    for _ in 0..CAPTIONS * 4 {
        if captions.len() < CAPTIONS {
            captions.insert(wording::caption(scene, rng));
        }
    }
    captions
}

fn mask_image(object: &Object) -> Image {
    let pixels = render::mask(object).into_iter().flat_map(|v| [(v * 255.0).round() as u8; 3]).collect();
    Image { width: SIDE, height: SIDE, pixels }
}
