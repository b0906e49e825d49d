"""Hold `comat lora` and `comat generate --lora` against diffusers and peft.

    python tools/reference/lora_images.py COMAT [--model DIR] [--text] [--limit 1e-4]

Makes an adapter with peft on the UNet of a model folder (default: the miniature world), with --text also on its text encoders, has COMAT (the program) convert it
to every format and merge it, and compares final latents and images with those of diffusers, from the same noise: COMAT's
with each file, diffusers' with each file, and diffusers' with the merged folder. Then it checks the names of the layers that
attention and text encoders have in Stable Diffusion 1.5 and XL, built without weights, against what diffusers makes of kohya's format.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.integrations import peft as transformers_peft

# transformers 5.24 asks for peft 0.22, which is not released; what it uses of it is in 0.21.
transformers_peft.check_peft_version = lambda min_version: None

PROMPTS = ["a red circle", "a blue square"]
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
STEPS = 5
WORLD = Path(__file__).parents[2] / "weights" / "world" / "sd"


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("comat", help="the program")
    p.add_argument("--model", default=str(WORLD))
    p.add_argument("--text", action="store_true", help="adapt the text encoders too")
    p.add_argument("--limit", type=float, default=1e-4)
    return p.parse_args()


def open_pipeline(model):
    pipe = DiffusionPipeline.from_pretrained(model, safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_adapter(model, out, text):
    """Random matrices, rank 3, alpha 5: alpha / rank is no power of two."""
    pipe = open_pipeline(model)
    parts = ["unet"] + [n for n in ("text_encoder", "text_encoder_2") if text and getattr(pipe, n, None) is not None]
    gen = torch.Generator().manual_seed(0)
    layers = {}
    for part in parts:
        config = LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS if part == "unet" else TEXT_TARGETS)
        net = inject_adapter_in_model(config, getattr(pipe, part))
        with torch.no_grad():
            for name, p in net.named_parameters():
                if ".lora_" in name:
                    p.copy_(torch.randn(p.shape, generator=gen) * 0.1)
        config = {k: v for k, v in net.peft_config["default"].to_dict().items() if v is not None}
        config["target_modules"] = sorted(config["target_modules"])
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(net)
        layers[f"{part}_lora_adapter_metadata"] = config
    pipe.save_lora_weights(str(out.parent), weight_name=out.name, **layers)


def by_diffusers(model, x_T, lora=None):
    """Final latents [B,C,h,w] and images [B,H,W,3] in 0..1."""
    pipe = open_pipeline(model)
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
        make_adapter(args.model, made, args.text)
        config = UNet2DConditionModel.load_config(args.model, subfolder="unet")
        size = config["sample_size"]
        x_T = torch.randn(len(PROMPTS), 4, size, size, generator=torch.Generator().manual_seed(1))
        save_file({"x_T": x_T}, folder / "noise.safetensors")

        files = {"peft's own": made}
        for format in ["diffusers", "peft", "kohya"]:
            files[format] = folder / f"{format}.safetensors"
            words = [args.comat, "lora", "convert", made, "--to", format, "--out", files[format]]
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


def compare_text_names():
    """kohya's name of every layer of the text encoders is what diffusers takes for that layer."""
    wide = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    clip = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    encoders = {
        "SD 1.5": ("lora_te_", "text_encoder", CLIPTextModel, clip),
        "SDXL, first": ("lora_te1_", "text_encoder", CLIPTextModel, clip),
        "SDXL, second": ("lora_te2_", "text_encoder_2", CLIPTextModelWithProjection, wide | {"projection_dim": 1280}),
    }
    for name, (prefix, part, cls, config) in encoders.items():
        with torch.device("meta"):
            net = cls(CLIPTextConfig(**config))
        layers = [n for n, _ in net.named_modules() if any(n.endswith("." + t) for t in TEXT_TARGETS)]
        full = {n if n.startswith("text_model.") else f"text_model.{n}" for n in layers}  # transformers 5 leaves it out
        state = {}
        for layer in full:
            flat = prefix + layer.replace(".", "_")
            state[f"{flat}.lora_down.weight"], state[f"{flat}.lora_up.weight"] = torch.zeros(1, 1), torch.zeros(1, 1)
            state[f"{flat}.alpha"] = torch.tensor(1.0)
        read, _ = _convert_non_diffusers_lora_to_diffusers(state)
        stems = {key.split(".lora_linear_layer.")[0].split(".lora.")[0] for key in read}
        stems = {stem.removeprefix(f"{part}.").replace(".to_q_lora", ".q_proj") for stem in stems}
        short = {"to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj"}
        for old, new in short.items():
            stems = {stem.replace(f".{old}", f".{new}") for stem in stems}
        stems = {stem.removesuffix(".down.weight").removesuffix(".up.weight") for stem in stems}
        assert stems == full, sorted(stems ^ full)[:4]
        print(f"{name}: {len(layers)} layers of the text encoder, kohya's names are read as these by diffusers")


def main():
    args = arguments()
    compare_names()
    compare_text_names()
    worst = compare_images(args)
    if worst > args.limit:
        raise SystemExit(f"largest distance {worst:.3e} is above {args.limit:g}")
    print(f"largest distance {worst:.3e}")


if __name__ == "__main__":
    main()
