//! Names of layers in adapter files: every layer of the published networks comes back from every format.

use models::{
    lora::{AdapterFile, Base, Name, Network},
    tensors::Tensors,
};
use std::{collections::HashMap, path::Path};
use tch::{Device, Kind, Tensor};

/// All layers of the published networks, and those of CLIP.
fn every_layer(base: Base) -> Vec<Name> {
    let mut all: Vec<Name> = base.unet_layers().into_keys().map(Name::unet).collect();
    let networks = [Network::TextEncoder, Network::TextEncoder2];
    for network in networks.into_iter().take(if base == Base::Sdxl { 2 } else { 1 }) {
        let mut add = |layer: String| all.push(Name { network, layer: format!("text_model.{layer}") });
        for layer in ["embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm"] {
            add(layer.into());
        }
        for layer in 0..if network == Network::TextEncoder2 { 32 } else { 12 } {
            for inside in [
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.out_proj",
                "mlp.fc1",
                "mlp.fc2",
                "layer_norm1",
                "layer_norm2",
            ] {
                add(format!("encoder.layers.{layer}.{inside}"));
            }
        }
        if network == Network::TextEncoder2 {
            all.push(Name { network, layer: "text_projection".into() });
        }
    }
    all
}

/// The original program's name of a layer, where blocks are counted through: two residual blocks a level on the way down, three up.
fn ldm(layer: &str, base: Base) -> String {
    let resnet = |rest: &str| {
        let (ours, theirs) = [
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
            ("conv_shortcut", "skip_connection"),
        ]
        .into_iter()
        .find(|(ours, _)| *ours == rest)
        .unwrap();
        assert_eq!(ours, rest);
        theirs
    };
    let number = |text: &str| text.parse::<usize>().unwrap();
    let words: Vec<&str> = layer.splitn(5, '.').collect();
    match words[..] {
        ["down_blocks", level, "downsamplers", ..] => format!("input_blocks.{}.0.op", 3 * number(level) + 3),
        ["down_blocks", level, "resnets", i, rest] => {
            format!("input_blocks.{}.0.{}", 3 * number(level) + number(i) + 1, resnet(rest))
        }
        ["down_blocks", level, "attentions", i, rest] => {
            format!("input_blocks.{}.1.{rest}", 3 * number(level) + number(i) + 1)
        }
        ["mid_block", "attentions", "0", ..] => {
            format!("middle_block.1.{}", layer.strip_prefix("mid_block.attentions.0.").unwrap())
        }
        ["mid_block", "resnets", i, rest] => format!("middle_block.{}.{}", 2 * number(i), resnet(rest)),
        ["up_blocks", level, "upsamplers", ..] => {
            let attends = base == Base::Sdxl || number(level) > 0; // SD1 and SD2 begin the way up without attention
            format!("output_blocks.{}.{}.conv", 3 * number(level) + 2, if attends { 2 } else { 1 })
        }
        ["up_blocks", level, "resnets", i, rest] => {
            format!("output_blocks.{}.0.{}", 3 * number(level) + number(i), resnet(rest))
        }
        ["up_blocks", level, "attentions", i, rest] => {
            format!("output_blocks.{}.1.{rest}", 3 * number(level) + number(i))
        }
        ["conv_in"] => "input_blocks.0.0".into(),
        ["conv_norm_out"] => "out.0".into(),
        ["conv_out"] => "out.2".into(),
        ["time_embedding", "linear_1"] => "time_embed.0".into(),
        ["time_embedding", "linear_2"] => "time_embed.2".into(),
        ["add_embedding", "linear_1"] => "label_emb.0.0".into(),
        ["add_embedding", "linear_2"] => "label_emb.0.2".into(),
        _ => panic!("{layer}"),
    }
}

/// Every layer of every network comes back from every format that has a name for it.
#[test]
fn names_of_every_layer_come_back() {
    for base in [Base::Sd1, Base::Sd2, Base::Sdxl] {
        let names = every_layer(base);
        assert!(names.len() > 400, "{base}: {}", names.len());
        for name in &names {
            let (dotted, layer) = (name.dotted(), &name.layer);
            let bare = layer.strip_prefix("text_model.").unwrap_or(layer);
            let mut keys = vec![
                format!("{dotted}.lora.down.weight"),
                format!("{dotted}.lora_linear_layer.down.weight"),
                format!("{dotted}.lora_A.weight"),
                format!("{dotted}.lora_A.any name.weight"),
                format!("{dotted}.lora_down.weight"),
                format!("{}.{bare}.lora_A.weight", name.network),
                format!("{}.base_model.model._orig_mod.{layer}.lora_A.weight", name.network),
                format!("base_model.model.module.{dotted}.lora_A.weight"),
            ];
            for two in [false, true] {
                keys.push(format!("{}.lora_down.weight", name.kohya(two)));
                keys.push(format!("{}.lora_down.weight", name.kohya(two).replacen("lora_", "lycoris_", 1)));
            }
            if name.network != Network::TextEncoder2 {
                keys.push(format!("base_model.model.{layer}.lora_A.weight"));
                keys.push(format!("lycoris_{}.hada_w1_a", layer.replace('.', "_")));
            }
            if name.network == Network::UNet {
                let ldm = ldm(layer, base);
                keys.push(format!("lora_unet_{}.lora_down.weight", ldm.replace('.', "_")));
                keys.push(format!("lora_unet__orig_mod_{}.lora_down.weight", ldm.replace('.', "_")));
                let starts =
                    ["unet", "diffusion_model", "model.diffusion_model", "unet.module", "base_model.model.unet"];
                keys.extend(starts.map(|start| format!("{start}.{ldm}.lora_down.weight")));
            }
            let name_of = |key: &String| {
                let one = Tensors::from([(key.clone(), Tensor::zeros([1, 1], (Kind::Float, Device::Cpu)))]);
                let file = AdapterFile::parse(one, HashMap::new(), Path::new("x"), 2);
                file.map(|file| file.entries.into_keys().next()).unwrap_or_else(|e| panic!("{key}: {e}"))
            };
            for key in &keys {
                // a projection without its network is the second encoder's alone
                if layer == "text_projection" && !key.contains("te2") && !key.contains("text_encoder_2") {
                    continue;
                }
                assert_eq!(name_of(key).as_ref(), Some(name), "{key}");
            }
        }
    }
}
