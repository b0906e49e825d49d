"""Keys of configurations that change nothing in what a frozen network computes, as the libraries have written them over the years.

    python tools/reference/inert_keys.py WHEEL_OR_FOLDER... > crates/models/src/inert_keys.rs

Give it several versions: wheels (`pip download --no-deps transformers==4.29.2`), or folders of an installation. What it reads is
`configuration_utils.py` of transformers (what the base class of all configurations sets, its to_dict adds, and its generation
defaults) and `training_utils.py` of diffusers (what a running average leaves in the configuration of its network).
"""

import ast
import sys
import zipfile
from pathlib import Path

# Of these the value matters to some network: each reader says what it makes of them.
NOT_INERT = {"is_decoder", "pruned_heads", "quantization_config", "tie_word_embeddings", "model_type"}
# Old names, and what other libraries add.
ALSO = {
    "attn_implementation", "dtype", "exponential_decay_length_penalty", "gradient_checkpointing", "initializer_factor",
    "initializer_range", "attention_dropout", "attention_probs_dropout_prob", "dropout", "hidden_dropout_prob", "layerdrop",
    "classifier_dropout", "use_cache", "auto_map", "name_or_path", "finetuning_task", "tokenizer_class", "hub_version",
    "xla_device", "output_past", "pretrained_config_archive_map", "model_max_length",
}


def source(place, name):
    if place.is_file():
        with zipfile.ZipFile(place) as wheel:
            found = [n for n in wheel.namelist() if n.endswith(f"/{name}") and n.count("/") == 1]
            return wheel.read(found[0]).decode() if found else None
    file = place / name
    return file.read_text() if file.exists() else None


def strings_of(call):
    return [a.value for a in call.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def keys_of_base(text):
    keys = set()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.ClassDef) and node.name.lower() == "pretrainedconfig"):
            continue
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                keys.add(part.target.id)  # 5.x: a dataclass
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef) and part.name in ("__init__", "__post_init__"):
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        keys.add(inner.attr)
                    if isinstance(inner, ast.Call) and getattr(inner.func, "attr", "") == "pop":
                        keys.update(strings_of(inner))
            if isinstance(part, ast.FunctionDef) and "generation_defaults" in part.name:
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Dict):
                        keys.update(k.value for k in inner.keys if isinstance(k, ast.Constant))
            if isinstance(part, ast.FunctionDef) and part.name == "to_dict":
                for inner in ast.walk(part):
                    if isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Constant):
                        keys.add(inner.slice.value)
    return keys


def keys_of_average(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == "EMAModel":
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == "state_dict":
                    made = [n for n in ast.walk(part) if isinstance(n, ast.Dict)]
                    return {k.value for d in made for k in d.keys} - {"shadow_params"}
    return set()


def main():
    keys, average = set(ALSO), {"collected_params"}
    for place in map(Path, sys.argv[1:]):
        text = source(place, "configuration_utils.py")
        if text and "EMAModel" not in (source(place, "training_utils.py") or ""):
            keys |= keys_of_base(text)
        text = source(place, "training_utils.py")
        if text:
            average |= keys_of_average(text)
    plain = lambda names: sorted(n for n in names if isinstance(n, str) and n.isidentifier() and not n.startswith("_"))
    print("//! Made by tools/reference/inert_keys.py from several versions of transformers and diffusers.\n")
    print("/// What transformers writes into the configuration of any network: housekeeping, training, generation.")
    print("pub const TRANSFORMERS: &[&str] = &[")
    print("\n".join(f'    "{k}",' for k in plain(keys - NOT_INERT)) + "\n];\n")
    print("/// What a running average of diffusers leaves in the configuration of its network.")
    print("pub const AVERAGE: &[&str] = &[")
    print("\n".join(f'    "{k}",' for k in plain(average)) + "\n];")


if __name__ == "__main__":
    main()
