//! Prompts are encoded once for every state of the encoders: rows with an adapter and without it are never mixed.

use diffusion::pipeline::Pipeline;
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
            (text.context, text.added.unwrap().pooled)
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
