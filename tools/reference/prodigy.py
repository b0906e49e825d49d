"""Fixture of the optimiser Prodigy: its published program on a quadratic function, in float64. No network."""

import torch
from prodigyopt import Prodigy
from safetensors.torch import save_file

from common import folder, generator, report

STEPS = 40
CASES = {
    "plain": {},
    "decay": {"weight_decay": 0.02},
    "corrected": {"use_bias_correction": True, "weight_decay": 0.01},
    "safeguarded": {"safeguard_warmup": True},
    "both": {"safeguard_warmup": True, "use_bias_correction": True, "weight_decay": 0.01, "d0": 1e-3},
    "slower": {"growth_rate": 1.5, "d_coef": 0.5, "d0": 1e-4},
    "no_mean": {"betas": (0.0, 0.99), "d0": 1e-3},
}


def prodigy():
    """Gradients are `hessian @ values - shift`, clipped to the norm `clip`; `CASE/values` `[steps, 12]` and `CASE/distance` `[steps]` (d) after every step.
    The rate rises over ten steps, then falls. Of the values (an 8-vector and a 2x2 matrix, one after the other) the matrix starts at zero, as `up` does.
    """
    name = "prodigy"
    gen, path = generator(name), folder(name)
    root = torch.randn(12, 12, generator=gen, dtype=torch.float64)
    hessian, shift = root @ root.T / 12, torch.randn(12, generator=gen, dtype=torch.float64) * 3
    start = torch.cat([torch.randn(8, generator=gen, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)])
    rates = [(i + 1) / 10 if i < 10 else 1 - (i - 10) / 60 for i in range(STEPS)]
    tensors = {"hessian": hessian, "shift": shift, "start": start, "rates": torch.tensor(rates, dtype=torch.float64)}
    for case, options in CASES.items():
        parameters = [start[:8].clone(), start[8:].reshape(2, 2).clone()]
        for p in parameters:
            p.requires_grad_(True)
        optimizer = Prodigy(parameters, lr=1.0, **options)
        values, distances = [], []
        for rate in rates:
            flat = torch.cat([p.detach().flatten() for p in parameters])
            gradient = hessian @ flat - shift
            gradient = gradient * (2.0 / (gradient.norm() + 1e-6)).clamp(max=1.0)
            parameters[0].grad, parameters[1].grad = gradient[:8].clone(), gradient[8:].reshape(2, 2).clone()
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            values.append(torch.cat([p.detach().flatten() for p in parameters]))
            distances.append(optimizer.param_groups[0]["d"])
        tensors[f"{case}/values"] = torch.stack(values)
        tensors[f"{case}/distance"] = torch.tensor(distances, dtype=torch.float64)
    save_file({k: v.contiguous() for k, v in tensors.items()}, str(path / "io.safetensors"))
    report(name)
