"""Split a hashed lock file for an installation without CUDA.

    split_lock.py LOCK HASHED TORCH

HASHED gets every entry except torch, torchvision and NVIDIA's packages, with its hashes. TORCH gets the
locked versions of torch and torchvision, without hashes, because the files of an index of CPU wheels are not
in the lock file. Uses only the standard library, because it runs while an image is built.
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


def split(lock: str) -> tuple[str, str]:
    """The hashed entries to keep, and the pins of torch and torchvision."""
    hashed = [text for name, text in entries(lock) if name not in TORCH and not is_cuda(name)]
    torch = [text.partition("\n")[0].rstrip(" \\") for name, text in entries(lock) if name in TORCH]
    return "\n".join(hashed) + "\n", "\n".join(torch) + "\n"


if __name__ == "__main__":
    source, *targets = map(Path, sys.argv[1:])
    for target, text in zip(targets, split(source.read_text("utf-8")), strict=True):
        target.write_text(text, "utf-8")
