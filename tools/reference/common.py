"""Helpers shared by the fixture modules: seeds, random parameters, files."""

import copy
import json
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import diffusers
import torch
import transformers
from safetensors.torch import save_file

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

FIXTURES = Path(__file__).resolve().parents[2] / "crates" / "models" / "tests" / "fixtures"

# Keys that tell where or how a file was made, not what the network is.
PRIVATE_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")


def generator(name):
    """A random generator whose seed depends on `name` only."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def randn(gen, *shape):
    """Standard normal float32 numbers."""
    return torch.randn(*shape, generator=gen)


def folder(name):
    """The fixture's folder, emptied."""
    path = FIXTURES / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def randomise(net, gen, gain=1.0, last=()):
    """Fill every parameter at random, so that no zero or one hides a mistake.

    Scales are around 1, biases around 0, matrices keep the size of what passes through them (times `gain`).
    `last` maps endings of parameter names to an extra factor.
    """
    factors = dict(last)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if name.endswith("bias"):
                value = 0.2 * noise
            elif p.ndim <= 1:
                value = 1 + 0.2 * noise
            elif "embedding" in name and "patch" not in name and "linear" not in name and "proj" not in name:
                value = noise
            else:
                value = noise * gain / p[0].numel() ** 0.5
            value *= next((f for end, f in factors.items() if name.endswith(end)), 1.0)
            p.copy_(value)
    return net.eval().requires_grad_(False)


def to_dtype(value, dtype):
    """Cast the floating-point tensors in a (nested) structure."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: to_dtype(v, dtype) for k, v in value.items()}
    return value


def exact(net, inputs, fn):
    """Results of `fn(net, inputs)` computed in float64, and the error that float32 makes of them.

    Storing the float64 results (rounded to float32) means that a test sees its own rounding only.
    """
    with torch.no_grad():
        truth = fn(copy.deepcopy(net).double(), to_dtype(inputs, torch.float64))
        single = fn(net, inputs)
    errors = {k: relative(single[k], truth[k]) for k in truth if truth[k].is_floating_point()}
    return truth, max(errors.values())


def relative(a, b):
    """Largest difference of two tensors in units of the second one's root mean square."""
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.square().mean().sqrt().clamp_min(1e-30))


def save_io(path, tensors, name="io.safetensors"):
    """Write named tensors: floating-point ones as float32, the others as int64."""
    out = {
        k: v.detach().to(torch.float32 if v.is_floating_point() else torch.int64).contiguous().clone()
        for k, v in tensors.items()
    }
    save_file(out, str(path / name))


def sort_header(file):
    """Put a safetensors file's header in order; the library writes its metadata in random order."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def clean(path):
    """Drop machine-dependent keys from all JSON files below `path`."""
    for file in sorted(path.rglob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and any(k in data for k in PRIVATE_KEYS):
            write_json(file, {k: v for k, v in data.items() if k not in PRIVATE_KEYS})


def report(name, error=None):
    """One line about a finished fixture."""
    size = sum(f.stat().st_size for f in (FIXTURES / name).rglob("*") if f.is_file())
    rounding = "" if error is None else f"  float32 rounding {error:.1e}"
    print(f"{name:16} {size / 1024:7.0f} KiB{rounding}", flush=True)


@contextmanager
def given_noise(draws):
    """Make diffusers' schedulers take their noise from the list `draws`, one entry a step."""
    draws = iter(draws)

    def take(shape, generator=None, device=None, dtype=None, layout=None):
        z = next(draws)
        assert tuple(z.shape) == tuple(shape)
        return z.to(device=device, dtype=dtype)

    with (
        mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", take),
        mock.patch("diffusers.schedulers.scheduling_ddim.randn_tensor", take),
        mock.patch("diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", take),
    ):
        yield
