"""Noise for `comat trace` and `iteration.py`: x_T [B,C,h,w] and z [T,B,C,h,w], standard normal; with --jitter also crop [B,2].

    python tools/reference/noise.py MODEL_DIR --batch 8 --steps 25 --out noise.safetensors
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
p.add_argument("model", type=Path, help="diffusers folder; its UNet's config gives channels and size")
p.add_argument("--batch", type=int, default=4)
p.add_argument("--steps", type=int, default=50)
p.add_argument("--latents", type=int, help="side of the latents; default: the UNet's sample_size")
p.add_argument("--jitter", type=int, default=0, help="crops are moved by 0 to so many pixels: the image's shorter side // 224")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--out", required=True)
args = p.parse_args()

unet = json.loads((args.model / "unet/config.json").read_text())
side = args.latents or unet["sample_size"]
shape = (args.batch, unet["in_channels"], side, side)
generator = torch.Generator().manual_seed(args.seed)
x_T = torch.randn(shape, generator=generator)
tensors = {"x_T": x_T, "z": torch.randn(args.steps, *shape, generator=generator)}
if args.jitter:
    tensors["crop"] = torch.randint(args.jitter + 1, (args.batch, 2), generator=generator)
save_file(tensors, args.out)
