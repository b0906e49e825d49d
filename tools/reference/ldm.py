"""Fixtures of models in one file: the tiny pipelines' tensors under the keys of the original latent-diffusion program.

Written from the original program's module lists, as the inverse of what the Rust side does; the result is then read back
by diffusers' own converters, which must give the keys and values that we started from. Values are bytes, to keep the files
small: only names, shapes and order are at stake.
"""

import json

import torch
from common import FIXTURES, folder, sort_header
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file


def part(name, path):
    """The tensors of a part of a pipeline, as bytes that still tell them apart."""
    tensors = load_file(FIXTURES / name / path)
    return {key: (t.float().abs() * 1000).remainder(251).to(torch.uint8) for key, t in tensors.items()}


def unet(ours):
    """`input_blocks`, `middle_block` and `output_blocks` are flat lists of what the levels hold, one after the other."""
    ends = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }

    def count(prefix):
        return len({key[len(prefix) :].split(".")[0] for key in ours if key.startswith(prefix)})

    number = 1
    for level in range(count("down_blocks.")):
        at = f"down_blocks.{level}"
        for layer in range(count(f"{at}.resnets.")):
            ends[f"{at}.resnets.{layer}"] = f"input_blocks.{number}.0"
            ends[f"{at}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if count(f"{at}.downsamplers."):
            ends[f"{at}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level in range(count("up_blocks.")):
        at = f"up_blocks.{level}"
        for layer in range(count(f"{at}.resnets.")):
            ends[f"{at}.resnets.{layer}"] = f"output_blocks.{number}.0"
            ends[f"{at}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        behind = 2 if count(f"{at}.attentions.") else 1
        ends[f"{at}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{behind}.conv"
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    return {f"model.diffusion_model.{rename(key, ends, inner)}": t for key, t in ours.items()}


def rename(key, ends, inner):
    place = max((end for end in ends if key.startswith(f"{end}.")), key=len)
    rest = key[len(place) + 1 :]
    if ".resnets." in f".{place}":
        layer, what = rest.rsplit(".", 1)
        rest = f"{inner.get(layer, layer)}.{what}"
    return f"{ends[place]}.{rest}"


def vae(ours):
    levels = len({key.split(".")[2] for key in ours if key.startswith("decoder.up_blocks.")})
    theirs = {}
    for key, t in ours.items():
        words = key.split(".")
        if "attentions" in words:
            layer = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[words[4]]
            new = f"{words[0]}.mid.attn_1.{layer}.{words[-1]}"
            t = t[:, :, None, None] if t.dim() == 2 else t
        elif words[1] == "mid_block":
            new = f"{words[0]}.mid.block_{int(words[3]) + 1}.{'.'.join(words[4:])}"
        elif words[1] in ("down_blocks", "up_blocks"):
            down = words[1] == "down_blocks"
            level = int(words[2]) if down else levels - 1 - int(words[2])
            inside = f"block.{'.'.join(words[4:])}" if words[3] == "resnets" else f"{words[3].removesuffix('rs')}.{'.'.join(words[5:])}"
            new = f"{words[0]}.{'down' if down else 'up'}.{level}.{inside}"
        else:
            new = key.replace("conv_norm_out", "norm_out")
        theirs[f"first_stage_model.{new.replace('conv_shortcut', 'nin_shortcut')}"] = t.contiguous()
    return theirs


def open_clip(ours):
    theirs, root = {}, "conditioner.embedders.1.model."
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layers["self_attn.out_proj"] = "attn.out_proj"
    for key, t in ours.items():
        key = key.removeprefix("text_model.")
        if key.startswith("encoder.layers."):
            _, _, number, layer, what = key.replace("self_attn.", "self_attn/").replace("mlp.", "mlp/").split(".")
            layer = layer.replace("/", ".")
            at = f"{root}transformer.resblocks.{number}"
            if layer in layers:
                theirs[f"{at}.{layers[layer]}.{what}"] = t
            elif layer == "self_attn.q_proj":
                every = [ours[f"text_model.encoder.layers.{number}.self_attn.{x}_proj.{what}"] for x in "qkv"]
                theirs[f"{at}.attn.in_proj_{what}"] = torch.cat(every)
        elif key.startswith("embeddings.position"):
            theirs[f"{root}positional_embedding"] = t
        elif key == "text_projection.weight":
            theirs[f"{root}text_projection"] = t.T.contiguous()
        elif key != "embeddings.position_ids":
            theirs[root + key.replace("embeddings.token", "token").replace("final_layer_norm", "ln_final")] = t
    theirs[f"{root}logit_scale"] = torch.ones([], dtype=torch.uint8)
    return theirs


def clip(ours, prefix):
    return {f"{prefix}.transformer.{key if key.startswith('text_model.') else f'text_model.{key}'}": t for key, t in ours.items()}


def held_against_diffusers(theirs, unet_ours, vae_ours, config):
    """diffusers' converters must give back what we started from."""
    for convert, ours, c in [
        (single_file_utils.convert_ldm_unet_checkpoint, unet_ours, config),
        (single_file_utils.convert_ldm_vae_checkpoint, vae_ours, config["vae"]),
    ]:
        back = convert(dict(theirs), c)
        wrong = [k for k in ours if k not in back or back[k].flatten().ne(ours[k].flatten()).any()]
        assert not wrong and len(back) == len(ours), (convert.__name__, wrong[:5], sorted(set(back) - set(ours))[:5])


def write(name, source, prefixes):
    unet_ours = part(source, "unet/diffusion_pytorch_model.safetensors")
    vae_ours = part(source, "vae/diffusion_pytorch_model.safetensors")
    first = part(source, "text_encoder/model.safetensors")
    theirs = unet(unet_ours) | vae(vae_ours) | clip(first, prefixes[0])
    if len(prefixes) == 2:
        theirs |= open_clip(part(source, "text_encoder_2/model.safetensors"))
    theirs["model_ema.decay"] = torch.zeros([], dtype=torch.uint8)  # what else such files have
    theirs["alphas_cumprod"] = torch.zeros([4], dtype=torch.uint8)
    config = json.loads((FIXTURES / source / "unet/config.json").read_text())
    config["vae"] = json.loads((FIXTURES / source / "vae/config.json").read_text())
    held_against_diffusers(theirs, unet_ours, vae_ours, config)
    file = folder(name) / "model.safetensors"
    save_file(theirs, file)
    sort_header(file)


def ldm_sd1():
    write("ldm_sd1", "pipeline_sd1", ["cond_stage_model"])


def ldm_sdxl():
    write("ldm_sdxl", "pipeline_sdxl", ["conditioner.embedders.0", "conditioner.embedders.1"])
