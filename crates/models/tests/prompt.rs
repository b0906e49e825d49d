//! From prompts to what the UNet is conditioned on: tokenizers and text encoders together, against diffusers' pipelines.

use crate::common::{assert_close, device, fixture, io};
use models::{
    clip::{Encoded, TextEncoder},
    tokenizer::ClipTokenizer,
};
use serde::Deserialize;
use tch::{Kind, Tensor};

#[derive(Deserialize)]
struct Prompts {
    prompts: Vec<String>,
}

fn encode(pipeline: &str, which: &str) -> Encoded {
    let file = std::fs::read_to_string(fixture(pipeline).join("prompts.json")).unwrap();
    let Prompts { prompts } = serde_json::from_str(&file).unwrap();
    let tokenizer = ClipTokenizer::open(&fixture(pipeline).join(format!("tokenizer{which}"))).unwrap();
    let folder = fixture(pipeline).join(format!("text_encoder{which}"));
    let encoder = TextEncoder::open(&folder, Kind::Float, device()).unwrap();
    assert!(tokenizer.vocab_size() <= encoder.config().vocab_size);
    let rows: Vec<Tensor> =
        prompts.iter().map(|prompt| Tensor::from_slice(&tokenizer.encode(prompt).unwrap().ids)).collect();
    encoder.forward(&Tensor::stack(&rows, 0).to_device(device())).unwrap()
}

#[test]
fn sd1() {
    let encoded = encode("pipeline_sd1", "");
    assert_close("prompt_embeds", &encoded.last_hidden_state, &io("pipeline_sd1")["prompt_embeds"], 1e-5);
}

#[test]
fn sdxl() {
    let (first, second) = (encode("pipeline_sdxl", ""), encode("pipeline_sdxl", "_2"));
    let io = io("pipeline_sdxl");
    let context = Tensor::cat(&[first.penultimate, second.penultimate], -1);
    assert_close("prompt_embeds", &context, &io["prompt_embeds"], 1e-5);
    assert_close("pooled", &second.text_embeds.unwrap(), &io["pooled_prompt_embeds"], 1e-5);
}
