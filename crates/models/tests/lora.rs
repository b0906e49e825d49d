//! Adapter files without a model: names of the published networks' layers, conversion, and what is wrong with a file.

use crate::common;

use models::{
    lora::{
        AdapterFile, Base, Lora, Network,
        check::{Layers, Problem, check},
        convert::{Options, Target, convert},
        info::Info,
    },
    tensors::{self, Tensors},
    weights::Weights,
};
use std::{collections::HashMap, fs, path::Path};
use tch::{Device, Kind, Tensor};
use torch_ext::testing::device;

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);
const PLAIN: Options = Options { kind: None, factor: 1.0, unet_only: false };

/// Layers of attention, from the papers' and model cards' description of the networks: level, attentions in it, depth.
fn attention_layers(down: &[(usize, usize)], middle: usize, up: &[(usize, usize)]) -> Vec<String> {
    let mut all = vec![];
    let mut block = |path: String, depth: usize| {
        for layer in 0..depth {
            for attention in ["attn1", "attn2"] {
                for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
                    all.push(format!("{path}.transformer_blocks.{layer}.{attention}.{projection}"));
                }
            }
        }
    };
    for &(level, depth) in down {
        (0..2).for_each(|i| block(format!("down_blocks.{level}.attentions.{i}"), depth));
    }
    block("mid_block.attentions.0".into(), middle);
    for &(level, depth) in up {
        (0..3).for_each(|i| block(format!("up_blocks.{level}.attentions.{i}"), depth));
    }
    all
}

fn sd1() -> Vec<String> {
    attention_layers(&[(0, 1), (1, 1), (2, 1)], 1, &[(1, 1), (2, 1), (3, 1)])
}

fn sdxl() -> Vec<String> {
    attention_layers(&[(1, 2), (2, 10)], 10, &[(0, 10), (1, 2)])
}

/// The published networks have these layers of attention and no others, and kohya's format of each is read back.
#[test]
fn layers_of_the_published_networks() {
    for (base, mut expected, count) in [(Base::Sd1, sd1(), 128), (Base::Sd2, sd1(), 128), (Base::Sdxl, sdxl(), 560)] {
        let layers = base.unet_layers();
        let mut attention: Vec<String> =
            layers.keys().filter(|l| l.contains(".attn") && !l.contains("norm")).cloned().collect();
        expected.sort();
        attention.sort();
        assert_eq!(attention, expected, "{base}");
        assert_eq!(expected.len(), count, "{base}");
        for (layer, shape) in &layers {
            let all = [("lora_down.weight", Tensor::zeros([1, 1], FLOAT))];
            let key = |end: &str| format!("lora_unet_{}.{end}", layer.replace('.', "_"));
            let tensors: Tensors = all.into_iter().map(|(end, t)| (key(end), t)).collect();
            let file = AdapterFile::parse(tensors, HashMap::new(), Path::new("x"), 2).unwrap();
            let names: Vec<_> = file.entries.keys().map(|n| n.layer.as_str()).collect();
            assert_eq!(names, [layer.as_str()]);
            let is_text = layer.ends_with("attn2.to_k");
            assert!(!is_text || shape[1] == base.text_width(), "{base}: {layer} {shape:?}");
        }
    }
}

/// Every LDM name of SDXL's attention is another layer, and all of them are covered.
#[test]
fn ldm_names_cover_the_network() {
    let blocks = [
        ("input_blocks", &[(4, 2), (5, 2), (7, 10), (8, 10)][..]),
        ("middle_block", &[(1, 10)][..]),
        ("output_blocks", &[(0, 10), (1, 10), (2, 10), (3, 2), (4, 2), (5, 2)][..]),
    ];
    let mut tensors = Tensors::new();
    for (blocks, numbers) in blocks {
        for &(number, depth) in numbers {
            let place = if blocks == "middle_block" { format!("{number}") } else { format!("{number}_1") };
            for layer in 0..depth {
                for projection in [
                    "attn1_to_q",
                    "attn1_to_k",
                    "attn1_to_v",
                    "attn1_to_out_0",
                    "attn2_to_q",
                    "attn2_to_k",
                    "attn2_to_v",
                    "attn2_to_out_0",
                ] {
                    let key =
                        format!("lora_unet_{blocks}_{place}_transformer_blocks_{layer}_{projection}.lora_down.weight");
                    tensors.insert(key, Tensor::zeros([1, 1], FLOAT));
                }
            }
        }
    }
    let file = AdapterFile::parse(tensors, HashMap::new(), Path::new("x"), 2).unwrap();
    let mut expected = sdxl();
    expected.sort();
    let found: Vec<String> = file.entries.keys().map(|name| name.layer.clone()).collect();
    assert_eq!(found, expected);
}

/// Two layers of SD 1.5 and one of its text encoder, in kohya's format; alpha / rank is no power of two.
fn kohya() -> Tensors {
    let mut all = Tensors::new();
    for (name, inputs, outputs) in [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320, 320),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", 768, 1280),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768, 768),
    ] {
        let values =
            |rows: i64, columns: i64| (Tensor::arange(rows * columns, FLOAT) * 0.37).sin().view([rows, columns]);
        all.insert(format!("{name}.lora_down.weight"), values(3, inputs));
        all.insert(format!("{name}.lora_up.weight"), values(outputs, 3) * 0.1);
        all.insert(format!("{name}.alpha"), Tensor::from(5f32));
    }
    all
}

fn write(path: &Path, tensors: &Tensors) -> AdapterFile {
    let said = [("ss_base_model_version", "sd_v1"), ("ss_output_name", "mine")];
    tensors::write(path, tensors, said.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).unwrap();
    AdapterFile::read(path).unwrap()
}

#[test]
fn round_trips_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(format!("{name}.safetensors"));
    let original = write(&at("original"), &kohya());
    convert(&original, Target::Peft, PLAIN, &at("peft")).unwrap();
    let said = &AdapterFile::read(&at("peft")).unwrap().metadata["lora_adapter_metadata"];
    let said: serde_json::Value = serde_json::from_str(said).unwrap();
    let target = "encoder.layers.0.self_attn.q_proj"; // peft compares ends, and transformers 5 has no `text_model.` before it
    assert_eq!(said["text_encoder.target_modules"], serde_json::json!([target]));
    convert(&AdapterFile::read(&at("peft")).unwrap(), Target::Kohya, PLAIN, &at("kohya")).unwrap();
    let (back, metadata) = tensors::read(&at("kohya")).unwrap();
    assert_eq!(back, kohya());
    assert_eq!((metadata["ss_output_name"].as_str(), metadata["ss_network_dim"].as_str()), ("mine", "3"));
    assert!(!metadata.contains_key("lora_adapter_metadata"), "kohya's alpha is a tensor");

    // diffusers' format: the same product, and exact from there on
    convert(&original, Target::Diffusers, PLAIN, &at("d")).unwrap();
    convert(&AdapterFile::read(&at("d")).unwrap(), Target::Kohya, PLAIN, &at("dk")).unwrap();
    convert(&AdapterFile::read(&at("dk")).unwrap(), Target::Diffusers, PLAIN, &at("dkd")).unwrap();
    assert_eq!(tensors::read(&at("d")).unwrap().0, tensors::read(&at("dkd")).unwrap().0);
    let (first, second) = (original.pairs().unwrap(), AdapterFile::read(&at("d")).unwrap().pairs().unwrap());
    assert!(first.keys().eq(second.keys()));
    for (name, pair) in &first {
        let shape = [pair.up.size()[0], pair.down.size()[1]];
        let error = common::relative_error(&second[name].product(&shape), &pair.product(&shape));
        assert!(error < 1e-6, "{}: {error:e}", name.layer);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6, "temporary files are gone");
}

/// Metadata are in order, whatever the order in memory.
#[test]
fn files_repeat_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let bytes = |shift: usize| {
        let metadata = (0..9).map(|i| (format!("key {}", (i + shift) % 9), "a \"value\"\n".to_owned())).collect();
        tensors::write(&path, &kohya(), metadata).unwrap();
        let (back, metadata) = tensors::read(&path).unwrap();
        assert!(back == kohya() && metadata.len() == 9);
        fs::read(&path).unwrap()
    };
    let first = bytes(0);
    assert!((1..9).all(|shift| bytes(shift) == first));
}

#[test]
fn precision_scale_and_text_encoders() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["a", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let file = write(&from, &kohya());
    let options = Options { kind: Some(Kind::Half), factor: -0.5, unet_only: true };
    convert(&file, Target::Kohya, options, &to).unwrap();
    let half = AdapterFile::read(&to).unwrap();
    assert_eq!((half.kinds(), half.networks().into_iter().collect()), (vec![Kind::Half], vec![Network::UNet]));
    assert!(half.pairs().unwrap().values().all(|pair| pair.alpha == -2.5));
    // the hash of mixed precisions is that of the file
    let hash = &half.metadata["sshs_model_hash"];
    assert_eq!(*hash, Info::of(&half).unwrap().tensors_sha256);

    let mut large = kohya();
    large.values_mut().filter(|t| t.dim() == 2).for_each(|t| *t = &*t * 1e6);
    let error = convert(&write(&from, &large), Target::Peft, options, &to).unwrap_err().to_string();
    assert!(error.contains("too large for the precision"), "{error}");
    let mut small = kohya();
    small.values_mut().filter(|t| t.dim() == 2).for_each(|t| *t = &*t * 1e-12);
    let error = convert(&write(&from, &small), Target::Peft, options, &to).unwrap_err().to_string();
    assert!(error.contains("too small for the precision"), "{error}");
}

/// The norm of a block is that of its products.
#[test]
fn figures() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(&folder.path().join("a.safetensors"), &kohya());
    let info = Info::of(&file).unwrap();
    assert_eq!((info.base.as_deref(), info.text_width), (Some("Stable Diffusion 1.x"), Some(768)));
    let unet = &info.networks[0];
    assert_eq!((unet.layers, unet.ranks.as_slice(), unet.alphas.as_slice()), (2, &[3][..], &[5.0][..]));
    let pairs = file.pairs().unwrap();
    let (_, pair) = pairs.iter().find(|(name, _)| name.layer.starts_with("mid")).unwrap();
    let expected = pair.product(&[1280, 768]).to_kind(Kind::Double).norm().double_value(&[]);
    let block = unet.blocks.iter().find(|b| b.block == "mid_block").unwrap();
    assert!((block.norm.unwrap() / expected - 1.0).abs() < 1e-5, "{:?} {expected}", block.norm);
    assert_eq!(info.networks[1].network, "text_encoder");
}

#[test]
fn problems_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let found = |edit: &dyn Fn(&mut Tensors)| -> Vec<Problem> {
        let mut all = kohya();
        all.retain(|key, _| key.starts_with("lora_unet"));
        edit(&mut all);
        check(&write(&path, &all), None).unwrap()
    };
    let has = |problems: &[Problem], is_error: bool, part: &str| {
        let found = problems.iter().any(|p| p.is_error() == is_error && p.to_string().contains(part));
        assert!(found, "`{part}` is not in {problems:#?}");
    };
    const Q: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
    const K: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
    let set = |all: &mut Tensors, key: &str, t: Tensor| drop(all.insert(key.into(), t));
    let zeros = |shape: [i64; 2]| Tensor::zeros(shape, FLOAT);

    let clean = found(&|_| {});
    assert!(clean.iter().all(|p| !p.is_error()), "{clean:#?}");
    has(&clean, false, "ss_network_dim, ss_network_alpha, sshs_model_hash");
    let nan = found(&|all| set(all, &format!("{Q}.lora_up.weight"), zeros([320, 3]) / 0.0));
    has(
        &nan,
        true,
        "960 values of lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight are NaN",
    );
    let zero = found(&|all| set(all, &format!("{Q}.lora_up.weight"), zeros([320, 3])));
    has(&zero, false, "attn1.to_q is zero: not trained");
    has(&found(&|all| drop(all.remove(&format!("{Q}.lora_up.weight")))), true, "attn1.to_q lacks its up matrix");
    let rank = found(&|all| {
        set(all, &format!("{Q}.lora_up.weight"), zeros([320, 2]) + 1.0);
        set(all, &format!("{Q}.lora_down.weight"), zeros([2, 320]) + 1.0);
    });
    has(&rank, false, "different ranks: 2, 3");
    has(&rank, false, "alpha / rank is not the same everywhere");
    has(
        &found(&|all| set(all, &format!("{Q}.alpha"), Tensor::from(0f32))),
        false,
        "alpha is 0: the layer does nothing",
    );
    has(
        &found(&|all| set(all, &format!("{Q}.lora_up.weight"), zeros([640, 3]) + 1.0)),
        true,
        "do not fit the layer's weight [320, 320]",
    );
    let unknown = Q.replace("down_blocks_0", "down_blocks_7");
    let moved = |all: &mut Tensors| {
        for end in ["lora_down.weight", "lora_up.weight", "alpha"] {
            let t = all.remove(&format!("{Q}.{end}")).unwrap();
            all.insert(format!("{unknown}.{end}"), t);
        }
    };
    has(&found(&moved), true, "down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q is no layer of the model");
    has(&found(&|all| set(all, &format!("{K}.dora_scale"), zeros([1, 1]))), true, "the norms [1, 1] do not fit");
    has(&found(&|all| set(all, &format!("{K}.oft_blocks"), zeros([1, 1]))), true, "belongs to an OFT adapter");
    let other = found(&|all| set(all, &format!("{K}.lora_down.weight"), zeros([3, 2048])));
    has(
        &other,
        false,
        "the metadata say that it is for Stable Diffusion 1.x, its shapes that it is for Stable Diffusion XL",
    );

    let file = write(&path, &kohya());
    let sdxl = Layers::from([(Network::UNet, Base::Sdxl.unet_layers())]);
    has(&check(&file, Some(&sdxl)).unwrap(), true, "text of width 768 (Stable Diffusion 1.x), the model's is for 2048");
    has(&check(&file, Some(&sdxl)).unwrap(), true, "the model has no text_encoder");
    has(&check(&file, None).unwrap(), false, "adapts text_encoder too");
}

#[test]
fn a_changed_file_does_not_have_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["a", "b"].map(|name| folder.path().join(format!("{name}.safetensors")));
    convert(&write(&from, &kohya()), Target::Kohya, Options { unet_only: true, ..PLAIN }, &to).unwrap();
    assert_eq!(check(&AdapterFile::read(&to).unwrap(), None).unwrap(), []);
    let mut bytes = fs::read(&to).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&to, bytes).unwrap();
    let problems = check(&AdapterFile::read(&to).unwrap(), None).unwrap();
    assert!(problems.len() == 1 && problems[0].to_string().contains("changed or damaged"), "{problems:?}");
}

/// peft's own folders keep alpha in a file of its own.
#[test]
fn alpha_from_the_configuration_beside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let key = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let tensor = |shape: [i64; 2]| Tensor::ones(shape, FLOAT);
    let all = [("lora_A", tensor([4, 8])), ("lora_B", tensor([8, 4]))];
    let all: Tensors = all.into_iter().map(|(end, t)| (format!("{key}.{end}.weight"), t)).collect();
    tensors::write(&path, &all, HashMap::new()).unwrap();
    let alpha = || AdapterFile::read(&path).unwrap().pairs().unwrap().into_values().next().unwrap().alpha;
    assert_eq!(alpha(), 4.0);
    fs::write(folder.path().join("adapter_config.json"), r#"{"lora_alpha": 3, "use_rslora": false}"#).unwrap();
    assert_eq!(alpha(), 3.0);
    fs::write(folder.path().join("adapter_config.json"), r#"{"lora_alpha": 3, "use_rslora": true}"#).unwrap();
    assert_eq!(alpha(), 6.0, "alpha / √4 = 6 / 4");

    // 14 / 50 * 50 is another number than 14
    let all = [("lora_A", tensor([50, 8])), ("lora_B", tensor([8, 50]))];
    let all: Tensors = all.into_iter().map(|(end, t)| (format!("{key}.{end}.weight"), t)).collect();
    tensors::write(&path, &all, HashMap::new()).unwrap();
    fs::write(folder.path().join("adapter_config.json"), r#"{"lora_alpha": 14, "r": 50}"#).unwrap();
    assert_eq!(alpha(), 14.0);
}

/// An adapter of a larger rank changes the same, and its new directions can learn.
#[test]
fn a_smaller_rank_is_widened() {
    let weights = Weights::new(
        Tensors::from([("a.to_q.weight".to_owned(), Tensor::zeros([5, 4], (Kind::Float, device())))]),
        "memory".into(),
        Kind::Double,
        device(),
    )
    .unwrap();
    let mut draws = torch_ext::Generator::seeded(1).unwrap();
    let mut draw = |_: usize, shape: &[i64]| Ok(draws.randn(shape).unwrap().to_kind(Kind::Double));
    let mut small =
        Lora::fresh(&weights, &["to_q".to_owned()], 2, 3.0, &mut draw).unwrap().trainable(Kind::Double, device());
    let _ = small.flat.g_add_(&Tensor::ones(small.flat.size(), (Kind::Double, device())));
    let change = |lora: &Lora| {
        let (_, pair) = lora.pairs().next().unwrap();
        pair.up.matmul(&pair.down) * (pair.alpha / pair.rank() as f64)
    };
    let wide = small.lora.widened(3, &mut draw).unwrap();
    let (_, pair) = wide.pairs().next().unwrap();
    assert_eq!((pair.rank(), pair.alpha), (3, 3.0));
    let apart = (change(&wide) - change(&small.lora)).abs().max().double_value(&[]);
    assert!(apart < 1e-12 && change(&wide).norm().double_value(&[]) > 1.0, "{apart:e}");
    assert_eq!(pair.up.narrow(1, 2, 1).abs().max().double_value(&[]), 0.0);
    assert!(pair.down.narrow(0, 2, 1).norm().double_value(&[]) > 0.0);
    let same = small.lora.widened(2, &mut draw).unwrap();
    assert_eq!(same.pairs().next().unwrap().1.down, small.lora.pairs().next().unwrap().1.down);
}
