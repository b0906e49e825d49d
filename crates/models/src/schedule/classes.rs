//! The scheduler classes of diffusers that share DDPM's noise: `x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) e`. They differ in how they
//! walk back, which is ours to choose, and in what holds where a file leaves a key out. Other classes (EDM, flow matching,
//! consistency, Cascade) belong to networks that are conditioned on other noise.

/// What a class takes for granted.
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

/// `None`: another noise, or a class that is not known here.
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

/// What belongs to a class's own way of walking, and what is used only beside keys that are refused.
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
