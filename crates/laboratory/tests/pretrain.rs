//! The training loop of the miniature stack.

#![allow(clippy::unwrap_used, clippy::expect_used)] // of what the tests themselves set up

use indicatif::ProgressBar;
use laboratory::pretrain::{
    Course, Files, Watch,
    course::Losses,
    data::{self, Stream},
    parameters::{Init, Parameters},
};
use models::weights::{Layout, Scope};
use ranks::interrupt::Interrupt;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use torch_ext::testing::device;

fn course(cycles: &[u64]) -> Course {
    Course { name: "toy", cycles: cycles.to_vec(), learning_rate: 0.3, seed: 4, average: 0.9, about: String::new() }
}

fn fresh() -> Parameters {
    let layout = Layout::from([("slope.weight".to_owned(), vec![3, 2]), ("slope.bias".to_owned(), vec![3])]);
    Parameters::fresh(&[("toy", layout, Init::Uniform)], 4, device()).unwrap()
}

fn files(folder: &Path) -> Files {
    Files { state: folder.join("state/toy.safetensors"), log: folder.join("state/toy.jsonl") }
}

fn slope(parameters: &Parameters) -> anyhow::Result<(Tensor, Tensor)> {
    let tensors = |scope: Scope| (scope.tensor("slope.weight", &[3, 2]), scope.tensor("slope.bias", &[3]));
    Ok(parameters.training("toy")?.build(&[], tensors)?)
}

/// Fits a line to noisy points; stops when `stop` says so. The losses by step.
fn fit(cycles: &[u64], parameters: &mut Parameters, folder: &Path, stop: Option<u64>) -> anyhow::Result<Vec<f64>> {
    let (weight, bias) = slope(parameters)?;
    let (bar, interrupt) = (ProgressBar::hidden(), Interrupt::default());
    let watch = Watch { bar: &bar, interrupt: &interrupt };
    let mut losses = vec![];
    course(cycles).run(parameters, &files(folder), &watch, |step, _| {
        let points = data::randn(&mut data::rng(4, Stream::Step, step), &[8, 2])?;
        let target = Tensor::from_slice(&[1f32, -2.0, 0.5, 3.0, 0.0, 1.0]).view([2, 3]);
        let error = points.matmul(&weight.tr()) + &bias - points.matmul(&target) - 1.0;
        let total = error.square().mean(Kind::Float);
        losses.push(total.double_value(&[]));
        if stop == Some(step) {
            interrupt.set();
        }
        Ok(Losses { total, parts: vec![] })
    })?;
    Ok(losses)
}

#[test]
fn a_course_can_begin_with_the_weights_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("toy.safetensors");
    let of_seed = |seed| {
        let layout = Layout::from([("slope.weight".to_owned(), vec![3, 2]), ("slope.bias".to_owned(), vec![3])]);
        Parameters::fresh(&[("toy", layout, Init::Uniform)], seed, device()).unwrap()
    };
    let (given, mut other) = (of_seed(4), of_seed(5));
    given.write("toy", &file).unwrap();
    assert_ne!(other.flat, given.flat);
    other.load("toy", &file).unwrap();
    assert_eq!(other.flat, given.flat.to_kind(Kind::Half).to_kind(Kind::Float), "files are in float16");
    assert_eq!(other.average, other.flat);
    let sum = slope(&other).unwrap().0.sum(Kind::Float);
    assert_eq!(other.gradient(&sum).unwrap().sum(Kind::Float).double_value(&[]), 6.0, "its leaves are still trained");

    let layout = Layout::from([("slope.weight".to_owned(), vec![2, 3]), ("slope.bias".to_owned(), vec![3])]);
    let mut turned = Parameters::fresh(&[("toy", layout, Init::Uniform)], 4, device()).unwrap();
    let error = turned.load("toy", &file).unwrap_err().to_string();
    assert!(error.contains("slope.weight has shape [3, 2], expected [2, 3]"), "{error}");
}

#[test]
fn a_course_that_was_stopped_goes_on_exactly() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut straight = fresh();
    let losses = fit(&[20, 10], &mut straight, whole.path(), None).unwrap();
    assert_eq!(losses.len(), 30);
    assert!(losses[29] < 0.3 * losses[0], "{losses:?}");

    let stopped = fit(&[20, 10], &mut fresh(), parts.path(), Some(11)).unwrap_err();
    assert!(stopped.is::<ranks::interrupt::Interrupted>(), "{stopped:#}");
    let mut resumed = fresh();
    let rest = fit(&[20, 10], &mut resumed, parts.path(), None).unwrap();
    assert_eq!(rest, losses[12..]);
    assert_eq!(resumed.flat, straight.flat);
    assert_eq!(resumed.average, straight.average);
    assert_ne!(resumed.average, resumed.flat);
}

#[test]
fn a_finished_course_goes_on_with_another_cycle() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut straight, mut first, mut second) = (fresh(), fresh(), fresh());
    fit(&[20, 10], &mut straight, whole.path(), None).unwrap();
    assert_eq!(fit(&[20], &mut first, parts.path(), None).unwrap().len(), 20);
    assert_eq!(fit(&[20, 10], &mut second, parts.path(), None).unwrap().len(), 10);
    assert_eq!(second.flat, straight.flat);
    assert_ne!(second.flat, first.flat);
}

#[test]
fn a_state_of_another_course_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _ = fit(&[20, 10], &mut fresh(), folder.path(), Some(3)).unwrap_err();
    let (bar, interrupt) = (ProgressBar::hidden(), Interrupt::default());
    let watch = Watch { bar: &bar, interrupt: &interrupt };
    let longer = course(&[20, 20]);
    let refused =
        longer.run(&mut fresh(), &files(folder.path()), &watch, |_, _| unreachable!()).unwrap_err().to_string();
    assert!(refused.contains("toy.safetensors") && refused.contains("other settings"), "{refused}");
}

#[test]
fn a_loss_that_is_no_number_leaves_the_state_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (bar, interrupt) = (ProgressBar::hidden(), Interrupt::default());
    let watch = Watch { bar: &bar, interrupt: &interrupt };
    let mut parameters = fresh();
    let (weight, _) = slope(&parameters).unwrap();
    let failed = course(&[20, 10]).run(&mut parameters, &files(folder.path()), &watch, |_, _| {
        Ok(Losses { total: weight.sum(Kind::Float) * f64::NAN, parts: vec![] })
    });
    assert!(failed.unwrap_err().to_string().contains("step 1: the gradient is NaN"));
    assert!(!files(folder.path()).state.exists());
    let before = fresh().flat.to_device(Device::Cpu);
    assert_eq!(parameters.flat, before);
}
