//! The UNet against diffusers, and adapters laid over it against diffusers with peft.

use crate::common;

use crate::common::{assert_close, device, fixture, io};
use models::{
    layers::Linear,
    lora::{self, Base, Lora},
    network::{Conditions, Network, Place, Projected, Recorder},
    tensors::Tensors,
    unet::{Config, POOLED, TIME_IDS, UNet},
    weights::Weights,
};
use std::{collections::BTreeSet, fs};
use tch::{Kind, Tensor};

fn open(name: &str, kind: Kind) -> (Config, Weights) {
    let folder = fixture(name);
    let config = Config::read(&folder.join("config.json")).unwrap();
    (config, Weights::open(&folder, "diffusion_pytorch_model", kind, device()).unwrap())
}

/// The inputs of a case, with the timestep as one number a sample.
fn case(io: &Tensors, name: &str) -> (Tensor, Tensor, Conditions) {
    let get = |key: &str| io[&format!("{name}.{key}")].shallow_clone();
    let sample = get("sample");
    let timesteps = get("timestep").expand([sample.size()[0]], true);
    let text = Conditions::of_context(get("encoder_hidden_states"));
    let text = match io.get(&format!("{name}.text_embeds")) {
        Some(pooled) => text.with(POOLED, pooled.shallow_clone()).with(TIME_IDS, get("time_ids")),
        None => text,
    };
    (sample, timesteps, text)
}

fn parity(name: &str) {
    let (config, weights) = open(name, Kind::Float);
    let unet = UNet::new(&config, &weights).unwrap();
    let io = io(name);
    let cases: BTreeSet<&str> = io.keys().filter_map(|k| k.split('.').next()).collect();
    assert!(cases.len() >= 3);
    for case_name in cases {
        let (sample, timesteps, text) = case(&io, case_name);
        let out = unet.predict(&sample, &timesteps, &text, None).unwrap();
        let projected = Projected::default();
        for _ in 0..2 {
            let again = unet.predict_again(&sample, &timesteps, &text, &projected).unwrap();
            assert_eq!(again, out, "keys and values of the text that were kept");
        }
        assert_close(&format!("{name} {case_name} {:?}", sample.size()), &out, &io[&format!("{case_name}.out")], 1e-5);
    }
    maps(name, &unet, &io);
}

/// Recorded cross-attention maps are those of diffusers' attention processor, of all rows and of some.
fn maps(name: &str, unet: &UNet, io: &Tensors) {
    let (sample, timesteps, text) = case(io, "case1");
    for (first, rows) in [(0, 2), (1, 1)] {
        let recorder = Recorder::new(first, rows);
        let out = unet.predict(&sample, &timesteps, &text, Some(&recorder)).unwrap();
        assert_eq!(out, unet.predict(&sample, &timesteps, &text, None).unwrap(), "watching changes nothing");
        let layers = recorder.into_layers();
        let count = io.keys().filter(|key| key.starts_with("case1.map.")).count();
        assert!(count >= 4);
        let recorded: Vec<&Tensor> = layers.iter().flat_map(|layer| &layer.modules).collect();
        assert_eq!(recorded.len(), count);
        for (i, map) in recorded.into_iter().enumerate() {
            let expected = io[&format!("case1.map.{i}")].narrow(0, first, rows);
            assert_close(&format!("{name} map {i} {:?}", map.size()), map, &expected, 1e-5);
        }
        for layer in &layers {
            println!("{name}: {layer}, {} modules", layer.modules.len());
            assert!(layer.modules.iter().all(|m| m.size()[2] == layer.height * layer.width));
        }
        let first = if unet.config().mid_block { Place::Mid } else { Place::Up };
        assert_eq!(layers[0].place, first);
    }
}

#[test]
fn sd1() {
    parity("unet_sd1");
}

#[test]
fn sd2_with_linear_projections_and_heads_per_level() {
    parity("unet_sd2");
}

#[test]
fn sdxl_with_deep_transformers_and_sizes() {
    parity("unet_sdxl");
}

/// As of the distilled models: `mid_block_type` is null.
#[test]
fn without_a_mid_block() {
    parity("unet_tiny");
    let (config, weights) = open("unet_tiny", Kind::Float);
    assert!(!UNet::layout(&config).keys().any(|key| key.starts_with("mid_block")));
    assert!(UNet::new(&Config { mid_block: true, ..config }, &weights).is_err());
}

/// Values for every level, if they are equal; null is false for a flag; dropout is for training.
#[test]
fn values_for_every_level() {
    let text = fs::read_to_string(fixture("unet_sd1").join("config.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let of = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Config::read(&path)
    };
    let usual = of("", "").unwrap();
    for (from, to) in [
        ("\"cross_attention_dim\": 20", "\"cross_attention_dim\": [20, 20, 20]"),
        ("\"sample_size\": 16", "\"sample_size\": [16, 16]"),
        ("\"layers_per_block\": 2", "\"layers_per_block\": [2, 2, 2]"),
        ("\"only_cross_attention\": false", "\"only_cross_attention\": [false, false, false]"),
        ("\"dropout\": 0.0", "\"dropout\": 0.1"),
        ("  \"mid_block_type\": \"UNetMidBlock2DCrossAttn\",", ""),
    ] {
        assert_eq!(of(from, to).unwrap(), usual, "{to}");
    }
    assert!(!of("\"flip_sin_to_cos\": true", "\"flip_sin_to_cos\": null").unwrap().cos_first);
    let refuse = |from: &str, to: &str, words: &str| {
        let error = of(from, to).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refuse("\"sample_size\": 16", "\"sample_size\": [16, 24]", "sample_size is [16, 24]; only equal values");
    refuse("\"cross_attention_dim\": 20", "\"cross_attention_dim\": [0, 0]", "cross_attention_dim is 0");
    let only = "\"only_cross_attention\": [false, true, false]";
    refuse("\"only_cross_attention\": false", only, "only_cross_attention is true");
    refuse("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", "mid_block_type is \"UNetMidBlock2D\"");
}

/// Each format, merged and as side branches, gives what diffusers gives.
#[test]
fn adapters_in_every_format() {
    let (config, weights) = open("unet_sd1", Kind::Float);
    let (inputs, expected) = (io("unet_sd1"), io("lora"));
    let (sample, timesteps, text) = case(&inputs, "case0");
    for format in ["diffusers", "peft", "kohya"] {
        let lora = Lora::read(&fixture("lora").join(format!("{format}.safetensors")), &weights).unwrap();
        for (form, weights) in [("merged", weights.merged(&lora)), ("branch", weights.with_adapter(&lora))] {
            let unet = UNet::new(&config, &weights.unwrap()).unwrap();
            let out = unet.predict(&sample, &timesteps, &text, None).unwrap();
            assert_close(&format!("{format} {form}"), &out, &expected["out"], 1e-5);
        }
    }
}

/// An update of 1e-5 is far below half of a bfloat16 weight's last place: added to the weights it is rounded away. What samples is the
/// function whose gradient is taken, and it goes where float32 goes.
#[test]
fn a_small_update_samples_as_it_trains() {
    let (inputs, [single, half]) = (io("unet_sd1"), [Kind::Float, Kind::BFloat16].map(|kind| open("unet_sd1", kind)));
    let (sample, timesteps, text) = case(&inputs, "case0");
    let run = |(config, _): &(Config, Weights), weights: Weights, kind: Kind| {
        let unet = UNet::new(config, &weights).unwrap();
        unet.predict(&sample.to_kind(kind), &timesteps, &text.map(|t| t.to_kind(kind)), None)
            .unwrap()
            .to_kind(Kind::Double)
    };
    let lora = Lora::read(&fixture("lora").join("kohya.safetensors"), &half.1).unwrap();
    let largest = lora.pairs().map(|(path, pair)| {
        let shape = half.1.get(&format!("{path}.weight")).unwrap().size();
        pair.product(&shape).abs().max().double_value(&[])
    });
    let lora = lora.scaled(1e-5 / largest.fold(0.0, f64::max)).trainable(Kind::Float, device()).lora;

    let of_half = |weights: models::Result<Weights>| run(&half, weights.unwrap(), Kind::BFloat16);
    let (base, sampled) = (of_half(Ok(half.1.shallow_clone())), of_half(half.1.with_frozen(&lora)));
    assert_eq!(sampled, of_half(half.1.with_adapter(&lora)).detach(), "sampling is not what is trained");
    assert_ne!(sampled, base, "the update is lost");
    let away = |out: &Tensor| (out - &base).norm().double_value(&[]);
    println!("bfloat16 moves by {:.1e}, merged by {:.1e}", away(&sampled), away(&of_half(half.1.merged(&lora))));

    let wide = |weights: models::Result<Weights>| run(&single, weights.unwrap(), Kind::Float);
    assert_eq!(wide(single.1.with_frozen(&lora)), wide(single.1.merged(&lora)), "float32 is added in");
}

/// Of an embedding only the weight is looked at, so its update is added to it.
#[test]
fn embeddings_have_no_branch() {
    const WEIGHT: &str = "text_model.embeddings.token_embedding.weight";
    let table = Tensor::arange(32, (Kind::BFloat16, device())).view([8, 4]);
    let weights = Weights::new(Tensors::from([(WEIGHT.into(), table.copy())]), "test".into(), Kind::BFloat16, device());
    let weights = weights.unwrap();
    let ones = |_: usize, shape: &[i64]| Ok(Tensor::ones(shape, (Kind::Float, device())));
    let lora =
        Lora::fresh(&weights, &["token_embedding".into()], 1, 1.0, ones).unwrap().trainable(Kind::Float, device());
    lora.views_of(&lora.flat)[1].copy_(&Tensor::full([8, 1], 4.0, (Kind::Float, device())));
    let changed = weights.with_frozen(&lora.lora).unwrap();
    assert_eq!(changed.get(WEIGHT).unwrap(), &(table + 4.0));
}

/// What survives of an update is as large as it is: in the mean over outputs, rounding takes nothing away.
#[test]
fn layers_round_once() {
    let mut draws = torch_ext::Generator::seeded(1).unwrap();
    let mut draw = |shape: &[i64]| draws.randn(shape).unwrap().to_kind(Kind::BFloat16);
    let (weight, bias, x) = (draw(&[256, 256]) * 0.03, draw(&[256]) * 0.03, draw(&[2, 512, 256]));
    let tensors = Tensors::from([("to_q.weight".into(), weight.shallow_clone()), ("to_q.bias".into(), bias)]);
    let weights = Weights::new(tensors, "test".into(), Kind::BFloat16, device()).unwrap();
    let lora = Lora::fresh(&weights, &["to_q".into()], 1, 1.0, |_, shape| Ok(draw(shape).to_kind(Kind::Float)));
    let lora = lora.unwrap().trainable(Kind::Float, device());
    lora.views_of(&lora.flat)[1].copy_(&(draw(&[256, 1]).to_kind(Kind::Float) * 1e-5));
    let out = |weights: &Weights| {
        weights.build(&[], |at| Linear::new(at / "to_q", 256, 256)).unwrap().forward(&x).to_kind(Kind::Double)
    };
    let pair = lora.lora.get("to_q").unwrap();
    let none = None::<&Tensor>;
    let exact =
        (x.to_kind(Kind::Float).linear(&pair.down, none).linear(&pair.up, none) * pair.scale()).to_kind(Kind::Double);
    let moved = out(&weights.with_frozen(&lora.lora).unwrap()) - out(&weights);
    let survives = ((&moved * &exact).sum(Kind::Double) / exact.square().sum(Kind::Double)).double_value(&[]);
    assert!((survives - 1.0).abs() < 0.1, "{survives} of the update survives");
}

/// Gradients of every adapter matrix for a given cotangent, against peft's.
#[test]
fn adapter_gradients() {
    let (config, weights) = open("unet_sd1", Kind::Float);
    let (inputs, expected) = (io("unet_sd1"), io("lora"));
    let (sample, timesteps, text) = case(&inputs, "case0");
    let lora =
        Lora::read(&fixture("lora").join("peft.safetensors"), &weights).unwrap().trainable(Kind::Float, device());
    let unet = UNet::new(&config, &weights.with_adapter(&lora.lora).unwrap()).unwrap();
    let out = unet.predict(&sample, &timesteps, &text, None).unwrap();
    let parameters = lora.lora.parameters();
    let leaves: Vec<&Tensor> = parameters.iter().map(|(_, t)| *t).collect();
    let grads = torch_ext::vjp(&[&out], &leaves, &[&expected["cotangent"]]).unwrap();
    let mut compared = 0;
    for ((key, _), grad) in parameters.iter().zip(grads) {
        let expected = &expected[&format!("grad.{key}")];
        let error = common::relative_error(&grad.unwrap(), expected);
        assert!(error <= 1e-4, "{key}: {error:e}");
        compared += 1;
    }
    assert_eq!(compared, expected.keys().filter(|k| k.starts_with("grad.")).count());
}

/// What we write, we read back as the same network.
#[test]
fn written_adapters_read_back() {
    let (config, weights) = open("unet_sd1", Kind::Float);
    let inputs = io("unet_sd1");
    let (sample, timesteps, text) = case(&inputs, "case0");
    let lora = Lora::read(&fixture("lora").join("kohya.safetensors"), &weights).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [diffusers, kohya, peft] = ["d", "k", "p"].map(|n| folder.path().join(format!("{n}.safetensors")));
    lora::write_diffusers(&lora, &diffusers).unwrap();
    lora::write_kohya(&lora, &kohya, Base::Sd1, "a title", (512, 512)).unwrap();
    lora::write_peft(&lora, &peft).unwrap();
    let run = |lora: &Lora| {
        UNet::new(&config, &weights.merged(lora).unwrap()).unwrap().predict(&sample, &timesteps, &text, None).unwrap()
    };
    let expected = run(&lora);
    for path in [&diffusers, &kohya, &peft] {
        let back = Lora::read(path, &weights).unwrap();
        assert_close(path.to_str().unwrap(), &run(&back), &expected, 1e-6);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "temporary files are gone");
}

#[test]
fn wrong_adapters_are_refused_by_name() {
    let (_, sd1) = open("unet_sd1", Kind::Float);
    let (_, sdxl) = open("unet_sdxl", Kind::Float);
    let message = |result: models::Result<Lora>| result.err().unwrap().to_string();
    let adapter = fixture("lora").join("diffusers.safetensors");
    let other = Lora::read(&adapter, &sdxl).and_then(|lora| sdxl.merged(&lora).map(|_| lora));
    assert!(message(other).contains("diffusers.safetensors"));
    let none = message(Lora::read(&fixture("unet_sd1").join("io.safetensors"), &sd1));
    assert!(none.contains("in no LoRA format"), "{none}");
}

#[test]
fn unknown_configuration_is_refused_by_name() {
    let text = fs::read_to_string(fixture("unet_sd1").join("config.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let refuse = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Config::read(&path).unwrap_err().to_string()
    };
    let error = refuse("\"dual_cross_attention\": false", "\"dual_cross_attention\": true");
    assert!(error.contains("config.json: dual_cross_attention is true; only false is supported"), "{error}");
    let error = refuse("\"time_cond_proj_dim\": null", "\"time_cond_proj_dim\": 256");
    assert!(error.contains("time_cond_proj_dim is 256; only null is supported"), "{error}");
    models::config::be_strict(true);
    let error = refuse("\"dropout\": 0.0", "\"dropout\": 0.0, \"brand_new\": 3");
    assert!(error.contains("brand_new is not known"), "{error}");
    let error = refuse("\"CrossAttnDownBlock2D\"", "\"KDownBlock2D\"");
    assert!(error.contains("down_block_types holds the unsupported block KDownBlock2D"), "{error}");
}

/// All problems of a checkpoint come in one message, each tensor by name.
#[test]
fn foreign_weights_are_reported_by_name() {
    let (config, _) = open("unet_sd1", Kind::Float);
    let (_, weights) = open("unet_sd2", Kind::Float);
    let error = UNet::new(&config, &weights).err().unwrap().to_string();
    assert!(error.contains("has shape") || error.contains("is missing"), "{error}");
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
}

#[test]
fn wrong_inputs_are_errors() {
    let (config, weights) = open("unet_sdxl", Kind::Float);
    let unet = UNet::new(&config, &weights).unwrap();
    let (sample, timesteps, text) = case(&io("unet_sdxl"), "case0");
    let error =
        |sample: &Tensor, text: &Conditions| unet.predict(sample, &timesteps, text, None).unwrap_err().to_string();
    assert!(error(&sample.narrow(1, 0, 3), &text).contains("3 channels"));
    assert!(error(&sample.narrow(3, 0, 1), &text).contains("too small"));
    let plain = Conditions::of_context(text.context().unwrap().shallow_clone());
    assert!(error(&sample, &plain).contains("SDXL"));
    let narrow = text.map(|t| t.narrow(-1, 0, 4));
    assert!(error(&sample, &narrow).contains("cross_attention_dim"));
}
