//! Recognises files that are not LoRAs of Stable Diffusion, by the names of their tensors.

/// The first entry counts that a key of the file contains, or begins with if the entry has a `^`.
const SIGNS: [(&str, &str); 46] = [
    ("lora_controlnet", "a Control-LoRA"),
    ("^control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("^input_hint_block.", "a ControlNet"),
    ("^zero_convs.", "a ControlNet"),
    ("^adapter.body.", "a T2I-Adapter"),
    ("^body.0.block", "a T2I-Adapter"),
    ("^ip_adapter.", "an IP-Adapter"),
    ("^image_proj.", "an IP-Adapter"),
    ("motion_modules", "an AnimateDiff motion module"),
    ("temporal_transformer", "an AnimateDiff motion module"),
    ("single_transformer_blocks", "a Flux LoRA or model"),
    ("double_blocks", "a Flux or Hunyuan LoRA or model"),
    ("single_blocks", "a Flux or Hunyuan LoRA or model"),
    ("joint_blocks", "a Stable Diffusion 3 LoRA or model"),
    ("joint_transformer_blocks", "a Stable Diffusion 3 LoRA or model"),
    ("lora_prior_unet", "a Stable Cascade LoRA"),
    ("lora_transformer", "a LoRA of a diffusion transformer (Flux, Stable Diffusion 3, PixArt)"),
    ("^transformer.", "a LoRA of a diffusion transformer (Flux, Stable Diffusion 3, PixArt)"),
    ("^transformer_blocks.", "a LoRA of a diffusion transformer (Flux, Stable Diffusion 3, PixArt)"),
    ("^diffusion_model.blocks.", "a LoRA of a video model (Wan, HunyuanVideo)"),
    ("^lora_unet_blocks_", "a LoRA of a video model (Wan, HunyuanVideo)"),
    ("cross_attn.q", "a LoRA of a video model (Wan)"),
    ("^model.diffusion_model.", "a whole model in one file (--model takes it)"),
    ("^first_stage_model.", "a whole model in one file, or its autoencoder"),
    ("^cond_stage_model.", "a whole model in one file"),
    ("^conditioner.embedders.", "a whole model in one file"),
    ("^state_dict.", "a whole model in one file"),
    ("^emb_params", "a textual-inversion embedding, words for a prompt"),
    ("^string_to_param", "a textual-inversion embedding, words for a prompt"),
    ("^bundle_emb.", "textual-inversion embeddings alone, words for a prompt"),
    ("^clip_l", "a textual-inversion embedding, words for a prompt"),
    ("^clip_g", "a textual-inversion embedding, words for a prompt"),
    ("^<", "a textual-inversion embedding, words for a prompt"),
    ("exp_avg", "the state of an optimiser"),
    ("self_attn.q_proj.lora", "a LoRA of a language model"),
    ("^model.layers.", "a language model, or a LoRA of one"),
    ("^base_model.model.model.layers.", "a LoRA of a language model"),
    ("^down_blocks.", "the weights of a UNet (--model takes the model's folder)"),
    ("^unet.down_blocks.", "the weights of a UNet (--model takes the model's folder)"),
    ("^conv_in.", "the weights of a UNet (--model takes the model's folder)"),
    ("^input_blocks.", "the weights of a UNet"),
    ("^encoder.down_blocks.", "an autoencoder (VAE)"),
    ("^decoder.up_blocks.", "an autoencoder (VAE)"),
    ("^encoder.down.", "an autoencoder (VAE)"),
    ("text_model.", "the weights of a text encoder"),
];

/// What the file seems to be, if a sign is found.
pub fn kind<'a>(keys: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let keys: Vec<&str> = keys.collect();
    let shows = |sign: &str| match sign.strip_prefix('^') {
        Some(start) => keys.iter().any(|key| key.starts_with(start)),
        None => keys.iter().any(|key| key.contains(sign)),
    };
    let found = SIGNS.iter().find(|(sign, _)| shows(sign)).map(|(_, what)| *what);
    // one tensor of a few vectors, by the name of the word
    found.or_else(|| (keys.len() == 1 && !keys[0].contains('.')).then_some("a textual-inversion embedding"))
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
