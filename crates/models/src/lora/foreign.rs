//! Recognises files that are not LoRAs of Stable Diffusion, by the names of their tensors.

use super::Network;

/// A sign and what it shows. The sign is a piece of a key, or its beginning after a `^`; of several joined by `&` the
/// same key has all. The first entry counts that a key of the file has.
type Sign = (&'static str, &'static str);

/// Adapters that are no LoRA, whatever they are for.
const ADAPTERS: [Sign; 15] = [
    ("lora_controlnet", "a Control-LoRA"),
    ("lllite_", "a ControlNet-LLLite"),
    ("^control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("^input_hint_block.", "a ControlNet"),
    ("^zero_convs.", "a ControlNet"),
    ("^adapter.body.", "a T2I-Adapter"),
    ("^body.0.block", "a T2I-Adapter"),
    ("^ip_adapter.", "an IP-Adapter"),
    ("^image_proj.", "an IP-Adapter"),
    ("to_k_ip.", "an IP-Adapter"),
    ("^0.to_q_lora.", "an IP-Adapter (FaceID)"),
    ("^1.to_q_lora.", "an IP-Adapter (FaceID)"),
    ("motion_modules", "an AnimateDiff motion module"),
    ("temporal_transformer.", "an AnimateDiff motion module"),
];

const VIDEO: &str = "a LoRA or checkpoint of a video model (Wan, HunyuanVideo)";
const LUMINA: &str = "a LoRA or checkpoint of Z-Image or Lumina";
const QWEN: &str = "a LoRA or checkpoint of Qwen-Image";
const TRANSFORMER: &str = "a LoRA or checkpoint of a diffusion transformer (Flux, Stable Diffusion 3, PixArt, LTX-Video, \
                           Qwen-Image)";
const T5: &str = "a T5 text encoder, or a LoRA of one (Flux, Stable Diffusion 3)";

/// LoRAs and checkpoints of other architectures, what stands before their layers left out.
const ARCHITECTURES: [Sign; 34] = [
    ("single_transformer_blocks", "a Flux LoRA or model"),
    ("double_stream_blocks", "a HiDream LoRA or model"),
    ("double_blocks", "a Flux or Hunyuan LoRA or model"),
    ("single_blocks", "a Flux or Hunyuan LoRA or model"),
    ("joint_blocks", "a Stable Diffusion 3 LoRA or model"),
    ("joint_transformer_blocks", "an AuraFlow LoRA or model"),
    ("lora_prior_unet", "a Stable Cascade LoRA"),
    ("adaln_modulation", "a LoRA or checkpoint of Cosmos or Anima"),
    ("noise_refiner", LUMINA),
    ("context_refiner", LUMINA),
    ("^diffusion_model.layers.", LUMINA),
    ("^lora_unet_layers_", LUMINA),
    ("^transformer.layers.&.attention.", LUMINA),
    ("^layers.&.attention.", LUMINA),
    ("transformer_blocks.&.img_mod.", QWEN),
    ("transformer_blocks.&.img_mlp.", QWEN),
    ("transformer_blocks_&_img_mod_", QWEN),
    ("transformer_blocks_&_img_mlp_", QWEN),
    ("lora_transformer", TRANSFORMER),
    ("^lycoris_transformer_blocks_", TRANSFORMER),
    ("^transformer.", TRANSFORMER),
    ("^transformer_blocks.", TRANSFORMER),
    ("^diffusion_model.transformer_blocks.", TRANSFORMER),
    ("^lora_unet_transformer_blocks_", TRANSFORMER),
    ("^diffusion_model.blocks.", VIDEO),
    ("^lora_unet_blocks_", VIDEO),
    ("^blocks.&.self_attn.", VIDEO),
    ("^blocks.&.cross_attn.", VIDEO),
    ("^blocks.&.ffn.", VIDEO),
    ("cross_attn.q", VIDEO),
    ("time_stack.", "a Stable Video Diffusion model"),
    ("time_mixer.", "a Stable Video Diffusion model"),
    ("SelfAttention", T5),
    ("lora_te3_", T5),
];

/// Models in one file with the original program's keys, or a part of one.
const WHOLE: [Sign; 5] = [
    ("^model.diffusion_model.", "a whole model in one file (--model takes it)"),
    ("^first_stage_model.", "a whole model in one file, or its autoencoder"),
    ("^cond_stage_model.", "a whole model in one file"),
    ("^conditioner.embedders.", "a whole model in one file"),
    ("^state_dict.", "a whole model in one file"),
];

const EMBEDDING: &str = "a textual-inversion embedding, words for a prompt";
const CLIP: &str = "a LoRA of a CLIP text encoder, under a name that is not known here";
const LANGUAGE: &str = "a LoRA of a language model";

const OTHERS: [Sign; 23] = [
    ("^emb_params", EMBEDDING),
    ("^string_to_param", EMBEDDING),
    ("^bundle_emb.", "textual-inversion embeddings alone, words for a prompt"),
    ("^clip_l", EMBEDDING),
    ("^clip_g", EMBEDDING),
    ("^<", EMBEDDING),
    ("exp_avg", "the state of an optimiser"),
    ("vision_model.", "an image encoder, or a LoRA of one"),
    ("text_model.encoder.layers.&.lora", CLIP),
    ("text_model_encoder_layers_&.lora", CLIP),
    ("self_attn.q_proj.lora", LANGUAGE),
    ("^model.layers.", "a language model, or a LoRA of one"),
    ("^base_model.model.model.layers.", LANGUAGE),
    ("^down_blocks.", UNET),
    ("^unet.down_blocks.", UNET),
    ("^conv_in.", UNET),
    ("^input_blocks.", "the weights of a UNet"),
    ("^encoder.down_blocks.", VAE),
    ("^decoder.up_blocks.", VAE),
    ("^encoder.down.", VAE),
    ("^encoder.block_1.", VAE),
    ("^vae.", VAE),
    ("text_model.", "the weights of a text encoder"),
];

const UNET: &str = "the weights of a UNet (--model takes the model's folder)";
const VAE: &str = "an autoencoder (VAE)";

/// What the file seems to be, if a sign is found.
pub fn kind<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let keys: Vec<&str> = keys.collect();
    let whole = || found(&WHOLE, &keys);
    found(&ADAPTERS, &keys).or_else(|| of_others(&keys)).or_else(whole).or_else(|| rest(&keys))
}

/// What a LoRA seems to be whose keys are understood, but whose layers a network lacks.
pub fn other_lora<'a>(keys: impl Iterator<Item = &'a str>, network: Network) -> Option<&'static str> {
    kind(keys).filter(|what| *what != UNET && (*what != CLIP || network == Network::UNet))
}

/// The other architecture that these keys are of, LoRA or checkpoint, if a sign is found.
pub fn architecture<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    of_others(&keys.collect::<Vec<_>>())
}

/// What a file without the parts of a whole model seems to be.
pub fn no_model<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let keys: Vec<&str> = keys.collect();
    found(&ADAPTERS, &keys).or_else(|| of_others(&keys)).or_else(|| rest(&keys))
}

fn found(signs: &[Sign], keys: &[&str]) -> Option<&'static str> {
    let has = |key: &str, piece: &str| match piece.strip_prefix('^') {
        Some(start) => key.starts_with(start),
        None => key.contains(piece),
    };
    let shows = |sign: &str| keys.iter().any(|key| sign.split('&').all(|piece| has(key, piece)));
    signs.iter().find(|(sign, _)| shows(sign)).map(|(_, what)| *what)
}

fn of_others(keys: &[&str]) -> Option<&'static str> {
    found(&ARCHITECTURES, &keys.iter().map(|key| inside(key)).collect::<Vec<_>>())
}

/// The key without what wrappers and checkpoints put before it.
fn inside(key: &str) -> &str {
    let before = ["base_model.model.", "model.diffusion_model.", "_orig_mod.", "_forward_module.", "module."];
    before.iter().find_map(|start| key.strip_prefix(start)).map_or(key, inside)
}

fn rest(keys: &[&str]) -> Option<&'static str> {
    // by the widths of text and of layers: `768.0.linear.0.weight`
    let is_width = |key: &&str| {
        let mut words = key.split('.');
        let width = words.next().and_then(|word| word.parse::<u32>().ok());
        width.is_some_and(|width| width >= 64) && matches!(words.next(), Some("0" | "1"))
    };
    if keys.iter().any(is_width) {
        return Some("a hypernetwork");
    }
    // one tensor of a few vectors, by the name of the word
    let is_word = keys.len() == 1 && !keys[0].contains('.');
    found(&OTHERS, keys).or_else(|| is_word.then_some("a textual-inversion embedding"))
}

/// The first three keys, shortened if they are long.
pub fn first_keys<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    const LONGEST: usize = 100;
    let shortened = |key: &str| match key.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    };
    let mut keys = keys.peekable();
    let shown: Vec<String> = keys.by_ref().take(3).map(shortened).collect();
    let more = if keys.peek().is_some() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_architectures_by_the_names_of_their_layers() {
        for (key, part) in [
            ("diffusion_model.double_blocks.0.img_attn.proj.lora_A.weight", "a Flux"),
            ("base_model.model.single_transformer_blocks.3.attn.to_q.lora_A.weight", "a Flux"),
            ("lora_unet_joint_blocks_0_context_block_attn_proj.alpha", "Stable Diffusion 3"),
            ("transformer.joint_transformer_blocks.0.attn.to_q.lora_A.weight", "AuraFlow"),
            ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
            ("base_model.model.blocks.7.self_attn.q.lora_A.weight", "Wan"),
            ("blocks.7.ffn.0.lora_A.weight", "Wan"),
            ("model.diffusion_model.blocks.7.cross_attn.k.weight", "Wan"),
            ("lora_unet_blocks_0_self_attn_q.alpha", "Wan"),
            ("lora_unet_transformer_blocks_4_attn_to_q.alpha", "Qwen-Image"),
            ("diffusion_model.transformer_blocks.4.attn.to_q.lora_A.weight", "Qwen-Image"),
            ("transformer_blocks.4.img_mod.1.lora_A.weight", "of Qwen-Image"),
            ("diffusion_model.transformer_blocks.4.attn1.to_q.lora_A.weight", "LTX-Video"),
            ("base_model.model.transformer_blocks.4.attn1.to_q.lora_A.weight", "PixArt"),
            ("diffusion_model.layers.4.attention.to_q.lora_A.weight", "Z-Image"),
            ("lora_unet_layers_4_attention_qkv.alpha", "Lumina"),
            ("lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha", "T5"),
        ] {
            assert!(architecture([key].into_iter()).is_some_and(|what| what.contains(part)), "{key}");
            assert!(kind([key].into_iter()).is_some_and(|what| what.contains(part)), "{key}");
        }
        let path = "transformer_blocks.0.attn1.to_q.lora_A.weight";
        for key in [
            format!("unet.mid_block.attentions.0.{path}"),
            format!("diffusion_model.input_blocks.1.1.{path}"),
            format!("base_model.model.down_blocks.1.attentions.0.{path}"),
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.alpha".into(),
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha".into(),
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight".into(),
        ] {
            assert_eq!(architecture([key.as_str()].into_iter()), None, "{key}");
        }
    }

    #[test]
    fn other_adapters() {
        for (key, part) in [
            ("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight", "LLLite"),
            ("768.0.linear.0.weight", "a hypernetwork"),
            ("0.to_q_lora.down.weight", "FaceID"),
            ("ip_adapter.1.to_k_ip.weight", "an IP-Adapter"),
            ("x.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "CLIP text encoder"),
            ("base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "an image encoder"),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "a language model"),
        ] {
            assert!(kind([key].into_iter()).is_some_and(|what| what.contains(part)), "{key}");
        }
    }
}
