//! The examples do what they say: that of docs/extending.md, and those for who uses the crates as a library.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

#[allow(dead_code)]
#[path = "../examples/red_reward.rs"]
mod red_reward;

#[allow(dead_code)]
#[path = "../examples/draw_and_score.rs"]
mod draw_and_score;

#[allow(dead_code)]
#[path = "../examples/exact_gradient.rs"]
mod exact_gradient;

#[allow(dead_code)]
#[path = "../examples/read_lora.rs"]
mod read_lora;

use comat::{
    reward::{ImageReward, Seen},
    share::Share,
};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::{device, device_name};

#[test]
fn red_images_are_rewarded() {
    let reward = red_reward::reward().unwrap();
    let color = |rgb: [f64; 3]| Tensor::from_slice(&rgb).view([3, 1, 1]).expand([3, 4, 6], false);
    let images = Tensor::stack(&[color([1.0, 0.0, 0.0]), color([0.0, 0.5, 1.0])], 0).to_device(device());
    assert_eq!(reward.values(&images, &["a dog", "a cat"]).unwrap(), [1.0, -0.75]);
    let share = Share::whole(&["a dog", "a cat"]);
    let gradient = reward.gradient(&Seen { images: &images, share: &share, crops: &[(0, 0); 2] }).unwrap();
    assert_eq!((gradient.reward, gradient.loss), (0.125, -0.125));
    let up = |channel| gradient.cotangent.select(1, channel).sum(Kind::Double).double_value(&[]) < 0.0;
    assert_eq!([0, 1, 2].map(up), [true, false, false], "less loss is more red");
    assert!(reward.values(&images, &["a dog"]).unwrap_err().to_string().contains("reward red: 2 images for 1 prompts"));
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures")
}

/// A run of two steps on tiny networks.
fn configuration(folder: &Path) -> PathBuf {
    let (file, prompts) = (folder.join("run.toml"), folder.join("prompts.txt"));
    std::fs::write(&prompts, "a red dog\na blue cat\n").unwrap();
    let text = format!(
        "output = '{0}/out'\n[model]\npath = '{1}/pipeline_sd1'\ndevice = '{2}'\ndeterministic = true\n[captioner]\npath = '{1}/blip'\n\
         micro_batch = 0\n[prompts]\ntrain = '{0}/prompts.txt'\n[sampling]\nsteps = 4\n[replay]\ntracked = 2\nmicro_batch = 0\n\
         [lora]\nrank = 2\n[train]\nsteps = 2\nbatch_size = 2\n[samples]\ncount = 0\n",
        folder.display(),
        fixtures().display(),
        device_name(),
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_run_with_a_reward_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(folder.path());
    red_reward::train(&file, &[], 2.0).unwrap();
    let events = std::fs::read_to_string(folder.path().join("out/events.jsonl")).unwrap();
    let steps: Vec<serde_json::Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rewards = steps.iter().filter(|event| event["event"] == "step").map(|step| step["reward_red"].as_f64());
    assert_eq!(rewards.flatten().count(), 2);
}

#[test]
fn every_matrix_has_a_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let config = || config::read(&configuration(folder.path()), &[]).unwrap();
    let (outcome, gradients) = exact_gradient::gradient(config(), &["a red dog", "a blue cat"]).unwrap();
    assert!(outcome.caption_loss > 0.0);
    assert!(gradients.iter().all(|(key, _)| key.contains(".lora_A.") || key.contains(".lora_B.")));
    // the way up is zero at the start, so that nothing comes to the way down
    let norm = |(key, gradient): &(String, Tensor)| (key.contains(".lora_B."), gradient.norm().double_value(&[]) > 0.0);
    assert!(gradients.iter().map(norm).all(|(is_up, moves)| is_up == moves));
    let (_, again) = exact_gradient::gradient(config(), &["a red dog", "a blue cat"]).unwrap();
    assert_eq!(gradients, again, "no chance but that of the seed");
}

#[test]
fn files_of_any_program_are_read() {
    let lines = |file: &str| read_lora::lines(&fixtures().join(file)).unwrap();
    let kohya = lines("lora/kohya.safetensors");
    assert!(kohya.iter().all(|line| line.starts_with("unet.") && line.contains(" LoRA of rank ")), "{kohya:?}");
    assert_eq!(kohya, lines("lora/diffusers.safetensors"));
    assert!(lines("adapter_kinds/loha.safetensors").iter().all(|line| line.ends_with(" LoHa")));
}

#[test]
fn candidates_are_ranked_by_the_captioner() {
    let (model, captioner) = (fixtures().join("pipeline_sd1"), fixtures().join("blip"));
    let networks = draw_and_score::Networks { model: &model, captioner: &captioner, loras: vec![], device: device() };
    let sampling = diffusion::settings::Sampling { steps: 2, guidance_scale: 1.0, ..Default::default() };
    let ranked = draw_and_score::ranked(&networks, "a red dog", &[3, 4, 5], &sampling).unwrap();
    assert!(ranked.is_sorted_by(|(one, ..), (other, ..)| one < other), "three images, three losses");
    let mut seeds: Vec<u64> = ranked.iter().map(|(_, seed, _)| *seed).collect();
    seeds.sort();
    assert_eq!(seeds, [3, 4, 5]);
}
