"""Fixtures of the captioner: BLIP with its loss, and the image preprocessing before it."""

import torch
from torch.nn import functional as F
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from common import clean, exact, folder, generator, randn, randomise, report, save_io, write_json

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
PREFIX = "a photography of"
WORDS = (
    "a an the of and on in to next left right above below photography dog cat bird car tree house red blue green "
    "black white orange big small round old ##s ##ish"
).split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]", "[ENC]"]


def labels_of(tokenizer, input_ids):
    """-100 on the prefix (with [CLS]) and on padding, else the tokens themselves."""
    labels = input_ids.clone()
    labels[:, : len(tokenizer(PREFIX).input_ids) - 1] = -100
    labels[input_ids == tokenizer.pad_token_id] = -100
    return labels


def run_blip(net, inputs):
    """Forward and backward passes on the whole batch and on each of its rows."""
    with torch.enable_grad():
        pixels = inputs["pixel_values"].clone().requires_grad_()
        out = net(pixels, inputs["input_ids"], inputs["attention_mask"], labels=inputs["labels"])
        (grad,) = torch.autograd.grad(out.loss, pixels)
    result = {"image_embeds": out.image_embeds, "logits": out.logits, "loss": out.loss, "grad.pixel_values": grad}
    for i in range(len(pixels)):
        row = {k: v[i : i + 1] for k, v in inputs.items()}
        out = net(row["pixel_values"], row["input_ids"], row["attention_mask"], labels=row["labels"])
        result[f"loss.{i}"] = out.loss
    return {k: v.detach() for k, v in result.items()}


def blip():
    """BlipForConditionalGeneration, two captions of different length, padded.

    Facts, from the transformers source. `forward` always runs the text decoder with a causal mask (is_decoder
    defaults to True there) times the padding mask of the text; the cross-attention sees all image tokens, without a
    mask. Logits at position i are scored against labels[i + 1] (cross-entropy, mean over all labels that are not
    -100 in the batch, so it is no mean of the rows' means). Label smoothing is text_config.label_smoothing, by
    default 0. `forward` leaves the first token alone; only `generate` overwrites it with bos_token_id. The
    cross-attention's keys have the vision width, the image embeddings passed on are last_hidden_state after
    post_layernorm. The decoder matrix is the word embedding (tied, hence not in the file), its bias is
    cls.predictions.bias.
    """
    name = "blip"
    gen, path = generator(name), folder(name)
    size = len(VOCABULARY)
    config = BlipConfig(
        text_config={
            "vocab_size": size,
            "hidden_size": 24,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 24,
            "attention_probs_dropout_prob": 0.0,
            "hidden_dropout_prob": 0.0,
            "is_decoder": True,
            "bos_token_id": size - 2,
            "eos_token_id": 3,
            "sep_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
    )
    net = randomise(BlipForConditionalGeneration(config), gen, last={"word_embeddings.weight": 0.4})
    net.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    write_json(path / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    write_json(
        path / "preprocessor_config.json",
        {
            "image_processor_type": "BlipImageProcessor",
            "size": {"height": 32, "width": 32},
            "do_resize": True,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN,
            "image_std": STD,
        },
    )

    texts = [f"{PREFIX} {t}" for t in ("small blackish cats on the old house", "a round dog")]
    write_json(path / "texts.json", texts)
    tokenizer = BertTokenizer.from_pretrained(path)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = {
        "pixel_values": randn(gen, 2, 3, 32, 32),
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels_of(tokenizer, batch.input_ids),
    }
    result, error = exact(net, inputs, run_blip)
    save_io(path, inputs | result)
    clean(path)
    report(name, error)


def preprocess():
    """Antialiased bicubic resize and normalisation, with the gradient for a fixed cotangent."""
    name = "preprocess"
    gen, path = generator(name), folder(name)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    images = {"image0": torch.rand(2, 3, 61, 47, generator=gen), "image1": torch.rand(1, 3, 96, 96, generator=gen)}
    tensors = dict(images)
    for key, image in images.items():
        for side in (32, 80):
            cotangent = randn(gen, len(image), 3, side, side)
            x = image.double().requires_grad_()
            y = F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
            y = (y - mean) / std
            (grad,) = torch.autograd.grad((y * cotangent).sum(), x)
            values = {"cotangent": cotangent, "pixel_values": y, "grad": grad}
            tensors |= {f"{key}.{side}.{k}": v for k, v in values.items()}
    save_io(path, tensors)
    report(name)
