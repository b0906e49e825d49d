//! Rewards at the images: the numbers of a batch are those of its parts, however it is cut.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    batch::Batch,
    loss::caption::CaptionLoss,
    reward::{self, Gradient, ImageReward, PerImage, Seen},
    share::Share,
};
use config::{Config, MicroBatch};
use diffusion::resident::Resident;
use ranks::ProcessGroup;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const PROMPTS: [&str; 3] = ["a red dog and a blue cat", "two green cars", "a bench"];
const CROPS: [(i64, i64); 3] = [(0, 0); 3];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name)
}

fn config(micro_batch: usize) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let text = format!(
        "output = 'none'\n[model]\npath = 'none'\n[captioner]\npath = '{}'\nmicro_batch = {micro_batch}\n\
         [prompts]\ntrain = 'none.txt'\n[[reward]]\nkind = 'clip'\npath = '{}'\nweight = 3\n\
         [[reward]]\nkind = 'certainty'\npath = '{}'\nwords = [['red', 'green', 'old'], ['big', 'small']]\n",
        fixture("blip").display(),
        fixture("clip_score").display(),
        fixture("blip").display(),
    );
    std::fs::write(&file, text).unwrap();
    config::read(&file, &[]).unwrap()
}

/// The caption loss, CLIP's cosine and the certainty of a captioner.
fn rewards(micro_batch: usize, kind: Kind) -> Vec<Box<dyn ImageReward>> {
    let config = config(micro_batch);
    assert_eq!(config.captioner.micro_batch, MicroBatch::Samples(micro_batch));
    let caption = CaptionLoss::open(&config.captioner, kind, device()).unwrap();
    let others = reward::open(&config, kind, device()).unwrap();
    assert_eq!(others.iter().map(|other| other.weight).collect::<Vec<_>>(), [3.0, 1.0]);
    let mut all: Vec<Box<dyn ImageReward>> = vec![Box::new(caption)];
    all.extend(others.into_iter().map(|other| other.reward));
    all
}

fn images(kind: Kind) -> Tensor {
    tch::manual_seed(4);
    (Tensor::randn([3, 3, 40, 56], (Kind::Double, device())) * 0.3 + 0.5).to_kind(kind)
}

fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    ((a - b).norm() / b.norm()).double_value(&[])
}

fn whole(reward: &dyn ImageReward, images: &Tensor) -> Gradient {
    reward.gradient(&Seen { images, share: &Share::whole(&PROMPTS), crops: &CROPS }).unwrap()
}

/// In micro-batches of any size, and in the shares of two processes.
#[test]
fn any_cutting_gives_the_same() {
    let images = images(Kind::Double);
    let expected: Vec<Gradient> =
        rewards(0, Kind::Double).iter().map(|reward| whole(reward.as_ref(), &images)).collect();
    for micro_batch in [1, 2] {
        for (reward, expected) in rewards(micro_batch, Kind::Double).iter().zip(&expected) {
            let found = whole(reward.as_ref(), &images);
            assert!((found.reward - expected.reward).abs() < 1e-12, "{}", reward.name());
            assert!(relative_error(&found.cotangent, &expected.cotangent) < 1e-10, "{}", reward.name());

            let mut parts = vec![];
            for rank in 0..2 {
                let mut group = ProcessGroup::alone();
                (group.rank, group.size) = (rank, 2);
                let prompt = |place: u64| Ok(PROMPTS[place as usize].to_owned());
                let batch = Batch::of(0, 0..1, PROMPTS.len(), &group, prompt).unwrap();
                let (first, count) = (batch.places[0] as i64, batch.places.len());
                let images = images.narrow(0, first, count as i64);
                parts.push(
                    reward.gradient(&Seen { images: &images, share: &batch.share(), crops: &CROPS[..count] }).unwrap(),
                );
            }
            let sum: f64 = parts.iter().map(|part| part.loss).sum();
            assert!((sum - expected.loss).abs() < 1e-12, "{}", reward.name());
            let cotangents = parts.into_iter().map(|part| part.cotangent).collect::<Vec<_>>();
            assert!(relative_error(&Tensor::cat(&cotangents, 0), &expected.cotangent) < 1e-10, "{}", reward.name());
        }
    }
}

/// Values are the rewards that the loss is a mean of (the caption loss: a mean over tokens), whatever the batch; and offloading changes
/// nothing.
#[test]
fn values_are_of_each_image_alone() {
    let images = images(Kind::Double);
    let mut all = rewards(2, Kind::Double);
    for reward in &mut all {
        let values = reward.values(&images, &PROMPTS).unwrap();
        for (i, value) in values.iter().enumerate() {
            let one = images.narrow(0, i as i64, 1);
            let share = Share::whole(&PROMPTS[i..=i]);
            let alone = reward.gradient(&Seen { images: &one, share: &share, crops: &CROPS[..1] }).unwrap();
            assert!((alone.reward - value).abs() < 1e-12 && alone.loss == -alone.reward, "{}", reward.name());
        }
        reward.offload();
        assert_eq!(reward.values(&images, &PROMPTS).unwrap(), values);
    }
    let mean = all[1].values(&images, &PROMPTS).unwrap().iter().sum::<f64>() / 3.0;
    assert!((whole(all[1].as_ref(), &images).reward - mean).abs() < 1e-12);
    let caption = CaptionLoss::open(&config(0).captioner, Kind::Double, device()).unwrap();
    let losses = caption.losses(&images, &PROMPTS).unwrap();
    let values = caption.values(&images, &PROMPTS).unwrap();
    assert!(losses.iter().zip(values).all(|(loss, value)| (loss + value).abs() < 1e-12));
}

#[test]
fn half_precision_comes_near() {
    let images = images(Kind::Float);
    let exact = whole(rewards(0, Kind::Float)[1].as_ref(), &images);
    let half = whole(rewards(0, Kind::Half)[1].as_ref(), &images);
    assert_eq!(half.cotangent.kind(), Kind::Float);
    assert!((half.reward - exact.reward).abs() < 1e-2);
    assert!(relative_error(&half.cotangent, &exact.cotangent) < 5e-2);
}

#[test]
fn rewards_that_are_none_are_errors() {
    let images = images(Kind::Float);
    let of = |reward: fn(&(), &Tensor, &[&str]) -> anyhow::Result<Tensor>| {
        let reward = PerImage::new("mine", Resident::open(|| Ok(())).unwrap(), reward, Kind::Float);
        let error = reward.gradient(&Seen { images: &images, share: &Share::whole(&PROMPTS), crops: &CROPS });
        format!("{:#}", error.unwrap_err())
    };
    assert_eq!(
        of(|_, images, _| Ok(images.mean(Kind::Float))),
        "reward mine: [] values for 3 images; it must give [3]"
    );
    let constant = of(|_, images, _| Ok(images.detach().mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)));
    assert_eq!(constant, "reward mine: it does not depend on the image");
    let nan = of(|_, images, _| Ok((images.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float) - 9.0).sqrt()));
    assert_eq!(nan, "not finite: reward");
    assert_eq!(of(|_, _, _| anyhow::bail!("no idea")), "reward mine: no idea");
}
