"""One training iteration at full size, here and in PyTorch, in one run: seconds, memory, share of the card's bfloat16 rate.

    python tools/reference/side_by_side.py --comat target/release/comat --work DIR                  # SD 1.5 and SDXL on a GPU
    python tools/reference/side_by_side.py --comat target/release/comat --work DIR --cases sd15 --device cpu --dtype float32 \
        --batch 1 --steps 4 --tracked 1                                                             # what fits a CPU
    python tools/reference/side_by_side.py --comat target/release/comat --work DIR --cases world --device cpu --dtype float32

Weights are random, in the layouts of the published models (`full_size.py`), unless --sd15, --sdxl or --blip name real ones. Both sides
start from the same noise and adapter size, sample by DDPM with guidance 7.5, and replay the same steps. They run in turn, each in a process of
its own. The last line compares gradients of ours on this device with ours on the CPU, on the miniature world in float32.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGETS = '["to_q", "to_k", "to_v", "to_out.0"]'
GUIDANCE = 7.5
ENDS = None  # when programs are stopped, by time.monotonic()


class Failed(Exception):
    """A program that failed, or took too long: command, exit code and the ends of what it wrote."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out[-2000:], err[-4000:]
        super().__init__(f"{command}\nexit code {code}\n{self.out}{self.err}")


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--comat", type=Path, required=True, help="the binary")
    p.add_argument("--work", type=Path, required=True, help="folder for weights and results; a few GB for each model")
    p.add_argument("--cases", nargs="+", choices=["sd15", "sdxl", "world"], default=["sd15", "sdxl"])
    p.add_argument("--device", default="cuda")
    p.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    p.add_argument("--batch", type=int, help="default: 4 for SD 1.5 and the world, 6 for SDXL")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--tracked", type=int, default=5)
    p.add_argument("--rank", type=int, default=128)
    p.add_argument("--mode", choices=["detached", "chained"], default="detached")
    p.add_argument("--micro-batch", type=int, default=2, help="of ours; PyTorch's side does the batch at once")
    p.add_argument("--latents", type=int, help="their side; default: 64, and the world's own")
    p.add_argument("--checkpointing", action="store_true", help="of PyTorch's side")
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--sides", nargs="+", choices=["comat", "pytorch"], default=["comat", "pytorch"])
    for name in ("sd15", "sdxl", "blip"):
        p.add_argument(f"--{name}", type=Path, help="folder with real weights")
    return p.parse_args()


def run(command):
    """A program's output."""
    began, line = time.perf_counter(), " ".join(map(str, command))
    limit = max(ENDS - time.monotonic(), 1) if ENDS else None
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, encoding="utf-8", errors="replace", cwd=ROOT, timeout=limit
        )
    except subprocess.TimeoutExpired as late:
        out, err = ((text or b"").decode(errors="replace") for text in (late.stdout, late.stderr))
        raise Failed(line, f"stopped after {limit:.0f} s", out, err) from None
    if done.returncode:
        raise Failed(line, done.returncode, done.stdout, done.stderr)
    print(f"  ({time.perf_counter() - began:.0f} s) {' '.join(map(str, command[:3]))} …", file=sys.stderr)
    return done.stdout


def folders(args, case):
    """Model and captioner, made where they are missing."""
    if case == "world":
        return ROOT / "weights/world/sd", ROOT / "weights/world/blip"

    def made(name):
        given = getattr(args, name)
        path = given or args.work / name
        if not given and not path.exists():
            dtype = "float32" if args.dtype == "float32" else "bfloat16"
            partial = args.work / f"{name}.partial"
            make = [sys.executable, HERE / "full_size.py", name, "--out", partial, "--dtype", dtype]
            run([*make, "--device", args.device])
            partial.rename(path)
        return path

    return made(case), made("blip")


def prepare(args, case, batch):
    """Model, captioner, noise, prompts and the side of the latents."""
    model, captioner = folders(args, case)
    side = json.loads((model / "unet/config.json").read_text())["sample_size"] if case == "world" else 64
    side = args.latents or side
    noise, prompts = args.work / f"noise-{case}-{batch}-{args.steps}-{side}.safetensors", args.work / "prompts.txt"
    if not noise.exists():
        pixels = side * 2 ** (len(json.loads((model / "vae/config.json").read_text())["block_out_channels"]) - 1)
        command = [sys.executable, HERE / "noise.py", model, "--batch", batch, "--steps", args.steps, "--latents", side]
        run([*command, "--jitter", pixels // 224, "--out", noise])
    colours = ["red", "blue", "green", "yellow", "black", "white", "brown", "pink"]
    prompts.write_text("".join(f"a {c} dog and a small cat, number {i}\n" for i, c in enumerate(colours * 4)))
    return model, captioner, noise, prompts, side


def configuration(args, case, batch, parts, device, dtype):
    """The file that `comat` reads."""
    model, captioner, _, prompts, side = parts
    scale = json.loads((model / "vae/config.json").read_text())["block_out_channels"]
    pixels = side * 2 ** (len(scale) - 1)
    config = args.work / f"{case}.toml"
    config.write_text(
        f"""output = "unused"
[model]
path = "{model}"
dtype = "{dtype}"
device = "{device}"
[captioner]
path = "{captioner}"
micro_batch = {args.micro_batch}
[prompts]
train = "{prompts}"
[sampling]
sampler = "ddpm"
steps = {args.steps}
guidance_scale = {GUIDANCE}
size = "{pixels}x{pixels}"
[replay]
mode = "{args.mode}"
tracked = {args.tracked}
policy = "grid"
micro_batch = {args.micro_batch}
[lora]
rank = {args.rank}
targets = {TARGETS}
[train]
batch_size = {batch}
"""
    )
    return config


def ours(args, case, batch, parts, device, dtype, repeat):
    """Seconds and MiB, the largest and by phase; and the file with the gradients."""
    config = configuration(args, case, batch, parts, device, dtype)
    out = args.work / f"{case}-{device.replace(':', '')}-{dtype}.safetensors"
    command = [args.comat.resolve(), "trace", "--config", config, "--noise", parts[2], "--out", out]
    text = run([*command, "--tracked-start", 0, "--repeat", repeat])
    seconds = float(re.search(r"^iteration ([\d.]+) s", text, re.M)[1])
    took = re.search(r"^of it (.*)$", text, re.M)[1]
    took = {phase: float(s) for phase, s in re.findall(r"(\w+) ([\d.]+) s", took)}
    held = re.search(r"^memory at most: (.*)$", text, re.M)[1]
    held = {phase: int(mib) for phase, mib in re.findall(r"(\w+) (\d+) MiB", held)}
    found = {"seconds": seconds, "trajectory": took["trajectory"], "mib": max(held.values())}
    return found | {"phases_seconds": took, "phases_mib": held}, out


def theirs(args, case, parts):
    model, captioner, noise, prompts, _ = parts
    command = [sys.executable, "-B", HERE / "iteration.py", "--model", model, "--captioner", captioner]
    command += ["--prompts", prompts, "--noise", noise, "--rank", args.rank, "--steps", args.steps]
    command += ["--tracked", args.tracked, "--guidance-scale", GUIDANCE, "--mode", args.mode]
    command += ["--checkpointing"] if args.checkpointing else []
    out = args.work / f"{case}-pytorch.safetensors"
    text = run([*command, "--dtype", args.dtype, "--device", args.device, "--repeat", args.repeat, "--out", out])
    trajectory, seconds = re.search(r"trajectory ([\d.]+) s, iteration ([\d.]+) s", text).groups()
    captioned, backward = re.search(r"captioner forward ([\d.]+) s, backward ([\d.]+) s", text).groups()
    memory = "peak on the device" if args.device.startswith("cuda") else "peak resident set"
    return {
        "seconds": float(seconds),
        "trajectory": float(trajectory),
        "phases_seconds": {"decode and caption": float(captioned), "backward": float(backward)},
        "mib": int(re.search(rf"{memory} (\d+) MiB", text)[1]),
    }, out


def differences(one, other):
    """Of two programs' results: image and dL/d image, Euclidean and relative, and the difference of the losses. (Fresh adapters are not the same on
    both sides, but they add nothing yet.)"""
    from safetensors.torch import load_file

    one, other = load_file(one), load_file(other)
    norm = lambda t: t.double().norm().item()
    parts = [f"{key} {norm(one[key].double() - other[key]) / norm(other[key]):.1e}" for key in ("image", "image_gradient")]
    losses = [results["loss.caption"].item() for results in (one, other)]
    return f"relative difference of {', of '.join(parts)}; losses {losses[0]:.8f} and {losses[1]:.8f}"


def flops(model, batch, steps, tracked, side):
    """Of the UNet in an iteration, counted by PyTorch on one pass: forward on all steps, and about three times that where a gradient is
    taken; with guidance two rows a sample."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        config = UNet2DConditionModel.load_config(model / "unet")
        unet = UNet2DConditionModel.from_config(config)
        width, added = config["cross_attention_dim"], None
        if config.get("addition_embed_type") == "text_time":
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            added = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(torch.empty(1, 4, side, side), torch.tensor(1), torch.empty(1, 77, width), added_cond_kwargs=added)
    return counter.get_total_flops() * 2 * batch * (steps + 3 * tracked)


def rate(device, n=8192):
    """What the card multiplies matrices at in bfloat16, in FLOP a second."""
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    synchronize()
    began = time.perf_counter()
    for _ in range(20):
        a @ b
    synchronize()
    return 20 * 2 * n**3 / (time.perf_counter() - began)


def small_world(args):
    """A short iteration on the miniature world: settings and parts."""
    small = argparse.Namespace(**{**vars(args), "steps": 10, "tracked": 3, "rank": 8, "latents": None})
    return small, prepare(small, "world", 4)


def relative_error(one, other, start=""):
    """Of the tensors of two files, over those keys that start so: the norm of the difference over the norm of the other."""
    from safetensors.torch import load_file

    one, other = load_file(one), load_file(other)
    norm = lambda tensors: torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt()
    keys = [key for key in other if key.startswith(start)]
    return (norm([one[k].double() - other[k].double() for k in keys]) / norm([other[k] for k in keys])).item()


def parity(args):
    """The relative error of our gradients on this device, against ours on the CPU."""
    small, parts = small_world(args)
    one, other = (ours(small, "world", 4, parts, device, "float32", 1)[1] for device in (args.device, "cpu"))
    return relative_error(one, other, "grad.")


def main():
    args = arguments()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    cuda = args.device.startswith("cuda")
    peak = rate(args.device) if cuda else None
    if cuda:
        print(f"{torch.cuda.get_device_name(args.device)}, {peak / 1e12:.0f} TFLOP/s in a bfloat16 product of matrices")
    print("| case | side | seconds | trajectory | MiB | TFLOP/s of the UNet | share of the card's rate |")
    print("|---|---|---|---|---|---|---|")
    for case in args.cases:
        batch = args.batch or (6 if case == "sdxl" else 4)
        parts = prepare(args, case, batch)
        work = flops(parts[0], batch, args.steps, args.tracked, parts[4])
        found, files = {}, {}
        for side in args.sides:
            if side == "comat":
                found[side], files[side] = ours(args, case, batch, parts, args.device, args.dtype, args.repeat)
            else:
                found[side], files[side] = theirs(args, case, parts)
            row = found[side]
            speed = work / row["seconds"]
            share = f"{speed / peak:.2f}" if cuda else "–"
            print(
                f"| {case}, {batch} × {args.steps}/{args.tracked}, {args.dtype} | {side} | {row['seconds']:.2f} "
                f"| {row['trajectory']:.2f} | {row['mib']} | {speed / 1e12:.2f} | {share} |",
                flush=True,
            )
        if len(found) == 2:
            a, b = found["comat"], found["pytorch"]
            print(f"{case}: {b['seconds'] / a['seconds']:.2f} times the speed, {a['mib'] / b['mib']:.2f} of the memory")
            print(f"{case}: {differences(files['comat'], files['pytorch'])}")
    if cuda:
        print(f"gradients on {args.device} against the CPU, miniature world, float32: relative error {parity(args):.1e}")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        raise SystemExit(str(error)) from None
