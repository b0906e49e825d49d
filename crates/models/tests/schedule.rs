//! Samplers against diffusers' schedulers: every step of every series, on given latents, model output and noise.

use crate::common;

use crate::common::{device, io, relative_error};
use models::schedule::{Forced, NoisePath, NoiseSchedule, Prediction, SamplerKind};
use std::{collections::BTreeMap, fs, path::Path};
use tch::{Kind, Tensor};

/// The configuration that a series was made with, as diffusers would save it.
fn schedule(folder: &Path, changes: &[(&str, &str)]) -> models::Result<NoiseSchedule> {
    let mut keys = BTreeMap::from([
        ("_class_name", "\"DDIMScheduler\""),
        ("beta_start", "0.00085"),
        ("beta_end", "0.012"),
        ("beta_schedule", "\"scaled_linear\""),
        ("clip_sample", "false"),
        ("num_train_timesteps", "1000"),
        ("steps_offset", "1"),
        ("set_alpha_to_one", "false"),
    ]);
    keys.extend(changes.iter().copied());
    let json: Vec<String> = keys.iter().map(|(k, v)| format!("\"{k}\": {v}")).collect();
    let path = folder.join("scheduler_config.json");
    fs::write(&path, format!("{{{}}}", json.join(","))).unwrap();
    NoiseSchedule::read(&path, Forced::default())
}

#[test]
fn every_series_of_the_fixture() {
    let folder = tempfile::tempdir().unwrap();
    let io = io("schedules");
    let mut compared = 0;
    let mut worst = 0f64;
    for (key, timesteps) in io.iter().filter(|(k, _)| k.ends_with("/timesteps")) {
        let series = key.strip_suffix("/timesteps").unwrap();
        let parts: Vec<&str> = series.split('/').collect();
        let [sampler, prediction, spacing, steps] = parts[..] else { panic!("{key}") };
        let (prediction, spacing) = (format!("\"{prediction}\""), format!("\"{spacing}\""));
        let mut changes = vec![("prediction_type", prediction.as_str()), ("timestep_spacing", spacing.as_str())];
        if sampler.ends_with("_zero_snr") {
            changes.push(("rescale_betas_zero_snr", "true"));
        }
        if sampler == "ddim_euler" {
            changes.push(("set_alpha_to_one", "true")); // Euler ends without noise
        }
        let kind = if sampler.starts_with("ddpm") { SamplerKind::Ddpm } else { SamplerKind::Ddim };
        let eta = if sampler.contains("eta1") { 1.0 } else { 0.0 };
        let sampler = schedule(folder.path(), &changes).unwrap().sampler(kind, steps.parse().unwrap(), eta).unwrap();
        let ours: Vec<i64> = sampler.steps.iter().map(|s| s.time as i64).collect();
        assert_eq!(ours, Vec::<i64>::try_from(timesteps).unwrap(), "{key}");
        let expected = &io[&format!("{series}/prev_sample")];
        for (i, step) in sampler.steps.iter().enumerate() {
            let z = io["z"].get(i as i64);
            let next = step.apply(&io["x"], &io["e"], Some(&z));
            let error = relative_error(&next, &expected.get(i as i64));
            assert!(error <= 1e-5, "{series} step {i}: {error:e}");
            worst = worst.max(error);
            compared += 1;
        }
    }
    println!("{compared} steps, worst relative error {worst:.1e}");
    assert!(compared > 800);
}

/// Where a file has no `timestep_spacing`, the sampler's own counts, whatever class the file names: as in diffusers' `from_config`.
#[test]
fn spacing_that_a_file_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"] {
        let class = format!("\"{class}\"");
        for kind in SamplerKind::ALL {
            let steps = |more: &[(&str, &str)]| {
                let keys = [&[("_class_name", class.as_str())], more].concat();
                let sampler = schedule(folder.path(), &keys).unwrap().sampler(kind, 5, 0.0).unwrap();
                let of_one = sampler.start(Tensor::ones([1], (Kind::Double, device()))).double_value(&[0]);
                (sampler.steps.iter().map(|s| [s.time, s.a, s.b, s.sigma]).collect::<Vec<_>>(), of_one)
            };
            let own = if matches!(kind, SamplerKind::Ddim | SamplerKind::Ddpm) { "leading" } else { "linspace" };
            let spacing = format!("\"{own}\"");
            assert_eq!(steps(&[]), steps(&[("timestep_spacing", &spacing)]), "{class} {kind}");
            let others = ["\"leading\"", "\"linspace\"", "\"trailing\""].into_iter().filter(|s| *s != spacing);
            for other in others.filter(|_| kind != SamplerKind::Dpmpp2mKarras) {
                assert_ne!(steps(&[]), steps(&[("timestep_spacing", other)]), "{class} {kind}");
            }
        }
    }
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |changes: &[(&str, &str)]| schedule(folder.path(), changes).unwrap_err().to_string();
    assert!(error(&[("clip_sample", "true")]).contains("clip_sample is true"));
    assert!(error(&[("beta_schedule", "\"sigmoid\"")]).contains("beta_schedule is sigmoid"));
    assert!(error(&[("prediction_type", "\"flow\"")]).contains("prediction_type has the unsupported value"));
    assert!(error(&[("thresholding", "true")]).contains("thresholding is true"));
    assert!(error(&[("use_flow_sigmas", "true")]).contains("use_flow_sigmas is true"));
    assert!(error(&[("timestep_type", "\"continuous\"")]).contains("timestep_type is \"continuous\""));
    assert!(error(&[("predict_epsilon", "false")]).contains("predict_epsilon is false"));
    assert!(error(&[("beta_start", "NaN")]).contains("beta_start has the unsupported value \"NaN\""));
    assert!(error(&[("trained_betas", "[0.1, 0.2]")]).contains("trained_betas must be 1000 numbers"));
    assert!(error(&[("rescale_betas_zero_snr", "true")]).contains("needs prediction_type v_prediction"));
    let schedule = schedule(folder.path(), &[]).unwrap();
    assert!(schedule.sampler(SamplerKind::Ddim, 0, 0.0).is_err());
    assert!(schedule.sampler(SamplerKind::Ddim, 1001, 0.0).is_err());
}

/// Only DDPM's sampler draws noise of this variance.
#[test]
fn other_variances_than_the_small_one() {
    let folder = tempfile::tempdir().unwrap();
    let of = |value: &str, kind| {
        schedule(folder.path(), &[("variance_type", value)]).unwrap().sampler(kind, 10, 0.0).map(|s| s.steps.len())
    };
    for value in ["\"fixed_large\"", "\"learned_range\""] {
        for kind in SamplerKind::ALL.into_iter().filter(|kind| *kind != SamplerKind::Ddpm) {
            assert_eq!(of(value, kind).unwrap(), of("null", kind).unwrap(), "{value} {kind}");
        }
        let error = of(value, SamplerKind::Ddpm).unwrap_err().to_string();
        let name = value.trim_matches('"');
        assert!(error.contains(&format!("variance_type is {name}; only fixed_small is supported")), "{error}");
    }
    assert!(of("\"fixed_small_log\"", SamplerKind::Ddpm).is_ok());
}

/// With a rescale of 0 nothing happens; with 1 the deviation is the conditional half's.
#[test]
fn guidance_rescale() {
    use models::guidance::Guidance;
    let x = Tensor::randn([2, 4, 5, 6], (Kind::Double, device()));
    let y = Tensor::randn([2, 4, 5, 6], (Kind::Double, device())) * 0.5;
    let plain = Guidance { scale: 7.5, rescale: 0.0 }.combine(&x, &y);
    assert!(relative_error(&plain, &(&x * -6.5 + &y * 7.5)) < 1e-14);
    let deviation = |t: &Tensor| t.std_dim([1, 2, 3].as_slice(), true, false);
    let full = Guidance { scale: 7.5, rescale: 1.0 }.combine(&x, &y);
    assert!(relative_error(&deviation(&full), &deviation(&y)) < 1e-12);
}

#[derive(serde::Deserialize)]
struct Class {
    /// `alphas_cumprod` at 0, 500 and 999
    alphas: [f64; 3],
    clips: bool,
}

/// By its name alone, each of diffusers' schedulers is read with the noise that it has there, or refused.
#[test]
fn classes_and_their_noise() {
    let text = fs::read_to_string(common::fixture("schedules/classes.json")).unwrap();
    let classes: BTreeMap<String, Option<Class>> = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    let read = |name: &str, forced| {
        fs::write(&path, format!("{{\"_class_name\": \"{name}\"}}")).unwrap();
        NoiseSchedule::read(&path, forced)
    };
    let mut shared = 0;
    for (name, class) in &classes {
        let by_pipeline = read(name, Forced::by_pipeline_of(false));
        let error = |read: models::Result<_>| read.err().map(|e: models::Error| e.to_string()).unwrap_or_default();
        let Some(class) = class else {
            assert!(error(by_pipeline).contains(&format!("_class_name {name} is not known")), "{name}");
            continue;
        };
        let Ok(schedule) = by_pipeline else { continue };
        shared += 1;
        for (t, alpha) in [0, 500, 999].into_iter().zip(class.alphas) {
            assert!((schedule.signal()[t] - alpha).abs() < 1e-6, "{name} at {t}");
        }
        assert_eq!(
            error(read(name, Forced::default())).contains("clip_sample is true, or absent"),
            class.clips,
            "{name}"
        );
    }
    assert!(shared > 18, "{shared}");
    for other in [
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "CMStochasticIterativeScheduler",
        "DDPMWuerstchenScheduler",
    ] {
        assert!(classes[other].is_none());
    }
    assert!(read("MadeUpScheduler", Forced::default()).is_err());
    assert!(read("FlaxPNDMScheduler", Forced::default()).is_ok());
}

/// What diffusers' pipelines of SD1 and SD2 make of a file, and what a setting does.
#[test]
fn forced_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    fs::write(&path, r#"{"_class_name": "DDIMScheduler", "clip_sample": true, "lambda_min_clipped": -Infinity}"#)
        .unwrap();
    let of = |forced| NoiseSchedule::read(&path, forced);
    let schedule = of(Forced::by_pipeline_of(false)).unwrap();
    assert_eq!((schedule.steps_offset, schedule.prediction), (1, Prediction::Epsilon));
    assert!(of(Forced::by_pipeline_of(true)).unwrap_err().to_string().contains("clip_sample is true"));
    let forced = Forced { by_pipeline: true, prediction: Some(Prediction::VPrediction), zero_snr: Some(true) };
    let schedule = of(forced).unwrap();
    assert_eq!(schedule.prediction, Prediction::VPrediction);
    assert!(schedule.signal()[999].abs() < 1e-12 && schedule.signal()[0] > 0.99);
    fs::write(&path, r#"{"prediction_type": "flow_prediction", "clip_sample": false}"#).unwrap();
    assert!(of(Forced::default()).is_err());
    assert!(of(Forced { prediction: Some(Prediction::Epsilon), ..Forced::default() }).is_ok());
}

/// Null is false where Python asks for a truth.
#[test]
fn null_is_false() {
    let folder = tempfile::tempdir().unwrap();
    let of = |value: &str| schedule(folder.path(), &[("set_alpha_to_one", value)]).unwrap().set_alpha_to_one;
    assert_eq!([of("true"), of("false"), of("null")], [true, false, false]);
    let clipped = [("clip_sample", "null"), ("_class_name", "\"DDPMScheduler\"")];
    assert!(schedule(folder.path(), &clipped).is_ok());
    for name in ["\"v_prediction\"", "\"vpred\"", "\"V-Prediction\"", "\"v_pred\"", "\"velocity\""] {
        let schedule = schedule(folder.path(), &[("prediction_type", name)]).unwrap();
        assert_eq!(schedule.prediction, Prediction::VPrediction, "{name}");
    }
}

#[test]
fn betas_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let betas = format!("{:?}", vec![0.001; 1000]);
    let schedule = schedule(folder.path(), &[("trained_betas", &betas)]).unwrap();
    assert!((schedule.signal()[999] - 0.999f64.powi(1000)).abs() < 1e-5);
}
