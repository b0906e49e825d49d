"""Fixture of the detector: Grounding DINO with its processor."""

import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    SwinConfig,
)
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.grounding_dino.modeling_grounding_dino import (
    generate_masks_with_special_tokens_and_transfer_map,
)

from captioner import WORDS
from common import clean, exact, folder, generator, randomise, report, save_io, write_json

MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
SIZE = {"shortest_edge": 28, "longest_edge": 44}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",", "'", "-", *WORDS]
# More phrases than nouns, a word in pieces, capitals, and captions of different length.
NOUNS = [["red bird", "Houses"], ["dog", "small black cat", "tree"]]
BOX_THRESHOLD, TEXT_THRESHOLD = 0.3, 0.25
MARGIN = 5e-4


def tiny_config():
    swin = SwinConfig(
        image_size=32,
        embed_dim=4,
        depths=[2, 2, 1],
        num_heads=[1, 2, 2],
        window_size=3,
        mlp_ratio=1.5,
        out_indices=[2, 3],
    )
    bert = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=16,
    )
    return GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=32,
        num_queries=20,
        encoder_layers=2,
        encoder_ffn_dim=12,
        encoder_attention_heads=4,
        encoder_n_points=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_n_points=3,
        max_text_len=24,
    )


def make(gen, tokenizer, **changes):
    config = tiny_config()
    for key, value in changes.items():
        setattr(config, key, value)
    net = GroundingDinoForObjectDetection(config)
    # The published vocabulary's ids of these are in transformers' code; ours are elsewhere.
    net.model.special_tokens = torch.tensor(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"]))
    last = {
        # Points that are some cells away from the query's own.
        "sampling_offsets.bias": 10.0,
        # Tokens that differ, so that boxes fit some of them and not others.
        "encoder.layers.1.text_enhancer_layer.layer_norm_after.bias": 0.0,
        "text_param": 0.2,
        "decoder.layer_norm.bias": 0.0,
        "text_enhancer_layer.self_attn.out_proj.weight": 0.3,
        "text_projection.weight": 2.0,
        "attention.output.dense.weight": 0.5,
    }
    return randomise(net, gen, last=last)


def preprocess(images):
    """Bilinear with antialias in full precision, as the processor's torchvision backend has it."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    resized = []
    for image in images:
        size = get_size_with_aspect_ratio(image.shape[1:], SIZE["shortest_edge"], SIZE["longest_edge"])
        x = F.interpolate(image.double()[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
        resized.append((x - mean) / std)
    height, width = (max(x.shape[i] for x in resized) for i in (1, 2))
    pixels = torch.zeros(len(images), 3, height, width, dtype=torch.float64)
    mask = torch.zeros(len(images), height, width, dtype=torch.int64)
    for row, x in enumerate(resized):
        pixels[row, :, : x.shape[1], : x.shape[2]] = x
        mask[row, : x.shape[1], : x.shape[2]] = 1
    return pixels.float(), mask


def run(net, inputs):
    # transformers fills the columns of the longest text with float32.
    torch.set_default_dtype(inputs["pixel_values"].dtype)
    try:
        out = net(**inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    maps = net.model.backbone.conv_encoder.model(inputs["pixel_values"]).feature_maps
    length = inputs["input_ids"].shape[1]
    result = {f"feature_map.{i}": m for i, m in enumerate(maps)} | {
        "vision": out.encoder_last_hidden_state_vision,
        "text": out.encoder_last_hidden_state_text,
        "proposals": out.init_reference_points,
        "logits": out.logits[..., :length].masked_fill(~inputs["attention_mask"].bool()[:, None], -1e4),
        "boxes": out.pred_boxes,
    }
    assert out.logits[..., length:].eq(float("-inf")).all()
    return {k: v.detach() for k, v in result.items()}


class Outputs:
    """What the processor takes of a model's output."""

    def __init__(self, result, width):
        logits = result["logits"]
        self.logits = F.pad(logits, (0, width - logits.shape[-1]), value=float("-inf"))
        self.pred_boxes = result["boxes"]


def detections(processor, result, ids, images):
    sizes = [tuple(i.shape[1:]) for i in images]
    rows = processor.post_process_grounded_object_detection(
        Outputs(result, 24), ids, threshold=BOX_THRESHOLD, text_threshold=TEXT_THRESHOLD, target_sizes=sizes
    )
    return [
        [
            {"phrase": phrase, "score": float(score), "box": box.tolist()}
            for phrase, score, box in zip(row["text_labels"], row["scores"], row["boxes"])
        ]
        for row in rows
    ]


def tells(found, result):
    """Whether a fixture shows something: nouns and other phrases in every image, boxes below the threshold, proposals
    within the image, and no number so near a threshold that rounding could decide."""
    probabilities = result["logits"].sigmoid()
    scores = probabilities.amax(-1)
    if (scores - BOX_THRESHOLD).abs().min() < MARGIN or (probabilities - TEXT_THRESHOLD).abs().min() < MARGIN:
        return False
    # Proposals in the padding lie at infinity, all in one place.
    if (result["proposals"][:, :, 0] < 0.999).sum(1).min() < 16:
        return False
    for row, nouns in zip(found, NOUNS):
        hits = sum(d["phrase"] in [n.lower() for n in nouns] for d in row)
        if hits in (0, len(row)):
            return False
    return min(len(row) for row in found) < scores.shape[1]


def grounding_dino():
    """GroundingDinoForObjectDetection on two images of different shape with different nouns, and its processor.

    Facts, from the transformers source. Image and text pass through a fusion layer whose residual is the normed input.
    Phrases end at [CLS], [SEP], a full stop or a question mark; text positions start again in each. Every layer of the
    decoder corrects the boxes from its features before the norm, the very last correction is made from the features after
    it. All decoder layers share one box head (the file has `bbox_embed.0` only) unless decoder_bbox_embed_share is false.
    The proposals' order decides which query gets which box.
    """
    name = "grounding_dino"
    gen, path = generator(name), folder(name)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    write_json(path / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    settings = {
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "format": "coco_detection",
        "image_mean": MEAN,
        "image_processor_type": "GroundingDinoImageProcessor",
        "image_std": STD,
        "processor_class": "GroundingDinoProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": SIZE,
    }
    write_json(path / "preprocessor_config.json", settings)
    tokenizer = BertTokenizer.from_pretrained(path)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessorPil.from_pretrained(path), tokenizer)

    images = [torch.randint(0, 256, (3, h, w), generator=gen, dtype=torch.uint8) for h, w in ((13, 24), (50, 46))]
    batch = processor(images=images, text=NOUNS, padding=True, return_tensors="pt")
    images = [i.float() / 255 for i in images]
    pixels, mask = preprocess(images)
    # The processor rounds to bytes between the two steps.
    assert torch.equal(mask, batch.pixel_mask) and (pixels - batch.pixel_values).abs().max() < 1.01 / 255 / min(STD)
    inputs = {
        "pixel_values": pixels,
        "pixel_mask": mask,
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
    }
    attempts = 0
    while True:
        net = make(gen, tokenizer)
        result, error = exact(net, inputs, run)
        found = detections(processor, result, batch.input_ids, images)
        attempts += 1
        if error < 1e-4 and tells(found, result):
            break
        assert attempts < 1000
    net.save_pretrained(path)
    write_json(path / "nouns.json", NOUNS)
    write_json(path / "detections.json", found)
    tensors = {f"image.{i}": image for i, image in enumerate(images)} | inputs | result
    # The mask of an image is a rectangle; its height and width say all.
    tensors["sizes"] = torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], 1)
    del tensors["pixel_mask"]

    split, places = generate_masks_with_special_tokens_and_transfer_map(batch.input_ids, net.model.special_tokens)
    tensors |= {"phrases": split, "positions": places}

    # The same weights with a box head for each layer of the decoder.
    own = make(gen, tokenizer, decoder_bbox_embed_share=False)
    heads = {k: v for k, v in own.state_dict().items() if k.startswith("bbox_embed.")}
    own.load_state_dict(net.state_dict() | heads | {f"model.decoder.{k}": v for k, v in heads.items()})
    result, other = exact(own, inputs, run)
    tensors |= {f"unshared.{k}": v for k, v in heads.items()}
    tensors |= {f"unshared.{k}": result[k] for k in ("proposals", "logits", "boxes")}
    save_io(path, tensors)
    clean(path)
    report(name, max(error, other))
