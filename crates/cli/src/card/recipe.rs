//! Settings with which other programs draw the samples of a run.

use config::Config;
use diffusion::settings::SamplerKind;
use models::{
    lora::Base,
    schedule::{NoiseSchedule, Prediction, Spacing},
};

/// Properties of a model on which the settings in other programs depend.
pub struct Model {
    pub base: Base,
    /// `None`: each sampler's own spacing.
    pub spacing: Option<Spacing>,
    pub prediction: Prediction,
    /// Whether no signal is left at the last timestep (zero terminal SNR).
    pub zero_snr: bool,
}

impl Model {
    pub fn of(base: Base, schedule: &NoiseSchedule) -> Self {
        let zero_snr = schedule.signal().last().is_some_and(|signal| *signal == 0.0);
        Self { base, spacing: schedule.spacing, prediction: schedule.prediction, zero_snr }
    }
}

/// A sampler under the names of other programs.
struct Elsewhere {
    /// ComfyUI's `sampler_name` and `scheduler`.
    comfy: [&'static str; 2],
    /// A1111's sampling method and schedule type.
    a1111: [&'static str; 2],
    /// Whether A1111 has it under the name of another sampler that makes the same steps.
    renamed: bool,
}

/// Names of a sampler in other programs. Sources: `comfy/samplers.py` of ComfyUI, `modules/sd_samplers.py` and
/// `modules/sd_schedulers.py` of A1111 (1.10).
fn elsewhere(kind: SamplerKind, spacing: Spacing) -> Elsewhere {
    let (of_steps, of_types) = match (kind, spacing) {
        (SamplerKind::Dpmpp2mKarras, _) => ("karras", "Karras"),
        (_, Spacing::Trailing) => ("simple", "Simple"),
        (SamplerKind::Dpmpp2m, _) => ("sgm_uniform", "SGM Uniform"),
        (_, Spacing::Leading) => ("ddim_uniform", "DDIM"),
        (_, Spacing::Linspace) => ("normal", "Uniform"),
    };
    let (comfy, a1111) = match kind {
        SamplerKind::Ddpm => ("ddpm", "Euler a"),
        SamplerKind::Ddim => ("ddim", "DDIM"),
        SamplerKind::Euler => ("euler", "Euler"),
        SamplerKind::EulerA => ("euler_ancestral", "Euler a"),
        SamplerKind::Dpmpp2m | SamplerKind::Dpmpp2mKarras => ("dpmpp_2m", "DPM++ 2M"),
    };
    // A1111's DDIM has timesteps of its own
    let of_types = if kind == SamplerKind::Ddim { "Automatic" } else { of_types };
    Elsewhere { comfy: [comfy, of_steps], a1111: [a1111, of_types], renamed: kind == SamplerKind::Ddpm }
}

/// The settings as Markdown. `name`: name of the LoRA; `path`: path or id of the model for other users; `folder`: the
/// LoRA's folder relative to the page.
pub fn of(config: &Config, model: &Model, name: &str, path: &str, folder: &str) -> String {
    let path = crate::text::quoted(path);
    let sampling = config.samples.sampling(&config.sampling);
    let (steps, guidance) = (sampling.steps, sampling.guidance_scale.max(1.0));
    let Elsewhere { comfy: [sampler, scheduler], a1111: [method, schedule], renamed } =
        elsewhere(sampling.sampler, model.spacing.unwrap_or(sampling.sampler.spacing()));
    let size = sampling.size.map_or("the model's own size".into(), |size| size.to_string());
    let negative = match sampling.negative_prompt.as_str() {
        "" => "no negative prompt".into(),
        text => format!("negative prompt `{text}`"),
    };
    let renamed = if renamed { " (which takes the steps of DDPM)" } else { "" };
    let (in_comfy, in_a1111) = more(config, model, sampling.guidance_rescale);
    format!(
        "The samples are drawn at {size} with {negative}, from seeds {} and up.\n\n\
         | | ComfyUI (*KSampler*) | A1111, Forge, SD.Next |\n|---|---|---|\n\
         | LoRA | `{name}.safetensors` into `models/loras` | `{name}.safetensors` into `models/Lora` |\n\
         | strength | *Load LoRA* with `strength_model` 1, `strength_clip` 1 | `<lora:{name}:1>` in the prompt |\n\
         | sampler | `{sampler}` | {method}{renamed} |\n\
         | scheduler | `{scheduler}` | schedule type {schedule} |\n\
         | steps | {steps} | {steps} |\n\
         | guidance (CFG) | {guidance} | {guidance} |\n\
         {in_comfy_and_a1111}\
         | noise | drawn on the CPU, as here | settings: random number generator source CPU |\n\n\
         In the folder of this page:\n\n\
         - **diffusers**: `pipe.load_lora_weights(\"{folder}\", weight_name=\"pytorch_lora_weights.safetensors\")`\n\
         - **comat**: `comat generate --model {path} --lora {folder}/pytorch_lora_weights.safetensors --sampler {} --steps {steps} \
         --guidance-scale {} --prompt …`\n",
        config.samples.seed,
        sampling.sampler,
        sampling.guidance_scale,
        in_comfy_and_a1111 = rows(&in_comfy, &in_a1111),
    )
}

/// Rows of the table that not every model needs: for ComfyUI with their headings, and for A1111. Both have the same
/// length.
fn more(config: &Config, model: &Model, rescale: f64) -> (Vec<(&'static str, String)>, Vec<String>) {
    let (mut comfy, mut a1111) = (vec![], vec![]);
    let usual = if model.base == Base::Sdxl { 2 } else { 1 };
    match config.model.clip_skip.unwrap_or(usual) {
        skip if skip == usual => {
            comfy.push(("clip skip", "none: no *CLIP Set Last Layer*".to_owned()));
            a1111.push("1, as it comes".to_owned());
        }
        skip => {
            comfy.push(("clip skip", format!("*CLIP Set Last Layer* with `stop_at_clip_layer` -{skip}")));
            a1111.push(format!("Clip skip {skip}"));
        }
    }
    if model.prediction != Prediction::Epsilon || model.zero_snr {
        let zsnr = model.zero_snr;
        let [in_comfy, in_a1111] = match model.prediction {
            Prediction::Sample => ["x0", "predictions of the clean image are not known there"],
            _ => ["v_prediction", "the checkpoint says v-prediction"],
        };
        comfy.push(("prediction", format!("*ModelSamplingDiscrete* with `sampling` {in_comfy}, `zsnr` {zsnr}")));
        let shift = if zsnr { "settings: noise schedule for sampling Zero Terminal SNR; " } else { "" };
        a1111.push(format!("{shift}{in_a1111}"));
    }
    if rescale > 0.0 {
        comfy.push(("guidance rescale", format!("*RescaleCFG* with `multiplier` {rescale}")));
        a1111.push(format!("{rescale}, with an extension for it"));
    }
    (comfy, a1111)
}

fn rows(comfy: &[(&str, String)], a1111: &[String]) -> String {
    comfy.iter().zip(a1111).map(|((what, comfy), a1111)| format!("| {what} | {comfy} | {a1111} |\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(settings: &[&str], base: Base, spacing: Spacing, prediction: Prediction, zero_snr: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        let text = "output = 'o'\n[model]\npath = 'm'\n[captioner]\npath = 'c'\n[prompts]\ntrain = 'p.txt'\n";
        std::fs::write(&file, text).unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
        let config = config::read(&file, &settings).unwrap();
        of(&config, &Model { base, spacing: Some(spacing), prediction, zero_snr }, "tuned", "OWNER/NAME", ".")
    }

    fn line<'a>(text: &'a str, what: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap_or_default()
    }

    #[test]
    fn every_sampler_elsewhere() {
        use Spacing::{Leading, Linspace, Trailing};
        for (sampler, spacing, comfy, a1111) in [
            ("ddpm", Leading, ["`ddpm`", "`ddim_uniform`"], ["Euler a (which takes the steps of DDPM)", "DDIM"]),
            ("ddim", Leading, ["`ddim`", "`ddim_uniform`"], ["DDIM", "Automatic"]),
            ("ddim", Trailing, ["`ddim`", "`simple`"], ["DDIM", "Automatic"]),
            ("euler", Leading, ["`euler`", "`ddim_uniform`"], ["Euler", "DDIM"]),
            ("euler", Trailing, ["`euler`", "`simple`"], ["Euler", "Simple"]),
            ("euler", Linspace, ["`euler`", "`normal`"], ["Euler", "Uniform"]),
            ("euler_a", Linspace, ["`euler_ancestral`", "`normal`"], ["Euler a", "Uniform"]),
            ("dpm++_2m", Leading, ["`dpmpp_2m`", "`sgm_uniform`"], ["DPM++ 2M", "SGM Uniform"]),
            ("dpm++_2m", Trailing, ["`dpmpp_2m`", "`simple`"], ["DPM++ 2M", "Simple"]),
            ("dpm++_2m_karras", Leading, ["`dpmpp_2m`", "`karras`"], ["DPM++ 2M", "Karras"]),
        ] {
            let set = format!("samples.sampler={sampler}");
            let text = recipe(&[&set], Base::Sd1, spacing, Prediction::Epsilon, false);
            assert_eq!(line(&text, "sampler"), format!("| sampler | {} | {} |", comfy[0], a1111[0]));
            assert_eq!(line(&text, "scheduler"), format!("| scheduler | {} | schedule type {} |", comfy[1], a1111[1]));
            assert!(text.contains(&format!("--sampler {sampler} --steps 50 --guidance-scale 7.5")), "{text}");
        }
    }

    #[test]
    fn settings_of_the_run() {
        let settings = [
            "samples.steps=25",
            "sampling.guidance_scale=5",
            "sampling.size=512x768",
            "samples.seed=9",
            "model.clip_skip=2",
        ];
        let text = recipe(&settings, Base::Sd1, Spacing::Leading, Prediction::Epsilon, false);
        assert!(
            text.starts_with("The samples are drawn at 512x768 with no negative prompt, from seeds 9 and up."),
            "{text}"
        );
        assert_eq!(line(&text, "steps"), "| steps | 25 | 25 |");
        assert_eq!(line(&text, "guidance (CFG)"), "| guidance (CFG) | 5 | 5 |");
        let skip = "| clip skip | *CLIP Set Last Layer* with `stop_at_clip_layer` -2 | Clip skip 2 |";
        assert_eq!(line(&text, "clip skip"), skip);
        assert!(line(&text, "strength").contains("`strength_model` 1") && text.contains("`<lora:tuned:1>`"), "{text}");
        assert_eq!((line(&text, "prediction"), line(&text, "guidance rescale")), ("", ""));
        assert!(text.contains("--model OWNER/NAME --lora"), "{text}");
    }

    #[test]
    fn what_only_some_models_need() {
        let settings = ["model.clip_skip=2", "sampling.guidance_rescale=0.7", "sampling.negative_prompt=bad"];
        let text = recipe(&settings, Base::Sdxl, Spacing::Trailing, Prediction::VPrediction, true);
        assert_eq!(line(&text, "clip skip"), "| clip skip | none: no *CLIP Set Last Layer* | 1, as it comes |");
        assert!(
            line(&text, "prediction").contains("`sampling` v_prediction, `zsnr` true | settings: noise schedule"),
            "{text}"
        );
        assert!(line(&text, "guidance rescale").contains("*RescaleCFG* with `multiplier` 0.7 |"), "{text}");
        assert!(text.contains("negative prompt `bad`"), "{text}");
        let text = recipe(&["sampling.guidance_scale=0"], Base::Sd2, Spacing::Linspace, Prediction::VPrediction, false);
        assert!(line(&text, "prediction").contains("`zsnr` false"), "{text}");
        assert_eq!(line(&text, "guidance (CFG)"), "| guidance (CFG) | 1 | 1 |");
    }
}
