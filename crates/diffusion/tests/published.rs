//! Configurations as they are published: each is read, or refused for the reason that is named here. A file of the fixture holds
//! those of one folder of the hub, by their paths in it; where a folder's name says nothing else, all that the program reads of it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use diffusion::family::{Overrides, stable_diffusion};
use models::{
    Error, blip, clip, grounding_dino, preprocess::Preprocess, sam::Segmenter, sentence::SentenceEmbedder, vae,
};
use serde_json::{Map, Value};
use std::{fs, path::Path};
use tch::{Device, Kind};

/// What reads a folder.
enum Reader {
    /// A diffusion model: scheduler, UNet, VAE, text encoders.
    Pipeline,
    Vae,
    /// BLIP that captions or answers questions.
    Blip,
    Clip,
    Detector,
    /// That complains of nothing but its missing weights.
    Segmenter,
    /// The same.
    Sentences,
}

use Reader::{Blip, Clip, Detector, Pipeline, Segmenter as Sam, Sentences, Vae};

/// Folders of the hub, and why they are refused, if they are.
const FOLDERS: [(&str, Reader, Option<&str>); 18] = [
    ("sd15", Pipeline, None),       // stable-diffusion-v1-5/stable-diffusion-v1-5
    ("sd21", Pipeline, None),       // stabilityai/stable-diffusion-2-1, of velocity prediction
    ("sdxl-base", Pipeline, None),  // stabilityai/stable-diffusion-xl-base-1.0
    ("sdxl-turbo", Pipeline, None), // stabilityai/sdxl-turbo
    (
        "lcm-dreamshaper", // SimianLuo/LCM_Dreamshaper_v7
        Pipeline,
        Some("_class_name is LatentConsistencyModelPipeline; only Stable Diffusion 1.x, 2.x and XL are supported"),
    ),
    (
        "playground25", // playgroundai/playground-v2.5-1024px-aesthetic
        Pipeline,
        Some("_class_name EDMDPMSolverMultistepScheduler is not known to have DDPM's noise; models of EDM"),
    ),
    ("sdxl-vae-fp16-fix", Vae, None),        // madebyollin/sdxl-vae-fp16-fix
    ("blip-captioning-base", Blip, None),    // Salesforce/blip-image-captioning-base
    ("blip-captioning-large", Blip, None),   // Salesforce/blip-image-captioning-large
    ("blip-vqa-base", Blip, None),           // Salesforce/blip-vqa-base
    ("sam-vit-base", Sam, None),             // facebook/sam-vit-base
    ("sam-vit-huge", Sam, None),             // facebook/sam-vit-huge
    ("grounding-dino-tiny", Detector, None), // IDEA-Research/grounding-dino-tiny
    ("grounding-dino-base", Detector, None), // IDEA-Research/grounding-dino-base
    ("clip-vit-base-patch32", Clip, None),   // openai/clip-vit-base-patch32
    ("clip-vit-large-patch14", Clip, None),  // openai/clip-vit-large-patch14
    ("mpnet-base", Sentences, None),         // microsoft/mpnet-base
    ("all-mpnet-base-v2", Sentences, None),  // sentence-transformers/all-mpnet-base-v2
];

fn published(name: &str) -> Map<String, Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/published/{name}.json"));
    serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap()
}

fn write(folder: &Path, files: &Map<String, Value>) {
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.to_string()).unwrap();
    }
}

fn read(folder: &Path, reader: &Reader) -> anyhow::Result<()> {
    let config = folder.join("config.json");
    let no_weights = |error: Option<Error>| match error.expect("there are no weights").to_string() {
        error if error.contains("model.safetensors") => Ok(()),
        error => Err(anyhow::anyhow!(error)),
    };
    match reader {
        Pipeline => drop(stable_diffusion::describe(folder, Overrides::default())?),
        Vae => drop(vae::Config::read(&config)?),
        Blip => {
            let side = blip::Config::read(&config)?.vision.image_size;
            assert_eq!(Preprocess::open(folder)?.size, Some((side, side)));
        }
        Clip => {
            let side = clip::Config::read(&config)?.vision.image_size;
            clip::CentreCrop::open(folder, side)?;
        }
        Detector => {
            grounding_dino::Config::read(&config)?;
            grounding_dino::Resize::open(folder)?;
        }
        Sam => no_weights(Segmenter::open(folder, Kind::Float, Device::Cpu).err())?,
        Sentences => no_weights(SentenceEmbedder::open(folder, Kind::Float, Device::Cpu).err())?,
    }
    Ok(())
}

#[test]
fn each_is_read_or_refused_for_its_reason() {
    models::config::be_strict(true); // no key is unknown
    for (name, reader, refused) in &FOLDERS {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &published(name));
        match (read(folder.path(), reader), refused) {
            (Ok(()), None) => {}
            (Ok(()), Some(reason)) => panic!("{name} is read, and should be refused: {reason}"),
            (Err(error), None) => panic!("{name}: {error:#}"),
            (Err(error), Some(reason)) => {
                assert!(format!("{error:#}").contains(reason), "{name} is refused, but not for its reason: {error:#}")
            }
        }
    }
}

/// What some of them mean, as their papers and cards have it.
#[test]
fn what_they_say() {
    let described = |name: &str| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &published(name));
        stable_diffusion::describe(folder.path(), Overrides::default()).unwrap()
    };
    let of = |name: &str| {
        let model = described(name);
        let [first, last] = [model.schedule.signal()[0], model.schedule.signal()[999]];
        assert!((first - 0.99915).abs() < 1e-4 && (last - 0.004660).abs() < 1e-5, "{name}: {first} {last}");
        let text: Vec<i64> = model.text.iter().map(|text| text.hidden_size).collect();
        (model.xl, model.schedule.prediction.name(), model.unet.sample_size * model.vae.downscale(), text)
    };
    assert_eq!(of("sd15"), (false, "epsilon", 512, vec![768]));
    assert_eq!(of("sd21"), (false, "v_prediction", 768, vec![1024]));
    assert_eq!(of("sdxl-base"), (true, "epsilon", 1024, vec![768, 1280]));
    assert_eq!(of("sdxl-turbo"), (true, "epsilon", 512, vec![768, 1280]));
    assert_eq!(described("sdxl-base").unet.levels.iter().map(|level| level.depth).collect::<Vec<_>>(), [1, 2, 10]);

    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &published("sdxl-vae-fp16-fix"));
    let fixed = vae::Config::read(&folder.path().join("config.json")).unwrap();
    assert_eq!((fixed.kind(Kind::Half, true), fixed.scaling_factor), (Kind::Half, 0.13025));
    assert_eq!(described("sdxl-base").vae.kind(Kind::Half, true), Kind::Float);
}

/// A latent-consistency UNet is refused also where its pipeline calls itself Stable Diffusion.
#[test]
fn a_unet_that_is_told_the_guidance() {
    let mut files = published("sd15");
    files.insert("unet/config.json".into(), published("lcm-dreamshaper")["unet/config.json"].clone());
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &files);
    let error = format!("{:#}", stable_diffusion::describe(folder.path(), Overrides::default()).err().unwrap());
    assert!(error.contains("unet/config.json: time_cond_proj_dim is 256; only null is supported"), "{error}");
}
