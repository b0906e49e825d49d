"""The image at the top of the README: the first held-out prompts, one image each, not chosen.

    python tools/reference/readme_images.py docs/images/demo.png "LABEL=FOLDER" ...

Folders are those of `comat generate --model weights/world/sd --prompts configs/world/held_out.jsonl --count 3 --own-seeds --sampler ddim
--steps 10 --out FOLDER`, of which the first image of each prompt is taken: with `--guidance-scale 6`; and with `--guidance-scale 3 --lora
weights/world/lora/preferences.safetensors`.
"""

import json
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LEFT, BELOW = 128, 12, 190, 84
PROMPTS, COUNT = 6, 3


def main():
    out, *columns = sys.argv[1:]
    lines = Path("configs/world/held_out.jsonl").read_text().splitlines()
    prompts = [json.loads(line) for line in lines][:PROMPTS]
    prompts = [p.get("text") or p["prompt"] for p in prompts]
    font = ImageFont.truetype("DejaVuSans.ttf", 13)
    size = (LEFT + PROMPTS * (SIDE + GAP), len(columns) * (SIDE + GAP) + BELOW)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, column in enumerate(columns):
        label, folder = column.rsplit("=", 1)
        top = row * (SIDE + GAP)
        pen.multiline_text((4, top + 40), textwrap.fill(label, 24), fill="black", font=font)
        for i in range(PROMPTS):
            (file,) = Path(folder).glob(f"{i * COUNT:05}-*.png")
            image = Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(image, (LEFT + i * (SIDE + GAP), top))
    for i, prompt in enumerate(prompts):
        place = (LEFT + i * (SIDE + GAP), len(columns) * (SIDE + GAP) - 4)
        pen.multiline_text(place, textwrap.fill(prompt, 18), fill="black", font=font)
    sheet.quantize(128).save(out, optimize=True)


main()
