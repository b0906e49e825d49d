"""Fixtures of sentence embeddings: BERT and MPNet with the mean over their tokens, in folders of sentence-transformers."""

import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer, MPNetConfig, MPNetModel, MPNetTokenizer

from captioner import WORDS
from common import clean, exact, folder, generator, randomise, report, save_io, write_json

# Of different lengths; the last one is longer than any network takes.
TEXTS = [
    "A red dog",
    "the small cats on the left of an orange house!",
    "",
    "two greenish birds",
    " and ".join(["a big old tree next to the car"] * 6),
]


def embed(net, inputs):
    """Mean pooling and normalisation, as sentence_transformers.models.Pooling and Normalize do them."""
    states = net(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    weights = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(1) / weights.sum(1)
    return {"embeddings": F.normalize(mean, dim=-1)}


def sentences(name, path, net, tokenizer, max_length):
    """The files of sentence-transformers, inputs and outputs."""
    net.save_pretrained(path)
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    kinds = enumerate(steps)
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"} for i, (t, p) in kinds]
    write_json(path / "modules.json", modules)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in ("cls_token", "mean_tokens", "max_tokens")}
    (path / "1_Pooling").mkdir()
    write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": net.config.hidden_size} | pooling)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    result, error = exact(net, inputs, embed)
    write_json(path / "texts.json", TEXTS)
    save_io(path, inputs | result)
    clean(path)
    report(name, error)


def sentence_bert():
    """BertModel in the layout of all-MiniLM-L6-v2.

    Facts, from the sources. The pooler behind [CLS] is in the file and not used. The length is sentence_bert_config.json's
    max_seq_length, less than the network's. Start and end tokens count in the mean.
    """
    name = "sentence_bert"
    gen, path = generator(name), folder(name)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=24,
    )
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    write_json(path / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    net = randomise(BertModel(config), gen)
    sentences(name, path, net, BertTokenizer.from_pretrained(path), 16)


def sentence_mpnet():
    """MPNetModel in the layout of all-mpnet-base-v2.

    Facts, from the transformers source. Padding has the id 1 and the position 1, whatever the configuration says, and tokens
    count from 2. Every layer's attention has the same bias by relative position added to its scores: 32 buckets up to a
    distance of 128, half of them for what lies ahead. There are no kinds of tokens.
    """
    name = "sentence_mpnet"
    gen, path = generator(name), folder(name)
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", *WORDS, "<mask>"]
    config = MPNetConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=46,
    )
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    specials = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    specials |= {"pad_token": "<pad>", "unk_token": "[UNK]", "mask_token": "<mask>"}
    settings = {"do_lower_case": True, "model_max_length": 44, "tokenizer_class": "MPNetTokenizer"}
    write_json(path / "tokenizer_config.json", settings | specials)
    net = randomise(MPNetModel(config), gen, last={"relative_attention_bias.weight": 2.0})
    sentences(name, path, net, MPNetTokenizer.from_pretrained(path), 40)
