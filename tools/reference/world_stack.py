"""Open the miniature stack with diffusers and transformers, and draw what `comat generate` drew.

    comat generate --model weights/world/sd --prompts FILE --count 2 --steps 10 --guidance-scale 4 --out DIR
    python tools/reference/world_stack.py weights/world DIR --prompts FILE --count 2 --steps 10 --guidance-scale 4

Every image is drawn again from its seed and compared with the PNG, pixel by pixel. The captioner, too, is opened by
transformers, which writes a caption of the first images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipImageProcessor, BertTokenizerFast

from iteration import read_prompts


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("stack", type=Path, help="folder with sd/ and blip/")
    p.add_argument("images", type=Path, help="folder that comat generate wrote")
    p.add_argument("--prompts", required=True)
    p.add_argument("--count", type=int, default=1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--guidance-scale", type=float, default=7.5)
    p.add_argument("--limit", type=int, default=1, help="largest difference of a channel that passes, of 255")
    p.add_argument("--captions", type=int, default=4, help="images to caption")
    return p.parse_args()


def ours(folder):
    """The PNG files by prompt and seed, as their text chunks tell them."""
    found = {}
    for path in sorted(folder.glob("*.png")):
        image = Image.open(path)
        if path.name != "grid.png":
            found[image.info["prompt"], int(image.info["seed"])] = np.asarray(image.convert("RGB")).astype(int)
    return found


def main():
    args = arguments()
    pipe = StableDiffusionPipeline.from_pretrained(args.stack / "sd", safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    images = ours(args.images)
    differences, texts = [], {}
    for prompt in read_prompts(args.prompts):
        for seed in range(args.seed, args.seed + args.count):
            image = pipe(
                prompt,
                num_inference_steps=args.steps,
                guidance_scale=args.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).images[0]
            theirs = (image * 255).round().astype(int)
            differences.append(np.abs(theirs - images[prompt, seed]))
            texts.setdefault(prompt, image)
    differences = np.stack(differences)
    print(f"{len(differences)} images: largest difference {differences.max()} of 255, equal bytes "
          f"{(differences == 0).mean():.4%}")

    tokenizer = BertTokenizerFast.from_pretrained(args.stack / "blip")
    processor = BlipImageProcessor.from_pretrained(args.stack / "blip")
    captioner = BlipForConditionalGeneration.from_pretrained(args.stack / "blip", dtype=torch.float32).eval()
    for prompt, image in list(texts.items())[: args.captions]:
        pixels = processor(Image.fromarray((image * 255).round().astype("uint8")), return_tensors="pt").pixel_values
        prefix = tokenizer("a photography of", return_tensors="pt").input_ids
        with torch.no_grad():
            out = captioner.generate(pixel_values=pixels, input_ids=prefix, max_new_tokens=20)
        print(f"prompt: {prompt}\n  caption: {tokenizer.decode(out[0], skip_special_tokens=True)}")
    if differences.max() > args.limit:
        raise SystemExit(f"a channel differs by {differences.max()}, more than {args.limit}")


if __name__ == "__main__":
    main()
