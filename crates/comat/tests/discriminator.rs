//! The discriminator against a plain program of its losses (`tools/reference/discriminator.py`).

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use comat::{
    discriminator::{Discriminator, Verdict},
    finite::{NotFinite, Part},
};
use config::{Fidelity, MicroBatch};
use diffusion::pipeline::Pipeline;
use models::tensors::{self, Tensors};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::testing::device;

const TIMESTEP: f64 = 51.0;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name)
}

fn pipeline(kind: Kind) -> Pipeline {
    Pipeline::open(&fixture("pipeline_sd1"), kind, device()).unwrap()
}

fn targets() -> Vec<String> {
    ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned).to_vec()
}

fn discriminator(settings: &Fidelity, pipeline: &mut Pipeline) -> Discriminator {
    Discriminator::new(settings, &targets(), pipeline, (32, 24), TIMESTEP, 1).unwrap()
}

/// With the fixture's weights.
fn known(kind: Kind, micro_batch: usize) -> Discriminator {
    let settings = Fidelity { rank: 2, micro_batch: MicroBatch::Samples(micro_batch), ..Default::default() };
    let known = discriminator(&settings, &mut pipeline(kind));
    let (weights, _) = tensors::read(&fixture("discriminator/weights.safetensors")).unwrap();
    let parameters = known.trained.parameters();
    assert_eq!(parameters.len(), weights.len());
    tch::no_grad(|| parameters.iter().for_each(|(key, leaf)| leaf.shallow_clone().copy_(&weights[key])));
    known
}

fn io() -> Tensors {
    let (all, _) = tensors::read(&fixture("discriminator/io.safetensors")).unwrap();
    all.into_iter().map(|(key, tensor)| (key, tensor.to_device(device()))).collect()
}

fn far(got: &Tensor, expected: &Tensor) -> f64 {
    let (got, expected) = (got.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((got - &expected).abs().max() / expected.square().mean(Kind::Double).sqrt()).double_value(&[])
}

#[test]
fn losses_and_gradients_are_those_of_the_plain_program() {
    let io = io();
    // in float32 PyTorch itself is 1.8e-5 from float64
    for (kind, micro_batch, most) in [(Kind::Float, 0, 1e-4), (Kind::Double, 0, 1e-5), (Kind::Double, 2, 1e-5)] {
        let mut known = known(kind, micro_batch);
        let (generated, real) = (io["generated"].to_kind(kind), io["real"].to_kind(kind));
        let Verdict { adversarial, cotangent, loss, accuracy } = known.judge(&generated, &real).unwrap();
        let number = |key: &str| io[key].double_value(&[]);
        assert!((adversarial / number("adversarial") - 1.0).abs() < most, "{adversarial}");
        assert!((loss / number("loss") - 1.0).abs() < most, "{loss}");
        assert!((accuracy - number("accuracy")).abs() < 1e-6, "{accuracy}");
        assert!(far(&cotangent, &io["cotangent"]) < most);
        let mut furthest = 0.0f64;
        for ((key, _), gradient) in known.trained.parameters().iter().zip(known.gradients()) {
            furthest = furthest.max(far(gradient, &io[&format!("grad.{key}")]));
        }
        println!("{kind:?}, micro-batch {micro_batch}: gradients {furthest:.1e}");
        assert!(furthest < most, "{furthest:e}");
    }
}

/// Neither the weights nor the moments take in what is not finite; it is counted, and the next update starts anew.
#[test]
fn an_update_that_is_not_finite_is_skipped() {
    let io = io();
    let mut known = known(Kind::Double, 0);
    let before = (known.trained.flat.detach().copy(), known.optimizer.mean.copy());
    let _ = known.gradient_buffer().get(0).fill_(f64::NAN);
    assert!(known.update(1).unwrap().is_nan());
    assert_eq!((known.trained.flat.detach(), known.optimizer.mean.copy()), before);
    assert_eq!((known.skipped, known.optimizer.updates), (1, 0));
    known.judge(&io["generated"], &io["real"]).unwrap();
    assert!(known.update(1).unwrap() > 0.0);
    assert_eq!((known.skipped, known.optimizer.updates), (1, 1));

    let error = known.judge(&(&io["generated"] * f64::NAN), &io["real"]).err().unwrap();
    assert_eq!(error.downcast_ref(), Some(&NotFinite(Part::Discriminator)));
}

/// What is added up over two batches is their mean after an update, and the next one starts anew.
#[test]
fn updates_follow_the_mean_gradient() {
    let io = io();
    let run = |batches: usize| {
        let mut known = known(Kind::Double, 0);
        (0..batches).for_each(|_| drop(known.judge(&io["generated"], &io["real"]).unwrap()));
        let norm = known.update(batches).unwrap();
        assert!(known.gradients().iter().all(|g| g.abs().max().double_value(&[]) == 0.0));
        (norm, known.trained.flat.copy())
    };
    let ((one, after_one), (two, after_two)) = (run(1), run(2));
    assert!(one > 0.0 && (one - two).abs() < 1e-12 * one);
    assert!(far(&after_one, &after_two) < 1e-9 && far(&after_one, &known(Kind::Double, 0).trained.flat) > 1e-6);
}

#[test]
fn it_learns_to_tell_and_what_it_asks_for_fools_it() {
    let settings = Fidelity { rank: 2, learning_rate: 1e-2, ..Default::default() };
    let mut judge = discriminator(&settings, &mut pipeline(Kind::Float));
    tch::manual_seed(3);
    let real = Tensor::randn([6, 4, 8, 6], (Kind::Float, device()));
    let generated = &real * 0.5 + 0.5;
    let first = judge.judge(&generated, &real).unwrap();
    for _ in 0..40 {
        judge.update(1).unwrap();
        judge.judge(&generated, &real).unwrap();
    }
    let told = judge.judge(&generated, &real).unwrap();
    assert!(told.loss < 0.8 * first.loss && told.accuracy > 0.7, "{} {} {}", first.loss, told.loss, told.accuracy);
    let step = 0.5 / told.cotangent.norm().double_value(&[]);
    let moved = judge.judge(&(&generated - &told.cotangent * step), &real).unwrap();
    assert!(moved.adversarial < told.adversarial, "{} {}", moved.adversarial, told.adversarial);
}

/// Of one file, the weights are in memory once; a fresh adapter changes nothing, and is the same every time.
#[test]
fn weights_are_shared_with_the_tuned_model() {
    let mut tuned = pipeline(Kind::Float);
    let key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let place = |weights: &models::weights::Weights| weights.get(key).unwrap().data_ptr();
    let by = |model: Option<PathBuf>| Fidelity { rank: 2, model: model.map(Into::into), ..Default::default() };
    let same = discriminator(&by(None), &mut tuned);
    assert_eq!(place(&same.base().unwrap()), place(&tuned.weights));
    let named = discriminator(&by(Some(fixture("../fixtures/pipeline_sd1"))), &mut tuned);
    assert_eq!(place(&named.base().unwrap()), place(&tuned.weights));
    assert_eq!(named.trained.flat, same.trained.flat);
    let mut xl = Pipeline::open(&fixture("pipeline_sdxl"), Kind::Float, device()).unwrap();
    let mut other = discriminator(&by(Some(fixture("pipeline_sd1"))), &mut xl);
    assert_ne!(place(&other.base().unwrap()), place(&tuned.weights));
    let io = io();
    let mut same = same;
    let (a, b) = (other.judge(&io["generated"], &io["real"]), same.judge(&io["generated"], &io["real"]));
    let a = a.unwrap().loss;
    assert_eq!(a, b.unwrap().loss);
    // unloaded, it is read again, and says the same; what is shared stays
    other.offload();
    same.offload();
    assert_eq!(other.judge(&io["generated"], &io["real"]).unwrap().loss, a);
    assert_eq!(place(&same.base().unwrap()), place(&tuned.weights));
    // SDXL as its own discriminator needs its other conditions, too
    discriminator(&by(None), &mut xl).judge(&io["generated"], &io["real"]).unwrap();

    let missing = Discriminator::new(&by(Some("no/such".into())), &targets(), &mut tuned, (32, 24), TIMESTEP, 1);
    assert!(format!("{:#}", missing.err().unwrap()).starts_with("fidelity.model: no/such"));
}
