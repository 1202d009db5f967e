"""Split a hashed lock file into the parts that make an image's layers, or an installation without CUDA.

    split_lock.py LOCK OTHERS PINS TORCH CUDA

TORCH gets the entries of torch and torchvision, with their hashes, CUDA those of NVIDIA and Triton,
and OTHERS the rest. PINS gets the versions of torch and torchvision alone, for an index of CPU wheels, whose
files are not in the lock file. Uses only the standard library, because it runs while an image is built.
"""

import re
import sys
from pathlib import Path

TORCH = ("torch", "torchvision")
ENTRY = r"^\w.*(?:\n[ \t].*)*"
CUDA = ("nvidia-", "cuda-", "triton")


def entries(lock: str) -> list[tuple[str, str]]:
    """The name and the text, with its hashes, of each entry; a package has one for each kind of Python."""
    return [
        (re.split(r"[\[= ]", text, maxsplit=1)[0], text) for text in re.findall(ENTRY, lock, re.MULTILINE)
    ]


def is_cuda(name: str) -> bool:
    """Whether a package is part of CUDA, or needs it."""
    return name.startswith(CUDA)


def split(lock: str) -> tuple[str, str, str, str]:
    """The parts of a lock file, in the order of the command's arguments."""
    parts: dict[str, list[str]] = {"others": [], "torch": [], "cuda": []}
    for name, text in entries(lock):
        parts["torch" if name in TORCH else "cuda" if is_cuda(name) else "others"].append(text)
    pins = [text.partition("\n")[0].rstrip(" \\") for text in parts["torch"]]
    return joined(parts["others"]), joined(pins), joined(parts["torch"]), joined(parts["cuda"])


def joined(lines: list[str]) -> str:
    """The text of a requirements file."""
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    source, *targets = map(Path, sys.argv[1:])
    for target, text in zip(targets, split(source.read_text("utf-8")), strict=True):
        target.write_text(text, "utf-8")
