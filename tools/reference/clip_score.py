"""Fixture of the CLIP score: both towers, the image processor and the tokenizer before them, and the cosines."""

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from captioner import MEAN, STD
from common import FIXTURES, clean, exact, folder, generator, randomise, report, save_io, write_json
from tokens import clip_tokenizer

SIDE, LENGTH = 16, 16

# Height and width of the images of a batch, and a prompt for each of them, one of them too long. The shorter side becomes
# SIDE; what is cut off the longer one is odd (wide, small), even (tall), nothing (whole).
CASES = {
    "wide": (20, 37, ["a photo of a red dog", "two black birds above the small house!!"]),
    "tall": (44, 27, ["a blue cat"]),
    "small": (9, 13, ["a woman holding a white umbrella in the street next to a big green tree and an orange car"]),
    "whole": (16, 16, ["an orange car"]),
}


def some_images(gen, count, height, width):
    """Bytes `[B, 3, H, W]`: coloured blocks with a little noise, edges and plain parts as images have."""
    blocks = torch.randint(0, 256, (count, 3, (height + 6) // 7, (width + 6) // 7), generator=gen)
    blocks = blocks.repeat_interleave(7, 2).repeat_interleave(7, 3)[..., :height, :width]
    noise = torch.randint(-8, 9, (count, 3, height, width), generator=gen)
    return (blocks + noise).clamp(0, 255).to(torch.uint8)


def clip_score():
    """CLIPModel with towers of different widths and activations, in the layout of the published files.

    Facts, from the transformers source. The vision tower normalises its embeddings (`pre_layrnorm`, written so) before the
    encoder, and behind it the class token alone. Both projections have no bias. Pooled is the text's end token, of the
    largest id where eos_token_id is 2, as it is in the published files. The image processor resizes with PIL, columns
    first, and rounds to bytes behind either direction.
    """
    name = "clip_score"
    gen, path = generator(name), folder(name)
    tokenizer = clip_tokenizer(path, LENGTH)
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": LENGTH,
            "hidden_act": "gelu",
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 52,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": SIDE,
            "patch_size": 4,
            "hidden_act": "quick_gelu",
        },
        projection_dim=20,
    )
    net = randomise(CLIPModel(config), gen)
    net.save_pretrained(path)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )

    prompts, tensors, inputs = {}, {}, {}
    for case, (height, width, texts) in CASES.items():
        images = some_images(gen, len(texts), height, width)
        bytes_ = [image.permute(1, 2, 0).numpy() for image in images]
        pixels = processor(bytes_, return_tensors="pt").pixel_values
        padded = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
        prompts[case] = texts
        tensors[f"{case}.images"] = images.float() / 255
        inputs[f"{case}.pixel_values"] = pixels
        inputs[f"{case}.input_ids"] = tokenizer(texts, **padded).input_ids

    def run(net, inputs):
        result = {}
        for case in CASES:
            out = net(inputs[f"{case}.input_ids"], inputs[f"{case}.pixel_values"])
            result[f"{case}.image_embeds"] = out.image_embeds
            result[f"{case}.text_embeds"] = out.text_embeds
            result[f"{case}.cosines"] = (out.logits_per_image / net.logit_scale.exp()).diagonal()
        return result

    result, error = exact(net, inputs, run)
    save_io(path, tensors | inputs | result)
    write_json(path / "prompts.json", prompts)
    processor.save_pretrained(path)
    clean(path)
    report(name, error)


def clip_reward():
    """Cosines of images that are no bytes, and the gradient of their weighted sum with respect to the images.

    The network is that of `clip_score`. Images go beyond 0..1, as a decoder's do. Resizing is torch's antialiased bicubic
    interpolation, which PIL's is without the rounding to bytes.
    """
    gen, path = generator("clip_reward"), FIXTURES / "clip_score"
    net = CLIPModel.from_pretrained(path).double().eval().requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(path)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    tensors = {}
    for case, (height, width, texts) in CASES.items():
        images = 0.5 + 0.4 * torch.randn(len(texts), 3, height, width, generator=gen)
        images = images.double().requires_grad_(True)
        rows, columns = (SIDE * height // width, SIDE) if width <= height else (SIDE, SIDE * width // height)
        small = F.interpolate(images, (rows, columns), mode="bicubic", align_corners=False, antialias=True)
        top, left = (rows - SIDE) // 2, (columns - SIDE) // 2
        pixels = (small[..., top : top + SIDE, left : left + SIDE] - mean) / std
        padded = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
        out = net(tokenizer(texts, **padded).input_ids, pixels)
        cosines = (out.logits_per_image / net.logit_scale.exp()).diagonal()
        weights = torch.randn(len(texts), generator=gen).double()
        (gradient,) = torch.autograd.grad((cosines * weights).sum(), images)
        tensors |= {f"{case}.images": images, f"{case}.weights": weights}
        tensors |= {f"{case}.cosines": cosines, f"{case}.gradient": gradient}
    save_io(path, tensors, "reward.safetensors")
