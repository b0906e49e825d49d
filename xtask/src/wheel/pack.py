"""pack.py CHECKOUT BINARY EXTRAS OUT VERSION: writes the wheel and prints its path."""

import base64
import hashlib
import os
import re
import sys
import zipfile

checkout, binary, extras, out, version = sys.argv[1:]
NAME = "comat"
INFO = f"{NAME}-{version}.dist-info"
SHIPPED = ["configs", "weights/world"]
PYTHON = os.path.join(checkout, "xtask/src/wheel/__main__.py")
SUMMARY = "Teaches text-to-image diffusion models to draw what the prompt says: LoRAs from prompts alone"


def files(folder):
    """Paths below a folder, in an order that does not depend on the disk."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(place, name) for name in sorted(names))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def platform(program):
    """The oldest glibc that has all the symbols the program asks for. torch itself wants 2.28."""
    newest = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", program))
    return f"manylinux_2_{max(newest, 28)}_{os.uname().machine}"


def description():
    """The README as a page of its own: what it links to lies beside it in the repository alone."""
    text = read(os.path.join(checkout, "README.md")).decode()
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


def metadata():
    fields = [
        ("Metadata-Version", "2.4"),
        ("Name", NAME),
        ("Version", version),
        ("Summary", SUMMARY),
        ("License-Expression", "MIT OR Apache-2.0"),
        ("License-File", "LICENSE-APACHE"),
        ("License-File", "LICENSE-MIT"),
        ("License-File", "LICENSE-FONT"),
        ("Requires-Python", ">=3.10"),
        ("Requires-Dist", "torch==2.11.*"),
        ("Classifier", "Operating System :: POSIX :: Linux"),
        ("Description-Content-Type", "text/markdown"),
    ]
    head = "".join(f"{key}: {value}\n" for key, value in fields)
    return (head + "\n" + description()).encode()


program = read(binary)
tag = f"py3-none-{platform(program)}"
contents = [
    (f"{NAME}/__init__.py", b'"""The program comat; see __main__.py."""\n', 0o644),
    (f"{NAME}/__main__.py", read(PYTHON), 0o644),
    (f"{NAME}/bin/comat", program, 0o755),
]
for shipped in SHIPPED:
    for path in files(os.path.join(checkout, shipped)):
        contents.append((f"{NAME}/share/{os.path.relpath(path, checkout)}", read(path), 0o644))
for path in files(extras):
    contents.append((f"{NAME}-{version}.data/data/{os.path.relpath(path, extras)}", read(path), 0o644))
for licence in ["LICENSE-APACHE", "LICENSE-MIT", "crates/images/font/LICENSE-FONT"]:
    contents.append((f"{INFO}/licenses/{os.path.basename(licence)}", read(os.path.join(checkout, licence)), 0o644))
wheel = f"Wheel-Version: 1.0\nGenerator: comat-xtask\nRoot-Is-Purelib: false\nTag: {tag}\n"
contents += [
    (f"{INFO}/METADATA", metadata(), 0o644),
    (f"{INFO}/WHEEL", wheel.encode(), 0o644),
    (f"{INFO}/entry_points.txt", f"[console_scripts]\n{NAME} = {NAME}.__main__:main\n".encode(), 0o644),
]

record = ""
for name, data, _ in contents:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    record += f"{name},sha256={digest},{len(data)}\n"
record += f"{INFO}/RECORD,,\n"
contents.append((f"{INFO}/RECORD", record.encode(), 0o644))

os.makedirs(out, exist_ok=True)
path = os.path.join(out, f"{NAME}-{version}-{tag}.whl")
with zipfile.ZipFile(path + ".partial", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    for name, data, mode in contents:
        entry = zipfile.ZipInfo(name, date_time=(2025, 1, 1, 0, 0, 0))  # the same files make the same wheel
        entry.external_attr = (0o100000 | mode) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, data)
os.replace(path + ".partial", path)
print(path)
