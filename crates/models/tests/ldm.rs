//! Models in one file come apart into the tensors of the folders that they were made of (`tools/reference/ldm.py`).

use crate::common::fixture;
use models::{
    clip::TextConfig,
    ldm::{self, Parts},
    schedule::{Forced, Prediction},
    tensors::{self, Tensors},
    unet, vae,
    weights::Layout,
};
use std::{collections::HashMap, path::Path};
use tch::{Device, Kind, Tensor};

fn parts(name: &str) -> Parts {
    Parts::read(&fixture(name).join("model.safetensors")).unwrap()
}

/// As the tool made bytes of them.
fn bytes(pipeline: &str, file: &str) -> Tensors {
    let (tensors, _) = tensors::read(&fixture(pipeline).join(file)).unwrap();
    let byte = |t: &Tensor| (t.abs() * 1000.0).remainder(251.0).to_kind(Kind::Uint8);
    tensors.iter().map(|(key, tensor)| (key.clone(), byte(tensor))).collect()
}

/// transformers leaves `text_model` out where there is no projection; a single file has it.
fn below_text_model(tensors: Tensors) -> Tensors {
    let below = |key: String| if key.starts_with("text_") { key } else { format!("text_model.{key}") };
    tensors.into_iter().map(|(key, tensor)| (below(key), tensor)).collect()
}

#[track_caller]
fn assert_same(what: &str, got: &Tensors, expected: &Tensors) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (key, tensor) in got {
        assert_eq!(tensor, &expected[key], "{what}: {key}");
        assert_eq!(tensor.size(), expected[key].size(), "{what}: {key}");
    }
}

#[test]
fn the_parts_are_those_of_the_folders() {
    for (name, pipeline, family) in
        [("ldm_sd1", "pipeline_sd1", ldm::Family::Sd1), ("ldm_sdxl", "pipeline_sdxl", ldm::Family::Sdxl)]
    {
        let parts = parts(name);
        assert_same("unet", &parts.unet, &bytes(pipeline, "unet/diffusion_pytorch_model.safetensors"));
        assert_same("vae", &parts.vae, &bytes(pipeline, "vae/diffusion_pytorch_model.safetensors"));
        assert_eq!((parts.family, &parts.said), (family, &ldm::Statements::default()));
        for (encoder, folder) in parts.text.iter().zip(["text_encoder", "text_encoder_2"]) {
            let expected = bytes(pipeline, &format!("{folder}/model.safetensors"));
            assert_same(folder, encoder, &below_text_model(expected));
        }
    }
}

/// Names that conversions and saved training states give to the same tensors.
#[test]
fn other_names_of_the_same_tensors() {
    let (all, _) = tensors::read(&fixture("ldm_sd1").join("model.safetensors")).unwrap();
    let expected = parts("ldm_sd1");
    let check = |what: &str, name: &dyn Fn(&str) -> String| {
        let renamed: Tensors = all.iter().map(|(key, tensor)| (name(key), tensor.shallow_clone())).collect();
        let parts = Parts::of(renamed, &HashMap::new(), Path::new("x.safetensors")).unwrap();
        assert_same(what, &parts.unet, &expected.unet);
        assert_same(what, &parts.vae, &expected.vae);
        assert_same(what, &parts.text[0], &expected.text[0]);
    };
    for wrapper in ["state_dict.", "module.", "_forward_module.module."] {
        check(wrapper, &|key| format!("{wrapper}{key}"));
    }
    for new in [["to_q", "to_k", "to_v", "to_out.0", "group_norm"], ["query", "key", "value", "proj_attn", "norm"]] {
        check(new[0], &|key| {
            let old = ["q", "k", "v", "proj_out", "norm"].map(|old| format!("mid.attn_1.{old}."));
            let renamed = old.iter().zip(new).find(|(old, _)| key.contains(old.as_str()));
            renamed.map_or(key.to_owned(), |(old, new)| key.replace(old.as_str(), &format!("mid.attn_1.{new}.")))
        });
    }
}

const WIDE: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]"#;

/// Written as the published `unet/config.json` are, without what has its default.
const SD1: &str = r#"{"_class_name": "UNet2DConditionModel", "attention_head_dim": 8, "cross_attention_dim": 768,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}"#;
const SDXL: &str = r#"{"_class_name": "UNet2DConditionModel", "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048, "block_out_channels": [320, 640, 1280], "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": true, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}"#;

fn written<T>(text: &str, read: impl FnOnce(&Path) -> models::Result<T>) -> T {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    read(file.path()).unwrap()
}

/// From the shapes alone, the configurations of the published models.
#[test]
fn configurations_from_shapes() {
    for text in [SD1, SDXL] {
        let config = written(text, unet::Config::read);
        assert_eq!(ldm::unet_config(&unet::UNet::layout(&config)), Some(config));
    }
    for (xl, scale) in [(false, 0.18215), (true, 0.13025)] {
        let config = written(&format!("{WIDE}, \"scaling_factor\": {scale}}}"), vae::Config::read);
        assert_eq!(ldm::vae_config(&vae::AutoencoderKl::layout(&config), xl), Some(config));
    }
    for (open_clip, text) in [
        (false, r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}"#),
        (
            true,
            r#"{"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "projection_dim": 1280,
                "num_hidden_layers": 32, "hidden_act": "gelu"}"#,
        ),
    ] {
        let config = written(text, TextConfig::read);
        assert_eq!(ldm::text_config(&models::clip::TextEncoder::layout(&config), open_clip), Some(config));
    }
    let tiny = parts("ldm_sd1");
    assert_eq!(ldm::unet_config(&ldm::shapes(&tiny.unet)), None, "8 channels cannot be normalised in 32 groups");
    assert_eq!(ldm::unet_config(&Layout::new()), None);
}

#[test]
fn files_that_are_something_else() {
    let (all, _) = tensors::read(&fixture("ldm_sdxl").join("model.safetensors")).unwrap();
    let error = |change: &dyn Fn(&mut Tensors)| {
        let mut changed: Tensors = all.iter().map(|(key, tensor)| (key.clone(), tensor.shallow_clone())).collect();
        change(&mut changed);
        Parts::of(changed, &HashMap::new(), Path::new("x.safetensors")).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let without = |prefix: &'static str| error(&move |t: &mut Tensors| t.retain(|key, _| !key.starts_with(prefix)));
    assert_eq!(error(&|_| ()), "");
    assert!(without("model.diffusion_model.").starts_with("x.safetensors: has no model.diffusion_model (the UNet)"));
    assert!(without("first_stage_model.").contains("has no first_stage_model"));
    assert!(without("conditioner.embedders.0.").contains("has no conditioner.embedders.0.transformer"));
    // a refiner has open_clip's encoder alone, in the first place
    let refiner = error(&|t: &mut Tensors| {
        t.retain(|key, _| !key.starts_with("conditioner.embedders.0."));
        *t = std::mem::take(t).into_iter().map(|(key, v)| (key.replace("embedders.1.", "embedders.0."), v)).collect();
    });
    assert!(refiner.starts_with("x.safetensors: is an SDXL refiner"), "{refiner}");
    assert!(without("conditioner.").contains("has no text encoder"));
    let extra = |key: &'static str| {
        error(&move |t: &mut Tensors| {
            t.insert(key.into(), Tensor::from(1));
        })
    };
    assert!(extra("cond_stage_model.model.ln_final.weight").contains("has no text encoder, or several"));
    for key in [
        "model.diffusion_model.control.0.weight",
        "first_stage_model.encoder.x.weight",
        "first_stage_model.decoder.up.99.x.y",
    ] {
        let said = extra(key);
        assert!(
            said.contains("belongs to no layer")
                && said.contains(key.split_once('.').unwrap().1.split_once('.').unwrap().1),
            "{said}"
        );
    }
    let said = extra("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_x");
    assert!(said.starts_with("x.safetensors: "), "{said}");
    for key in ["conditioner.embedders.1.model.visual.proj", "first_stage_model.encoder.x.weight"] {
        assert!(extra(key).starts_with(&format!("x.safetensors: {key} belongs to no layer")), "{}", extra(key));
    }
    assert!(extra("embedder.model.visual.proj").contains("is a Stable unCLIP model"));
}

/// What people give for a model, and what to do with it instead.
#[test]
fn files_of_other_kinds() {
    let error = |keys: &[&str]| {
        let all = keys.iter().map(|key| (key.to_string(), Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)))).collect();
        Parts::of(all, &HashMap::new(), Path::new("x.safetensors")).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (keys, part) in [
        (&["lora_unet_mid_block_attentions_0_proj_in.alpha"][..], "is a LoRA, not a model: name it with --lora"),
        (&["unet.mid_block.attentions.0.proj_in.lora_A.weight"], "is a LoRA, not a model"),
        (&["lora_unet_double_blocks_0_img_attn_proj.alpha", "lora_te1_text_model_final_layer_norm.alpha"], "a Flux"),
        (&["model.diffusion_model.double_blocks.0.img_attn.proj.weight", "first_stage_model.x"], "a Flux"),
        (&["model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight"], "a Stable Diffusion 3"),
        (&["model.diffusion_model.blocks.0.self_attn.q.weight"], "a video model (Wan"),
        (&["model.diffusion_model.transformer_blocks.0.img_mod.1.weight"], "Qwen-Image; only Stable Diffusion"),
        (&["control_model.input_blocks.0.0.weight"], "a ControlNet, not a whole Stable Diffusion model"),
        (&["decoder.up_blocks.0.x.weight", "encoder.down_blocks.0.x.weight"], "an autoencoder (VAE), not a whole"),
        (&["emb_params"], "a textual-inversion embedding"),
        (&["down_blocks.0.resnets.0.conv1.weight"], "the weights of a UNet (--model takes the model's folder)"),
        (&["one.two"], "has no model.diffusion_model (the UNet)"),
    ] {
        let error = error(keys);
        assert!(error.starts_with("x.safetensors: ") && error.contains(part), "{part}: {error}");
    }
}

/// ComfyUI and conversions from diffusers leave numbers of places in open_clip's encoders, and write the last
/// projection as a layer; the projections around transformers may be convolutions.
#[test]
fn other_forms_of_the_same_tensors() {
    const SECOND: &str = "conditioner.embedders.1.model.";
    let (mut all, _) = tensors::read(&fixture("ldm_sdxl").join("model.safetensors")).unwrap();
    let expected = parts("ldm_sdxl");
    for path in ["transformer.text_model.", "text_model."] {
        all.insert(format!("{SECOND}{path}embeddings.position_ids"), Tensor::arange(16, (Kind::Int64, Device::Cpu)));
    }
    let projection = all.remove(&format!("{SECOND}text_projection")).unwrap();
    assert_eq!(expected.text[1]["text_projection.weight"], projection.tr());
    all.insert(format!("{SECOND}text_projection.weight"), projection.tr());
    let mut convolutions = 0;
    for (key, tensor) in &mut all {
        if (key.ends_with(".proj_in.weight") || key.ends_with(".proj_out.weight")) && tensor.dim() == 2 {
            *tensor = tensor.unsqueeze(-1).unsqueeze(-1);
            convolutions += 1;
        }
    }
    assert!(convolutions > 0);
    let parts = Parts::of(all, &HashMap::new(), Path::new("x.safetensors")).unwrap();
    assert_same("unet", &parts.unet, &expected.unet);
    assert_same("text_encoder_2", &parts.text[1], &expected.text[1]);
    let sd2 =
        ["cond_stage_model.model.transformer.text_model.embeddings.position_ids", "model.diffusion_model.out.2.bias"];
    let sd2 = sd2.into_iter().chain(["first_stage_model.quant_conv.bias", "cond_stage_model.model.ln_final.bias"]);
    let sd2 = sd2.map(|key| (key.to_owned(), Tensor::zeros([2], (Kind::Float, Device::Cpu)))).collect();
    let parts = Parts::of(sd2, &HashMap::new(), Path::new("x.safetensors")).unwrap();
    assert_eq!(parts.text[0].keys().collect::<Vec<_>>(), ["text_model.final_layer_norm.bias"]);
}

/// Every way in which a file tells its noise: by tensors, and by metadata.
#[test]
fn what_a_file_says_of_its_noise() {
    use Prediction::{Epsilon, VPrediction};
    let origin = Path::new("x.safetensors");
    let read = |keys: &[&str], metadata: &[(&str, &str)], forced: Forced| {
        let all = keys.iter().map(|key| (key.to_string(), Tensor::zeros([0], (Kind::Float, Device::Cpu)))).collect();
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        ldm::Statements::read(&all, &metadata, origin)?.schedule(forced, origin)
    };
    let noise = |keys: &[&str], metadata: &[(&str, &str)]| {
        let schedule = read(keys, metadata, Forced::default()).unwrap();
        (schedule.prediction, *schedule.signal().last().unwrap() == 0.0)
    };
    assert_eq!(noise(&[], &[]), (Epsilon, false));
    assert_eq!(noise(&["v_pred"], &[]), (VPrediction, false));
    assert_eq!(noise(&["v_pred", "ztsnr"], &[]), (VPrediction, true));
    assert_eq!(noise(&["v_pred"], &[("modelspec.prediction_type", "epsilon")]), (VPrediction, false));
    for (key, value) in [
        ("modelspec.prediction_type", "v"),
        ("modelspec.prediction_type", "V-Prediction"),
        ("modelspec.predict_key", "v"),
        ("prediction_type", "v_prediction"),
        ("ss_v_parameterization", "True"),
        ("modelspec.architecture", "stable-diffusion-v2-768-v"),
        ("modelspec.prediction_type", "vpred"),
        ("modelspec.prediction_type", "v_parameterization"),
        ("prediction_type", "v prediction"),
        ("ss_base_model_version", "sd_v2_v"),
    ] {
        assert_eq!(noise(&[], &[(key, value)]), (VPrediction, false), "{key} {value}");
        assert_eq!(noise(&["ztsnr"], &[(key, value)]), (VPrediction, true), "{key} {value}");
        assert_eq!(noise(&[], &[(key, value), ("ss_zero_terminal_snr", "True")]), (VPrediction, true));
    }
    for (key, value) in [
        ("modelspec.prediction_type", "epsilon"),
        ("modelspec.predict_key", "epsilon"),
        ("ss_v_parameterization", "False"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base"),
        ("zero_snr", "false"),
        ("ss_base_model_version", "sdxl_base_v1-0"),
        ("modelspec.prediction_type", "epsilon_prediction"),
    ] {
        assert_eq!(noise(&[], &[(key, value)]), (Epsilon, false), "{key} {value}");
    }
    let error = |keys: &[&str], metadata: &[(&str, &str)]| {
        read(keys, metadata, Forced::default()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for key in ["edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"] {
        assert!(error(&["v_pred", key], &[]).starts_with(&format!("x.safetensors: the tensor {key} is of a network")));
    }
    assert!(error(&[], &[("modelspec.architecture", "stable-diffusion-xl-v1-edm")]).contains("modelspec.architecture"));
    let flow = [("modelspec.prediction_type", "rectified_flow")];
    assert!(error(&[], &flow).contains("modelspec.prediction_type = rectified_flow is a prediction that is not known"));
    assert!(error(&["ztsnr"], &[]).contains("x.safetensors: says that the last step is noise alone (ztsnr,"));
    // a setting has the last word
    let forced = Forced { prediction: Some(VPrediction), ..Forced::default() };
    assert_eq!(read(&[], &flow, forced).unwrap().prediction, VPrediction);
    let forced = Forced { zero_snr: Some(false), ..Forced::default() };
    assert!(read(&["ztsnr"], &[], forced).is_ok());
    let layer = |value: &str| {
        let metadata = HashMap::from([("modelspec.encoder_layer".to_owned(), value.to_owned())]);
        ldm::Statements::read(&Tensors::new(), &metadata, origin).unwrap().clip_skip
    };
    assert_eq!((layer("2"), layer("1"), layer("x")), (Some(2), None, None));
}

/// The original program's configuration, which A1111 looks for by the file's name.
#[test]
fn what_a_configuration_beside_a_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::copy(fixture("ldm_sd1").join("model.safetensors"), &path).unwrap();
    let prediction = |yaml: &str| {
        std::fs::write(path.with_extension("yaml"), yaml).unwrap();
        Parts::read(&path)?.said.schedule(Forced::default(), &path).map(|schedule| schedule.prediction)
    };
    assert_eq!(
        prediction("model:\r\n  params:\r\n    parameterization: \"v\" # as trained\r\n").unwrap(),
        Prediction::VPrediction
    );
    assert_eq!(prediction("params:\n  linear_start: 0.00085\n").unwrap(), Prediction::Epsilon);
    let of_sgm = "scaling_config:\n  target: sgm.modules.diffusionmodules.denoiser_scaling.";
    assert_eq!(prediction(&format!("{of_sgm}VScaling\n")).unwrap(), Prediction::VPrediction);
    let error = prediction(&format!("{of_sgm}EDMScaling\n")).unwrap_err().to_string();
    assert!(error.contains("parameterization = EDMScaling"), "{error}");
}
