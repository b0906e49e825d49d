//! Prodigy against its authors' package, in float64: values and distance after every step.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use config::Optimizer;
use models::tensors;
use optim::{Prodigy, Stateful};
use std::path::Path;
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const CLIP: f64 = 2.0;

/// The options of a case of `tools/reference/prodigy.py`.
fn config(case: &str) -> Optimizer {
    let plain = Optimizer { learning_rate: 1.0, weight_decay: 0.0, ..Default::default() };
    let prodigy = config::Prodigy::default();
    let (weight_decay, betas, prodigy) = match case {
        "plain" => (0.0, plain.betas, prodigy),
        "decay" => (0.02, plain.betas, prodigy),
        "corrected" => (0.01, plain.betas, config::Prodigy { bias_correction: true, ..prodigy }),
        "safeguarded" => (0.0, plain.betas, config::Prodigy { safeguard_warmup: true, ..prodigy }),
        "both" => {
            let both = config::Prodigy { safeguard_warmup: true, bias_correction: true, d0: 1e-3, ..prodigy };
            (0.01, plain.betas, both)
        }
        "slower" => (0.0, plain.betas, config::Prodigy { growth_rate: 1.5, d_coef: 0.5, d0: 1e-4, ..prodigy }),
        "no_mean" => (0.0, [0.0, 0.99], config::Prodigy { d0: 1e-3, ..prodigy }),
        other => panic!("{other}"),
    };
    Optimizer { weight_decay, betas, prodigy: Some(prodigy), ..plain }
}

#[test]
fn forty_steps_of_every_case() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/prodigy/io.safetensors");
    let (io, _) = tensors::read(&file).unwrap();
    let get = |key: &str| io[key].to_device(device());
    let rates = Vec::<f64>::try_from(&io["rates"]).unwrap();
    let (mut cases, mut worst) = (0, 0f64);
    for case in io.keys().filter_map(|key| key.strip_suffix("/values")) {
        let mut values = get("start").copy();
        let mut prodigy = Prodigy::new(config(case), &values);
        let distances = Vec::<f64>::try_from(&io[&format!("{case}/distance")]).unwrap();
        let expected = get(&format!("{case}/values"));
        for (step, rate) in rates.iter().enumerate() {
            let gradient = get("hessian").mv(&values) - get("shift");
            let norm = gradient.norm().double_value(&[]);
            let gradient = gradient * (CLIP / (norm + 1e-6)).min(1.0);
            prodigy.step(&mut values, &gradient, *rate);
            let apart = (&values - expected.get(step as i64)).abs().max().double_value(&[]);
            let error = apart.max((prodigy.distance / distances[step] - 1.0).abs());
            assert!(error <= 1e-10, "{case}, step {step}: {error:e}");
            worst = worst.max(error);
        }
        assert!(distances.last() > distances.first(), "{case}: a distance that stays proves nothing");
        assert_eq!(prodigy.state().updates, rates.len() as u64);
        cases += 1;
    }
    println!("{cases} cases, worst error {worst:.1e}");
    assert_eq!(cases, 7);
}

/// What has no gradient stays as it is, and is not counted.
#[test]
fn gradients_of_zero() {
    let start = Tensor::ones([3], (Kind::Double, device()));
    let mut values = start.copy();
    let mut prodigy = Prodigy::new(config("decay"), &values);
    prodigy.step(&mut values, &start.zeros_like(), 1.0);
    assert_eq!((&values, prodigy.state().updates, prodigy.distance), (&start, 0, 1e-6));
    prodigy.step(&mut values, &start, 1.0);
    assert!(values != start && prodigy.state().updates == 1);
}
