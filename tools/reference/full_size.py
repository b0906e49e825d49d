"""Model folders of full size with random weights, to measure time and memory where no published weights are at hand.

The configurations are those of Stable Diffusion 1.5, of Stable Diffusion XL and of BLIP large; the tokenizers are those of the test fixtures, so
the texts mean nothing. Weights are written in bfloat16 unless told otherwise.

    python tools/reference/full_size.py sd15 --out DIR [--dtype float32]
    python tools/reference/full_size.py sdxl --out DIR
    python tools/reference/full_size.py blip --out DIR [--device cuda]      # made on a GPU: faster

Beside them lie `noise.safetensors` (for `comat trace` and `iteration.py`) and `prompts.txt`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

FIXTURES = Path(__file__).resolve().parents[2] / "crates/models/tests/fixtures"
ATTENTION = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]

SD15 = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=ATTENTION,
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    cross_attention_dim=768,
    attention_head_dim=8,
)
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block=[1, 2, 10],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    layers_per_block=2,
    latent_channels=4,
)
CLIP_L = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
    vocab_size=49408,
    hidden_act="quick_gelu",
    projection_dim=768,
)
CLIP_G = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    max_position_embeddings=77,
    vocab_size=49408,
    hidden_act="gelu",
    projection_dim=1280,
)


def save(network, folder, dtype):
    network.to(dtype).save_pretrained(folder, safe_serialization=True, max_shard_size="100GB")


def tokens(kind):
    """Start, end and padding as the fixture's tokenizer counts them."""
    config = json.loads((FIXTURES / kind / "text_encoder/config.json").read_text())
    return {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def tokenizer(fixture, name, out):
    shutil.copytree(FIXTURES / fixture / name, out / name, dirs_exist_ok=True)
    path = out / name / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["model_max_length"] = 77
    path.write_text(json.dumps(config))


def diffusion(fixture, unet, out, dtype, device):
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(FIXTURES / fixture / "model_index.json", out)
    shutil.copytree(FIXTURES / fixture / "scheduler", out / "scheduler", dirs_exist_ok=True)
    with torch.device("meta"):
        network = UNet2DConditionModel(**unet)
    save(random(network, dtype, device), out / "unet", dtype)
    xl = fixture.endswith("sdxl")
    size, factor = (1024, 0.13025) if xl else (512, 0.18215)
    with torch.device(device):
        vae = AutoencoderKL(**VAE, sample_size=size, scaling_factor=factor, force_upcast=xl)
        encoder = CLIPTextModel(CLIPTextConfig(**CLIP_L, **tokens(fixture)))
    save(vae, out / "vae", dtype)
    save(encoder, out / "text_encoder", dtype)
    tokenizer(fixture, "tokenizer", out)
    if xl:
        with torch.device(device):
            encoder = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G, **tokens(fixture)))
        save(encoder, out / "text_encoder_2", dtype)
        tokenizer(fixture, "tokenizer_2", out)


def random(network, dtype, device):
    """Fills a network without memory."""
    return fill(network.to(dtype).to_empty(device=device))


def fill(network):
    """Matrices that keep the size of what passes through them, and norms and biases as they start. (BLIP's own start is of no use here: its
    vision weights are about 0, so that the texts' likelihood would not depend on the image.)"""
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return network


def blip(out, dtype, device):
    vision = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
    text = dict(hidden_size=768, encoder_hidden_size=1024, vocab_size=30524, num_hidden_layers=12)
    config = BlipConfig(vision_config=dict(**vision, image_size=384, patch_size=16), text_config=text)
    with torch.device(device):
        network = fill(BlipForConditionalGeneration(config))
    save(network, out, dtype)
    for name in ("preprocessor_config.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(FIXTURES / "blip" / name, out)
    path = out / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings["size"] = {"height": 384, "width": 384}
    path.write_text(json.dumps(settings))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("which", choices=["sd15", "sdxl", "blip"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=4, help="of the noise that is written")
    parser.add_argument("--device", default="cpu", help="where the weights are made")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    torch.manual_seed(0)
    if args.which == "blip":
        return blip(args.out, dtype, args.device)
    fixture, unet = ("pipeline_sd1", SD15) if args.which == "sd15" else ("pipeline_sdxl", SDXL)
    diffusion(fixture, unet, args.out, dtype, args.device)
    noise = {"x_T": torch.randn(1, 4, 64, 64), "z": torch.randn(args.steps, 1, 4, 64, 64)}
    save_file(noise, args.out / "noise.safetensors")
    (args.out / "prompts.txt").write_text("a red dog and a blue cat\na small green bird\n")


if __name__ == "__main__":
    main()
