//! LoRAs of any layers, ranks and strengths keep their meaning from format to format, in any order. Drawn at random from a fixed seed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use fastrand::Rng;
use models::{
    lora::{
        AdapterFile, Base, Name, Network,
        convert::{Options, Target, convert},
    },
    tensors::{self, Tensors},
};
use std::collections::{BTreeMap, HashMap};
use tch::{Device, Kind, Tensor};

/// Layers with two dimensions: of the UNet, and of text encoders.
fn layers(base: Base) -> Vec<Name> {
    let shaped = base.unet_layers();
    let mut all: Vec<Name> = shaped.into_keys().filter(|layer| !layer.contains("conv")).map(Name::unet).collect();
    all.retain(|name| name.layer.contains("attn") || name.layer.contains(".ff.") || name.layer.contains("proj_"));
    let encoders = if base == Base::Sdxl { 2 } else { 1 };
    for network in [Network::TextEncoder, Network::TextEncoder2].into_iter().take(encoders) {
        for layer in 0..12 {
            for inside in ["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"] {
                all.push(Name { network, layer: format!("text_model.encoder.layers.{layer}.{inside}") });
            }
        }
    }
    all
}

/// What a file adds to each layer.
fn updates(file: &AdapterFile) -> BTreeMap<Name, Tensor> {
    let of = |(name, change): (Name, models::lora::Change)| match change.delta {
        Some(models::lora::Delta::LowRank(pair)) => {
            let update = pair.up.to_kind(Kind::Double).matmul(&pair.down.to_kind(Kind::Double));
            (name, update * (pair.alpha / pair.rank() as f64))
        }
        _ => panic!("{name:?} is no LoRA"),
    };
    file.changes().unwrap().into_iter().map(of).collect()
}

#[test]
fn from_any_format_to_any_other() {
    let mut random = Rng::with_seed(1);
    tch::manual_seed(1);
    let folder = tempfile::tempdir().unwrap();
    let targets = [Target::Diffusers, Target::Peft, Target::Kohya];
    for round in 0..60 {
        let base = [Base::Sd1, Base::Sd2, Base::Sdxl][random.usize(..3)];
        let known = layers(base);
        let (mut tensors, count) = (Tensors::new(), 1 + random.usize(..12));
        for _ in 0..count {
            let name = &known[random.usize(..known.len())];
            let (rank, inner, outer) = (1 + random.usize(..5) as i64, 6, 7);
            let numbers = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu));
            let key = name.kohya(base == Base::Sdxl);
            let alpha = [0.5, 1.0, 3.0, 4.0, 0.1][random.usize(..5)];
            tensors.insert(format!("{key}.lora_down.weight"), numbers([rank, inner]));
            tensors.insert(format!("{key}.lora_up.weight"), numbers([outer, rank]));
            tensors.insert(format!("{key}.alpha"), Tensor::from(alpha as f32));
        }
        let mut path = folder.path().join("first.safetensors");
        tensors::write(&path, &tensors, HashMap::new()).unwrap();
        let expected = updates(&AdapterFile::read(&path).unwrap());
        let mut way = vec![];
        for step in 0..4 {
            let target = targets[random.usize(..3)];
            way.push(target);
            let out = folder.path().join(format!("{round}-{step}.safetensors"));
            let options = Options { kind: None, factor: 1.0, unet_only: false };
            convert(&AdapterFile::read(&path).unwrap(), target, options, &out).unwrap();
            path = out;
            let got = updates(&AdapterFile::read(&path).unwrap());
            assert!(got.keys().eq(expected.keys()), "{base:?} {way:?}: {:?}", got.keys().collect::<Vec<_>>());
            for (name, update) in &got {
                let scale = expected[name].abs().max().double_value(&[]);
                let error = (update - &expected[name]).abs().max().double_value(&[]) / scale;
                assert!(error < 1e-6, "{base:?} {way:?} {name:?}: {error:e}");
            }
        }
    }
}
