"""Load LoRA files into a diffusers pipeline, sample with DDIM, and compare the results.

    python tools/reference/load_lora.py MODEL_DIR LORA_FILE... --init-latents FILE --prompts FILE [--expect FILE]

The first line is the distance of each result from the base model's (so that an adapter without effect is noticed),
then follow the distances between the files, and from `x_0` in --expect.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file

from iteration import read_prompts


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", help="diffusers folder")
    p.add_argument("lora", nargs="+", help="LoRA files (diffusers, PEFT or kohya format)")
    p.add_argument("--init-latents", required=True, help="safetensors with x_T [B,C,h,w]")
    p.add_argument("--prompts", required=True, help=".txt or .jsonl; the first B prompts are used")
    p.add_argument("--negative-prompt", help="default: none")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance-scale", type=float, default=7.5)
    p.add_argument("--guidance-rescale", type=float, default=0.0)
    p.add_argument("--dtype", choices=["float64", "float32", "bfloat16", "float16"], default="float32")
    p.add_argument("--expect", help="safetensors with x_0 computed by another program")
    p.add_argument("--limit", type=float, help="fail if a distance between files, or from --expect, is larger")
    return p.parse_args()


def distance(a, b):
    """Relative difference of two tensors, in the Euclidean norm."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def sample(args, x_T, prompts, lora=None):
    """Final latents with the adapter in file `lora`, from a freshly loaded pipeline."""
    pipe = DiffusionPipeline.from_pretrained(args.model, safety_checker=None, dtype=getattr(torch, args.dtype))
    config = pipe.scheduler.config
    pipe.scheduler = DDIMScheduler.from_config(
        config, clip_sample=False, set_alpha_to_one=config.get("set_alpha_to_one", True)
    )
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        file = Path(lora).resolve()
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    negative = None if args.negative_prompt is None else [args.negative_prompt] * len(prompts)
    return pipe(
        prompts,
        negative_prompt=negative,
        height=x_T.shape[-2] * pipe.vae_scale_factor,
        width=x_T.shape[-1] * pipe.vae_scale_factor,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        guidance_rescale=args.guidance_rescale,
        latents=x_T.to(pipe.unet.dtype),
        output_type="latent",
    ).images


def main():
    args = arguments()
    x_T = load_file(args.init_latents)["x_T"]
    prompts = read_prompts(args.prompts)[: len(x_T)]
    assert len(prompts) == len(x_T), "fewer prompts than rows of x_T"
    base = sample(args, x_T, prompts)
    results = {file: sample(args, x_T, prompts, file) for file in args.lora}
    for file, result in results.items():
        print(f"{file}: from the base model {distance(result, base):.3e}")

    worst = 0.0
    first, *others = args.lora
    for file in others:
        d = distance(results[file], results[first])
        print(f"{file}: from {first} {d:.3e}")
        worst = max(worst, d)
    if args.expect:
        expected = load_file(args.expect)["x_0"]
        for file, result in results.items():
            d = distance(expected, result)
            print(f"{file}: expected latents from these {d:.3e}")
            worst = max(worst, d)
    if args.limit is not None and worst > args.limit:
        raise SystemExit(f"largest distance {worst:.3e} is above {args.limit:g}")


if __name__ == "__main__":
    main()
