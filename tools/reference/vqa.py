"""Fixture of BLIP's question answering: image processor, question encoder, answer decoder; yes or no, and free answers."""

import torch
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from captioner import MEAN, STD
from clip_score import some_images
from common import clean, exact, folder, generator, randomise, report, save_io, write_json

SIDE, TOKENS = 16, 35  # of an image in pixels; of a yes-or-no question (configs of T2I-CompBench)
WORDS = (
    "a an the of and on in to is are there what color colour how many dog cat bird car tree house red blue green black "
    "white orange big small round old left right yes no one two three ##s ##ish ? ' ! ."
).split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]  # [DEC] and [ENC] follow in the network alone

END = 5.0  # bias of [SEP], so that answers are of different lengths

# What is asked to be answered by yes or no, and the same as `pre_question` of BLIP/data/utils.py leaves it.
YES_NO = {
    "A Red dog (on the #left)!?": "a red dog on the left?",
    "the small green house?": "the small green house?",
    "two black birds; and an Orange cat.? ": "two black birds and an orange cat?",
    " ".join(["a big old tree and"] * 12) + " a car?": " ".join(["a big old tree and"] * 10),  # too many words and tokens
}
# What is asked freely. Not prepared: the tokenizer alone lowers the case.
FREE = [
    "What color is the dog?",
    "How many birds are there in the small old tree?",
    "is there a Car!",
    "what is on the left of the reddish house?",
]


def vqa():
    """BlipForQuestionAnswering in the layout of Salesforce/blip-vqa-base.

    Facts, from the transformers source. The encoder of the question is BLIP's text model run without a causal mask, its
    layers as the decoder's with a cross-attention to all of the image. The decoder reads the states of the question where the
    decoder of a captioner reads the image, so both widths are one. The question's padding should be hidden from the decoder, but
    transformers 5 loses that mask on its way into the cross-attention (and `generate` has ones there in every version), so every
    question is put alone here, without padding. `generate` begins with
    text_config.bos_token_id, ends with sep_token_id, and stops behind 20 more tokens. transformers leaves [CLS]
    before a question; T2I-CompBench, on BLIP's own code, replaces it by [ENC], which the published tokenizers do not have.
    """
    name = "vqa"
    gen, path = generator(name), folder(name)
    size = len(VOCABULARY) + 2
    dec, enc = size - 2, size - 1
    config = BlipConfig(
        text_config={
            "vocab_size": size,
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 40,
            "bos_token_id": dec,
            "eos_token_id": 2,
            "sep_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 4,
        },
    )
    net = randomise(BlipForQuestionAnswering(config), gen)
    with torch.no_grad():
        net.text_decoder.cls.predictions.bias[3] = END
    net.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    write_json(path / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(path)
    tokenizer = BertTokenizer.from_pretrained(path)

    images = some_images(gen, len(FREE), 23, 30)
    pixels = processor([p.permute(1, 2, 0).numpy() for p in images], return_tensors="pt").pixel_values
    batch = tokenizer(list(YES_NO.values()), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    batch.input_ids[:, 0] = enc
    inputs = {"pixel_values": pixels, "input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    free = [tokenizer(question, return_tensors="pt", return_token_type_ids=False) for question in FREE]
    words = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")])

    def run(net, inputs):
        embeds = net.vision_model(inputs["pixel_values"]).last_hidden_state
        mask = inputs["attention_mask"]
        states = net.text_encoder(inputs["input_ids"], attention_mask=mask, encoder_hidden_states=embeds).last_hidden_state
        alone = [row[:length][None] for row, length in zip(states, mask.sum(-1))]
        first = torch.tensor([[dec]])
        logits = torch.cat([net.text_decoder(first, encoder_hidden_states=row).logits[:, -1] for row in alone])
        probabilities = logits.softmax(-1)[:, words]
        states = states * mask.unsqueeze(-1)  # what padding makes of itself is nobody's concern
        result = {"image_embeds": embeds, "question_states": states, "logits": logits, "probabilities": probabilities}
        result["yes_no"] = probabilities[:, 0] / probabilities.sum(-1)
        for i, question in enumerate(free):
            row = inputs["pixel_values"][i : i + 1]
            out = net.generate(**question, pixel_values=row, return_dict_in_generate=True, output_logits=True)
            result[f"answer.{i}"] = out.sequences[0]
            best = torch.cat(out.logits).topk(2).values
            assert (best[:, 0] - best[:, 1]).min() > 1e-3, "a choice between two tokens too close to call"
        return result

    result, error = exact(net, inputs, run)
    lengths = {len(result[f"answer.{i}"]) for i in range(len(FREE))}
    assert max(lengths) == 21 and min(lengths) < 6, f"answers of {lengths} tokens; change END"
    answers = [tokenizer.decode(result[f"answer.{i}"][1:], skip_special_tokens=True) for i in range(len(FREE))]
    write_json(path / "questions.json", {"yes_no": YES_NO, "free": dict(zip(FREE, answers))})
    save_io(path, {"images": images.float() / 255} | inputs | result)
    clean(path)
    report(name, error)
