//! Training in half precision follows training in float32.

use crate::common;

use crate::common::Folder;
use tch::{Kind, Tensor};
use torch_ext::testing;

const ADAPTER: &str = "out/checkpoints/step-1/adapter.safetensors";

/// A run's folder with an adapter that was trained for a step, and noise for two samples.
fn folder() -> Folder {
    let folder = Folder::of_run();
    folder.train("train.steps=1").ok();
    let mut draws = torch_ext::Generator::seeded(1).unwrap();
    let mut draw = |shape: &[i64]| draws.randn(shape).unwrap();
    let noise = [("x_T".to_owned(), draw(&[2, 4, 8, 8])), ("z".to_owned(), draw(&[4, 2, 4, 8, 8]))];
    folder.write_tensors("noise.safetensors", noise);
    folder
}

/// The gradient of every adapter matrix of one iteration, in one vector.
fn gradient(folder: &Folder, words: &str) -> Tensor {
    folder.trace(&format!("--out t.safetensors --lora {ADAPTER} replay.mode=chained {words}")).ok();
    let all = folder.tensors("t.safetensors");
    let of_matrix =
        |(key, t): (&String, &Tensor)| key.starts_with("grad.").then(|| t.to_kind(Kind::Double).flatten(0, -1));
    Tensor::cat(&all.iter().filter_map(of_matrix).collect::<Vec<_>>(), 0)
}

/// In the Euclidean norm of all gradients together.
fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    ((got - expected).norm() / expected.norm()).double_value(&[])
}

#[test]
fn gradients_in_half_precision_are_those_of_float64() {
    let folder = folder();
    let exact = gradient(&folder, "model.dtype=float64");
    // on a GPU, and on the stand-in for one, attention may be computed in parts, which bfloat16 rounds more often: 0.13 was seen
    let bfloat16 = if testing::device_name() == "cpu" { 0.12 } else { 0.15 };
    for (dtype, most) in [("float32", 1e-5), ("float16", 2.5e-2), ("bfloat16", bfloat16)] {
        let error = distance(&gradient(&folder, &format!("model.dtype={dtype}")), &exact);
        println!("{dtype}: relative error {error:.1e}");
        assert!(error < most, "{dtype}: {error}");
    }
    // A loss whose gradients are far below what float16 holds; nothing else changes with its weight.
    let small = gradient(&folder, "model.dtype=float16 captioner.weight=1e-7") * 1e7;
    let error = distance(&small, &exact);
    println!("float16, loss of weight 1e-7: relative error {error:.1e}");
    assert!(error < 2.5e-2, "{error}");
}

#[test]
fn a_run_in_half_precision_follows_one_in_float32() {
    let folder = Folder::of_run();
    let losses = |dtype: &str| -> Vec<f64> {
        let words = "train.steps=6 optimizer.learning_rate=2e-3 fidelity.rank=2 fidelity.learning_rate=1e-3";
        let done = folder.train(&format!("{words} output={dtype} model.dtype={dtype}"));
        assert_eq!(done.code, Some(0), "{done:?}");
        let steps = folder.events(dtype).into_iter().filter(|e| e["event"] == "step");
        steps.flat_map(|e| [e["caption_loss"].as_f64().unwrap(), e["adversarial_loss"].as_f64().unwrap()]).collect()
    };
    let exact = losses("float32");
    assert_eq!(exact.len(), 12);
    for (dtype, most) in [("float16", 0.01), ("bfloat16", 0.03)] {
        let worst = losses(dtype).iter().zip(&exact).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
        println!("{dtype}: losses of six steps differ by at most {:.2} %", 100.0 * worst);
        assert!(worst < most, "{dtype}: {worst}");
    }
}

/// An autoencoder overflows in float16 where its configuration says so; where it says nothing, SDXL's does and others do not.
#[test]
fn the_autoencoder_in_float16() {
    use diffusion::pipeline::Pipeline;
    for (model, absent) in [(common::SD1, Kind::Half), (common::SDXL, Kind::Float)] {
        let folder = Folder::new();
        folder.copy(model, "model");
        let kind = || {
            let pipeline = Pipeline::open(&folder.path("model"), Kind::Half, torch_ext::testing::device()).unwrap();
            pipeline.vae.with(|vae| Ok(vae.kind())).unwrap()
        };
        assert_eq!(kind(), Kind::Float, "{model}: force_upcast is true");
        folder.edit_text("model/vae/config.json", |text| text.replace("\"force_upcast\": true,", ""));
        assert_eq!(kind(), absent, "{model}: force_upcast is absent");
        folder.edit_json("model/vae/config.json", "force_upcast", false);
        assert_eq!(kind(), Kind::Half, "{model}: force_upcast is false");
    }
}

/// Latents are as in float32, and so are the images, up to a rounding of their bytes.
#[test]
fn the_autoencoder_has_a_precision_of_its_own() {
    let folder = Folder::new();
    let draw = |out: &str, words: &str| {
        folder.generate(common::SD1, &["a red dog"], &format!("--steps 2 --sampler ddim --out {out} {words}")).ok();
        let file = folder.names(out).remove(0);
        common::Image::open(&folder.path(out).join(file))
    };
    let (single, half) = (draw("a", "--dtype float32"), draw("b", "--dtype float32 --vae-dtype bfloat16"));
    let difference = single.difference(&half);
    assert!((1..20).contains(&difference), "{difference}");
    let both = draw("c", "--dtype bfloat16 --vae-dtype float32");
    assert!(both.difference(&draw("d", "--dtype bfloat16")) > 0);
}
