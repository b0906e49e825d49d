//! The scheduler classes of diffusers with the same noise as DDPM: `x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) e`. They differ
//! in their sampler, which is chosen independently here, and in the defaults of keys that a file leaves out. Other
//! classes (EDM, flow matching, consistency, Cascade) belong to networks that are conditioned on other noise.

use crate::config::Json;
use serde_json::Value;

/// Default settings of a class.
pub struct Class {
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: &'static str,
    pub clip_sample: bool,
}

const DDPM: Class = Class { beta_start: 0.0001, beta_end: 0.02, beta_schedule: "linear", clip_sample: false };
const CLIPPED: Class = Class { clip_sample: true, ..DDPM };
/// After Katherine Crowson's k-diffusion.
const KARRAS: Class = Class { beta_start: 0.00085, beta_end: 0.012, ..DDPM };
const LATENT: Class = Class { beta_schedule: "scaled_linear", ..KARRAS };

/// The defaults of a class. `None`: its noise is another one, or it is unknown.
pub fn class(name: &str) -> Option<Class> {
    Some(match name.strip_prefix("Flax").unwrap_or(name) {
        "DDIMInverseScheduler"
        | "DDIMParallelScheduler"
        | "DDIMScheduler"
        | "DDPMParallelScheduler"
        | "DDPMScheduler"
        | "RePaintScheduler" => CLIPPED,
        "DEISMultistepScheduler"
        | "DPMSolverMultistepInverseScheduler"
        | "DPMSolverMultistepScheduler"
        | "DPMSolverSinglestepScheduler"
        | "EulerAncestralDiscreteScheduler"
        | "EulerDiscreteScheduler"
        | "LMSDiscreteScheduler"
        | "PNDMScheduler"
        | "SASolverScheduler"
        | "UniPCMultistepScheduler" => DDPM,
        "DPMSolverSDEScheduler"
        | "HeunDiscreteScheduler"
        | "KDPM2AncestralDiscreteScheduler"
        | "KDPM2DiscreteScheduler" => KARRAS,
        "LCMScheduler" | "TCDScheduler" => LATENT,
        _ => return None,
    })
}

/// Keys of a class's own sampler, and keys that are used only together with keys that are refused.
pub const OWN_KEYS: &[&str] = &[
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_sample_range",
    "corrector_order",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "eta",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "noise_sampler_seed",
    "original_inference_steps",
    "predict_x0",
    "predictor_order",
    "sample_max_value",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "tau_func",
    "tensor_format",
    "time_shift_type",
    "timestep_scaling",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
];

/// Those of [`OWN_KEYS`] that change a class's sampler, with their default values.
const CHOSEN: [(&str, &[&str]); 18] = [
    ("algorithm_type", &["dpmsolver++", "deis", "data_prediction"]),
    ("corrector_order", &["2"]),
    ("disable_corrector", &["[]"]),
    ("euler_at_final", &["false"]),
    ("final_sigmas_type", &["zero"]),
    ("interpolation_type", &["linear"]),
    ("lambda_min_clipped", &["-Infinity"]),
    ("lower_order_final", &["true"]),
    ("predict_x0", &["true"]),
    ("predictor_order", &["2"]),
    ("sigma_max", &[]),
    ("sigma_min", &[]),
    ("solver_order", &["2"]),
    ("solver_type", &["midpoint", "logrho", "bh2", "heun"]),
    ("use_beta_sigmas", &["false"]),
    ("use_exponential_sigmas", &["false"]),
    ("use_karras_sigmas", &["false"]),
    ("use_lu_lambdas", &["false"]),
];

/// Settings of the class's own sampler that the file changes and that have no effect here: a sentence for each key.
pub fn chosen(json: &Json) -> Vec<String> {
    let said = CHOSEN.iter().filter_map(|(key, usual)| {
        let value = match json.raw(key)? {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let hint = match *key {
            "use_karras_sigmas" => "; the sampler dpm++_2m_karras walks along such noise levels",
            _ => "",
        };
        let is_usual = usual.contains(&value.as_str());
        (!is_usual).then(|| {
            format!("{key} is {value}, and has no effect: sampling.sampler (--sampler) says how images are drawn{hint}")
        })
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_somebody_chose_is_named() {
        let said = |text: &str| chosen(&Json::of(text, Path::new("scheduler_config.json")).unwrap());
        let usual = r#"{"use_karras_sigmas": false, "use_beta_sigmas": null, "solver_order": 2, "solver_type": "midpoint",
            "lambda_min_clipped": -Infinity, "algorithm_type": "dpmsolver++", "sigma_max": null, "skip_prk_steps": true}"#;
        assert!(said(usual).is_empty(), "{:?}", said(usual));
        for key in
            ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "euler_at_final"]
        {
            let said = said(&format!("{{\"{key}\": true}}"));
            assert!(matches!(&said[..], [one] if one.starts_with(&format!("{key} is true"))), "{said:?}");
        }
        let said = said(r#"{"final_sigmas_type": "sigma_min", "solver_order": 3, "sigma_min": 0.03}"#);
        assert_eq!(said.len(), 3, "{said:?}");
        for (key, _) in CHOSEN {
            assert!(OWN_KEYS.contains(&key), "{key}");
        }
    }
}
