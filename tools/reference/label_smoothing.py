"""The caption loss as the authors' program has it: by BLIP of transformers 4.31.0, which they pin.

That release smooths the labels of BLIP's language model by 0.1, in the source and without a setting; later ones read
`text_config.label_smoothing`, which is 0. So this fixture needs an environment of its own:

    python3.11 -m venv .venv431 && .venv431/bin/pip install torch==2.11.0 transformers==4.31.0 "numpy<2"
    .venv431/bin/python tools/reference/label_smoothing.py

It writes `crates/models/tests/fixtures/blip_smoothed/io.safetensors`: the loss of `fixtures/blip` (its weights and its inputs), and the gradient with
respect to its pixels, of the whole batch and of each row. Computed in float64, stored as float32.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BlipConfig, BlipForConditionalGeneration

FIXTURES = Path(__file__).resolve().parents[2] / "crates" / "models" / "tests" / "fixtures"
INPUTS = ("pixel_values", "input_ids", "attention_mask", "labels")


def captioner():
    """The network of the fixture `blip`. Its output layer is the word embedding, its bias stands in the file once."""
    folder = FIXTURES / "blip"
    net = BlipForConditionalGeneration(BlipConfig.from_dict(json.loads((folder / "config.json").read_text())))
    wrong = net.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not wrong.unexpected_keys, wrong.unexpected_keys
    known = ("position_ids", "predictions.decoder.weight", "predictions.decoder.bias")
    assert all(key.endswith(known) for key in wrong.missing_keys), wrong.missing_keys
    head = net.text_decoder.cls.predictions
    head.decoder.weight, head.decoder.bias = net.text_decoder.bert.embeddings.word_embeddings.weight, head.bias
    return net.double().eval().requires_grad_(False)


def main():
    assert transformers.__version__ == "4.31.0", f"transformers {transformers.__version__} does not smooth labels"
    torch.set_num_threads(1)
    io, net = load_file(FIXTURES / "blip" / "io.safetensors"), captioner()
    inputs = {key: io[key].double() if io[key].is_floating_point() else io[key] for key in INPUTS}
    results = {}
    for name, rows in [("", slice(0, 2)), (".0", slice(0, 1)), (".1", slice(1, 2))]:
        pixels, ids, mask, labels = (inputs[key][rows] for key in INPUTS)
        pixels = pixels.clone().requires_grad_()
        out = net(pixels, ids, mask, labels=labels)
        (grad,) = torch.autograd.grad(out.loss, pixels)
        results |= {f"loss{name}": out.loss.detach(), f"grad.pixel_values{name}": grad}
        if not name:
            logits = net.text_decoder(
                ids, mask, encoder_hidden_states=out.image_embeds, return_logits=False, is_decoder=True
            ).logits
            error = (logits.detach() - io["logits"]).abs().max() / io["logits"].abs().max()
            assert error < 1e-6, f"the logits are not those of the fixture: {error:.1e}"
    path = FIXTURES / "blip_smoothed"
    path.mkdir(exist_ok=True)
    save_file({k: v.float().contiguous() for k, v in results.items()}, str(path / "io.safetensors"))
    print({k: round(v.item(), 6) for k, v in results.items() if not v.dim()}, "plain", round(io["loss"].item(), 6))


if __name__ == "__main__":
    main()
