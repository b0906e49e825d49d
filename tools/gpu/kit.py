"""The first contact with a GPU: what the program does there, beside the CPU and beside PyTorch, in parts of some minutes.

    python tools/gpu/kit.py env world --comat target/release/comat --work DIR --json FILE --minutes 8
    python tools/gpu/kit.py sd15 --comat target/release/comat --work DIR --json FILE --minutes 9
    python tools/gpu/kit.py sdxl …; python tools/gpu/kit.py nan …
    python tools/gpu/kit.py env world sd15 sdxl nan --device cpu --small …       # all of it on a CPU, on tiny networks

Every result goes into FILE at once, and what fails is a result too, so that nothing stops the rest. Parts can be given again: results
are added. Weights of full size are random, made on the device, and kept in DIR.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/reference"))
import side_by_side  # noqa: E402

WORLD = ROOT / "weights/world"
FIXTURES = ROOT / "crates/models/tests/fixtures"
DTYPES = ["float32", "float16", "bfloat16"]
PROMPTS = [f"a {colour} {shape}" for colour, shape in [("red", "circle"), ("blue", "star"), ("green", "heart"), ("black", "cross")]]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("parts", nargs="+", choices=list(PARTS))
    p.add_argument("--comat", type=Path, required=True, help="the binary")
    p.add_argument("--work", type=Path, required=True, help="folder for weights and runs: 20 GB for all parts")
    p.add_argument("--json", type=Path, required=True, help="results; added to what is there")
    p.add_argument("--device", default="cuda")
    p.add_argument("--minutes", type=float, default=9, help="for all the parts named together")
    p.add_argument("--repeat", type=int, default=3, help="iterations of full size; the median counts")
    p.add_argument("--small", action="store_true", help="tiny networks and few steps in place of full size")
    return p.parse_args()


# The largest that a value may be: five to ten times what an H100 gave (results/h100.json). After 50 guided steps a bfloat16 trajectory
# is so far from the float32 one that its gradients are not judged.
IMAGES = {
    "float32": {"mean": 0.1, "worst image's mean": 0.3},
    "float16": {"mean": 0.5, "worst image's mean": 1},
    "bfloat16": {"mean": 5, "worst image's mean": 8},
}
GRADIENTS = {
    "float32": {"grad.": 1e-3, "x_0": 1e-4, "image": 3e-5, "loss.caption": 1e-5},
    "float16": {"grad.": 0.2, "x_0": 0.05, "image": 0.015, "loss.caption": 1e-3},
    "bfloat16": {"x_0": 1, "image": 0.5, "loss.caption": 0.05},
}
# Of the same work twice on a GPU without `model.deterministic`: a trace, and six steps of training.
TWICE, TRAINED_TWICE = 1e-5, 0.05


class Skip(Exception):
    """A check that does not apply here."""


class Wrong(Exception):
    """What was found may not be so. It is kept in the results."""

    def __init__(self, found, why):
        super().__init__(why)
        self.found = found


def judged(found, values, most):
    """`found`, if each value that has a bound in `most` keeps to it."""
    # a NaN does not
    beyond = [f"{key}: {values[key]}, more than {bound}" for key, bound in most.items() if not values[key] <= bound]
    if beyond:
        raise Wrong(found, "; ".join(beyond))
    return found


class Kit:
    """Settings, results and the time that is left."""

    def __init__(self, args):
        self.args, self.part, self.peak = args, None, None
        self.cuda = args.device.startswith("cuda")
        self.ends = time.monotonic() + 60 * args.minutes
        self.results = json.loads(args.json.read_text())["results"] if args.json.exists() else []
        self.work = args.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)

    def left(self):
        return self.ends - time.monotonic()

    def step(self, name, work, least=10):
        """Does some work, keeps what it returns, or why it failed. Returns None where it failed or there was no time."""
        row = {"part": self.part, "name": name, "device": self.args.device, "at": time.strftime("%H:%M:%S")}
        began, found = time.monotonic(), None
        try:
            if self.left() < least:
                raise Skip(f"only {max(self.left(), 0):.0f} s left")
            side_by_side.ENDS = self.ends
            found = work()
            row |= {"ok": True, "found": found}
        except Skip as why:
            row |= {"ok": None, "skipped": str(why)}
        except side_by_side.Failed as failed:
            # a code that is no number: it was ended for want of time, which says nothing of the program
            row |= {"ok": False if isinstance(failed.code, int) else None, "skipped": str(failed.code), "command": failed.command, "exit": failed.code, "stderr": failed.err, "stdout": failed.out}
        except Wrong as wrong:
            found = wrong.found
            row |= {"ok": False, "error": str(wrong), "found": found}
        except Exception as error:
            row |= {"ok": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-2000:]}
        row["wall"] = round(time.monotonic() - began, 1)
        self.results.append(row)
        self.save()
        said = found if row["ok"] else row.get("error") or row.get("stderr") and last_lines(row["stderr"]) or row.get("skipped")
        said = said if isinstance(said, str) else json.dumps(said, default=str)
        state = {True: "", False: "FAILED ", None: "skipped "}[row["ok"]]
        print(f"{self.part}: {name} ({row['wall']:.0f} s): {state}{said[:400]}", flush=True)
        return found

    def save(self):
        """The whole file, put in place at once."""
        fresh = self.args.json.with_name(self.args.json.name + ".new")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"results": self.results}, indent=1, default=str) + "\n")
        fresh.replace(self.args.json)

    def comat(self, *words):
        return side_by_side.run([self.args.comat.resolve(), *words])

    def fresh(self, name):
        """A path that nothing lies at."""
        path = self.work / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    def rate(self):
        """Of a product of matrices in bfloat16, in FLOP a second; measured once a call of the kit."""
        if self.peak is None:
            self.peak = side_by_side.rate(self.args.device, 8192 if self.cuda else 256)
            if self.cuda:
                torch.cuda.empty_cache()
        return self.peak


def last_lines(text, count=3):
    return " / ".join(line for line in text.strip().splitlines()[-count:])


@contextmanager
def card_memory(kit, row):
    """Adds to `row` the most memory in use on the whole card, in MiB, above what was in use before."""
    if not kit.cuda:
        yield
        return
    used = lambda: (lambda free, total: (total - free) >> 20)(*torch.cuda.mem_get_info(kit.args.device))
    before, most, done = used(), [0], threading.Event()

    def watch():
        while not done.wait(0.1):
            most[0] = max(most[0], used())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        row["card_mib"] = most[0] - before


# ---- env


def env(kit):
    def versions():
        from importlib.metadata import PackageNotFoundError, version

        found = {"python": sys.version.split()[0], "cuda": torch.version.cuda}
        for name in ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        if kit.cuda:
            card = torch.cuda.get_device_properties(kit.args.device)
            found |= {"card": card.name, "memory_mib": card.total_memory >> 20, "capability": [card.major, card.minor]}
            found["cudnn"] = torch.backends.cudnn.version()
        return found

    def copies():
        """Bytes read and written a second, from the device to itself."""
        if not kit.cuda:
            raise Skip("no GPU")
        a = torch.empty(2**31, dtype=torch.uint8, device=kit.args.device)
        b = torch.empty_like(a)
        seconds = []
        for _ in range(5):
            torch.cuda.synchronize()
            began = time.perf_counter()
            b.copy_(a)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        del a, b
        torch.cuda.empty_cache()
        return {"TB/s": round(2**32 / statistics.median(seconds) / 1e12, 3)}

    kit.step("versions", versions)
    kit.step("doctor", lambda: kit.comat("doctor"))
    kit.step("doctor --check", lambda: kit.comat("doctor", "--check", "--device", kit.args.device))
    kit.step("nvidia-smi", lambda: side_by_side.run(["nvidia-smi"]) if kit.cuda else "no GPU")
    kit.step("bf16 rate", lambda: {"TFLOP/s": round(kit.rate() / 1e12, 3)})
    kit.step("copies", copies)


# ---- world


def world(kit):
    kit.step("images on the CPU", lambda: draw(kit, "cpu", "float32")[1])
    for dtype in DTYPES:
        kit.step(f"images, {dtype}", lambda: images(kit, dtype))
    gradients(kit)
    training(kit)


def draw(kit, device, dtype, model=WORLD / "sd"):
    """Images of the world, and what the program said and took."""
    out = kit.fresh(f"images-{device.replace(':', '')}-{dtype}")
    words = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    words += ["--model", model, "--count", 2, "--steps", 10, "--guidance-scale", 4, "--seed", 1]
    began = time.perf_counter()
    kit.comat("generate", *words, "--device", device, "--dtype", dtype, "--out", out)
    return out, {"seconds": round(time.perf_counter() - began, 2), "images": len(list(out.glob("*.png")))}


def images(kit, dtype):
    """Drawn on the device, and how far they are from those of the CPU in float32, of 255."""
    import numpy as np
    from PIL import Image

    out, found = draw(kit, kit.args.device, dtype)
    expected = kit.work / "images-cpu-float32"
    if out == expected:
        raise Skip("these are those")
    pixels = lambda path: np.asarray(Image.open(path).convert("RGB")).astype(float)
    names = sorted(path.name for path in expected.glob("*.png"))
    apart = np.stack([np.abs(pixels(out / name) - pixels(expected / name)) for name in names])
    found |= {"mean": apart.mean().round(4), "largest": apart.max(), "worst image's mean": apart.mean((1, 2, 3)).max().round(4)}
    return judged(found, found, IMAGES[dtype])


def settings(kit, **other):
    """Of `side_by_side`."""
    names = {"comat": kit.args.comat, "work": kit.work, "device": kit.args.device, "dtype": "float32"}
    names |= {"batch": 4, "steps": 50, "tracked": 5, "rank": 128, "mode": "detached", "micro_batch": 2, "latents": None}
    names |= {"repeat": kit.args.repeat, "checkpointing": False, "sd15": None, "sdxl": None, "blip": None}
    return argparse.Namespace(**names | other)


def gradients(kit):
    """Gradients on the device beside those of the CPU in float32, by `comat trace`."""

    def trace(device, dtype, name=None, mode="detached"):
        small, parts = side_by_side.small_world(settings(kit, mode=mode))
        found, out = side_by_side.ours(small, "world", 4, parts, device, dtype, 1)
        kept = kit.work / f"trace-{name or f'{device}-{dtype}-{mode}'}.safetensors".replace(":", "")
        out.rename(kept)
        return found, kept

    def beside(dtype, mode):
        found, out = trace(kit.args.device, dtype, "this", mode)
        expected = kit.work / f"trace-cpu-float32-{mode}.safetensors"
        error = {key: side_by_side.relative_error(out, expected, key) for key in ("grad.", "x_0", "image", "loss.caption")}
        found = {"relative error": {key: float(f"{value:.3g}") for key, value in error.items()}, "seconds": found["seconds"]}
        return judged(found, error, GRADIENTS[dtype])

    def twice():
        one, other = (trace(kit.args.device, "float32", name)[1] for name in ("one", "other"))
        error = side_by_side.relative_error(one, other, "grad.")
        found = {"equal": one.read_bytes() == other.read_bytes(), "relative error": error}
        return judged(found, found, {"relative error": TWICE if kit.cuda else 0})

    for mode in ("detached", "chained"):
        kit.step(f"gradients on the CPU, {mode}", lambda: trace("cpu", "float32", mode=mode)[0])
        for dtype in DTYPES:
            kit.step(f"gradients, {dtype}, {mode}", lambda: beside(dtype, mode))
    kit.step("the same trace twice", twice)


def training(kit):
    """Short runs, plain and with all losses, and whether a resumed one is the one that was not stopped."""
    prompts = kit.work / "world-prompts.jsonl"
    lines = (ROOT / "configs/world/train.jsonl").read_text().splitlines()
    prompts.write_text("\n".join(lines[: 6 if kit.args.small else 48]) + "\n")
    batch, steps = (2, 6) if kit.args.small else (12, 6)
    base = [f"prompts.train={prompts}", f"train.batch_size={batch}", "checkpoints.every=3", "checkpoints.keep=0"]
    base += ["optimizer.warmup_steps=2", f"model.device={kit.args.device}", "logging.tensorboard=false"]
    plain = ["samples.count=0", "samples.attention=false", "validation.count=1"]
    full = ["attention={segmenter={kind='world'},token_weight=3e-3,pixel_weight=5e-5}", "samples.count=2"]
    full += [f"fidelity={{latents='{kit.work}/world-latents',guidance_scale=4,weight=0.1,rank=16,learning_rate=1e-3}}"]
    full += [f"validation.count={2 if kit.args.small else 16}", "validation.keep_best=true"]

    def run(name, words, steps=steps, resume=False):
        out = kit.work / f"run-{name}" if resume else kit.fresh(f"run-{name}")
        words = [*base, *words, f"output={out}", f"train.steps={steps}"]
        more = ["--resume"] if resume else []
        kit.comat("train", "--config", "configs/world.toml", *[w for word in words for w in ("--set", word)], *more)
        return out

    def summary(out):
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        steps = [event for event in events if event["event"] == "step"]
        keys = ("caption_loss", "grad_norm", "token_loss", "adversarial_loss", "discriminator_loss", "discriminator_accuracy")
        found = {key: [float(f"{step[key]:.5g}") for step in steps] for key in keys if key in steps[0]}
        phases = {key: round(steps[-1][key], 4) for key in steps[-1] if key.startswith("seconds_")}
        validation = [{k: v for k, v in event.items() if k not in ("event", "time")} for event in events if event["event"] == "validation"]
        return found | {"seconds": [round(step["seconds"], 3) for step in steps], "phases": phases, "peak": steps[-1]["peak_memory"], "validation": validation}

    def resumed(words, straight):
        run("resumed", words, 3)
        run("resumed", words, steps, resume=True)
        return compare("resumed", straight)

    def again(words, straight, most=None):
        run("again", words)
        return compare("again", straight, most)

    def compare(one, other, most=None):
        """Files of the last checkpoints. They must be the same to the byte, or their relative error at most `most`."""
        found, wrong = {}, []
        for name in ("adapter", "optimizer", "discriminator", "discriminator.optimizer"):
            a, b = (kit.work / f"run-{run}/checkpoints/step-{steps}/{name}.safetensors" for run in (one, other))
            if a.exists() and b.exists():
                if a.read_bytes() == b.read_bytes():
                    found[name] = "the same bytes"
                    continue
                error = side_by_side.relative_error(a, b)
                found[name] = f"relative error {error:.2e}"
                if most is None or not error <= most:
                    wrong.append(name)
            else:
                found[name] = f"missing: {[str(p) for p in (a, b) if not p.exists()]}"
                wrong.append(name)
        if wrong:
            raise Wrong(found, f"{', '.join(wrong)}: {'not the same bytes' if most is None else f'more than {most} apart'}: {found}")
        return found

    exact = [*full, "model.deterministic=true"]
    kit.step("training with all losses, float32", lambda: summary(run("full-float32", full)))
    kit.step("the straight run twice", lambda: again(full, "full-float32", TRAINED_TWICE if kit.cuda else None))
    for dtype in ("float32", "bfloat16"):
        words = [*exact, f"model.dtype={dtype}"]
        straight = f"exact-{dtype}"
        kit.step(f"training with model.deterministic=true, {dtype}", lambda: summary(run(straight, words)))
        kit.step(f"same bytes twice with model.deterministic=true, {dtype}", lambda: again(words, straight))
        kit.step(f"resumed run beside the straight one, {dtype}", lambda: resumed(words, straight))
    for dtype in DTYPES[1:]:
        kit.step(f"training with all losses, {dtype}", lambda: summary(run(f"full-{dtype}", [*full, f"model.dtype={dtype}"])))
    for dtype in DTYPES:
        kit.step(f"training, {dtype}", lambda: summary(run(f"plain-{dtype}", [*plain, f"model.dtype={dtype}"])))
    kit.step("training, float32 on the CPU", lambda: summary(run("cpu", [*plain, "model.device=cpu"])))


# ---- full size


class Iterations:
    """Iterations of one model, ours and PyTorch's."""

    def __init__(self, kit, case):
        self.kit, self.case = kit, case
        self.fixed = {}
        if kit.args.small:
            tiny = {"sd15": WORLD / "sd", "sdxl": FIXTURES / "pipeline_sdxl"}[case]
            blip = WORLD / "blip" if case == "sd15" else FIXTURES / "blip"
            self.fixed = {case: tiny, "blip": blip, "latents": 16, "steps": 4, "tracked": 2, "rank": 4, "repeat": 1}

    def settings(self, **other):
        return settings(self.kit, **self.fixed | other)

    def weights(self):
        """Made where they are missing."""
        began, of = time.perf_counter(), self.settings(dtype="bfloat16")
        paths = side_by_side.folders(of, self.case)
        size = sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
        return {"GB": round(size / 1e9, 3), "seconds": round(time.perf_counter() - began, 1)}

    def title(self, side, of, extra):
        words = [side, of.dtype, f"batch {of.batch}", *([f"micro-batch {of.micro_batch}"] if side == "comat" else [])]
        return ", ".join(words + [f"{key} {value}" for key, value in extra.items()])

    def one(self, side, dtype, batch, micro_batch=2, words=(), **extra):
        """An iteration: seconds, memory, and the share of the card's rate. `words`: settings of ours beside those."""
        of = self.settings(dtype=dtype, batch=batch, micro_batch=micro_batch, **extra)

        def work():
            parts = side_by_side.prepare(of, self.case, batch)
            row = {}
            with card_memory(self.kit, row):
                if side == "comat":
                    row |= side_by_side.ours(of, self.case, batch, parts, of.device, dtype, of.repeat)[0]
                else:
                    row |= side_by_side.theirs(of, self.case, parts)[0]
            done = side_by_side.flops(parts[0], batch, of.steps, of.tracked, parts[4])
            row["UNet TFLOP/s"] = round(done / row["seconds"] / 1e12, 3)
            row["share of the bf16 rate"] = round(done / row["seconds"] / self.kit.rate(), 4)
            return row

        return self.kit.step(self.title(side, of, extra), work)

    def plan(self, measured, dtype, batch, micro_batch):
        """What `comat plan` says of memory, beside what was measured."""
        of = self.settings(dtype=dtype, batch=batch, micro_batch=micro_batch)

        def work():
            parts = side_by_side.prepare(of, self.case, batch)
            text = self.kit.comat("plan", "--config", side_by_side.configuration(of, self.case, batch, parts, of.device, dtype))
            return beside_plan(text, measured and measured["phases_mib"])

        self.kit.step(self.title("comat", of, {}) + ": plan", work)

    def both(self, dtype, batch, micro_batches):
        """Ours with the first micro-batch, PyTorch's (and again with checkpointing where memory runs out), then the forecast and the other
        micro-batches."""
        first, *others = micro_batches
        found = self.one("comat", dtype, batch, first)
        plain = self.one("pytorch", dtype, batch)
        if plain is None:
            self.one("pytorch", dtype, batch, checkpointing=True)
        self.plan(found, dtype, batch, first)
        for micro_batch in others:
            found = self.one("comat", dtype, batch, micro_batch)
            self.plan(found, dtype, batch, micro_batch)

    def train(self, dtype, batch, fidelity):
        """Two steps of training with a discriminator, and the forecast beside the second."""
        of = self.settings(dtype=dtype, batch=batch, micro_batch=1)

        def work():
            parts = side_by_side.prepare(of, self.case, batch)
            prompts = self.kit.work / f"prompts-{batch}.txt"
            prompts.write_text("".join(parts[3].read_text().splitlines(keepends=True)[:batch]))
            config = side_by_side.configuration(of, self.case, batch, parts, of.device, dtype)
            out = self.kit.fresh(f"run-{self.case}")
            words = [f"output={out}", f"prompts.train={prompts}", "train.steps=2", "samples.count=0", "validation.count=1"]
            words += [f"fidelity.{key}={value}" for key, value in fidelity.items()]
            words = [w for word in words for w in ("--set", word)]
            row = {}
            with card_memory(self.kit, row):
                self.kit.comat("train", "--config", config, *words)
            last = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
            last = [event for event in last if event["event"] == "step"][-1]
            phases = {key.removeprefix("peak_"): (last[key] or 0) >> 20 for key in last if key.startswith("peak_") and key != "peak_memory"}
            row |= {key: value for key, value in last.items() if key.startswith("seconds") or "loss" in key or "norm" in key}
            row["checkpoint MB"] = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) >> 20
            text = self.kit.comat("plan", "--config", config, *words)
            return row | beside_plan(text, phases)

        self.kit.step(self.title("comat", of, {}) + ": two steps with a discriminator", work)


def beside_plan(text, measured):
    """GB by phase: forecast, measured, and the forecast over the measured."""
    found = {}
    for phase, forecast in re.findall(r"^  (\w+) +\d+ at a time +([\d.]+) GB", text, re.M):
        found[phase] = {"forecast GB": float(forecast)}
        if measured and measured.get(phase):
            gigabytes = measured[phase] * 2**20 / 1e9
            found[phase] |= {"measured GB": round(gigabytes, 2), "forecast / measured": round(float(forecast) / gigabytes, 2)}
    return found or {"said": text[-1500:]}


def sd15(kit):
    of = Iterations(kit, "sd15")
    kit.step("weights", of.weights)
    of.both("bfloat16", 4, [4, 1])
    of.both("float16", 4, [4, 1])
    of.train("bfloat16", 4, {"rank": 4 if kit.args.small else 128, "micro_batch": 1})
    of.one("pytorch", "bfloat16", 4, checkpointing=True)
    of.one("comat", "bfloat16", 4, 4, mode="chained")
    of.one("comat", "bfloat16", 8, 8)
    of.one("comat", "float32", 4, 4)


def sdxl(kit):
    of = Iterations(kit, "sdxl")
    kit.step("weights", of.weights)
    of.both("bfloat16", 6, [2, 1])
    of.both("bfloat16", 2, [2])
    of.both("float16", 6, [2])
    of.one("comat", "bfloat16", 6, 6)
    judge = FIXTURES / "pipeline_sd1" if kit.args.small else kit.work / "sd15"
    own = {"model": f"'{judge}'"} if judge.exists() else {}
    of.train("bfloat16", 4, {"rank": 4 if kit.args.small else 128, "micro_batch": 1} | own)
    of.one("comat", "bfloat16", 6, 2, mode="chained")


# ---- nan


def nan(kit):
    """Runs made to overflow. They must end with a clear message, or go on; a panic or an assertion of the device is a bug."""
    from safetensors.torch import load_file, save_file

    def scaled(part, start, factor):
        """The world's model with some weights of it scaled."""
        model = kit.fresh(f"scaled-{part}-{factor:g}")
        shutil.copytree(WORLD / "sd", model)
        path = next((model / part).glob("*.safetensors"))
        weights = load_file(path)
        assert any(key.startswith(start) for key in weights), f"{start}: not in {path.name}"
        save_file({k: (v.float() * factor if k.startswith(start) else v) for k, v in weights.items()}, path, {"format": "pt"})
        return model

    def ended(work):
        """What the program said, and whether it said it well."""
        try:
            work()
        except side_by_side.Failed as failed:
            if not isinstance(failed.code, int):
                raise
            ugly = [word for word in ("device-side assert", "panicked", "CUDA error", "terminate called", "RUST_BACKTRACE") if word in failed.err]
            return {"exit": failed.code, "ugly": ugly, "said": last_lines(failed.err)[-800:]}
        return {"exit": 0, "ugly": []}

    def well(found):
        """`found`, if the program ended by itself and without signs of a crash."""
        # a signal is a number below 0, or above 128 where a shell tells it; a panic is 101
        if found["exit"] not in (0, 1) or found["ugly"]:
            raise Wrong(found, f"exit {found['exit']}, {found['ugly'] or 'no sign of a crash'}: {found.get('said')}")
        return found

    def train(*words):
        out = kit.fresh("run-nan")
        base = ["samples.count=0", "samples.attention=false", "validation.count=1", "train.steps=14", "train.batch_size=2"]
        words = [*base, f"output={out}", f"model.device={kit.args.device}", "optimizer.warmup_steps=0", *words]
        found = ended(lambda: kit.comat("train", "--config", "configs/world.toml", *[w for word in words for w in ("--set", word)]))
        log = out / "events.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        losses = [event["caption_loss"] for event in events if event.get("caption_loss") is not None]
        skipped = [event["not_finite"] for event in events if event.get("event") == "skipped"]
        return well(found | {"losses": losses, "skipped": skipped})

    wild = ["optimizer.max_grad_norm=1e30", "replay.max_cotangent=1e30"]
    attention = "attention={segmenter={kind='world'},token_weight=3e-3,pixel_weight=5e-5}"
    for dtype in DTYPES:
        kit.step(f"learning rate 1e4, {dtype}", lambda: train("optimizer.learning_rate=1e4", f"model.dtype={dtype}", *wild))
    kit.step("learning rate 1e30, float32", lambda: train("optimizer.learning_rate=1e30", *wild))
    kit.step("learning rate 1e4 with attention, float16", lambda: train("optimizer.learning_rate=1e4", "model.dtype=float16", attention, *wild))
    for part, start in (("unet", "conv_out.weight"), ("vae", "decoder.conv_in.weight"), ("text_encoder", "text_model.final_layer_norm")):
        name = f"{part} scaled by 1e6, float16"
        kit.step(f"training, {name}", lambda: train(f"model.path={scaled(part, start, 1e6)}", "model.dtype=float16", "model.vae_dtype=float16"))
        kit.step(f"drawing, {name}", lambda: well(ended(lambda: draw(kit, kit.args.device, "float16", scaled(part, start, 1e6)))))
    kit.step("loss of weight 1e30, float16", lambda: train("captioner.weight=1e30", "model.dtype=float16", *wild))


PARTS = {part.__name__: part for part in (env, world, sd15, sdxl, nan)}


def main():
    args = arguments()
    libraries = str(Path(torch.__file__).parent / "lib")
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [libraries, os.environ.get("LD_LIBRARY_PATH")]))
    os.environ["HF_HUB_OFFLINE"] = "1"
    kit = Kit(args)
    for part in args.parts:
        kit.part = part
        try:
            PARTS[part](kit)
        except Exception as error:
            kit.step("the part itself", lambda: (_ for _ in ()).throw(error), least=-1e9)
    bad = [f"{row['part']}: {row['name']}" for row in kit.results if row["ok"] is False]
    print(f"{len(kit.results)} results in {args.json.name}; failed: {bad or 'none'}; {kit.left():.0f} s left")


if __name__ == "__main__":
    main()
