"""Fixture of the samplers: time steps and single steps of DDPM and DDIM. No network."""

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from common import folder, generator, given_noise, randn, report, save_io

SETTINGS = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
}
DDIM = SETTINGS | {"set_alpha_to_one": False}
DDPM = SETTINGS | {"variance_type": "fixed_small"}


def series(scheduler, steps, x, e, z, **options):
    """Apply every step of the schedule to the same x and e (with noise z[i] in step i)."""
    scheduler.set_timesteps(steps)
    out = []
    for i, t in enumerate(scheduler.timesteps):
        with given_noise([z[i]]):
            out.append(scheduler.step(e, t, x, **options).prev_sample)
    return {"timesteps": scheduler.timesteps, "prev_sample": torch.stack(out)}


def schedules():
    """Names: SAMPLER/PREDICTION/SPACING/STEPS/{timesteps,prev_sample}; inputs x, e, z (z[i] goes into step i).

    Facts. DDPM takes as previous time step the next entry of its list, and alpha 1 after the last; DDIM takes
    t - 1000 // steps, and alphas_cumprod[0] where that is negative (set_alpha_to_one False). So the two differ for
    7 steps. DDPM adds no noise at t = 0 only; at the last step of another list its variance is clamped to 1e-20.
    """
    name = "schedules"
    gen, path = generator(name), folder(name)
    x, e, z = randn(gen, 1, 4, 3, 5), randn(gen, 1, 4, 3, 5), randn(gen, 50, 1, 4, 3, 5)
    tensors = {"x": x, "e": e, "z": z}

    def add(prefix, cls, config, steps, **options):
        result = series(cls(**config), steps, x, e, z, **options)
        tensors.update({f"{prefix}/{k}": v for k, v in result.items()})

    for prediction in ("epsilon", "v_prediction"):
        for spacing in ("leading", "trailing", "linspace"):
            for steps in (7, 20, 50):
                kind = {"prediction_type": prediction, "timestep_spacing": spacing}
                add(f"ddpm/{prediction}/{spacing}/{steps}", DDPMScheduler, DDPM | kind, steps)
                add(f"ddim/{prediction}/{spacing}/{steps}", DDIMScheduler, DDIM | kind, steps)

    leading = {"prediction_type": "epsilon", "timestep_spacing": "leading"}
    add("ddim_eta1/epsilon/leading/20", DDIMScheduler, DDIM | leading, 20, eta=1.0)
    zero = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    add("ddim_zero_snr/v_prediction/trailing/20", DDIMScheduler, DDIM | zero, 20)
    add("ddpm_zero_snr/v_prediction/trailing/20", DDPMScheduler, DDPM | zero, 20)
    tensors["alphas_cumprod"] = DDPMScheduler(**DDPM).alphas_cumprod
    tensors["zero_snr/alphas_cumprod"] = DDPMScheduler(**(DDPM | zero)).alphas_cumprod
    save_io(path, tensors)
    report(name)
