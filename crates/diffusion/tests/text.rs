//! Prompts are encoded once for every state of the encoders: rows with an adapter and without it are never mixed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use diffusion::{
    denoiser::Denoiser,
    pipeline::{Overrides, Pipeline, Precision},
    settings::Location,
};
use models::guidance::Guidance;
use models::unet::POOLED;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name)
}

#[test]
fn rows_follow_the_adapter() {
    let lora = fixture("lora_text/sdxl.safetensors");
    for offload in [false, true] {
        let mut pipeline = Pipeline::open(&fixture("pipeline_sdxl"), Kind::Float, device()).unwrap();
        if offload {
            pipeline.text.offload();
        }
        let mut rows = |adapter: Option<f64>| -> (Tensor, Tensor) {
            pipeline.adapt(&adapter.map(|scale| (lora.clone(), scale)).into_iter().collect::<Vec<_>>()).unwrap();
            let text = pipeline.text.guided(&["a red dog"], None, false, (32, 32)).unwrap().cond;
            (text.context().unwrap().shallow_clone(), text.get(POOLED).unwrap().shallow_clone())
        };
        let (plain, whole, half) = (rows(None), rows(Some(1.0)), rows(Some(0.5)));
        let differ = |a: &(Tensor, Tensor), b: &(Tensor, Tensor)| {
            let parts =
                [a.0.narrow(-1, 0, 16) - b.0.narrow(-1, 0, 16), a.0.narrow(-1, 16, 20) - b.0.narrow(-1, 16, 20)];
            let parts = parts.into_iter().chain([&a.1 - &b.1]); // the first encoder's share, the second's, and the pooled
            parts.map(|d| d.abs().max().double_value(&[])).fold(f64::MAX, f64::min) > 1e-3
        };
        assert!(differ(&plain, &whole) && differ(&whole, &half) && differ(&plain, &half), "offload: {offload}");
        assert_eq!(rows(None), plain);
        assert_eq!(rows(Some(1.0)), whole);
    }
}

/// Two chunks of 14 tokens, and one.
const FIRST: &str = "a red dog and a blue cat on the grass next to it";
const LONG: &str = "a red dog and a blue cat on the grass next to it a big green tree";

fn in_chunks(name: &str, chunks: Option<usize>) -> Pipeline {
    let location = Location::from(fixture(name));
    let overrides = Overrides { chunks, ..Overrides::default() };
    Pipeline::open_at(&location, None, None, overrides, Precision::from(Kind::Double), device()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// What each chunk alone is, one behind the other; SDXL's pooled embedding is the first one's.
#[test]
fn contexts_of_long_prompts() {
    for name in ["pipeline_sd1", "pipeline_sdxl"] {
        let mut pipeline = in_chunks(name, Some(3));
        let encoding = pipeline.text.tokens(LONG).unwrap();
        assert_eq!(encoding.ids.len(), 32, "two chunks of 16");
        let second = encoding.spans[17].clone().unwrap().start;
        let mut text = |prompt: &str| pipeline.text.guided(&[prompt], None, false, (32, 32)).unwrap().cond;
        let (whole, first, rest) = (text(LONG), text(&LONG[..second]), text(&LONG[second..]));
        let parts = Tensor::cat(&[first.context().unwrap(), rest.context().unwrap()], 1);
        assert!(difference(whole.context().unwrap(), &parts) < 1e-6, "{name}");
        if let (Some(whole), Some(first)) = (whole.get(POOLED), first.get(POOLED)) {
            assert!(difference(whole, first) < 1e-6);
        }
        let cut = in_chunks(name, None).text.guided(&[LONG], None, false, (32, 32)).unwrap().cond;
        assert!(difference(cut.context().unwrap(), &whole.context().unwrap().narrow(1, 0, 16)) < 1e-6);
    }
}

/// A row of fewer chunks beside a longer one is what it is alone: output of the UNet and attention of every token.
#[test]
fn a_short_prompt_beside_a_long_one() {
    let mut pipeline = in_chunks("pipeline_sd1", Some(2));
    let unet = pipeline.network(&pipeline.weights).unwrap();
    let shape = pipeline.latent_shape("48x32".parse().unwrap()).unwrap();
    let x = Tensor::randn([&[1], shape.as_slice()].concat(), (Kind::Double, device()));
    let mut run = |prompts: &[&str]| {
        let text = pipeline.text.guided(prompts, None, true, (32, 48)).unwrap();
        let denoiser =
            Denoiser { network: unet.as_ref(), guidance: Guidance { scale: 3.0, rescale: 0.0 }, kind: Kind::Double };
        let (e, layers) = denoiser.predict_with_maps(&x.repeat([prompts.len() as i64, 1, 1, 1]), 500.0, &text).unwrap();
        (e.get(0), layers[0].modules[0].get(0))
    };
    let (alone, beside) = (run(&["a red dog"]), run(&["a red dog", LONG]));
    assert!(difference(&alone.0, &beside.0) < 1e-8);
    assert_eq!((alone.1.size()[2], beside.1.size()[2]), (16, 32));
    assert!(difference(&alone.1, &beside.1.narrow(2, 0, 16)) < 1e-8);
    assert_eq!(beside.1.narrow(2, 16, 16).abs().max().double_value(&[]), 0.0);
    assert!(difference(&run(&[FIRST]).0, &run(&[LONG]).0) > 1e-6, "the second chunk is seen");
}
