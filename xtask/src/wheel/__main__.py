"""Starts the program comat with the libtorch of the torch that is installed here."""

import os
import sys
from importlib import metadata, util

TORCH = "2.11"
HERE = os.path.dirname(os.path.abspath(__file__))


def fail(what):
    sys.exit(f"comat: error: {what}")


def libtorch():
    """The folder with libtorch, of a torch of the right version; torch itself is not imported."""
    install = f"pip install 'torch=={TORCH}.*'"
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        fail(
            f"there is no torch in this Python ({sys.prefix}), and comat computes with its libtorch; {install}, or without GPUs and "
            f"smaller: {install} --index-url https://download.pytorch.org/whl/cpu"
        )
    if version.split("+")[0].split(".")[:2] != TORCH.split("."):
        fail(f"torch {version} is installed, and comat needs {TORCH}; {install}, in an environment of its own if others need theirs")
    spec = util.find_spec("torch")
    for folder in spec.submodule_search_locations if spec else []:
        if os.path.exists(os.path.join(folder, "lib", "libtorch_cpu.so")):
            return os.path.join(folder, "lib")
    fail(f"torch {version} has no lib/libtorch_cpu.so; install it anew: {install} --force-reinstall")


def main():
    lib = libtorch()
    binary = os.path.join(HERE, "bin", "comat")
    beside = os.path.join(HERE, os.pardir, "torch", "lib")
    if not (os.path.isdir(beside) and os.path.samefile(beside, lib)):  # the binary itself looks only there
        rest = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = f"{lib}:{rest}" if rest else lib
    try:
        os.execv(binary, ["comat", *sys.argv[1:]])
    except OSError as error:
        fail(f"{binary} cannot be started: {error}; install comat anew: pip install --force-reinstall --no-deps comat")


if __name__ == "__main__":
    main()
