"""Fixture of the samplers: time steps and single steps of DDPM and DDIM. No network."""

import inspect

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, SchedulerMixin

from common import folder, generator, given_noise, randn, report, save_io, write_json

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


def euler(config, steps, x, e):
    """DDIM's steps by Euler's scheduler, whose latents are larger by sqrt(1 + sigma^2): each goes to where the next one starts."""
    scheduler = EulerDiscreteScheduler(**config)
    scheduler.set_timesteps(steps)
    out = []
    for t, sigma, then in zip(scheduler.timesteps, scheduler.sigmas, scheduler.sigmas[1:]):
        scheduler._step_index = None
        scheduler.is_scale_input_called = True
        next_sample = scheduler.step(e, t, x * (1 + sigma**2).sqrt()).prev_sample
        out.append(next_sample / (1 + then**2).sqrt())
    assert (scheduler.timesteps == scheduler.timesteps.round()).all()
    return {"timesteps": scheduler.timesteps.to(torch.int64), "prev_sample": torch.stack(out)}


def classes():
    """Of every scheduler of diffusers the first, a middle and the last `alphas_cumprod` that it has without a configuration, and whether
    it clips; null where it has none."""
    found = {}
    for name in sorted(dir(diffusers)):
        cls = getattr(diffusers, name, None)
        if not (inspect.isclass(cls) and issubclass(cls, SchedulerMixin) and name.endswith("Scheduler")):
            continue
        try:
            scheduler = cls()
        except Exception:  # of no image, or in want of a package
            continue
        alphas = getattr(scheduler, "alphas_cumprod", None)
        known = alphas is not None and len(alphas) == 1000
        clips = bool(getattr(scheduler.config, "clip_sample", False))
        found[name] = {"alphas": [float(alphas[i]) for i in (0, 500, 999)], "clips": clips} if known else None
    return found


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
                if spacing != "linspace":  # there a step of DDIMScheduler goes past where the next one starts
                    add(f"ddim/{prediction}/{spacing}/{steps}", DDIMScheduler, DDIM | kind, steps)
        for steps in (10, 28):  # 999 is a multiple of 9 and of 27
            kind = {"prediction_type": prediction, "timestep_spacing": "linspace"}
            config = {k: v for k, v in SETTINGS.items() if k != "clip_sample"} | kind
            series_of = euler(config, steps, x, e)
            tensors.update({f"ddim_euler/{prediction}/linspace/{steps}/{k}": v for k, v in series_of.items()})

    leading = {"prediction_type": "epsilon", "timestep_spacing": "leading"}
    add("ddim_eta1/epsilon/leading/20", DDIMScheduler, DDIM | leading, 20, eta=1.0)
    zero = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    add("ddim_zero_snr/v_prediction/trailing/20", DDIMScheduler, DDIM | zero, 20)
    add("ddpm_zero_snr/v_prediction/trailing/20", DDPMScheduler, DDPM | zero, 20)
    tensors["alphas_cumprod"] = DDPMScheduler(**DDPM).alphas_cumprod
    tensors["zero_snr/alphas_cumprod"] = DDPMScheduler(**(DDPM | zero)).alphas_cumprod
    save_io(path, tensors)
    write_json(path / "classes.json", classes())
    report(name)
