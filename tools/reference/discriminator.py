"""Fixture of the discriminator: losses and gradients on the pipeline of fixture `pipeline_sd1`."""

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from common import FIXTURES, exact, folder, generator, randn, report, save_io

RANK = 2
TIMESTEP = 51
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


class Discriminator(nn.Module):
    """The UNet with an adapter, and a linear layer on the channels of its output."""

    def __init__(self):
        super().__init__()
        self.unet = UNet2DConditionModel.from_pretrained(FIXTURES / "pipeline_sd1" / "unet").eval().requires_grad_(False)
        self.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        self.head = nn.Linear(self.unet.config.out_channels, 1)

    def trained(self):
        return {n: p for n, p in self.named_parameters() if ".lora_" in n or n.startswith("head.")}

    def forward(self, latents, text):
        out = self.unet(latents, TIMESTEP, encoder_hidden_states=text.expand(len(latents), -1, -1)).sample
        return self.head(out.permute(0, 2, 3, 1))


def key(name):
    return name.replace(".default", "")


def run(net, inputs):
    """Each loss by a forward pass of its own, as one writes it down."""
    generated, real, text = inputs["generated"], inputs["real"], inputs["text"]
    trained = net.trained()
    with torch.enable_grad():
        x = generated.clone().requires_grad_()
        logits = net(x, text)
        adversarial = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        (cotangent,) = torch.autograd.grad(adversarial, x)

        for p in trained.values():
            p.requires_grad_()
        logits = net(torch.cat([generated, real]), text)
        target = torch.ones_like(logits)
        target[: len(generated)] = 0
        loss = F.binary_cross_entropy_with_logits(logits, target)
        grads = torch.autograd.grad(loss, list(trained.values()))
    right = ((logits > 0) == (target > 0)).to(loss.dtype).mean()
    out = {"adversarial": adversarial, "cotangent": cotangent, "loss": loss, "accuracy": right}
    return {n: v.detach() for n, v in out.items()} | {f"grad.{key(n)}": g for n, g in zip(trained, grads)}


def discriminator():
    """Rank 2 on every attention, and the head; at timestep 51, with the embedding of the empty prompt.

    weights.safetensors  `unet.….to_q.lora_A.weight` / `lora_B.weight`, `head.weight`, `head.bias`
    io.safetensors       generated, real, and adversarial (BCE of generated against 1), cotangent (its gradient at generated),
                         loss (BCE of generated against 0 and real against 1, mean over both), accuracy, grad.<key>
    """
    name = "discriminator"
    gen, path = generator(name), folder(name)
    net = Discriminator()
    with torch.no_grad():
        for n, p in net.trained().items():
            scale = 0.5 if n.startswith("head.") else 0.15 if "lora_B" in n else p.shape[1] ** -0.5
            p.copy_(torch.randn(p.shape, generator=gen) * scale)
    save_io(path, {key(n): p for n, p in net.trained().items()}, "weights.safetensors")

    model = FIXTURES / "pipeline_sd1"
    tokens = CLIPTokenizer.from_pretrained(model / "tokenizer")([""], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        text = CLIPTextModel.from_pretrained(model / "text_encoder")(tokens.input_ids).last_hidden_state
    inputs = {"generated": randn(gen, 3, 4, 8, 6), "real": randn(gen, 3, 4, 8, 6), "text": text}
    result, error = exact(net, inputs, run)
    save_io(path, {"generated": inputs["generated"], "real": inputs["real"]} | result)
    report(name, error)
