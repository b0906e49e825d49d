//! Euler, Euler ancestral and DPM++ 2M against diffusers: whole trajectories in float64.

use crate::common::{device, fixture, io, relative_error};
use models::{
    schedule::{Forced, NoisePath, NoiseSchedule, Sampler, SamplerKind, Walk},
    tensors::Tensors,
};
use std::fs;
use tch::{Kind, Tensor};

/// As in `tools/reference/schedules.py`.
fn model_output(x: &Tensor, t: f64) -> Tensor {
    (x * 1.5 + t / 500.0).tanh() + (x.flip([-1]) - t / 250.0).sin() * 0.3
}

fn schedule(io: &Tensors, prediction: &str, spacing: &str, zero_snr: bool) -> NoiseSchedule {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    let betas = Vec::<f32>::try_from(&io["betas"]).unwrap();
    let config = serde_json::json!({
        "_class_name": "EulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "trained_betas": betas,
        "steps_offset": 1,
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
    });
    fs::write(&path, config.to_string()).unwrap();
    NoiseSchedule::read(&path, Forced::default()).unwrap()
}

/// Times, and the latents after every step.
fn walk(sampler: &Sampler, start: &Tensor, z: &Tensor) -> (Vec<f64>, Tensor) {
    let mut walk = Walk::along(sampler);
    let mut x = sampler.start(start.shallow_clone());
    let mut all = vec![];
    for (i, step) in sampler.steps.iter().enumerate() {
        let e = model_output(&x, step.time);
        x = walk.step(step, &x, &e, Some(&z.get(i as i64)));
        all.push(x.shallow_clone());
    }
    (sampler.steps.iter().map(|step| step.time).collect(), Tensor::stack(&all, 0))
}

#[test]
fn every_trajectory_of_the_fixture() {
    let io = io("samplers");
    assert_eq!(io["start"].kind(), Kind::Double, "{}", fixture("samplers").display());
    let (mut compared, mut worst) = (0, 0f64);
    for (key, times) in io.iter().filter(|(key, _)| key.ends_with("/times")) {
        let series = key.strip_suffix("/times").unwrap();
        let parts: Vec<&str> = series.split('/').collect();
        let [kind, prediction, spacing, steps] = parts[..] else { panic!("{key}") };
        let (kind, zero_snr) = match kind.strip_suffix("_zero_snr") {
            Some(kind) => (kind, true),
            None => (kind, false),
        };
        let schedule = schedule(&io, prediction, spacing, zero_snr);
        let kind: SamplerKind = kind.parse().unwrap();
        let sampler = schedule.sampler(kind, steps.parse().unwrap(), 0.0).unwrap();
        let (ours, latents) = walk(&sampler, &io["start"], &io["z"]);
        let expected = Vec::<f64>::try_from(times).unwrap();
        assert!(ours.len() == expected.len(), "{series}: {ours:?}, expected {expected:?}");
        assert!(
            ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9),
            "{series}: {ours:?}, expected {expected:?}"
        );
        let error = relative_error(&latents, &io[&format!("{series}/latents")]);
        assert!(error <= 1e-12, "{series}: relative error {error:e}");
        worst = worst.max(error);
        compared += 1;
        assert_eq!(sampler.is_stochastic(), kind == SamplerKind::EulerA && ours.len() > 1, "{series}");
        let second = matches!(kind, SamplerKind::Dpmpp2m | SamplerKind::Dpmpp2mKarras) && ours.len() > 2;
        assert_eq!(sampler.steps.iter().any(|step| step.before.is_some()), second, "{series}");
    }
    println!("{compared} trajectories, worst relative error {worst:.1e}");
    assert_eq!(compared, 96);
}

/// The cosine schedule, and networks that predict the clean image: every sampler, whole trajectories in float64.
#[test]
fn cosine_noise_and_predictions_of_the_image() {
    let io = io("samplers_more");
    let (mut compared, mut worst) = (0, 0f64);
    for (key, times) in io.iter().filter(|(key, _)| key.ends_with("/times")) {
        let series = key.strip_suffix("/times").unwrap();
        let parts: Vec<&str> = series.split('/').collect();
        let [kind, betas, prediction, spacing] = parts[..] else { panic!("{key}") };
        let (betas, zero_snr) = betas.strip_suffix("_zero_snr").map_or((betas, false), |betas| (betas, true));
        let (kind, eta) = if kind == "ddim_eta1" { ("ddim", 1.0) } else { (kind, 0.0) };
        let config = serde_json::json!({
            "beta_schedule": betas,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": false,
            "steps_offset": 1,
            "prediction_type": prediction,
            "timestep_spacing": spacing,
            "set_alpha_to_one": false,
            "rescale_betas_zero_snr": zero_snr,
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), config.to_string()).unwrap();
        let schedule = NoiseSchedule::read(file.path(), Forced::default()).unwrap();
        let signal = Vec::<f64>::try_from(&io[&format!("{}/signal", parts[1])]).unwrap();
        for (ours, theirs) in [0, 1, 500, 998].into_iter().map(|t| schedule.signal()[t]).zip(signal) {
            assert!((ours - theirs).abs() <= 1e-6 * theirs, "{series}: {ours:e} {theirs:e}");
        }
        let expected = Vec::<f64>::try_from(times).unwrap();
        let sampler = schedule.sampler(kind.parse().unwrap(), expected.len(), eta).unwrap();
        let (ours, latents) = walk(&sampler, &io["start"], &io["z"]);
        assert!(ours.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{series}: {ours:?} {expected:?}");
        let error = relative_error(&latents, &io[&format!("{series}/latents")]);
        println!("{series}: {error:.1e}");
        assert!(error <= 1e-5, "{series}: relative error {error:e}");
        worst = worst.max(error);
        compared += 1;
    }
    println!("{compared} trajectories, worst relative error {worst:.1e}");
    assert!(compared >= 60, "{compared}");
}

/// Without noise and with whole times Euler's steps are DDIM's that go to where the next one starts.
#[test]
fn euler_is_ddim_along_the_same_times() {
    let io = io("samplers");
    for prediction in ["epsilon", "v_prediction"] {
        let schedule = schedule(&io, prediction, "linspace", false);
        let [euler, ddim] =
            [SamplerKind::Euler, SamplerKind::Ddim].map(|kind| schedule.sampler(kind, 28, 0.0).unwrap());
        for (a, b) in euler.steps.iter().zip(&ddim.steps) {
            assert!((a.time - b.time).abs() < 1e-9, "{a:?} {b:?}");
            assert!((a.a - b.a).abs() < 1e-9 && (a.b - b.b).abs() < 1e-9, "{a:?} {b:?}");
        }
        let noise = Tensor::ones([1], (Kind::Double, device()));
        assert_eq!(ddim.start(noise.shallow_clone()), noise);
        let less = euler.start(noise).double_value(&[0]);
        assert!((less - (1.0 - schedule.signal()[999]).sqrt()).abs() < 1e-12, "{less}");
    }
}

/// Euler ancestral is DDPM with the small variance: both draw from what is known of the next latents, given these and the clean image.
/// (For predictions of the image there is nothing else to compare with: diffusers' has none.)
#[test]
fn euler_ancestral_is_ddpm_along_the_same_times() {
    let io = io("samplers");
    for prediction in ["epsilon", "v_prediction", "sample"] {
        let schedule = schedule(&io, prediction, "leading", false);
        let [euler, ddpm] =
            [SamplerKind::EulerA, SamplerKind::Ddpm].map(|kind| schedule.sampler(kind, 20, 0.0).unwrap());
        for (a, b) in euler.steps.iter().zip(&ddpm.steps) {
            let apart = [a.time - b.time, a.a - b.a, a.b - b.b, a.sigma - b.sigma];
            assert!(apart.iter().all(|apart| apart.abs() < 1e-9), "{a:?} {b:?}");
        }
    }
}

/// The signal between two training steps goes by sigma.
#[test]
fn signal_between_steps() {
    let io = io("samplers");
    let schedule = schedule(&io, "epsilon", "linspace", false);
    let sigma = |signal: f64| ((1.0 - signal) / signal).sqrt();
    assert_eq!(schedule.signal_at(500.0), schedule.signal()[500]);
    let middle = (sigma(schedule.signal()[500]) + sigma(schedule.signal()[501])) / 2.0;
    assert!((sigma(schedule.signal_at(500.5)) - middle).abs() < 1e-12);
}

#[test]
fn numbers_of_steps() {
    let io = io("samplers");
    for spacing in ["leading", "trailing", "linspace"] {
        for kind in SamplerKind::ALL {
            let schedule = schedule(&io, "epsilon", spacing, false);
            for steps in [0, 1001, usize::MAX] {
                let error = schedule.sampler(kind, steps, 0.0).unwrap_err().to_string();
                assert!(error.contains("sampling steps: must be 1 to"), "{error}");
            }
            for steps in [1, 2, 3, 499, 998] {
                let Ok(sampler) = schedule.sampler(kind, steps, 0.0) else { panic!("{kind} {spacing} {steps}") };
                let finite = |step: &models::schedule::Step| {
                    let (of_x, of_e) = step.before.unwrap_or_default();
                    [step.time, step.a, step.b, step.sigma, of_x, of_e].iter().all(|v| v.is_finite())
                };
                assert!(sampler.steps.iter().all(finite), "{kind} {spacing} {steps}");
            }
        }
    }
    let schedule = schedule(&io, "epsilon", "linspace", false);
    let error = schedule.sampler(SamplerKind::Dpmpp2m, 1000, 0.0).unwrap_err().to_string();
    assert_eq!(error, "1000 sampling steps: must be 1 to 999 for dpm++_2m");
    assert_eq!(schedule.sampler(SamplerKind::Dpmpp2mKarras, 1000, 0.0).unwrap().len(), 1000);
}
