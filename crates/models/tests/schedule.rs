//! Samplers against diffusers' schedulers: every step of every series, on given latents, model output and noise.

mod common;

use common::{device, io, relative_error};
use models::schedule::{NoiseSchedule, SamplerKind};
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
    NoiseSchedule::read(&path)
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
        let kind = if sampler.starts_with("ddpm") { SamplerKind::Ddpm } else { SamplerKind::Ddim };
        let eta = if sampler.contains("eta1") { 1.0 } else { 0.0 };
        let sampler = schedule(folder.path(), &changes).unwrap().sampler(kind, steps.parse().unwrap(), eta).unwrap();
        let ours: Vec<i64> = sampler.steps.iter().map(|s| s.timestep).collect();
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

#[test]
fn what_cannot_be_replayed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |changes: &[(&str, &str)]| schedule(folder.path(), changes).unwrap_err().to_string();
    assert!(error(&[("clip_sample", "true")]).contains("clip_sample is true"));
    assert!(error(&[("beta_schedule", "\"sigmoid\"")]).contains("beta_schedule is sigmoid"));
    assert!(error(&[("prediction_type", "\"sample\"")]).contains("prediction_type has the unsupported value"));
    assert!(error(&[("thresholding", "true")]).contains("thresholding is true"));
    let schedule = schedule(folder.path(), &[]).unwrap();
    assert!(schedule.sampler(SamplerKind::Ddim, 0, 0.0).is_err());
    assert!(schedule.sampler(SamplerKind::Ddim, 1001, 0.0).is_err());
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
