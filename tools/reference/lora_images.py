"""Hold `comat lora` and `comat generate --lora` against diffusers and peft.

    python tools/reference/lora_images.py COMAT [--model DIR] [--limit 1e-4]

Makes an adapter with peft on the UNet of a model folder (default: the miniature world), has COMAT (the program) convert it
to every spelling and merge it, and compares final latents and images with those of diffusers, from the same noise: COMAT's
with each file, diffusers' with each file, and diffusers' with the merged folder. Then it checks the names of the layers that
attention has in Stable Diffusion 1.5 and XL, built without weights, against what diffusers makes of kohya's spelling.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file

PROMPTS = ["a red circle", "a blue square"]
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
STEPS = 5
WORLD = Path(__file__).parents[2] / "weights" / "world" / "sd"


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("comat", help="the program")
    p.add_argument("--model", default=str(WORLD))
    p.add_argument("--limit", type=float, default=1e-4)
    return p.parse_args()


def make_adapter(model, out):
    """Random matrices, rank 3, alpha 5: alpha / rank is no power of two."""
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", dtype=torch.float32)
    unet.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS))
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if ".lora_" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.1)
    config = {k: v for k, v in unet.peft_config["default"].to_dict().items() if v is not None}
    config["target_modules"] = sorted(config["target_modules"])
    StableDiffusionPipeline.save_lora_weights(
        str(out.parent), get_peft_model_state_dict(unet), weight_name=out.name, unet_lora_adapter_metadata=config
    )


def by_diffusers(model, x_T, lora=None):
    """Final latents [B,C,h,w] and images [B,H,W,3] in 0..1."""
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    if lora is not None:
        pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    latents = pipe(
        PROMPTS,
        height=x_T.shape[-2] * pipe.vae_scale_factor,
        width=x_T.shape[-1] * pipe.vae_scale_factor,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=x_T,
        output_type="latent",
    ).images
    with torch.no_grad():
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return latents, (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def by_comat(program, folder, model, lora=None):
    out = Path(tempfile.mkdtemp(dir=folder))
    words = [program, "generate", "--model", model, "--steps", str(STEPS), "--guidance-scale", "3", "--out", out / "png"]
    for prompt in PROMPTS:
        words += ["--prompt", prompt]
    words += ["--init-latents", folder / "noise.safetensors", "--save-latents", out / "x_0.safetensors"]
    if lora is not None:
        words += ["--lora", lora]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
    images = [np.asarray(Image.open(path)) / 255 for path in sorted((out / "png").iterdir())]
    return load_file(out / "x_0.safetensors")["x_0"], np.stack(images)


def relative(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def compare_images(args):
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "made.safetensors"
        make_adapter(args.model, made)
        config = UNet2DConditionModel.load_config(args.model, subfolder="unet")
        size = config["sample_size"]
        x_T = torch.randn(len(PROMPTS), 4, size, size, generator=torch.Generator().manual_seed(1))
        save_file({"x_T": x_T}, folder / "noise.safetensors")

        files = {"peft's own": made}
        for spelling in ["diffusers", "peft", "kohya"]:
            files[spelling] = folder / f"{spelling}.safetensors"
            words = [args.comat, "lora", "convert", made, "--to", spelling, "--out", files[spelling]]
            subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)
        merged = folder / "merged"
        words = [args.comat, "lora", "merge", "--model", args.model, "--lora", files["kohya"], "--out", merged]
        words += ["--dtype", "float32"]  # half precision would round the sums
        subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL)

        plain, _ = by_diffusers(args.model, x_T)
        expected, image = by_diffusers(args.model, x_T, made)
        print(f"with the adapter, from without it: {relative(expected, plain):.3e}")
        results = {f"diffusers, {name} file": by_diffusers(args.model, x_T, file) for name, file in files.items()}
        results |= {f"comat, {name} file": by_comat(args.comat, folder, args.model, file) for name, file in files.items()}
        results["diffusers, merged folder"] = by_diffusers(merged, x_T)
        results["comat, merged folder"] = by_comat(args.comat, folder, merged)
        for name, (latents, other) in results.items():
            error = relative(latents, expected)
            levels = np.abs(other - image).max() * 255
            print(f"{name}: latents {error:.3e}, images {levels:.3f} levels of 255")
            worst = max(worst, error)
            assert levels <= 1.0, name  # PNG files are rounded
    return worst


def compare_names():
    """kohya's name of every attention layer is what diffusers takes for that layer."""
    shared = {"sample_size": 64, "in_channels": 4, "out_channels": 4}
    sd15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
    sdxl = {
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    for name, config in {"SD 1.5": sd15, "SDXL": sdxl}.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(**shared, **config)
        layers = [n for n, _ in unet.named_modules() if any(n.endswith("." + t) for t in TARGETS)]
        state = {}
        for layer in layers:
            flat = "lora_unet_" + layer.replace(".", "_")
            state[f"{flat}.lora_down.weight"], state[f"{flat}.lora_up.weight"] = torch.zeros(1, 1), torch.zeros(1, 1)
            state[f"{flat}.alpha"] = torch.tensor(1.0)
        read, _ = StableDiffusionPipeline.lora_state_dict(state, unet_config=unet.config)
        ends = (".lora.down.weight", "_lora.down.weight", ".lora_A.weight")
        stems = {key.removesuffix(end) for key in read for end in ends if key.endswith(end)}
        normal = {s.removeprefix("unet.").replace(".processor", "") for s in stems}
        normal = {s + ".0" if s.endswith("to_out") else s for s in normal}
        assert normal == set(layers), sorted(normal ^ set(layers))[:4]
        print(f"{name}: {len(layers)} attention layers, kohya's names are read as these by diffusers")


def main():
    args = arguments()
    compare_names()
    worst = compare_images(args)
    if worst > args.limit:
        raise SystemExit(f"largest distance {worst:.3e} is above {args.limit:g}")
    print(f"largest distance {worst:.3e}")


if __name__ == "__main__":
    main()
