"""Fixture of the segmenter: SAM prompted by boxes, with what its processor does before and behind it."""

import numpy as np
import torch
from torch.nn import functional as F
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from common import clean, exact, folder, generator, randomise, report, save_io, write_json

SIDE = 64

# Height and width of the images of a batch, and how many boxes each of them has.
CASES = {
    "wide": (28, 44, [2, 1]),
    "tall": (44, 21, [1, 0, 3]),
    "whole": (64, 64, [1]),
    "small": (12, 31, [2]),
    "large": (66, 40, [1]),
}


def some_boxes(gen, count, height, width):
    """Boxes in pixels, not whole ones, one of them partly outside of the image."""
    boxes = []
    for i in range(count):
        a, b = torch.rand(2, 2, generator=gen)
        low, high = torch.minimum(a, b) * 0.8, torch.maximum(a, b) * 0.8 + 0.2
        size = torch.tensor([width, height])
        shift = size * 0.1 if i == 2 else 0
        boxes.append([round(x, 2) for x in torch.cat([low * size + shift, high * size + shift]).tolist()])
    return boxes


def resized(processor, images):
    """The processor's resize, normalisation and padding, on exact values where it rounds to bytes."""
    image_processor = processor.image_processor
    values = (image_processor.image_mean, image_processor.image_std)
    mean, std = (torch.tensor(v).to(images).view(3, 1, 1) for v in values)
    height, width = image_processor._get_preprocess_shape(images.shape[-2:], SIDE)
    x = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return F.pad((x - mean) / std, (0, SIDE - width, 0, SIDE - height)), (height, width)


def check_resized(processor, images, pixels):
    """Our exact values are the processor's within its rounding of bytes."""
    bytes_ = [(image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for image in images]
    theirs = processor.image_processor(bytes_, return_tensors="pt").pixel_values
    levels = (theirs - pixels).abs().max() * min(processor.image_processor.image_std) * 255
    assert levels <= 1, f"{levels} levels of 255 between the processor and the exact resize"


def sam():
    """SamModel: windows that do not divide the image, global layers, images of several shapes, 0 to 3 boxes each.

    Facts, from the transformers source. Windows are padded with zeros behind the norm, so that the padding takes part
    in attention as its bias says. The relative positions are those of unscaled queries. Of the norms, the neck's and
    the upscaling's have eps 1e-6 whatever the configuration says, the decoder's last one 1e-5. A box is two corners
    plus half a pixel; no point is added to it. `multimask_output=False` gives the first of the decoder's masks,
    `True` the others.
    """
    name = "sam"
    gen, path = generator(name), folder(name)
    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 24,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 8,
            "mlp_ratio": 1.5,
            "window_size": 3,
            "global_attn_indexes": [1, 3],
            "num_pos_feats": 12,
            "layer_norm_eps": 1e-5,
        },
        prompt_encoder_config={"hidden_size": 24, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 24,
            "mlp_dim": 40,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 12,
            "iou_head_depth": 4,
        },
    )
    # What would be small by its size is made as large as what it is added to.
    last = {"pos_embed": 45.0, "point_embed.2.weight": 4.0, "point_embed.3.weight": 4.0, "no_mask_embed.weight": 4.0}
    last |= {"iou_token.weight": 4.0, "mask_tokens.weight": 4.0, "rel_pos_h": 2.0, "rel_pos_w": 2.0}
    net = randomise(SamModel(config), gen, last=last)
    net.save_pretrained(path)
    image_processor = SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    processor = SamProcessor(image_processor)

    inputs, boxes = {}, {}
    for case, (height, width, counts) in CASES.items():
        bytes_ = torch.randint(0, 256, (len(counts), 3, (height + 5) // 6, (width + 5) // 6), generator=gen)
        blocks = bytes_.repeat_interleave(6, 2).repeat_interleave(6, 3)[..., :height, :width]
        inputs[case] = blocks.float() / 255
        boxes[case] = [some_boxes(gen, count, height, width) for count in counts]
        check_resized(processor, inputs[case], resized(processor, inputs[case])[0])

    def run(net, inputs):
        out = {}
        for case, images in inputs.items():
            pixels, size = resized(processor, images)
            if case == "tall":  # the file would be large
                out[f"{case}.pixel_values"] = pixels[:1]
            embeddings = net.get_image_embeddings(pixels)
            out[f"{case}.embeddings"] = embeddings
            for i, of_image in enumerate(boxes[case]):
                if not of_image:
                    continue
                original = tuple(images.shape[-2:])
                scaled = processor._normalize_coordinates(SIDE, np.array(of_image), original, is_bounding_box=True)
                scaled = torch.from_numpy(scaled)[None].to(images.dtype)
                given = {"image_embeddings": embeddings[i : i + 1], "input_boxes": scaled}
                one, three = (net(**given, multimask_output=several) for several in (False, True))
                key = f"{case}.{i}"
                out[f"{key}.scaled_boxes"] = scaled[0]
                if case in ("wide", "tall"):
                    out[f"{key}.low_res"] = torch.cat([one.pred_masks, three.pred_masks], 2)[0]
                out[f"{key}.iou"] = torch.cat([one.iou_scores, three.iou_scores], 2)[0]
                masks = processor.post_process_masks([one.pred_masks[0]], [original], [size])
                out[f"{key}.masks"] = masks[0][:, 0]
        return out

    result, error = exact(net, inputs, run)
    shares = [float(v.float().mean()) for k, v in result.items() if k.endswith(".masks")]
    assert all(0.02 < share < 0.98 for share in shares), f"a mask says nothing: {shares}"
    save_io(path, {f"{case}.images": images for case, images in inputs.items()} | result)
    write_json(path / "boxes.json", boxes)
    write_json(
        path / "preprocessor_config.json",
        {
            "image_processor_type": "SamImageProcessor",
            "processor_class": "SamProcessor",
            "do_resize": True,
            "size": {"longest_edge": SIDE},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": image_processor.image_mean,
            "image_std": image_processor.image_std,
            "do_pad": True,
            "pad_size": {"height": SIDE, "width": SIDE},
            "do_convert_rgb": True,
        },
    )
    clean(path)
    report(name, error)
