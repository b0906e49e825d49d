//! Fine-tuning on the model's own images, on the miniature world's models.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::session::Session;
use config::Config;
use images::Image;
use indicatif::ProgressBar;
use laboratory::baselines::{Baseline, Rule, Tuned};
use models::{
    lora::Lora,
    network::Network,
    tensors::{self, Tensors},
};
use ranks::interrupt::Interrupt;
use scenes::{judge, wording::Demand};
use std::{collections::HashMap, fs, path::Path};
use tch::{Kind, Tensor};
use torch_ext::Generator;

const PROMPTS: [&str; 2] = ["a red circle", "a blue star"];

fn config(folder: &Path, settings: &[&str]) -> Config {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../weights/world").canonicalize().unwrap();
    fs::write(folder.join("prompts.txt"), PROMPTS.join("\n")).unwrap();
    let text = format!(
        "output = 'run'\nseed = 3\n[model]\npath = '{0}/sd'\ndtype = 'float32'\ndevice = 'cpu'\n[captioner]\npath = '{0}/blip'\n\
         [prompts]\ntrain = '{1}/prompts.txt'\n[sampling]\nsampler = 'ddim'\nsteps = 2\nguidance_scale = 3.0\n[replay]\ntracked = 1\n\
         [lora]\nrank = 2\n[optimizer]\nlearning_rate = 1e-3\nweight_decay = 0\n",
        weights.display(),
        folder.display()
    );
    let path = folder.join("run.toml");
    fs::write(&path, text).unwrap();
    config::read(&path, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn baseline(kind: Rule, steps: u64) -> Baseline {
    let beta = if kind == Rule::Dpo { 1000.0 } else { 0.0 };
    Baseline { kind, prompts: 2, of: 2, steps, batch: 2, beta }
}

fn train(baseline: &Baseline, config: &Config, images: &Path) -> Tuned {
    baseline.train(config, images, &ProgressBar::hidden(), &Interrupt::default()).unwrap()
}

/// Latents of four images, two of each prompt, and these rewards; an image's latents depend on its seed alone.
fn write(path: &Path, seeds: [u64; 4], rewards: [f64; 4]) -> Tensor {
    let latents =
        seeds.map(|seed| Generator::seeded(seed).unwrap().randn(&[1, 4, 16, 16]).unwrap().to_kind(Kind::Float));
    let latents = Tensor::cat(&latents, 0);
    let all = [("latents".to_owned(), latents.shallow_clone()), ("rewards".to_owned(), Tensor::from_slice(&rewards))];
    let prompts = HashMap::from([("prompts".to_owned(), serde_json::to_string(&PROMPTS).unwrap())]);
    tensors::write(path, &Tensors::from_iter(all), prompts).unwrap();
    latents
}

/// All matrices, one after the other.
fn flat(lora: &Lora) -> Tensor {
    let all: Vec<Tensor> = lora.matrices().iter().map(|matrix| matrix.detach().flatten(0, -1)).collect();
    Tensor::cat(&all, 0)
}

#[test]
fn images_are_drawn_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let baseline = baseline(Rule::RewardWeighted, 1);
    let name = baseline.images(&config).unwrap();
    assert!(name.starts_with("2x2-guidance3-seed3-"), "{name}");
    let images = folder.path().join(&name);
    let first = train(&baseline, &config, &images);
    let (drawn, written) = (tensors::read(&images).unwrap(), fs::metadata(&images).unwrap().modified().unwrap());
    assert_eq!(drawn.0["latents"].size(), [4, 4, 16, 16]);
    let rewards = Vec::<f64>::try_from(&drawn.0["rewards"]).unwrap();
    assert!(rewards.iter().all(|r| *r < 0.0) && rewards[0] != rewards[1], "{rewards:?}");
    assert_eq!(flat(&train(&baseline, &config, &images).lora), flat(&first.lora), "the same training twice");
    assert_eq!(fs::metadata(&images).unwrap().modified().unwrap(), written);
}

/// Images and rewards of other settings are not taken for these.
#[test]
fn images_have_names_by_all_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let name = |kind, setting: &[&str]| baseline(kind, 1).images(&config(folder.path(), setting)).unwrap();
    let [own, renders] = [Rule::RewardWeighted, Rule::TrueCaptions].map(|kind| name(kind, &[]));
    assert_eq!(name(Rule::Dpo, &["train.steps=9"]), own);
    for other in ["captioner.end_weight=4", "sampling.steps=3", "prompts.balance='category'", "model.clip_skip=2"] {
        assert_ne!(name(Rule::RewardWeighted, &[other]), own, "{other}");
    }
    assert_eq!(name(Rule::TrueCaptions, &["sampling.steps=3"]), renders);
}

/// Images of the worse half have no influence, those of the better half have.
#[test]
fn the_better_half_is_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let tuned = |seeds, rewards| {
        let images = folder.path().join("images.safetensors");
        let _mapped_by_nobody = fs::remove_file(&images);
        let _ = write(&images, seeds, rewards);
        train(&baseline(Rule::RewardWeighted, 3), &config, &images)
    };
    let rewards = [-0.1, -2.0, -0.3, -4.0];
    let first = tuned([1, 2, 3, 4], rewards);
    assert_eq!(flat(&tuned([1, 20, 3, 40], rewards).lora), flat(&first.lora));
    assert_ne!(flat(&tuned([10, 2, 3, 4], rewards).lora), flat(&first.lora));
    // a loss of half the weight: e^-0.1 and e^-0.3 are halved by log 2 less
    let half = tuned([1, 2, 3, 4], rewards.map(|reward| reward - 2f64.ln()));
    assert!((half.losses[0] / first.losses[0] - 0.5).abs() < 1e-5);
}

/// At first tuned and base model are the same, so the loss is log 2; then the better image's error falls below that of
/// the worse one, and an exchange of the two gives the opposite update.
#[test]
fn the_better_image_is_preferred() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let images = folder.path().join("images.safetensors");
    let latents = write(&images, [1, 2, 3, 4], [-0.1, -2.0, -4.0, -0.3]);
    let start = comat::adapter::start(&Session::open(config.clone()).unwrap()).unwrap();
    let update = |images: &Path| {
        let tuned = train(&baseline(Rule::Dpo, 1), &config, images);
        assert!((tuned.losses[0] - 2f64.ln()).abs() < 1e-6, "{:?}", tuned.losses);
        flat(&tuned.lora) - flat(&start)
    };
    let forward = update(&images);
    let other = folder.path().join("other.safetensors");
    let _ = write(&other, [1, 2, 3, 4], [-2.0, -0.1, -0.3, -4.0]);
    let backward = update(&other);
    assert!(forward.norm().double_value(&[]) > 0.01);
    assert!((&forward + &backward).norm().double_value(&[]) < 1e-3 * forward.norm().double_value(&[]));

    let tuned = train(&baseline(Rule::Dpo, 40), &config, &images);
    let mut session = Session::open(config).unwrap();
    let networks = [Some(&tuned.lora), None].map(|lora| match lora {
        Some(lora) => session.frozen(lora).unwrap(),
        None => session.pipeline.network(&session.pipeline.weights).unwrap(),
    });
    let prompts: Vec<&str> = PROMPTS.iter().flat_map(|prompt| [*prompt; 2]).collect();
    let text = session.pipeline.text.guided(&prompts, None, false, (64, 64)).unwrap();
    let pipeline = &session.pipeline;
    let errors = |network: &dyn Network, time: i64| {
        let noise = Generator::seeded(time as u64).unwrap().randn(&[1, 4, 16, 16]).unwrap();
        let noise = noise.to_kind(Kind::Float).expand_as(&latents);
        let signal = pipeline.schedule().unwrap().signal()[time as usize];
        let noisy = &latents * signal.sqrt() + &noise * (1.0 - signal).sqrt();
        let predicted = network.predict(&noisy, &Tensor::from_slice(&[time; 4]), &text.cond, None).unwrap();
        (predicted - &noise).square().mean_dim([1, 2, 3].as_slice(), false, Kind::Double)
    };
    let _guard = tch::no_grad_guard();
    let change: Tensor = (50..1000)
        .step_by(100)
        .map(|time| errors(networks[0].as_ref(), time) - errors(networks[1].as_ref(), time))
        .sum();
    let change = Vec::<f64>::try_from(change).unwrap();
    assert!(change[0] < change[1] && change[3] < change[2], "{change:?}");
}

/// Every render shows its caption, by the pixels' judge, and all of them are shown to the LoRA alike.
#[test]
fn renders_have_true_captions() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let baseline = Baseline { prompts: 24, of: 1, batch: 24, ..baseline(Rule::TrueCaptions, 1) };
    let name = baseline.images(&config).unwrap();
    assert!(name.starts_with("renders-24-seed3-"), "{name}");
    let file = folder.path().join(&name);
    let tuned = train(&baseline, &config, &file);
    let (all, metadata) = tensors::read(&file).unwrap();
    let captions: Vec<String> = serde_json::from_str(&metadata["prompts"]).unwrap();
    let images = Session::open(config.clone()).unwrap().decode(&all["latents"]).unwrap();
    let correct = |(row, caption): (usize, &String)| {
        let look = judge::look(&Image::from_tensor(&images.get(row as i64)).unwrap());
        judge::verdict(&Demand::parse(caption).unwrap(), &look).correct
    };
    let right = captions.iter().enumerate().filter(|caption| correct(*caption)).count();
    assert!(right >= 22, "{right} of 24: {captions:?}");
    assert!(captions.iter().filter(|caption| caption.contains(" and ")).count() >= 3, "{captions:?}");
    // the last half has its part in the loss: other latents there, another LoRA
    let latents = &all["latents"];
    let others = Tensor::cat(&[latents.narrow(0, 0, 12), latents.narrow(0, 0, 12)], 0);
    let tensors = [("latents".to_owned(), others), ("rewards".to_owned(), all["rewards"].shallow_clone())];
    let changed = folder.path().join("changed.safetensors");
    tensors::write(&changed, &Tensors::from_iter(tensors), metadata).unwrap();
    assert_ne!(flat(&train(&baseline, &config, &changed).lora), flat(&tuned.lora));
}

#[test]
fn a_file_of_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &[]);
    let images = folder.path().join("images.safetensors");
    tensors::write(&images, &Tensors::from_iter([("a".to_owned(), Tensor::from(1.0))]), HashMap::new()).unwrap();
    let baseline = baseline(Rule::Dpo, 1);
    let error = baseline.train(&config, &images, &ProgressBar::hidden(), &Interrupt::default()).err().unwrap();
    assert!(format!("{error:#}").contains("images.safetensors"), "{error:#}");
}
