//! `comat world render`: pictures of the miniature world, with the truth about them.

use super::{bar, category, counted};
use crate::{args::at_least_one, console::Console};
use anyhow::{Result, bail};
use clap::Args as Group;
use comat::image::Picture;
use models::Error;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{collections::BTreeSet, fs, path::PathBuf};
use world::{
    judging::write_whole,
    prompts::Category,
    render,
    scene::{SIDE, Scene},
    staging, wording,
};

/// Draw scenes: pictures, masks of their objects, captions
///
/// Writes NNNNNN.png, NNNNNN.mask-K.png for the K-th object (white where it covers a pixel) and scenes.jsonl, a line for
/// each scene: its file, what is in it, captions, masks. The same seed draws the same scenes.
#[derive(Group)]
pub struct Render {
    /// Scenes to draw
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    pub count: usize,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Scenes as prompts of a category ask for them: color, shape, texture, spatial or complex; any scenes when absent
    #[arg(long, value_name = "NAME", value_parser = category)]
    pub category: Option<Category>,
    /// Folder for the files; made when it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    pub overwrite: bool,
}

/// Captions of a scene, as far as there are so many different ones.
const CAPTIONS: usize = 4;

pub fn run(args: &Render, console: &Console) -> Result<()> {
    let list = args.out.join("scenes.jsonl");
    if list.exists() && !args.overwrite {
        bail!("{} exists already; choose another --out, or pass --overwrite", list.display());
    }
    fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    console.stop_on_ctrl_c("Stopping; files that are there are whole.");
    let bar = bar(console, "render", "scenes")?;
    bar.set_length(args.count as u64);
    let mut lines = String::new();
    for number in 0..args.count {
        // each scene has a stream of its own, so more of them do not change the first ones
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        rng.set_stream(number as u64);
        let (scene, prompt) = scene(args.category, &mut rng);
        let file = format!("{number:06}.png");
        render::picture(&scene).save(&args.out.join(&file), &[])?;
        let mut masks = vec![];
        for (k, object) in scene.objects.iter().enumerate() {
            let mask = format!("{number:06}.mask-{k}.png");
            let pixels = render::mask(object).into_iter().flat_map(|v| [(v * 255.0).round() as u8; 3]).collect();
            Picture { width: SIDE, height: SIDE, pixels }.save(&args.out.join(&mask), &[])?;
            masks.push(mask);
        }
        let mut captions: BTreeSet<String> = prompt.into_iter().collect();
        for _ in 0..CAPTIONS * 4 {
            if captions.len() < CAPTIONS {
                captions.insert(wording::caption(&scene, &mut rng));
            }
        }
        let line = json!({ "file": file, "scene": scene, "captions": captions, "masks": masks });
        lines += &format!("{line}\n");
        bar.inc(1);
        console.interrupt.check()?;
    }
    write_whole(&list, &lines)?;
    bar.finish_and_clear();
    println!("{} in {}", counted(args.count, "scene"), args.out.display());
    Ok(())
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
