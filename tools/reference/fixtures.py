"""Write the parity fixtures of the Rust networks: `python tools/reference/fixtures.py [names...]` (default: all).

Each fixture is a folder with a tiny network with random weights in the ordinary diffusers / transformers layout
and `io.safetensors` with named inputs and expected outputs. The same seed gives the same bytes.
"""

import sys

import torch

import adapter_kinds
import captioner
import clip_score
import discriminator
import grounding_dino
import ldm
import lora
import lora_text
import networks
import pipelines
import prodigy
import sam
import schedules
import sentence
import tokens
import vqa

MAKERS = {
    "clip_sd1": networks.clip_sd1,
    "clip_sd2": networks.clip_sd2,
    "clip_sdxl2": networks.clip_sdxl2,
    "clip_score": clip_score.clip_score,
    "clip_reward": clip_score.clip_reward,  # beside the one above
    "unet_sd1": networks.unet_sd1,
    "unet_sd2": networks.unet_sd2,
    "unet_sdxl": networks.unet_sdxl,
    "unet_tiny": networks.unet_tiny,
    "vae": networks.vae,
    "vae_old": networks.vae_old,
    "lora": lora.lora,
    "adapter_kinds": adapter_kinds.adapter_kinds,
    "prodigy": prodigy.prodigy,
    "schedules": schedules.schedules,
    "samplers": schedules.samplers,
    "samplers_more": schedules.samplers_more,
    "blip": captioner.blip,
    "preprocess": captioner.preprocess,
    "vqa": vqa.vqa,
    "sentence_bert": sentence.sentence_bert,
    "sentence_mpnet": sentence.sentence_mpnet,
    "grounding_dino": grounding_dino.grounding_dino,
    "sam": sam.sam,
    "tokenizer_bert": tokens.tokenizer_bert,
    "tokenizer_clip_added": tokens.tokenizer_clip_added,
    "tokenizer_clip_vectors": tokens.tokenizer_clip_vectors,
    "pipeline_sd1": pipelines.pipeline_sd1,
    "pipeline_sdxl": pipelines.pipeline_sdxl,
    "discriminator": discriminator.discriminator,
    "ldm_sd1": ldm.ldm_sd1,  # these two rewrite the pipelines above
    "ldm_sdxl": ldm.ldm_sdxl,
    "lora_text": lora_text.lora_text,  # on the pipelines
}


def main(names):
    torch.set_num_threads(1)
    unknown = [n for n in names if n not in MAKERS]
    if unknown:
        sys.exit(f"unknown fixture {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    for name in names or MAKERS:
        MAKERS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
