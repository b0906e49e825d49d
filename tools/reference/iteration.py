"""One CoMat training iteration in plain PyTorch, for numbers and for speed.

It is written the usual way: the sampler runs with gradient mode on for the tracked steps, one autograd graph spans
trajectory, VAE, captioner and loss, and `backward` goes through all of it. Only the caption loss, DDPM steps. With networks in half
precision the LoRA's float32 products may use TF32, and a VAE that is known to overflow in float16 is in float32, as in `comat`.

    python tools/reference/iteration.py --model DIR --captioner DIR --prompts FILE --noise FILE --out FILE
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from peft import LoraConfig
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import BertTokenizer, BlipForConditionalGeneration

from captioner import PREFIX, labels_of
from common import given_noise

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True, help="diffusers folder")
    p.add_argument("--captioner", required=True, help="BLIP folder")
    p.add_argument("--prompts", required=True, help=".txt or .jsonl; the first B prompts are used")
    p.add_argument("--noise", required=True, help="safetensors: x_T [B,C,h,w], z [T,B,C,h,w]; perhaps crop [B,2]: top, left")
    p.add_argument("--lora", help="starting adapter with PEFT keys unet.….lora_A.weight")
    p.add_argument("--rank", type=int, default=4)
    p.add_argument("--alpha", type=float, help="default: the rank")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--tracked", type=int, default=5)
    p.add_argument("--tracked-start", type=int, default=0)
    p.add_argument("--guidance-scale", type=float, default=7.5)
    p.add_argument("--guidance-rescale", type=float, default=0.0)
    p.add_argument("--label-smoothing", type=float, default=0.0, help="of the captioner")
    p.add_argument("--mode", choices=["detached", "chained"], default="detached")
    p.add_argument("--dtype", choices=["float64", "float32", "bfloat16", "float16"], default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--checkpointing", action="store_true", help="UNet and VAE compute their activations again in the backward pass")
    p.add_argument("--threads", type=int, help="default: PyTorch's choice")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--out", help="safetensors to write")
    return p.parse_args()


def read_prompts(file):
    """Prompts of a .txt or .jsonl file, without empty lines."""
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    return [json.loads(line)["prompt"] for line in lines] if str(file).endswith(".jsonl") else lines


class Iteration:
    """The networks of one run, and the phases of an iteration."""

    def __init__(self, args):
        self.args = args
        self.dtype = getattr(torch, args.dtype)
        # Latents, LoRA weights and the loss stay in float32 when the frozen networks are in half precision.
        self.master = torch.float64 if args.dtype == "float64" else torch.float32
        to = {"device": args.device, "dtype": self.dtype}

        noise = load_file(args.noise, device=args.device)
        self.x_T, self.z = noise["x_T"].to(self.master), noise["z"].to(self.master)
        self.crops = noise.get("crop", torch.zeros(len(self.x_T), 2)).long().tolist()
        self.prompts = read_prompts(args.prompts)[: len(self.x_T)]
        assert len(self.prompts) == len(self.x_T), "fewer prompts than rows of x_T"
        assert len(self.z) >= args.steps, "fewer noise draws than steps"

        pipe = DiffusionPipeline.from_pretrained(args.model, safety_checker=None, dtype=self.dtype)
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
        self.scheduler.set_timesteps(args.steps, device=args.device)
        # diffusers computes the steps' coefficients in float32; in a float64 run they are computed in float64.
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.master)
        self.scheduler.one = self.scheduler.one.to(self.master)
        self.context, self.added = self.conditions(pipe.to(**to))
        self.unet, self.vae = pipe.unet.requires_grad_(False), pipe.vae.requires_grad_(False)
        # as the file says: diffusers itself takes an absent key for true, which for SD 1.5 it is not
        said = json.loads((Path(args.model) / "vae/config.json").read_text()).get("force_upcast", "XL" in type(pipe).__name__)
        if self.dtype == torch.float16 and said:
            self.vae.to(torch.float32)
        if args.checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()
        self.adapter = self.attach_adapter()

        self.captioner = BlipForConditionalGeneration.from_pretrained(args.captioner).to(**to).requires_grad_(False)
        self.captioner.eval()
        self.captioner.text_decoder.label_smoothing = args.label_smoothing
        self.tokenizer = BertTokenizer.from_pretrained(args.captioner)
        self.image_settings = json.loads((Path(args.captioner) / "preprocessor_config.json").read_text())

        interval = args.steps // args.tracked
        steps = range(args.tracked_start, args.steps, interval)
        self.tracked = set(list(steps)[: args.tracked])

    @torch.no_grad()
    def conditions(self, pipe):
        """Text embeddings (unconditional half first) and SDXL's added conditions."""
        device, n = self.args.device, len(self.prompts)
        encoded = pipe.encode_prompt(
            self.prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        context, added = torch.cat([encoded[1], encoded[0]]), None
        if len(encoded) == 4:
            h, w = (side * pipe.vae_scale_factor for side in self.x_T.shape[-2:])
            time_ids = torch.tensor([[h, w, 0, 0, h, w]], device=device, dtype=context.dtype).repeat(2 * n, 1)
            added = {"text_embeds": torch.cat([encoded[3], encoded[2]]), "time_ids": time_ids}
        return context, added

    def attach_adapter(self):
        """Add the LoRA to the UNet; return its weights by PEFT key."""
        args, start = self.args, load_file(self.args.lora) if self.args.lora else None
        alpha = args.rank if args.alpha is None else args.alpha
        torch.manual_seed(0)
        config = LoraConfig(r=args.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=TARGETS)
        self.unet.add_adapter(config)
        if start is not None:
            start = {k.removeprefix("unet."): v for k, v in start.items()}
            wrong = set_peft_model_state_dict(self.unet, start)
            assert not wrong.unexpected_keys, wrong.unexpected_keys[:3]
            missing = [k for k in wrong.missing_keys if ".lora_" in k]
            assert not missing, missing[:3]
        adapter = {}
        for name, p in self.unet.named_parameters():
            if ".lora_" in name:
                p.data = p.data.to(self.master)
                p.requires_grad_()
                adapter["unet." + name.replace(".default.", ".")] = p
        return adapter

    def predict(self, x, t):
        """The guided model output at x."""
        args = self.args
        inputs = torch.cat([x, x]).to(self.dtype)
        e = self.unet(inputs, t, self.context, added_cond_kwargs=self.added).sample.to(self.master)
        unconditional, conditional = e.chunk(2)
        guided = unconditional + args.guidance_scale * (conditional - unconditional)
        if args.guidance_rescale:
            dims = tuple(range(1, guided.ndim))
            ratio = conditional.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
            guided = args.guidance_rescale * guided * ratio + (1 - args.guidance_rescale) * guided
        return guided

    def trajectory(self):
        """x_0, differentiable through the tracked steps and along the linear path."""
        x = self.x_T
        with given_noise(self.z):
            for i, t in enumerate(self.scheduler.timesteps):
                tracked = i in self.tracked
                seen = x if tracked and self.args.mode == "chained" else x.detach()
                with torch.set_grad_enabled(tracked):
                    e = self.predict(seen, t)
                x = self.scheduler.step(e, t, x).prev_sample
        return x

    def decode(self, x_0):
        """Image around 0..1, not clamped."""
        image = self.vae.decode((x_0 / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return image.to(self.master) / 2 + 0.5

    def crop(self, image):
        """Each image without `min(h, w) // 224` of its rows and columns, from (top, left) on: what is left is resized."""
        height, width = image.shape[-2:]
        less = min(height, width) // 224
        pieces = [x[:, top : top + height - less, left : left + width - less] for x, (top, left) in zip(image, self.crops)]
        return torch.stack(pieces)

    def caption_loss(self, image):
        """Mean negative log-likelihood of the prompts' tokens."""
        size = self.image_settings["size"]
        size = (size["height"], size["width"])
        mean, std = (torch.tensor(self.image_settings[k]).to(image).view(3, 1, 1) for k in ("image_mean", "image_std"))
        resized = F.interpolate(self.crop(image), size=size, mode="bicubic", align_corners=False, antialias=True)
        pixels = ((resized - mean) / std).to(self.dtype)
        texts = [f"{PREFIX} {p.lower()}" for p in self.prompts]
        limit = self.captioner.config.text_config.max_position_embeddings
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        labels = labels_of(self.tokenizer, batch.input_ids)
        batch, labels = batch.to(image.device), labels.to(image.device)
        return self.captioner(pixels, batch.input_ids, batch.attention_mask, labels=labels).loss.to(self.master)

    def run(self):
        """One iteration; returns the results and the seconds of (trajectory, everything, decoder and captioner forward)."""
        for p in self.adapter.values():
            p.grad = None
        started = self.clock()
        x_0 = self.trajectory()
        sampled = self.clock()
        image = self.decode(x_0)
        image.retain_grad()
        loss = self.caption_loss(image)
        captioned = self.clock()
        loss.backward()
        ended = self.clock()
        results = {"x_0": x_0, "image": image, "image_gradient": image.grad, "loss.caption": loss}
        results |= {f"grad.{k}": p.grad for k, p in self.adapter.items()}
        return results, (sampled - started, ended - started, captioned - sampled)

    def clock(self):
        if self.args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.dtype in ("bfloat16", "float16"):
        torch.backends.cuda.matmul.allow_tf32 = True
    iteration = Iteration(args)
    times = []
    for _ in range(args.repeat):
        results, seconds = iteration.run()
        times.append(seconds)
    norm = torch.stack([v.double().square().sum() for k, v in results.items() if k.startswith("grad.")]).sum().sqrt()
    loss = results["loss.caption"].item()
    print(f"tracked steps {sorted(iteration.tracked)}, caption loss {loss:.8f}, norm of the gradient {norm:.6e}")
    trajectory, whole, captioned = (statistics.median(column) for column in zip(*times))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median of {args.repeat}: trajectory {trajectory:.3f} s, iteration {whole:.3f} s")
    print(f"of it decoder and captioner forward {captioned:.3f} s, backward {whole - trajectory - captioned:.3f} s")
    print(f"peak resident set {peak:.0f} MiB")
    if args.device.startswith("cuda"):
        print(f"peak on the device {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    if args.out:
        save_file({k: v.detach().cpu().contiguous() for k, v in results.items()}, args.out)


if __name__ == "__main__":
    main()
