//! Adapters of every kind, held against what LyCORIS and peft make of the same files (`tools/reference/adapter_kinds.py`).

use crate::common::{fixture, relative_error};
use models::{
    lora::{
        AdapterFile, Network,
        convert::{Options, Target, convert},
    },
    tensors::{self, Tensors},
    weights::Weights,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

const PLAIN: Options = Options { kind: None, factor: 1.0, unet_only: false };

/// Names of the fixture's files, and of its folders.
const NAMES: [&str; 23] = [
    "dora",
    "dora_inputs",
    "full",
    "locon_scalar",
    "locon_tucker",
    "loha",
    "loha_dora",
    "loha_scalar",
    "loha_tucker",
    "lokr",
    "lokr_both",
    "lokr_dora",
    "lokr_scalar",
    "lokr_tucker",
    "lokr_whole",
    "norms",
    "peft",
    "peft_bias",
    "peft_dora",
    "peft_loha",
    "peft_lokr",
    "peft_lokr_whole",
    "peft_rslora",
];

fn file(name: &str) -> PathBuf {
    let folder = fixture("adapter_kinds");
    match name.starts_with("peft") {
        true => folder.join(name).join("adapter_model.safetensors"),
        false => folder.join(format!("{name}.safetensors")),
    }
}

fn base(kind: Kind) -> Weights {
    let path = fixture("adapter_kinds").join("base.safetensors");
    Weights::new(tensors::read(&path).unwrap().0, path, kind, Device::Cpu).unwrap()
}

/// By key, those that the adapter changes.
fn expected(name: &str) -> Tensors {
    let (all, _) = tensors::read(&fixture("adapter_kinds").join("io.safetensors")).unwrap();
    let start = format!("{name}/");
    all.into_iter().filter_map(|(key, t)| Some((key.strip_prefix(&start)?.to_owned(), t))).collect()
}

fn changed(weights: &Weights, files: &[(&Path, f64)]) -> Weights {
    let changes = |(file, strength): &(&Path, f64)| {
        let file = AdapterFile::read(file).unwrap();
        file.changes_of(Network::UNet, weights).unwrap().scaled(*strength)
    };
    weights.changed(&files.iter().map(changes).collect::<Vec<_>>()).unwrap()
}

fn keys() -> BTreeSet<String> {
    tensors::read(&fixture("adapter_kinds").join("base.safetensors")).unwrap().0.into_keys().collect()
}

/// Exactly the weights that the other program changes are changed, and to the same values.
fn is_as_expected(name: &str, file: &Path) {
    let (plain, expected) = (base(Kind::Float), expected(name));
    assert!(!expected.is_empty(), "{name}");
    let ours = changed(&plain, &[(file, 1.0)]);
    for key in keys() {
        let got = ours.get(&key).unwrap();
        match expected.get(&key) {
            Some(theirs) => {
                let error = relative_error(got, theirs);
                assert!(error < 1e-5, "{name}: {key}: relative error {error:e}");
            }
            None => assert_eq!(got, plain.get(&key).unwrap(), "{name}: {key}"),
        }
    }
}

#[test]
fn as_lycoris_and_peft_have_them() {
    NAMES.iter().for_each(|name| is_as_expected(name, &file(name)));
}

/// All that the fixture has is looked at.
#[test]
fn nothing_is_left_out() {
    let (all, _) = tensors::read(&fixture("adapter_kinds").join("io.safetensors")).unwrap();
    let names: BTreeSet<&str> = all.keys().filter_map(|key| Some(key.split_once('/')?.0)).collect();
    assert!(names.into_iter().eq(NAMES));
}

/// A strength is so many times the whole difference, DoRA's norms included; several files add up, each from the same original.
#[test]
fn strengths_and_several_files() {
    let plain = base(Kind::Float);
    let of = |name: &str, key: &str| expected(name)[key].shallow_clone();
    let key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let original = plain.get(key).unwrap();
    let (dora, loha) = (of("dora", key) - original, of("loha", key) - original);
    let ours = changed(&plain, &[(&file("dora"), -0.5), (&file("loha"), 2.0)]);
    let sum = original + dora * -0.5 + loha * 2.0;
    assert!(relative_error(ours.get(key).unwrap(), &sum) < 1e-5);
    let none = changed(&plain, &[(&file("dora"), 0.0), (&file("full"), 0.0)]);
    assert!(keys().iter().all(|key| none.get(key) == plain.get(key)));
}

/// In half precision sums are rounded, once.
#[test]
fn in_half_precision() {
    let plain = base(Kind::BFloat16);
    for name in ["loha", "lokr", "dora", "full", "norms", "locon_tucker"] {
        let ours = changed(&plain, &[(&file(name), 1.0)]);
        for (key, theirs) in expected(name) {
            let got = ours.get(&key).unwrap();
            assert_eq!(got.kind(), Kind::BFloat16);
            // plain pairs of linear layers are a branch beside the weight
            let is_branch = name == "locon_tucker" && got.dim() == 2;
            assert!(is_branch || relative_error(got, &theirs) < 2e-2, "{name}: {key}");
        }
    }
}

/// Kohya's format, as LyCORIS has it, holds everything.
#[test]
fn through_kohyas_format() {
    let folder = tempfile::tempdir().unwrap();
    for name in NAMES {
        let out = folder.path().join(format!("{name}.safetensors"));
        convert(&AdapterFile::read(&file(name)).unwrap(), Target::Kohya, PLAIN, &out).unwrap();
        let (all, _) = tensors::read(&out).unwrap();
        assert!(all.keys().all(|key| key.starts_with("lora_unet_mid_block_") && !key.ends_with(".scalar")), "{name}");
        is_as_expected(name, &out);
    }
}

#[test]
fn other_formats_say_what_they_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.safetensors");
    for name in NAMES {
        let read = AdapterFile::read(&file(name)).unwrap();
        for target in [Target::Peft, Target::Diffusers] {
            let plain = ["locon_scalar", "locon_tucker", "peft", "peft_rslora"].contains(&name);
            let dora = ["dora", "peft_dora"].contains(&name) && target == Target::Peft;
            match convert(&read, target, PLAIN, &out) {
                Ok(()) if plain || dora => is_as_expected(name, &out),
                Ok(()) => panic!("{name} was written as {target:?}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!plain && !dora, "{name}: {error}");
                    assert!(error.contains("--to kohya") && error.contains("comat lora merge"), "{name}: {error}");
                }
            }
        }
    }
    // a part of a DoRA is none
    let half = Options { factor: 0.5, ..PLAIN };
    let error = convert(&AdapterFile::read(&file("dora")).unwrap(), Target::Kohya, half, &out).unwrap_err();
    assert!(error.to_string().contains("leave --scale out"), "{error}");
    for name in ["loha", "lokr_whole", "full", "norms", "peft_lokr_whole"] {
        convert(&AdapterFile::read(&file(name)).unwrap(), Target::Kohya, half, &out).unwrap();
        let plain = base(Kind::Float);
        let (written, drawn) = (changed(&plain, &[(&out, 1.0)]), changed(&plain, &[(&file(name), 0.5)]));
        for key in keys() {
            assert!(relative_error(written.get(&key).unwrap(), drawn.get(&key).unwrap()) < 1e-6, "{name}: {key}");
        }
    }
}

/// What is trained on is a plain LoRA.
#[test]
fn training_takes_plain_ones() {
    let plain = base(Kind::Float);
    for (name, kind) in [("dora", "DoRA"), ("loha", "LoHa"), ("lokr", "LoKr"), ("full", "full difference")] {
        let error = models::lora::Lora::read(&file(name), &plain).err().unwrap().to_string();
        assert!(error.contains(&format!("has a {kind}, which is not trained on; `comat lora merge`")), "{error}");
    }
    let lora = models::lora::Lora::read(&file("locon_scalar"), &plain).unwrap();
    let (key, theirs) = expected("locon_scalar").into_iter().find(|(key, _)| key.contains("to_q")).unwrap();
    assert!(relative_error(plain.merged(&lora).unwrap().get(&key).unwrap(), &theirs) < 1e-5);
}

/// Pieces that do not go together, or are not there, are named and never tried.
#[test]
fn broken_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.safetensors");
    let layer = "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let error = |name: &str, edit: &dyn Fn(&mut Tensors)| {
        let (mut all, _) = tensors::read(&file(name)).unwrap();
        edit(&mut all);
        tensors::write(&out, &all, Default::default()).unwrap();
        let file = AdapterFile::read(&out).unwrap();
        let plain = base(Kind::Float);
        file.changes_of(Network::UNet, &plain).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let without = |end: &str| {
        let key = format!("{layer}.{end}");
        move |all: &mut Tensors| assert!(all.remove(&key).is_some(), "{key}")
    };
    let with = |end: &str, tensor: Tensor| {
        let key = format!("{layer}.{end}");
        move |all: &mut Tensors| drop(all.insert(key.clone(), tensor.shallow_clone()))
    };
    for (name, edit, part) in [
        ("loha", &without("hada_w1_b") as &dyn Fn(&mut Tensors), "lacks a piece of its LoHa matrices"),
        ("lokr", &without("lokr_w1"), "lacks one of its two LoKr matrices"),
        ("dora", &without("lora_up.weight"), "lacks its up matrix"),
        ("loha", &with("hada_w1_b", zeros(&[3, 8])), "do not go together"),
        ("loha", &with("hada_w1_b", zeros(&[2, 9])), "do not fit the layer's weight"),
        ("lokr", &with("lokr_w1", zeros(&[3, 2])), "do not fit the layer's weight"),
        ("lokr", &with("lokr_w1", zeros(&[])), "pieces of its LoKr matrices that do not go together"),
        ("dora", &with("dora_scale", zeros(&[5, 1])), "the norms [5, 1] do not fit"),
        ("dora", &with("dora_scale", zeros(&[8, 1]) / 0.0), "values of lycoris_"),
        ("dora", &with("hada_w1_a", zeros(&[8, 1])), "lacks a piece"),
        ("full", &with("diff", zeros(&[8])), "do not fit the layer's weight"),
        ("full", &with("diff_b", zeros(&[9])), "the bias [9] does not fit"),
        ("full", &with("w_norm", zeros(&[0])), "holds no numbers"),
        ("loha", &with("lokr_w1", zeros(&[2, 2])), "lacks one of its two LoKr"),
        ("loha", &with("diff", zeros(&[8, 8])), "two kinds of adapters"),
    ] {
        let error = error(name, edit);
        assert!(error.contains(part), "{name}: `{part}` is not in `{error}`");
    }
}
