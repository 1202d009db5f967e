"""Split a hashed lock file for an image without CUDA.

    split_lock.py LOCK HASHED TORCH

HASHED gets every entry except torch, torchvision and NVIDIA's packages, with its hashes. TORCH gets the
locked versions of torch and torchvision, without hashes, because the files of an index of CPU wheels are not
in the lock file. Uses only the standard library, because it runs while an image is built.
"""

import sys
from pathlib import Path

REPLACED = ("torch", "torchvision")
CUDA = ("nvidia-", "cuda-", "triton")


def split(lock: str) -> tuple[str, str]:
    """The hashed entries to keep, and the pins of torch and torchvision."""
    hashed, torch = [], []
    keep = False
    for line in lock.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            name = line.partition("==")[0]
            keep = name not in REPLACED and not name.startswith(CUDA)
            if name in REPLACED:
                torch.append(line.rstrip(" \\"))
        if keep:
            hashed.append(line)
    return "\n".join(hashed) + "\n", "\n".join(torch) + "\n"


if __name__ == "__main__":
    source, *targets = map(Path, sys.argv[1:])
    for target, text in zip(targets, split(source.read_text("utf-8")), strict=True):
        target.write_text(text, "utf-8")
