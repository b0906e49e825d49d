"""Fixture of LoRA files that adapt the text encoders too, on the pipelines `pipeline_sd1` and `pipeline_sdxl`."""

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers.integrations import peft as transformers_peft

from common import FIXTURES, folder, generator, randn, relative, report, save_io, sort_header
from pipelines import PROMPTS, as_double

# transformers 5.24 asks for peft 0.22, which is not released; what it uses of it is in 0.21.
transformers_peft.check_peft_version = lambda min_version: None

RANK, ALPHA, STEPS, GUIDANCE = 2, 3, 4, 3.0
TARGETS = {
    "unet": ["to_q", "to_v"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "text_encoder_2": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
PIPELINES = {"sd1": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def open_pipeline(name):
    pipe = PIPELINES[name].from_pretrained(FIXTURES / f"pipeline_{name}")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe, x_T):
    """Final latents of the first prompt."""
    size = {"height": x_T.shape[-2] * pipe.vae_scale_factor, "width": x_T.shape[-1] * pipe.vae_scale_factor}
    settings = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "latent"}
    with torch.no_grad():
        return pipe(PROMPTS[:1], latents=x_T.to(pipe.unet.dtype), **size, **settings).images


def adapt(pipe, gen):
    """Random adapters on every network; their matrices in kohya's format."""
    second = getattr(pipe, "text_encoder_2", None) is not None
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1" if second else "lora_te", "text_encoder_2": "lora_te2"}
    kohya = {}
    for name, prefix in prefixes.items():
        net = getattr(pipe, name, None)
        if net is None:
            continue
        net.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[name]))
        with torch.no_grad():
            for key, p in net.named_parameters():
                if ".lora_" in key:
                    p.copy_(torch.randn(p.shape, generator=gen) * 0.2)
        for key, value in get_peft_model_state_dict(net).items():
            layer, part = key.removesuffix(".weight").rsplit(".", 1)
            if name != "unet" and not layer.startswith("text_model."):  # transformers 5 leaves it out, kohya's files have it
                layer = f"text_model.{layer}"
            flat = f"{prefix}_{layer.replace('.', '_')}"
            kohya[f"{flat}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[part]}.weight"] = value.contiguous()
            kohya[f"{flat}.alpha"] = torch.tensor(float(ALPHA))
    return kohya


def lora_text():
    """Rank 2, alpha 3. sd1.safetensors and sdxl.safetensors: kohya's format; io.safetensors: x_T, and for both
    NAME.plain and NAME.latents, what DDIM makes of the first prompt in 4 steps with guidance 3, without and with it."""
    name = "lora_text"
    gen, path = generator(name), folder(name)
    x_T, tensors, errors = randn(gen, 1, 4, 8, 12), {}, []
    for base in PIPELINES:
        pipe = open_pipeline(base)
        tensors[f"{base}.plain"] = sample(as_double(pipe), x_T)
        file = path / f"{base}.safetensors"
        save_file(adapt(pipe, gen), file, metadata={"ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)})
        sort_header(file)
        expected = sample(as_double(pipe), x_T)
        errors.append(relative(sample(pipe, x_T), expected))
        for part in ("text_encoder", "text_encoder_2"):  # every network has its share
            if getattr(pipe, part, None) is not None:
                getattr(pipe, part).disable_adapters()
                assert relative(sample(as_double(pipe), x_T), expected) > 1e-2, part
                getattr(pipe, part).enable_adapters()
        loaded = open_pipeline(base)
        loaded.load_lora_weights(str(path), weight_name=file.name)
        errors.append(relative(sample(loaded, x_T), expected))
        tensors[f"{base}.latents"] = expected
    save_io(path, {"x_T": x_T} | tensors)
    report(name, max(errors))
