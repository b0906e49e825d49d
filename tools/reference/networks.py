"""Fixtures of single networks: CLIP text encoders, UNets, VAEs."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from common import clean, exact, folder, generator, randn, randomise, report, save_io


# ---------------------------------------------------------------------------------------------------------- CLIP


def clip(name, cls=CLIPTextModel, **config):
    """A text encoder; `config` overrides the tiny defaults."""
    gen, path = generator(name), folder(name)
    settings = {
        "vocab_size": 60,
        "hidden_size": 24,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "projection_dim": 24,
        "bos_token_id": 58,
        "eos_token_id": 59,
        "pad_token_id": 59,
    }
    net = randomise(cls(CLIPTextConfig(**(settings | config))), gen)
    net.save_pretrained(path)

    # Three prompts of different length between start and end token; the end token is the largest id, and each
    # row is padded in another way: with the end token, with 0 (as SDXL's second tokenizer does), not at all.
    ids = torch.randint(1, 58, (3, 16), generator=gen)
    ids[:, 0] = 58
    ids[0, 6:] = 59
    ids[1, 9], ids[1, 10:] = 59, 0
    ids[2, 15] = 59

    def run(net, inputs):
        out = net(inputs["input_ids"], output_hidden_states=True)
        result = {"last_hidden_state": out.last_hidden_state, "penultimate": out.hidden_states[-2]}
        if hasattr(out, "text_embeds"):
            result["text_embeds"] = out.text_embeds
            result["pooled"] = net.text_model(inputs["input_ids"]).pooler_output
        else:
            result["pooled"] = out.pooler_output
        return result

    result, error = exact(net, {"input_ids": ids}, run)
    save_io(path, {"input_ids": ids} | result)
    clean(path)
    report(name, error)
    return path, net


def clip_sd1():
    """quick_gelu, pooled at the largest id (eos_token_id 2 means that), in the layout of the published files.

    transformers 5 writes a CLIPTextModel without the prefix `text_model.`; published files have it, and SD1.x's
    also hold the buffer `position_ids`. This fixture has both, clip_sd2 has neither.
    """
    path, net = clip("clip_sd1", hidden_act="quick_gelu", eos_token_id=2, bos_token_id=0, pad_token_id=1)
    file = path / "model.safetensors"
    weights = {f"text_model.{k}": v for k, v in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(weights, file, metadata={"format": "pt"})
    again = CLIPTextModel.from_pretrained(path).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in net.state_dict().items())


def clip_sd2():
    """gelu, pooled at the first end token (its true id is in the config); no prefix in the file."""
    clip("clip_sd2", hidden_act="gelu")


def clip_sdxl2():
    """gelu with a projection to another width."""
    clip(
        "clip_sdxl2", CLIPTextModelWithProjection, hidden_act="gelu", projection_dim=20, eos_token_id=2, pad_token_id=1
    )


# ---------------------------------------------------------------------------------------------------------- UNet

UNET = {
    "sample_size": 16,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 20,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def unet(name, text_len=7, pooled=None, **config):
    """A UNet with three cases: square, not square, odd sizes. `pooled` is the width of SDXL's text_embeds."""
    gen, path = generator(name), folder(name)
    net = randomise(UNet2DConditionModel(**(UNET | config)), gen)
    net.save_pretrained(path)

    cases = {
        "case0": (3, 16, 16, torch.tensor(481)),
        "case1": (2, 8, 20, torch.tensor([981, 1])),
        "case2": (2, 9, 13, torch.tensor([20, 741])),
    }
    tensors, errors = {}, []
    for case, (batch, h, w, t) in cases.items():
        inputs = {
            "sample": randn(gen, batch, 4, h, w),
            "timestep": t,
            "encoder_hidden_states": randn(gen, batch, text_len, config.get("cross_attention_dim", 20)),
        }
        if pooled:
            inputs["text_embeds"] = randn(gen, batch, pooled)
            sizes = [[512, 768, 0, 16, 1024, 1024], [512, 512, 0, 0, 512, 512], [333, 1024, 8, 0, 640, 896]]
            inputs["time_ids"] = torch.tensor(sizes[:batch], dtype=torch.float32)
        result, error = exact(net, inputs, unet_out)
        errors.append(error)
        tensors |= {f"{case}.{k}": v for k, v in (inputs | result).items()}
        if case == "case1":
            maps, error = exact(net, inputs, unet_maps)
            errors.append(error)
            tensors |= {f"{case}.{k}": v for k, v in maps.items()}
    save_io(path, tensors)
    clean(path)
    report(name, max(errors))


class MapsKept(AttnProcessor):
    """Forms the attention map, as diffusers does where it cannot fuse, and keeps it."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **rest):
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        self.map = attn.get_attention_scores(query, key).unflatten(0, (-1, attn.heads))
        return super().__call__(attn, hidden_states, encoder_hidden_states, **rest)


def unet_maps(net, inputs):
    """Cross-attention maps of the middle and of the way up, `map.N` in the order in which they are formed."""
    kept = {}
    for name, module in net.named_modules():
        if name.endswith("attn2") and not name.startswith("down"):
            kept[name] = MapsKept()
            module.set_processor(kept[name])
    unet_out(net, inputs)
    names = sorted(kept, key=lambda n: (not n.startswith("mid"), [int(p) for p in n.split(".") if p.isdigit()]))
    return {f"map.{i}": kept[n].map for i, n in enumerate(names)}


def unet_out(net, inputs):
    added = {k: inputs[k] for k in ("text_embeds", "time_ids") if k in inputs}
    out = net(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"], added_cond_kwargs=added or None)
    return {"out": out.sample}


def unet_sd1():
    """Convolutional projections; `attention_head_dim` is really the number of heads."""
    unet("unet_sd1", block_out_channels=(8, 12, 16), attention_head_dim=2)


def unet_sd2():
    """Linear projections; a number of heads for each level."""
    unet("unet_sd2", block_out_channels=(8, 12, 16), attention_head_dim=(2, 3, 4), use_linear_projection=True)


def unet_sdxl():
    """Several transformer layers a level, added conditions (pooled text and sizes)."""
    unet(
        "unet_sdxl",
        block_out_channels=(8, 8, 12),
        attention_head_dim=(1, 4, 3),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2, 3),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=18 + 6 * 8,
        pooled=18,
    )


def unet_tiny():
    """Without a mid block, as BK-SDM-small and segmind/tiny-sd; transformers at the lowest resolution, too."""
    unet(
        "unet_tiny",
        block_out_channels=(8, 12),
        layers_per_block=1,
        mid_block_type=None,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


# ----------------------------------------------------------------------------------------------------------- VAE

VAE = {
    "block_out_channels": (8, 12, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 32,
}


def vae_decode(net, inputs):
    return {"image": net.decode(inputs["latents"]).sample}


def vae_encode(net, inputs):
    moments = net.encode(inputs["image"]).latent_dist
    return {"mean": moments.mean, "logvar": moments.logvar}


def vae():
    """Decoding (latents to image) and encoding (image to moments) in several sizes."""
    name = "vae"
    gen, path = generator(name), folder(name)
    net = randomise(AutoencoderKL(**VAE), gen)
    net.save_pretrained(path)
    tensors, errors = {}, []
    for i, (batch, h, w) in enumerate([(2, 8, 8), (1, 6, 10), (1, 5, 7)]):
        inputs = {"latents": randn(gen, batch, 4, h, w)}
        result, error = exact(net, inputs, vae_decode)
        tensors |= {f"decode{i}.{k}": v for k, v in (inputs | result).items()}
        errors.append(error)
    for i, (batch, h, w) in enumerate([(2, 32, 32), (1, 24, 40), (1, 21, 27)]):
        inputs = {"image": randn(gen, batch, 3, h, w).clamp(-1, 1)}
        result, error = exact(net, inputs, vae_encode)
        tensors |= {f"encode{i}.{k}": v for k, v in (inputs | result).items()}
        errors.append(error)
    save_io(path, tensors)
    clean(path)
    report(name, max(errors))


def vae_old():
    """The names and the few settings of the published SD1.5 VAE, which diffusers renames on loading."""
    name = "vae_old"
    gen, path = generator(name), folder(name)
    net = randomise(AutoencoderKL(**(VAE | {"layers_per_block": 1})), gen)
    net.save_pretrained(path)

    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    file = path / "diffusion_pytorch_model.safetensors"
    weights = {}
    for key, value in load_file(file).items():
        for new_part, old_part in old.items():
            key = key.replace(new_part, old_part)
        weights[key] = value
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    keep = ["_class_name", "act_fn", "in_channels", "out_channels", *VAE]
    config = {k: config[k] for k in sorted(keep)}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    again = AutoencoderKL.from_pretrained(path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    inputs = {"latents": randn(gen, 1, 4, 6, 7)}
    result, error = exact(again, inputs, vae_decode)
    save_io(path, {f"decode0.{k}": v for k, v in (inputs | result).items()})
    clean(path)
    report(name, error)
