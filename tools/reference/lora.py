"""Fixture of LoRA files: one adapter in three formats on the network of fixture `unet_sd1`."""

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from common import FIXTURES, exact, folder, generator, randn, relative, report, save_io, sort_header
from networks import unet_out

RANK, ALPHA = 3, 6
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
FILES = ("diffusers.safetensors", "peft.safetensors", "kohya.safetensors")


def base():
    return UNet2DConditionModel.from_pretrained(FIXTURES / "unet_sd1").eval().requires_grad_(False)


def load(file):
    """The network with the adapter in `file`, loaded the way a pipeline's load_lora_weights does."""
    net = base()
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
        str(file.parent), weight_name=file.name, unet_config=net.config, return_lora_metadata=True
    )
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, net, adapter_name="fixture", metadata=metadata)
    return net


def write_files(path, weights, config):
    """Write the three files; `weights` has PEFT keys without the prefix `unet.`."""
    StableDiffusionPipeline.save_lora_weights(
        str(path), weights, weight_name="peft.safetensors", unet_lora_adapter_metadata=config
    )
    folded, kohya = {}, {}
    for key, value in weights.items():
        module, part = key.removesuffix(".weight").rsplit(".", 1)
        name = {"lora_A": "down", "lora_B": "up"}[part]
        scale = ALPHA / RANK if name == "up" else 1.0
        folded[f"unet.{module}.lora.{name}.weight"] = value * scale
        flat = "lora_unet_" + module.replace(".", "_")
        kohya[f"{flat}.lora_{name}.weight"] = value
        kohya[f"{flat}.alpha"] = torch.tensor(float(ALPHA))
    save_file(folded, path / "diffusers.safetensors", metadata={"format": "pt"})
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}
    save_file(kohya, path / "kohya.safetensors", metadata=metadata)
    for file in FILES:
        sort_header(path / file)


def run_lora(net, inputs):
    """Output and the gradient of <out, cotangent> for the adapter's weights."""
    adapter = {n: p for n, p in net.named_parameters() if ".lora_" in n}
    with torch.enable_grad():
        for p in adapter.values():
            p.requires_grad_()
        out = unet_out(net, inputs)["out"]
        grads = torch.autograd.grad((out * inputs["cotangent"]).sum(), list(adapter.values()))
    names = ["grad.unet." + n.replace(".default", "").replace(".fixture", "") for n in adapter]
    return {"out": out.detach()} | dict(zip(names, grads))


def lora():
    """Rank 3, alpha 6, on every attention's four matrices. The inputs are case0 of unet_sd1.

    diffusers.safetensors  `unet.….to_q.lora.down.weight` / `lora.up.weight`, alpha / rank folded into `up`
    peft.safetensors       `unet.….to_q.lora_A.weight` / `lora_B.weight`, with `lora_adapter_metadata`, as diffusers does
    kohya.safetensors      `lora_unet_…_to_q.lora_down.weight` / `lora_up.weight` / `alpha`
    io.safetensors         out, cotangent, and grad.<PEFT key> = the gradient of <out, cotangent> (unfolded weights)
    """
    name = "lora"
    gen, path = generator(name), folder(name)
    net = base()
    net.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    with torch.no_grad():
        for key, p in net.named_parameters():
            if "lora_A" in key:
                p.copy_(torch.randn(p.shape, generator=gen) / p.shape[1] ** 0.5)
            elif "lora_B" in key:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.15)
    config = net.peft_config["default"].to_dict()
    config = {k: v for k, v in config.items() if v is not None and k != "peft_version"}
    config["target_modules"] = sorted(config["target_modules"])
    write_files(path, get_peft_model_state_dict(net), config)

    io = load_file(FIXTURES / "unet_sd1" / "io.safetensors")
    inputs = {k.removeprefix("case0."): v for k, v in io.items() if k.startswith("case0.")}
    plain = inputs.pop("out")
    inputs["cotangent"] = randn(gen, *plain.shape)
    result, error = exact(net, inputs, run_lora)
    assert relative(result["out"], plain) > 0.1
    for file in FILES:
        with torch.no_grad():
            difference = relative(unet_out(load(path / file), inputs)["out"], result["out"])
        assert difference < 2e-5, (file, difference)
    save_io(path, {"cotangent": inputs["cotangent"]} | result)
    report(name, error)
