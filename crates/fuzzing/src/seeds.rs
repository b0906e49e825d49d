//! What the targets begin with: the project's own fixtures and examples, and small files made here.

use image::{DynamicImage, ImageFormat, RgbaImage};
use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

/// Larger files would be slow, and have nothing that smaller ones do not have.
const MOST: u64 = 1 << 18;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files below a folder of the project, by the end of their name; in order.
fn below(folder: &str, end: &str) -> Vec<Vec<u8>> {
    fn walk(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, end, found);
            } else if path.to_string_lossy().ends_with(end) && path.metadata().is_ok_and(|m| m.len() <= MOST) {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    walk(&root().join(folder), end, &mut found);
    found.sort();
    found.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Seeds of a target, at least one.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let fixtures = "crates/models/tests/fixtures";
    match target {
        "safetensors" => [below("crates/models/tests/fixtures/lora", ".safetensors"), small_safetensors()].concat(),
        "single_file" => [below("crates/models/tests/fixtures/ldm_sd1", ".safetensors"), single_files()].concat(),
        "adapter" => ["lora", "adapter_kinds", "lora_text"]
            .iter()
            .flat_map(|folder| below(&format!("{fixtures}/{folder}"), ".safetensors"))
            .collect(),
        "lora_names" => vec![NAMES.as_bytes().to_vec()],
        "model_config" => [below(fixtures, "config.json"), below(fixtures, "model_index.json"), published()].concat(),
        "scheduler" => below(fixtures, "scheduler_config.json"),
        "tokenizer" => ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "map.json"]
            .iter()
            .flat_map(|end| below(fixtures, end))
            .collect(),
        "run_config" => [below("configs", ".toml"), SETTINGS.lines().map(|l| l.as_bytes().to_vec()).collect()].concat(),
        "prompts" => vec![
            b"a red dog\n\n# of sd-scripts\na blue cat --n low quality --w 512 --d 42\n(word:1.2) <lora:x:0.8>\n"
                .to_vec(),
            br#"{"prompt": "a red dog", "entities": [{"noun": "dog", "attributes": ["red"]}], "tag": 3}"#.to_vec(),
            "\u{feff}a caf\u{e9}\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ],
        "images" => image_files(),
        "pairs" => {
            let mut all = lists();
            all.extend(image_files().into_iter().take(3).map(|image| shard(&image)));
            all
        }
        "scores" => vec![SCORES.as_bytes().to_vec(), EVENTS.as_bytes().to_vec()],
        "events" => {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = runlog::tensorboard::Writer::create(folder.path(), 0).unwrap();
            writer.scalars(3, &[("train/loss".into(), 0.5), ("train/rate".into(), 5e-5)]).unwrap();
            writer.image(4, "samples/a dog", (2, 1), vec![1, 2, 3]).unwrap();
            drop(writer);
            fs::read_dir(folder.path()).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
        }
        other => panic!("no target {other}"),
    }
}

/// Configurations of the hub, each file by itself.
fn published() -> Vec<Vec<u8>> {
    let mut all = vec![];
    for file in below("crates/diffusion/tests/fixtures/published", ".json") {
        let serde_json::Value::Object(files) = serde_json::from_str(&String::from_utf8(file).unwrap()).unwrap() else {
            continue;
        };
        all.extend(files.into_iter().map(|(_, file)| file.to_string().into_bytes()));
    }
    all
}

/// A header and the values behind it.
pub fn framed(header: &str, values: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), values].concat()
}

fn small_safetensors() -> Vec<Vec<u8>> {
    let header = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"y":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[16,19]},"z":{"dtype":"I64","shape":[],"data_offsets":[19,27]}}"#;
    vec![framed(header, &[7; 27]), framed("{}", &[])]
}

fn single_files() -> Vec<Vec<u8>> {
    let mut offset = 0;
    let mut tensor = |key: &str, shape: &[usize]| {
        let (start, size) = (offset, shape.iter().product::<usize>());
        offset += size;
        format!(r#""{key}":{{"dtype":"U8","shape":{shape:?},"data_offsets":[{start},{offset}]}}"#)
    };
    let tensors = [
        tensor("cond_stage_model.model.ln_final.weight", &[4]),
        tensor("cond_stage_model.model.positional_embedding", &[4, 4]),
        tensor("cond_stage_model.model.text_projection", &[4, 4]),
        tensor("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", &[12, 4]),
        tensor("cond_stage_model.model.transformer.resblocks.23.ln_1.bias", &[4]),
        tensor("first_stage_model.decoder.conv_in.weight", &[4, 4, 3, 3]),
        tensor("first_stage_model.decoder.mid.attn_1.q.weight", &[4, 4, 1, 1]),
        tensor("first_stage_model.decoder.up.0.block.0.nin_shortcut.weight", &[4, 4, 1, 1]),
        tensor("model.diffusion_model.input_blocks.0.0.weight", &[4, 4, 3, 3]),
        tensor("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", &[4, 4]),
        tensor("model.diffusion_model.middle_block.1.proj_in.weight", &[4, 4]),
    ];
    let metadata =
        r#""__metadata__":{"modelspec.architecture":"stable-diffusion-v2-768-v","modelspec.resolution":"768x768"}"#;
    vec![framed(&format!("{{{metadata},{}}}", tensors.join(",")), &vec![3; offset])]
}

fn image_files() -> Vec<Vec<u8>> {
    let image = RgbaImage::from_fn(19, 13, |x, y| [x as u8 * 9, y as u8 * 17, (x * y) as u8, 255 - x as u8].into());
    let image = DynamicImage::from(image);
    let encoded = |image: DynamicImage, format| {
        let mut bytes = Cursor::new(vec![]);
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ours.png");
    let rgb = image.to_rgb8();
    let ours = images::Image { width: 19, height: 13, pixels: rgb.into_raw() };
    ours.save(&path, &[("parameters", "a café\nSteps: 3")]).unwrap();
    vec![
        fs::read(&path).unwrap(),
        encoded(image.to_rgb8().into(), ImageFormat::Jpeg),
        encoded(image.clone(), ImageFormat::WebP),
        encoded(image.clone(), ImageFormat::Png),
        encoded(image.to_luma16().into(), ImageFormat::Png),
    ]
}

/// A sample of a WebDataset.
fn shard(image: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    let name = format!("{}/b.png", "long".repeat(40));
    let members: [(&str, &[u8]); 5] = [
        ("a.png", image),
        ("a.txt", b"a red dog\n"),
        ("b.json", br#"{"caption": "a blue cat"}"#),
        (&name, image),
        ("b.png", image),
    ];
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn lists() -> Vec<Vec<u8>> {
    vec![
        br#"{"image": "a.png", "caption": "a red dog"}"#.to_vec(),
        b"file_name,text\na.png,\"a red, dog\"\n".to_vec(),
        br#"{"a": {"caption": "a red dog", "tags": "dog, red"}}"#.to_vec(),
    ]
}

const NAMES: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight
lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight
lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha
unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default_0.weight
unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.default_0.weight
base_model.model.mid_block.attentions.0.proj_in.lora_A.weight
base_model.model.mid_block.attentions.0.proj_in.lora_B.weight
lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0.lora_down.weight
lora_unet_output_blocks_5_1_proj_out.lora_up.weight
lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight
lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight
unet.conv_in.lora.down.weight
text_encoder.text_model.encoder.layers.0.self_attn.k_proj.lora_linear_layer.up.weight
lycoris_unet_mid_block_resnets_0_conv1.hada_w1_a
lora_unet_mid_block_resnets_0_conv1.lokr_w1
lora_unet_mid_block_attentions_0_proj_in.dora_scale
lora_unet_mid_block_attentions_0_norm.w_norm
bundle_emb.sks.clip_l
";

const SETTINGS: &str = "train.steps=10
rewards.0.weight=2
prompts.train='~/$HOME/x'
sampling.size='512x768'
a.b.c.d=[1,2,{x=3}]
replay.policy=last";

const SCORES: &str = r#"{"benchmark":"t2i-compbench","category":"color","prompt_id":"dog","prompt":"a dog","index":1,"seed":43,"file":"dog_000001.png","metric":"blip-vqa","part":0,"parts":2,"score":0.5}
{"benchmark":"t2i-compbench","category":"color","prompt_id":"dog","prompt":"a dog","index":1,"seed":43,"file":"dog_000001.png","metric":"blip-vqa","part":1,"parts":2,"score":0.25}
"#;

const EVENTS: &str = r#"{"event":"start","step":0,"trainable":70}
{"event":"validation","step":0,"caption_loss":2.5,"standard_error":0.1,"prompts":2,"losses":[2.0,3.0],"judge":{"clean":0.5}}
{"event":"step","step":1,"caption_loss":2.0,"grad_norm":0.5,"learning_rate":0.1,"seconds":1.5,"peak_memory":null}
{"event":"skipped","step":3,"not_finite":"image","skipped":1,"seconds":1.0}
{"event":"finished"}
"#;
