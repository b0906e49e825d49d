"""Fixtures of whole pipelines: tiny SD1.x and SDXL folders, and what diffusers makes of a few prompts."""

import copy

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from common import clean, folder, generator, given_noise, randn, randomise, relative, report, save_io, write_json
from tokens import clip_tokenizer, table

LENGTH = 16
PROMPTS = ["a photo of a Red dog and a blue cat", "two black birds above the small house!! and it's raining, a big car"]
NEGATIVE = "a green tree"
STEPS = 20
CASES = {
    "ddim": {"sampler": "ddim", "guidance_scale": 7.5},
    "ddim_rescale": {"sampler": "ddim", "guidance_scale": 7.5, "guidance_rescale": 0.7},
    "ddim_negative": {"sampler": "ddim", "guidance_scale": 7.5, "negative_prompt": NEGATIVE},
    "ddpm": {"sampler": "ddpm", "guidance_scale": 5.0},
}
# What the published scheduler_config.json files say besides the betas.
PUBLISHED = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "trained_betas": None,
}
UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "block_out_channels": (8, 12),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}
VAE = {
    "block_out_channels": (8, 8, 12),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}
# A random network with strong guidance amplifies rounding from step to step; a small last layer keeps it in bounds.
CALM = {"conv_out.weight": 0.3, "conv_out.bias": 0.3}


def text_encoder(cls, tokenizer, gen, **config):
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "projection_dim": 16,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    return randomise(cls(CLIPTextConfig(**(settings | config))), gen)


def as_double(pipe):
    """A copy of the pipeline that computes in float64."""
    twin = copy.copy(pipe)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(pipe, part, None) is not None:
            setattr(twin, part, copy.deepcopy(getattr(pipe, part)).double())
    return twin


def sample(pipe, case, x_T, z):
    """Final latents and decoded images (neither clamped nor moved to 0..1) of one case."""
    cls = DDIMScheduler if case["sampler"] == "ddim" else DDPMScheduler
    pipe.scheduler = cls.from_config(pipe.scheduler.config)
    dtype = pipe.unet.dtype
    negative = case.get("negative_prompt")
    scale = pipe.vae_scale_factor
    with given_noise(z), torch.no_grad():
        latents = pipe(
            PROMPTS,
            height=x_T.shape[-2] * scale,
            width=x_T.shape[-1] * scale,
            num_inference_steps=STEPS,
            guidance_scale=case["guidance_scale"],
            guidance_rescale=case.get("guidance_rescale", 0.0),
            negative_prompt=None if negative is None else [negative] * len(PROMPTS),
            latents=x_T.to(dtype),
            output_type="latent",
        ).images
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return {"latents": latents, "image": image}


def embeddings(pipe):
    """What encode_prompt gives without a negative prompt (SDXL: with the pooled vectors)."""
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    with torch.no_grad():
        values = pipe.encode_prompt(
            PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    return dict(zip(names, values))


def write_pipeline(name, pipe, gen, path, scheduler_config):
    """Save the folder, then run all cases from it in float64 and in float32."""
    tokenizers = {k: getattr(pipe, k) for k in ("tokenizer", "tokenizer_2") if getattr(pipe, k, None) is not None}
    kept = {f: f.read_bytes() for k in tokenizers for f in (path / k).iterdir()}
    pipe.save_pretrained(path)
    for k in tokenizers:  # put back our own files in place of what transformers makes of them
        for file in (path / k).iterdir():
            file.unlink()
    for file, data in kept.items():
        file.write_bytes(data)
    write_json(path / "scheduler" / "scheduler_config.json", scheduler_config)
    clean(path)

    pipe = type(pipe).from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    x_T, z = randn(gen, 2, 4, 8, 12), randn(gen, STEPS, 2, 4, 8, 12)
    tensors, errors = {"x_T": x_T, "z": z} | embeddings(as_double(pipe)), {}
    for key, case in CASES.items():
        truth, single = sample(as_double(pipe), case, x_T, z), sample(pipe, case, x_T, z)
        errors[key] = max(relative(single[k], truth[k]) for k in truth)
        tensors |= {f"{key}.{k}": v for k, v in truth.items()}
    save_io(path, tensors)
    write_json(path / "prompts.json", {"prompts": PROMPTS, "steps": STEPS, "cases": CASES})
    write_json(path / "tokens.json", {k: table(t, LENGTH) for k, t in tokenizers.items()})
    report(name, max(errors.values()))


def pipeline_sd1():
    """SD1.x: one text encoder, tokenizer as vocab.json and merges.txt, PNDM scheduler configuration as published."""
    name = "pipeline_sd1"
    gen, path = generator(name), folder(name)
    tokenizer = clip_tokenizer(path / "tokenizer", LENGTH)
    scheduler = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0"} | PUBLISHED
    pipe = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder(CLIPTextModel, tokenizer, gen, hidden_act="quick_gelu"),
        unet=randomise(UNet2DConditionModel(**UNET), gen, last=CALM),
        vae=randomise(AutoencoderKL(**VAE), gen),
        scheduler=PNDMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    write_pipeline(name, pipe, gen, path, scheduler)


def pipeline_sdxl():
    """SDXL: two text encoders (the second one with a projection, padded with "!"), zeros for no negative prompt."""
    name = "pipeline_sdxl"
    gen, path = generator(name), folder(name)
    first = clip_tokenizer(path / "tokenizer", LENGTH)
    second = clip_tokenizer(path / "tokenizer_2", LENGTH, pad="!", single_file=True)
    scheduler = {"_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0"} | PUBLISHED
    scheduler |= {
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    }
    unet = UNET | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (1, 3),
        "cross_attention_dim": 16 + 20,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 18 + 6 * 8,
    }
    wide = {"hidden_size": 20, "projection_dim": 18, "hidden_act": "gelu"}
    pipe = StableDiffusionXLPipeline(
        tokenizer=first,
        tokenizer_2=second,
        text_encoder=text_encoder(CLIPTextModel, first, gen, hidden_act="quick_gelu"),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, second, gen, **wide),
        unet=randomise(UNet2DConditionModel(**unet), gen, last=CALM),
        vae=randomise(AutoencoderKL(**(VAE | {"scaling_factor": 0.13025})), gen),
        scheduler=EulerDiscreteScheduler.from_config(scheduler),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    write_pipeline(name, pipe, gen, path, scheduler)
