//! The same SD2 as a folder and as one file with the original program's keys gives the same latents and images.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use diffusion::{
    denoiser::Denoiser,
    pipeline::{Overrides, Pipeline, Precision},
    settings::Location,
};
use images::Size;
use models::{
    clip::{TextConfig, TextEncoder},
    guidance::Guidance,
    schedule::{Forced, Prediction},
    tensors::{self, Tensors},
    unet::{self, UNet},
    vae::{self, AutoencoderKl},
    weights::Layout,
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const UNET: &str = r#"{"_class_name": "UNet2DConditionModel", "attention_head_dim": [1, 2], "block_out_channels": [64, 128],
    "cross_attention_dim": 64, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "layers_per_block": 1,
    "sample_size": 96, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "use_linear_projection": true}"#;
const VAE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [32, 32], "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "scaling_factor": 0.18215}"#;
/// As published: without the last of open_clip's layers.
const TEXT: &str = r#"{"model_type": "clip_text_model", "hidden_act": "gelu", "hidden_size": 64, "intermediate_size": 80,
    "max_position_embeddings": 16, "num_attention_heads": 1, "num_hidden_layers": 23, "projection_dim": 512}"#;
const INDEX: &str = r#"{"_class_name": "StableDiffusionPipeline"}"#;
const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false,
    "beta_schedule": "scaled_linear", "prediction_type": "v_prediction", "set_alpha_to_one": false, "steps_offset": 1}"#;

const ENDS: [(&str, &str); 19] = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_in", "input_blocks.0.0"),
    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
    ("down_blocks.0.attentions.0", "input_blocks.1.1"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.0.resnets.0", "output_blocks.0.0"),
    ("up_blocks.0.resnets.1", "output_blocks.1.0"),
    ("up_blocks.0.upsamplers.0", "output_blocks.1.1"),
    ("up_blocks.1.resnets.0", "output_blocks.2.0"),
    ("up_blocks.1.attentions.0", "output_blocks.2.1"),
    ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ("up_blocks.1.attentions.1", "output_blocks.3.1"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];
const RESNET: [(&str, &str); 6] = [
    (".norm1.", ".in_layers.0."),
    (".conv1.", ".in_layers.2."),
    (".time_emb_proj.", ".emb_layers.1."),
    (".norm2.", ".out_layers.0."),
    (".conv2.", ".out_layers.3."),
    (".conv_shortcut.", ".skip_connection."),
];
const OF_VAE: [(&str, &str); 14] = [
    ("up_blocks.0.", "up.1."),
    ("up_blocks.1.", "up.0."),
    ("down_blocks.", "down."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    (".resnets.", ".block."),
    ("attn_1.group_norm", "attn_1.norm"),
    ("attn_1.to_out.0", "attn_1.proj_out"),
    ("attn_1.to_", "attn_1."),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
];

fn random(layout: Layout) -> Tensors {
    let value = |(key, size): (String, Vec<i64>)| {
        let value = Tensor::randn(size, (Kind::Float, tch::Device::Cpu)) * 0.2;
        let value = if key.contains("norm") && key.ends_with("weight") { value + 1.0 } else { value };
        (key, value)
    };
    layout.into_iter().map(value).collect()
}

fn replaced(key: &str, table: &[(&str, &str)]) -> String {
    table.iter().fold(key.to_owned(), |key, (ours, theirs)| key.replace(ours, theirs))
}

/// Of the UNet, the autoencoder and the text encoder.
fn in_one(unet: &Tensors, vae: &Tensors, text: &Tensors) -> Tensors {
    let mut all = Tensors::new();
    for (key, tensor) in unet {
        let (ours, theirs) = ENDS.into_iter().find(|(ours, _)| key.starts_with(&format!("{ours}."))).unwrap();
        let rest = &key[ours.len()..];
        let rest = if ours.contains("resnets") { replaced(rest, &RESNET) } else { rest.to_owned() };
        all.insert(format!("model.diffusion_model.{theirs}{rest}"), tensor.shallow_clone());
    }
    for (key, tensor) in vae {
        let flat = key.contains("attentions") && tensor.dim() == 2;
        let tensor = if flat { tensor.unsqueeze(-1).unsqueeze(-1) } else { tensor.shallow_clone() };
        all.insert(format!("first_stage_model.{}", replaced(key, &OF_VAE)), tensor);
    }
    let root = "cond_stage_model.model";
    for (key, tensor) in text {
        let key = key.strip_prefix("text_model.").unwrap_or(key);
        let theirs = replaced(
            key,
            &[
                ("embeddings.token_embedding", "token_embedding"),
                ("embeddings.position_embedding.weight", "positional_embedding"),
                ("final_layer_norm", "ln_final"),
                ("encoder.layers", "transformer.resblocks"),
                ("layer_norm", "ln_"),
                ("self_attn.out_proj", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ],
        );
        if let Some((layer, what)) = theirs.split_once(".self_attn.q_proj.") {
            let part = |name: &str| {
                let ours = format!("{}.self_attn.{name}_proj.{what}", key.split_once(".self_attn").unwrap().0);
                text.get(&ours).or(text.get(&format!("text_model.{ours}"))).unwrap()
            };
            all.insert(format!("{root}.{layer}.attn.in_proj_{what}"), Tensor::cat(&["q", "k", "v"].map(part), 0));
        } else if !theirs.contains(".self_attn.") {
            all.insert(format!("{root}.{theirs}"), tensor.shallow_clone());
        }
    }
    // what is there and not used: the last layer, the projection, and what training leaves
    let last: Vec<_> = all.keys().filter(|key| key.contains("resblocks.22.")).cloned().collect();
    for key in last {
        all.insert(key.replace("resblocks.22.", "resblocks.23."), all[&key].neg());
    }
    for (key, size) in [("text_projection", &[64, 48][..]), ("logit_scale", &[])] {
        all.insert(format!("{root}.{key}"), Tensor::ones(size, (Kind::Float, tch::Device::Cpu)));
    }
    all.insert("model_ema.decay".into(), Tensor::from(0.9999f32));
    all
}

fn config<T>(path: &Path, text: &str, read: impl FnOnce(&Path) -> models::Result<T>) -> T {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    read(path).unwrap()
}

/// Writes an SD2 as a folder; gives what a single file of it holds.
fn write(folder: &Path) -> Tensors {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/pipeline_sd1/tokenizer");
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer).unwrap();
    for file in fs::read_dir(fixture).unwrap().map(|file| file.unwrap()) {
        // the end token where CLIP has it, and padding as SD2 has it
        let text = fs::read_to_string(file.path()).unwrap();
        let text = text.replace("\"<|endoftext|>\": 598", "\"<|endoftext|>\": 49407");
        let text = text.replace("\"pad_token\": \"<|endoftext|>\"", "\"pad_token\": \"!\"");
        fs::write(tokenizer.join(file.file_name()), text).unwrap();
    }
    let unet = random(UNet::layout(&config(&folder.join("unet/config.json"), UNET, unet::Config::read)));
    let vae = random(AutoencoderKl::layout(&config(&folder.join("vae/config.json"), VAE, vae::Config::read)));
    let text = random(TextEncoder::layout(&config(&folder.join("text_encoder/config.json"), TEXT, TextConfig::read)));
    config(&folder.join("model_index.json"), INDEX, |_| Ok(()));
    config(&folder.join("scheduler/scheduler_config.json"), SCHEDULER, |_| Ok(()));
    for (file, part) in [
        ("unet/diffusion_pytorch_model.safetensors", &unet),
        ("vae/diffusion_pytorch_model.safetensors", &vae),
        ("text_encoder/model.safetensors", &text),
    ] {
        tensors::write(&folder.join(file), part, HashMap::new()).unwrap();
    }
    in_one(&unet, &vae, &text)
}

fn open(path: &Path, folder: &Path, overrides: Overrides) -> anyhow::Result<Pipeline> {
    let (location, tokenizer) = (Location::from(PathBuf::from(path)), folder.join("tokenizer"));
    Pipeline::open_at(&location, None, Some(&tokenizer), overrides, Precision::from(Kind::Float), device())
}

/// What the UNet says of noise with a prompt, and what the autoencoder makes of it.
fn outputs(pipeline: &mut Pipeline) -> (Tensor, Tensor) {
    let _guard = tch::no_grad_guard();
    let text = pipeline.text.guided(&["a red dog and a blue cat"], None, true, (16, 16)).unwrap();
    let unet = pipeline.network(&pipeline.weights).unwrap();
    // a generator of its own: other tests draw from the process's at the same time
    let x = torch_ext::Generator::seeded(5).unwrap().randn(&[1, 4, 8, 8]).unwrap().to_device(device());
    let e = Denoiser { network: unet.as_ref(), guidance: Guidance { scale: 3.0, rescale: 0.0 }, kind: Kind::Float }
        .predict(&x, 601.0, &text)
        .unwrap();
    let image = pipeline.vae.with(|vae| Ok(vae.decode(&e)?)).unwrap();
    (e, image)
}

#[test]
fn sd2_as_a_folder_and_as_a_file() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    let all = write(&folder);
    let file = place.path().join("v2-1_768-ema-pruned.safetensors");
    tensors::write(&file, &all, HashMap::new()).unwrap();
    let mut of_folder = open(&folder, &folder, Overrides::default()).unwrap();
    let mut of_file = open(&file, &folder, Overrides::default()).unwrap();
    let (expected, got) = (outputs(&mut of_folder), outputs(&mut of_file));
    assert!(expected.0.abs().max().double_value(&[]) > 1e-3);
    assert_eq!(expected, got);
    let layout = |p: &Pipeline| (p.latents, p.native_size(), p.family.channels(), p.family.least_cells());
    assert_eq!(layout(&of_folder), layout(&of_file));
    assert_eq!(of_folder.schedule().unwrap().prediction, of_file.schedule().unwrap().prediction);
    assert_eq!(of_folder.schedule().unwrap().signal(), of_file.schedule().unwrap().signal());
    assert_eq!(of_file.native_size(), Size { width: 192, height: 192 }, "96 latents of 2 pixels");

    // written back from a folder, such a file has no last layer
    let mut short = Tensors::new();
    short.extend(
        all.iter().filter(|(key, _)| !key.contains("resblocks.23.")).map(|(k, t)| (k.clone(), t.shallow_clone())),
    );
    let file = place.path().join("short.safetensors");
    tensors::write(&file, &short, HashMap::new()).unwrap();
    assert_eq!(outputs(&mut open(&file, &folder, Overrides::default()).unwrap()), expected);

    // as SD-Turbo names its text encoder
    let sgm = |key: &String| key.replace("cond_stage_model.model.", "conditioner.embedders.0.model.");
    let renamed: Tensors = all.iter().map(|(key, tensor)| (sgm(key), tensor.shallow_clone())).collect();
    let file = place.path().join("turbo_768.safetensors");
    tensors::write(&file, &renamed, HashMap::new()).unwrap();
    assert_eq!(outputs(&mut open(&file, &folder, Overrides::default()).unwrap()), expected);
}

/// The two models of SD2: by a file's name, by what it says, and by what is said against it.
#[test]
fn which_sd2_a_file_is() {
    use Prediction::{Epsilon, VPrediction};
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    let all = write(&folder);
    let of = |name: &str, metadata: &[(&str, &str)], overrides: Overrides| {
        let file = place.path().join(name);
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        tensors::write(&file, &all, metadata).unwrap();
        let pipeline = open(&file, &folder, overrides).unwrap();
        (pipeline.schedule().unwrap().prediction, pipeline.family.native_cells())
    };
    let none = Overrides::default();
    assert_eq!(of("mine.safetensors", &[], none), (VPrediction, 96));
    assert_eq!(of("v2-1_512-ema-pruned.safetensors", &[], none), (Epsilon, 64));
    assert_eq!(of("768-v-ema.safetensors", &[], none), (VPrediction, 96));
    assert_eq!(of("mine.safetensors", &[("modelspec.architecture", "stable-diffusion-v2-512")], none), (Epsilon, 64));
    assert_eq!(
        of("mine.safetensors", &[("modelspec.architecture", "stable-diffusion-v2-768-v")], none),
        (VPrediction, 96)
    );
    assert_eq!(of("mine.safetensors", &[("modelspec.prediction_type", "epsilon")], none), (Epsilon, 64));
    assert_eq!(of("mine.safetensors", &[("ss_base_model_version", "sd_v2")], none), (Epsilon, 64));
    assert_eq!(of("mine.safetensors", &[("ss_base_model_version", "sd_v2_v")], none), (VPrediction, 96));
    assert_eq!(of("mine.safetensors", &[("ss_v_parameterization", "False")], none), (Epsilon, 64));
    assert_eq!(of("768-v-ema.safetensors", &[("ss_v_parameterization", "False")], none), (Epsilon, 96));
    assert_eq!(of("mine_512.safetensors", &[("modelspec.prediction_type", "v")], none), (VPrediction, 64));
    // 512 and 768 as numbers of their own
    for name in ["a3f512c9", "anime_e15120", "sd21-10512steps", "x-000512", "mine7681"] {
        assert_eq!(of(&format!("{name}.safetensors"), &[], none), (VPrediction, 96), "{name}");
    }
    for name in ["512", "mine-512px", "mine_512x512", "sd2 (512)"] {
        assert_eq!(of(&format!("{name}.safetensors"), &[], none), (Epsilon, 64), "{name}");
    }
    assert_eq!(of("mine-512.safetensors", &[("modelspec.resolution", "1024x1024")], none), (VPrediction, 96));
    let forced = Overrides { prediction_type: Some(Epsilon), ..none };
    assert_eq!(of("768-v-ema.safetensors", &[], forced), (Epsilon, 96));
    assert_eq!(of("mine.safetensors", &[], forced), (Epsilon, 64));
    // the original program's configuration, with and without a parameterization
    let yaml = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    linear_start: 0.00085\n";
    fs::write(place.path().join("mine.yaml"), yaml).unwrap();
    assert_eq!(of("mine.safetensors", &[], none), (Epsilon, 64));
    fs::write(place.path().join("mine.yaml"), format!("{yaml}    parameterization: \"v\"\n")).unwrap();
    assert_eq!(of("mine.safetensors", &[], none), (VPrediction, 96));
}

/// Of a file that says nothing, one bias of the UNet tells what it predicts.
#[test]
fn which_sd2_a_file_is_by_its_weights() {
    const BIAS: &str = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    let said = |deviation: f64, metadata: &[(&str, &str)], name: &str| {
        let bias = Tensor::from_slice(&[-deviation, deviation]).to_kind(Kind::Half);
        let all = Tensors::from([
            (BIAS.to_owned(), bias),
            ("model.diffusion_model.out.2.bias".to_owned(), Tensor::zeros([2], (Kind::Half, device()))),
            ("first_stage_model.quant_conv.bias".to_owned(), Tensor::zeros([2], (Kind::Half, device()))),
            ("cond_stage_model.model.ln_final.bias".to_owned(), Tensor::zeros([2], (Kind::Half, device()))),
        ]);
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let path = Path::new(name);
        let said = models::ldm::Statements::read(&all, &metadata, path).unwrap().of(models::ldm::Family::Sd2);
        (said.schedule(Forced::default(), path).unwrap().prediction, said.sample_size(Forced::default()).unwrap())
    };
    use Prediction::{Epsilon, VPrediction};
    assert_eq!(said(0.12, &[], "x.safetensors"), (VPrediction, 96));
    assert_eq!(said(0.05, &[], "x.safetensors"), (Epsilon, 64));
    assert_eq!(said(0.0, &[], "x.safetensors"), (Epsilon, 64));
    // what is said counts more
    assert_eq!(said(0.05, &[("modelspec.prediction_type", "v")], "x.safetensors"), (VPrediction, 96));
    assert_eq!(said(0.12, &[], "v2-1_512.safetensors"), (Epsilon, 64));
}

/// UNets that are given more than latents, by their channels.
#[test]
fn unets_of_other_models() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    let mut all = write(&folder);
    const FIRST: &str = "model.diffusion_model.input_blocks.0.0.weight";
    let first = all[FIRST].copy();
    let file = place.path().join("768-v.safetensors");
    for (channels, kind) in [
        (5, "a depth map"),
        (7, "upscaling models"),
        (8, "InstructPix2Pix"),
        (9, "inpainting models"),
        (11, "such models"),
    ] {
        all.insert(FIRST.into(), Tensor::cat(&[&first, &first, &first], 1).narrow(1, 0, channels).contiguous());
        tensors::write(&file, &all, HashMap::new()).unwrap();
        let error = open(&file, &folder, Overrides::default()).err().unwrap().to_string();
        let said = format!("the UNet's shapes: {channels} channels in and 4 out");
        assert!(error.contains(&said) && error.contains(kind), "{error}");
    }
}

/// What a file is, its content says; safetensors may be called `.sft`.
#[test]
fn files_with_other_endings() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("folder");
    let all = write(&folder);
    let named = |name: &str| place.path().join(name);
    tensors::write(&named("768-v.sft"), &all, HashMap::new()).unwrap();
    assert!(open(&named("768-v.sft"), &folder, Overrides::default()).is_ok());
    fs::copy(named("768-v.sft"), named("renamed.ckpt")).unwrap();
    fs::write(named("zip.ckpt"), b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl").unwrap();
    fs::write(named("old.pt"), b"\x80\x02}q\x00(X\x03\x00\x00\x00").unwrap();
    fs::write(named("a.gguf"), b"GGUF\x03\x00\x00\x00").unwrap();
    for (name, part) in [
        ("renamed.ckpt", "let its name end in .safetensors"),
        ("zip.ckpt", "a pickle of torch.save"),
        ("old.pt", "this is a pickle"),
        ("a.gguf", "this is a GGUF file"),
    ] {
        let error = open(&named(name), &folder, Overrides::default()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
}
