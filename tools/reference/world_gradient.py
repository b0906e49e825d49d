"""What the captioner's gradient alone makes of drawn images: follow it in the latents, and look.

    python tools/reference/world_gradient.py weights/world --prompts configs/world/held_out.jsonl --out gradient.png

Draws an image of each prompt, then changes its latents until the caption is likely. The upper row of each pair is before,
the lower one after; the printed numbers are the captions' mean negative log-likelihood per token. Where it falls and the
objects stay what they were, the captioner was pleased by something else than what the image shows.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import BertTokenizerFast, BlipForConditionalGeneration

from iteration import read_prompts

PREFIX = "a photography of"


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("stack", type=Path, help="folder with sd/ and blip/")
    p.add_argument("--prompts", required=True)
    p.add_argument("--count", type=int, default=16)
    p.add_argument("--steps", type=int, default=60, help="of Adam")
    p.add_argument("--learning-rate", type=float, default=0.03)
    p.add_argument("--out", type=Path, required=True)
    return p.parse_args()


class Captioner:
    def __init__(self, folder):
        self.tokenizer = BertTokenizerFast.from_pretrained(folder)
        self.network = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        pixels = json.loads((folder / "preprocessor_config.json").read_text())
        self.mean, self.std = (torch.tensor(pixels[key]).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))

    def surprise(self, images, prompts):
        """Mean negative log-likelihood of each caption's tokens, prefix and padding left out, `[B]`"""
        text = self.tokenizer([f"{PREFIX} {p}" for p in prompts], return_tensors="pt", padding=True)
        ids = text.input_ids.clone()
        ids[:, 0] = self.network.config.text_config.bos_token_id
        labels = ids.masked_fill(text.attention_mask == 0, -100)
        labels[:, : len(self.tokenizer(PREFIX).input_ids) - 1] = -100
        seen = self.network.vision_model((images - self.mean) / self.std).last_hidden_state
        decoder = self.network.text_decoder
        logits = decoder(input_ids=ids, attention_mask=text.attention_mask, encoder_hidden_states=seen).logits
        targets = labels[:, 1:]
        likelihood = logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
        counted = targets >= 0
        return -(likelihood * counted).sum(1) / counted.sum(1)


def main():
    args = arguments()
    pipe = StableDiffusionPipeline.from_pretrained(args.stack / "sd", safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    captioner = Captioner(args.stack / "blip")
    prompts = read_prompts(args.prompts)[: args.count]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    start = pipe(
        prompts, num_inference_steps=10, guidance_scale=4, generator=generators, output_type="latent"
    ).images.detach()

    def decode(latents):
        return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5

    latents = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=args.learning_rate)
    for step in range(args.steps + 1):
        surprise = captioner.surprise(decode(latents), prompts)
        if step in (0, args.steps):
            print(f"step {step}: mean {surprise.mean():.3f}, each {surprise.detach().numpy().round(2).tolist()}")
        optimizer.zero_grad()
        surprise.sum().backward()
        optimizer.step()
    with torch.no_grad():
        before, after = (decode(z).clamp(0, 1).permute(0, 2, 3, 1).numpy() for z in (start, latents))
    rows = []
    for first in range(0, len(prompts), 8):
        rows += [np.concatenate(list(images[first : first + 8]), 1) for images in (before, after)]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=1) for row in rows]
    image = Image.fromarray((np.concatenate(rows, 0) * 255).round().astype("uint8"))
    image.resize((2 * image.width, 2 * image.height), Image.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
