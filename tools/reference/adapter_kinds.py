"""Fixture of adapters of every kind: each file as LyCORIS or peft writes it, and the weights that these programs make of it.

The layers are those of a UNet and a text encoder by name, and small. LyCORIS is of PyPI (`lycoris-lora`, with `einops`).
"""

import copy
import json

import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from common import folder, generator, sort_header

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
LAYERS = {
    f"{BLOCK}.attn1.to_q": lambda: nn.Linear(8, 8, bias=False),  # as many inputs as outputs: which norms are DoRA's?
    f"{BLOCK}.attn2.to_k": lambda: nn.Linear(6, 8, bias=False),
    f"{BLOCK}.ff.net.2": lambda: nn.Linear(12, 8),
    f"{BLOCK}.norm1": lambda: nn.LayerNorm(8),
    "mid_block.attentions.0.proj_in": lambda: nn.Conv2d(8, 8, 1),
    "mid_block.resnets.0.conv1": lambda: nn.Conv2d(8, 12, 3, padding=1),
    "mid_block.resnets.0.norm1": lambda: nn.GroupNorm(2, 8),
}
RANK, ALPHA = 2, 3.0


def base(gen):
    """A tree of modules with these layers by their paths."""
    root = nn.Module()
    for path, make in LAYERS.items():
        *parents, last = path.split(".")
        at = root
        for name in parents:
            if not hasattr(at, name):
                at.add_module(name, nn.Module())
            at = getattr(at, name)
        at.add_module(last, make())
    randomised(root.parameters(), gen)
    return root


def randomised(parameters, gen, factor=0.5):
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn(p.shape, generator=gen) * factor)


def of_lycoris(net, gen, make, only=(nn.Linear, nn.Conv2d), fold=True):
    """File and weights of a LyCORIS network; `fold`: its scalar is in a matrix, as it is saved since version 2."""
    file, weights = {}, {}
    for path, layer in net.named_modules():
        if path not in LAYERS or not isinstance(layer, only):
            continue
        stem = "lycoris_" + path.replace(".", "_")
        layer, has_bias = copy.deepcopy(layer), layer.bias is not None
        module = make(stem, layer)
        if isinstance(module, FullModule):
            module.apply_to()  # from here on it has the layer's weights
        if not isinstance(module, FullModule):
            randomised((p for n, p in module.named_parameters() if n != "dora_scale" and "org_module" not in n), gen)
        else:
            randomised([module.weight] + ([] if module.bias is None else [module.bias]), gen)
        with torch.no_grad():
            if hasattr(module, "dora_scale"):
                module.dora_scale.mul_(1 + 0.3 * torch.randn(module.dora_scale.shape, generator=gen))
            state = module.custom_state_dict() if hasattr(module, "custom_state_dict") else module.state_dict()
            if isinstance(module, NormModule):
                state = {"w_norm": module.w_norm, "b_norm": module.b_norm}
            if not fold:
                scalar = module.scalar.clone()
                up = next(key for key in ("lora_up.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a") if key in state)
                state = state | {up: state[up] / scalar, "scalar": scalar}
            weight, bias = merged(module, layer)
        file |= {f"{stem}.{key}": torch.as_tensor(value).detach().clone().float().contiguous() for key, value in state.items()}
        weights[f"{path}.weight"] = weight.detach().clone()
        if has_bias:
            weights[f"{path}.bias"] = bias.detach().clone()
    return file, weights


def merged(module, layer):
    """Weight and bias that the layer computes with, read off what it does to single ones.

    Not LyCORIS' own merged weight: of LoHa and LoKr that has the scale twice, which the layer that was trained has once.
    """
    if isinstance(module, NormModule):
        return module.make_weight(1.0)
    module.eval()
    if isinstance(layer, nn.Linear):
        bias = module(torch.zeros(1, layer.in_features))[0]
        return (module(torch.eye(layer.in_features)) - bias).T, bias
    size = layer.kernel_size[0]
    ones = torch.zeros(layer.in_channels, layer.in_channels, size, size)
    bias = module(ones[:1])[0, :, 0, 0].clone()
    ones[range(layer.in_channels), range(layer.in_channels), size // 2, size // 2] = 1
    answer = module(ones) - bias[:, None, None]
    return answer.transpose(0, 1).flip(2, 3), bias


def lycoris_kinds():
    def module(kind, rank=RANK, **settings):
        return lambda name, layer: kind(name, layer, 1.0, rank, ALPHA, **settings)

    norms = dict(only=(nn.LayerNorm, nn.GroupNorm))
    dora = dict(weight_decompose=True)
    return {
        "locon_tucker": (module(LoConModule, use_tucker=True), {}),
        "locon_scalar": (module(LoConModule, use_scalar=True), dict(fold=False)),
        "dora": (module(LoConModule, **dora), {}),
        "dora_inputs": (module(LoConModule, **dora, wd_on_out=False), {}),
        "loha": (module(LohaModule), {}),
        "loha_tucker": (module(LohaModule, use_tucker=True), {}),
        "loha_dora": (module(LohaModule, **dora), {}),
        "loha_scalar": (module(LohaModule, use_scalar=True), dict(fold=False)),
        "lokr": (module(LokrModule, rank=1, factor=2), {}),
        "lokr_tucker": (module(LokrModule, rank=1, factor=2, use_tucker=True), {}),
        "lokr_both": (module(LokrModule, rank=1, factor=4, decompose_both=True), {}),
        "lokr_whole": (module(LokrModule, factor=2, full_matrix=True), {}),
        "lokr_dora": (module(LokrModule, rank=1, factor=2, **dora), {}),
        "lokr_scalar": (module(LokrModule, rank=1, factor=2, use_scalar=True), dict(fold=False)),
        "full": (module(FullModule), {}),
        "norms": (lambda name, layer: NormModule(name, layer), norms),
    }


def peft_kinds():
    linear = ["to_q", "to_k", "ff.net.2"]
    all_layers = [*linear, "proj_in", "conv1"]
    patterns = {r".*attn2\.to_k": 9, r"to_[kq]": 5, "mid_block.*conv1": 7}
    ranks = {r"resnets\.\d\.conv1": 3}
    return {
        "peft": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=all_layers, alpha_pattern=patterns, rank_pattern=ranks),
        "peft_rslora": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=all_layers, use_rslora=True),
        "peft_bias": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["ff.net.2", "proj_in"], lora_bias=True),
        "peft_dora": LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=all_layers, use_dora=True),
        "peft_loha": LoHaConfig(r=RANK, alpha=ALPHA, target_modules=all_layers, alpha_pattern=patterns, use_effective_conv2d=True),
        "peft_lokr": LoKrConfig(
            r=1, alpha=ALPHA, target_modules=all_layers, decompose_factor=2, rank_pattern={"conv1$": 2}, use_effective_conv2d=True
        ),
        "peft_lokr_whole": LoKrConfig(r=8, alpha=ALPHA, target_modules=linear, decompose_factor=2),
    }


def of_peft(net, gen, config, path):
    model = get_peft_model(net, config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "magnitude" in name:
                p.mul_(1 + 0.3 * torch.randn(p.shape, generator=gen))
            elif "lora_" in name or "hada_" in name or "lokr_" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.5)
    model.save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    file = path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(weights, file)
    sort_header(file)
    said = json.loads((path / "adapter_config.json").read_text())
    kept = ("peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias")
    text = json.dumps({key: said[key] for key in kept if key in said}, indent=2)
    (path / "adapter_config.json").write_text(text + "\n")
    return {key: t.clone() for key, t in model.merge_and_unload().state_dict().items()}


def adapter_kinds():
    """base.safetensors  the weights of the layers
    NAME.safetensors     a file of LyCORIS; NAME/ a folder of peft
    io.safetensors       NAME/KEY: the weights with the adapter in them, by these programs, where they are not the base's
    """
    gen, path = generator("adapter_kinds"), folder("adapter_kinds")
    net = base(gen)
    original = {key: t.clone() for key, t in net.state_dict().items()}
    save_file(original, path / "base.safetensors")
    io = {}

    def note(name, weights):
        changed = {key: t for key, t in weights.items() if not torch.allclose(t, original[key], rtol=1e-4, atol=1e-5)}
        assert changed, name
        io.update({f"{name}/{key}": t.contiguous() for key, t in changed.items()})

    for name, (make, settings) in lycoris_kinds().items():
        file, weights = of_lycoris(net, gen, make, **settings)
        save_file(file, path / f"{name}.safetensors")
        note(name, weights)
    for name, config in peft_kinds().items():
        again = base(generator("none"))
        again.load_state_dict(original)
        note(name, of_peft(again, gen, config, path / name))
    save_file(io, path / "io.safetensors")
    for file in path.rglob("*.safetensors"):
        sort_header(file)
