"""Tiny tokenizers (byte-level BPE as CLIP's, word pieces as BERT's) and the fixtures of their token ids."""

import json
from collections import Counter

from diffusers.loaders import TextualInversionLoaderMixin
from transformers import BertTokenizer, CLIPTokenizer

from common import folder, report, write_json

START, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = (
    "a photo of a red dog and a blue cat on the grass, two black birds above an orange car, the small round "
    "house next to a big green tree, a woman holding a white umbrella in the street, it's raining, photography"
)
TRICKY = [
    "",
    " ",
    "a photo of a red dog",
    "A Photo OF a RED DOG",
    "  two   black\tbirds\n\nabove  ",
    "a cat, a dog; a bird... (and more!)",
    "it's raining, they're here, I'll go, we've won, I'm late, he'd stay, can't",
    "IT'S RAINING",
    "don\u2019t use \u201cquotes\u201d \u2014 please",
    "42 birds and 3.14 cats in 1999",
    "x2y3 abc123def",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    "nai\u0308ve cafe\u0301 (combining accents)",
    "\u00bd cup \u00b2 \u2167 \u0664\u0662 digits",
    "stra\u00dfe \u0130stanbul \u01c5 \ufb01sh",
    "\u4e00\u53ea\u7ea2\u8272\u7684\u72d7",
    "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u0441\u043e\u0431\u0430\u043a\u0430",
    "\u0643\u0644\u0628 \u0623\u062d\u0645\u0631",
    "a \U0001f436 and a \U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "snake_case, kebab-case, e-mail@example.org, 50% #tag $5",
    "!!! wow!! hello!",
    "a <|endoftext|> b <|startoftext|> c",
    "[MASK] and [SEP] words",
    "zero\u200bwidth, no\u00a0break, ideographic\u3000space",
    "control\u0000\u0007 and \ufffd",
    "a photo of a red dog and a blue cat on the grass next to a big green tree and a small round house, two birds",
    "dog" * 40,
    "unhappiness photographers houses' birdhouse",
]


def byte_symbols():
    """CLIP's printable stand-in of each byte, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [symbols[b] for b in [*printable, *hidden]]


def learn_merges(text, count):
    """Plain byte-pair encoding: join the most frequent pair, `count` times. (ASCII words only.)"""
    words = Counter(text.replace(",", " ").replace("'", " ").lower().split())
    pieces = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(pieces[word], pieces[word][1:]):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word, parts in pieces.items():
            joined = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            pieces[word] = joined
    return merges


# Merges of punctuation and of a letter of two bytes (é at a word's end).
EXTRA_MERGES = [("'", "s</w>"), ("!", "!"), ("!", "!</w>"), (".", "."), ("\u00c3", "\u00a9</w>")]


def clip_vocabulary(merge_count=80):
    """Vocabulary and merges: bytes, bytes at a word's end, merges, start, end."""
    merges = [*learn_merges(CORPUS, merge_count), *EXTRA_MERGES]
    symbols = byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), START, END]
    assert len(set(words)) == len(words)
    return {w: i for i, w in enumerate(words)}, merges


def clip_tokenizer(path, length, pad=END, single_file=False):
    """Write a CLIP tokenizer as vocab.json and merges.txt, or as tokenizer.json; return it as transformers loads it."""
    path.mkdir(parents=True, exist_ok=True)
    vocab, merges = clip_vocabulary()
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config = special | {"model_max_length": length, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    if single_file:
        made = CLIPTokenizer(vocab=vocab, merges=merges, **special)
        made.backend_tokenizer.no_padding()
        made.backend_tokenizer.no_truncation()
        made.backend_tokenizer.save(str(path / "tokenizer.json"))
    else:
        (path / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
        (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(path / "special_tokens_map.json", special)
    write_json(path / "tokenizer_config.json", config)
    return CLIPTokenizer.from_pretrained(path)


def table(tokenizer, length):
    """The ids of the tricky strings: cut and padded to `length`, and whole."""
    rows = []
    for text in TRICKY:
        padded = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        rows.append({"text": text, "ids": padded, "all_ids": tokenizer(text).input_ids})
    return rows


ADDED = {"<sks>": 0, "<Cat-Toy>": 1, "tok": 2, "<extra>": 3}
WITH_ADDED = [
    "a photo of <sks> dog",
    "a <SKS> dog, a<sks>dog",
    "<cat-toy> and <Cat-Toy> on the grass",
    "tok and token, TOK",
    "<extra> <Extra> words",
]


def tokenizer_clip_added():
    """CLIPTokenizer whose folder has `added_tokens.json`, as transformers wrote it before 4.34; one of its tokens is a special one."""
    name, length = "tokenizer_clip_added", 24
    path = folder(name)
    clip_tokenizer(path, length)
    first = len(json.loads((path / "vocab.json").read_text(encoding="utf-8")))
    write_json(path / "added_tokens.json", {token: first + i for token, i in ADDED.items()})
    config = json.loads((path / "tokenizer_config.json").read_text())
    write_json(path / "tokenizer_config.json", config | {"additional_special_tokens": ["<extra>"]})
    tokenizer = CLIPTokenizer.from_pretrained(path)
    rows = []
    for text in [*WITH_ADDED, *TRICKY]:
        ids = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        rows.append({"text": text, "ids": ids, "all_ids": tokenizer(text).input_ids})
    write_json(path / "tokens.json", rows)
    report(name)


VECTORS = ["<sks>", "<sks>_1", "<sks>_2", "<toy>", "<pair>", "<pair>_1", "<gap>", "<gap>_2"]
WITH_VECTORS = [
    "a photo of <sks> dog",
    "a <SKS> dog, a<sks>dog",
    "<sks> and <sks>, <toy> on the grass",
    "a <pair> next to <sks>",
    "<sks><pair><gap>!",
    "a big green tree, a small round house, two black birds, a <sks> dog",
]


def tokenizer_clip_vectors():
    """Embeddings of several vectors, as textual inversion makes them; ids of the prompts as diffusers' pipelines convert them."""
    name, length = "tokenizer_clip_vectors", 24
    path = folder(name)
    clip_tokenizer(path, length)
    first = len(json.loads((path / "vocab.json").read_text(encoding="utf-8")))
    write_json(path / "added_tokens.json", {token: first + i for i, token in enumerate(VECTORS)})
    tokenizer = CLIPTokenizer.from_pretrained(path)
    rows = []
    for text in [*WITH_VECTORS, *TRICKY]:
        converted = TextualInversionLoaderMixin().maybe_convert_prompt(text, tokenizer)
        ids = tokenizer(converted, padding="max_length", max_length=length, truncation=True).input_ids
        rows.append({"text": text, "ids": ids, "all_ids": tokenizer(converted).input_ids})
    write_json(path / "tokens.json", rows)
    report(name)


def bert_vocabulary():
    """About 200 entries: special tokens, characters, their continuations, words and pieces."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = "a an the of and on in to is red blue dog cat bird two photo photography house tree un happi his they cafe"
    pieces = "##s ##ing ##ness ##er ##ers ##graph ##house ##ph ##y ##ve ##2 ##1 ##9 ##3"
    marks = ". , ; : ! ? ' \" ( ) - _ @ # $ % [ ] & / \u2019 \u201c \u201d \u2014 \u2764"
    other = "\u4e00 \u72d7 \u7ea2 \u0441 ##\u043e \u043a ##\u0440 \u00df ##\u00df \u00f8 \U0001f436 \ufb01 ##\u0307"
    entries = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *marks.split(), *"0123456789", *letters]
    entries += [f"##{c}" for c in letters] + words.split() + pieces.split() + other.split()
    return list(dict.fromkeys(entries))


def tokenizer_bert():
    """BertTokenizer (lower case) from a vocab.txt; ids of the tricky strings in tokens.json."""
    name, length = "tokenizer_bert", 24
    path = folder(name)
    (path / "vocab.txt").write_text("\n".join(bert_vocabulary()) + "\n", encoding="utf-8")
    config = {"do_lower_case": True, "model_max_length": length, "tokenizer_class": "BertTokenizer"}
    write_json(path / "tokenizer_config.json", config)
    write_json(path / "tokens.json", table(BertTokenizer.from_pretrained(path), length))
    report(name)
