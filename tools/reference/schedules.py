"""Fixtures of the samplers: time steps and single steps of DDPM and DDIM, whole trajectories of the others. No network."""

import inspect
from unittest import mock

import diffusers
import numpy
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
)
from safetensors.torch import save_file

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


def in_float64():
    """diffusers' schedulers cast to float32 by name: here that name means float64."""
    return mock.patch.multiple(torch, float32=torch.float64), mock.patch.multiple(numpy, float32=numpy.float64)


def model_output(x, t):
    """In place of a network: bounded, not linear, and another one at every time. `crates/models/tests/samplers.rs` has the same."""
    return (1.5 * x + t / 500).tanh() + 0.3 * (x.flip(-1) - t / 250).sin()


def rescaled(betas):
    """Algorithm 1 of Lin et al. in float32, by operations whose rounding IEEE 754 fixes; torch's square root is another one elsewhere."""
    root = numpy.sqrt(torch.cumprod(1 - betas, 0).numpy())
    signal = torch.from_numpy(numpy.square((root - root[-1]) * root[0] / (root[0] - root[-1])))
    signal[-1] = 2**-24  # as the schedulers have it
    return signal


def trajectory(scheduler, steps, start, z):
    """Times, and the latents after every step at the scale of DDPM's (Euler's are larger by sqrt(1 + sigma^2))."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)  # else it looks for the first time, and takes the second of two that are alike
    grown = not isinstance(scheduler, DPMSolverMultistepScheduler)
    x = start * scheduler.init_noise_sigma
    out = []
    for i, t in enumerate(scheduler.timesteps):
        e = model_output(scheduler.scale_model_input(x, t), t.double())
        with given_noise([z[i]]):
            x = scheduler.step(e, t, x).prev_sample
        assert x.dtype == torch.float64
        out.append(x / (1 + scheduler.sigmas[i + 1] ** 2) ** 0.5 if grown else x)
    return {"times": scheduler.timesteps.double(), "latents": torch.stack(out)}


def samplers():
    """Names: SAMPLER/PREDICTION/SPACING/STEPS/{times,latents}, in float64; SAMPLER with _zero_snr where the last signal is none. `start`
    and z: the noise (z[i] goes into step i); `betas`: in float32, so that both sides begin with the same numbers."""
    name = "samplers"
    gen, path = generator(name), folder(name)
    start, z = randn(gen, 2, 3, 5).double(), randn(gen, 30, 2, 3, 5).double()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    tensors = {"start": start, "z": z, "betas": betas}
    common = {"trained_betas": betas.tolist(), "num_train_timesteps": 1000, "steps_offset": 1}
    solver = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    kinds = {
        "euler": (EulerDiscreteScheduler, {}),
        "euler_a": (EulerAncestralDiscreteScheduler, {}),
        "dpm++_2m": (DPMSolverMultistepScheduler, solver),
        "dpm++_2m_karras": (DPMSolverMultistepScheduler, solver | {"use_karras_sigmas": True}),
    }

    def add(kind, prediction, spacing, steps, zero=False):
        cls, own = kinds[kind]
        own = own | {"prediction_type": prediction, "timestep_spacing": spacing, "rescale_betas_zero_snr": zero}
        scheduler = cls(**(common | own))
        if zero:
            assert (scheduler.alphas_cumprod - rescaled(betas)).abs().max() < 1e-6
            scheduler.alphas_cumprod = rescaled(betas)
        first, second = in_float64()
        with first, second:
            result = trajectory(scheduler, steps, start, z)
        series = f"{kind}{'_zero_snr' if zero else ''}/{prediction}/{spacing}/{steps}"
        tensors.update({f"{series}/{k}": v for k, v in result.items()})

    for kind in kinds:
        for prediction in ("epsilon", "v_prediction"):
            for spacing in ("leading", "trailing", "linspace"):
                for steps in (1, 7, 20) if spacing != "linspace" else (1, 2, 7, 20):
                    add(kind, prediction, spacing, steps)
        for spacing in ("trailing", "linspace"):
            add(kind, "v_prediction", spacing, 7, zero=True)
            add(kind, "v_prediction", spacing, 30, zero=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(path / "io.safetensors"))
    report(name)


def samplers_more():
    """Names: SAMPLER/BETAS/PREDICTION/SPACING/{times,latents}, in float64, with seven steps; BETAS/signal: alphas_cumprod at 0, 1, 500 and
    998. The cosine schedule, and predictions of the clean image, which diffusers' Euler ancestral does not have."""
    name = "samplers_more"
    gen, path = generator(name), folder(name)
    steps = 7
    start, z = randn(gen, 2, 3).double(), randn(gen, steps, 2, 3).double()
    tensors = {"start": start, "z": z}
    solver = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    kinds = {
        "ddpm": (DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}, {}),
        "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}, {}),
        "ddim_eta1": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}, {"eta": 1.0}),
        "euler": (EulerDiscreteScheduler, {}, {}),
        "euler_a": (EulerAncestralDiscreteScheduler, {}, {}),
        "dpm++_2m": (DPMSolverMultistepScheduler, solver, {}),
        "dpm++_2m_karras": (DPMSolverMultistepScheduler, solver | {"use_karras_sigmas": True}, {}),
    }
    common = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000, "steps_offset": 1}

    def add(kind, betas, prediction, spacing, zero=False):
        cls, own, options = kinds[kind]
        config = common | own | {"beta_schedule": betas, "prediction_type": prediction, "timestep_spacing": spacing}
        scheduler = cls(**config, rescale_betas_zero_snr=True) if zero else cls(**config)
        betas = f"{betas}{'_zero_snr' if zero else ''}"
        signal = scheduler.alphas_cumprod.double()
        tensors[f"{betas}/signal"] = torch.stack([signal[t] for t in (0, 1, 500, 998)])
        first, second = in_float64()
        with first, second:
            if hasattr(scheduler, "sigmas"):
                result = trajectory(scheduler, steps, start, z)
            else:
                scheduler.alphas_cumprod, scheduler.one = signal, torch.tensor(1.0, dtype=torch.float64)
                if hasattr(scheduler, "final_alpha_cumprod"):
                    scheduler.final_alpha_cumprod = signal[0]
                scheduler.set_timesteps(steps)
                x, out = start, []
                for i, t in enumerate(scheduler.timesteps):
                    with given_noise([z[i]]):
                        x = scheduler.step(model_output(x, t.double()), t, x, **options).prev_sample
                    out.append(x)
                result = {"times": scheduler.timesteps.double(), "latents": torch.stack(out)}
        tensors.update({f"{kind}/{betas}/{prediction}/{spacing}/{k}": v for k, v in result.items()})

    for kind in kinds:
        # ours goes another way with DDIM and linspace: docs/formats.md
        for spacing in ("leading", "trailing") if kind.startswith("ddim") else ("leading", "trailing", "linspace"):
            for betas, prediction in (
                ("squaredcos_cap_v2", "epsilon"),
                ("squaredcos_cap_v2", "v_prediction"),
                ("squaredcos_cap_v2", "sample"),
                ("scaled_linear", "sample"),
            ):
                if (kind, prediction) != ("euler_a", "sample"):
                    add(kind, betas, prediction, spacing)
        if kind not in ("ddpm", "euler_a"):
            add(kind, "scaled_linear", "sample", "trailing", zero=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(path / "io.safetensors"))
    report(name)
