"""Data sets and devices by the names that people give them."""

from __future__ import annotations

import os
import re

from finetune.config.rules import require
from finetune.errors import ConfigError

NAMED_DATASETS = ("flowers102", "digits")
DATASETS = (*NAMED_DATASETS, "imagefolder:PATH")
DEVICES = ("auto", "cpu", "cuda", "mps")

_GPU = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")


def dataset_of(value: str) -> str:
    """A data set as the configuration names it: an existing folder is an image folder.

    `./digits` is the folder of that name, `digits` the data set.

    Raises:
        ConfigError: it is neither a name nor a folder.
    """
    if value in DATASETS or value.startswith("imagefolder:"):
        return value
    # os.path.isdir() is false for names that the operating system does not allow; Path.is_dir() raises.
    is_folder = os.path.isdir(os.path.expanduser(value))  # noqa: PTH111, PTH112
    require(
        is_folder,
        "dataset",
        f"{', '.join(NAMED_DATASETS)} or an existing folder of images",
        value,
        NAMED_DATASETS,
    )
    return f"imagefolder:{value}"


def require_device(device: object) -> None:
    """Check that a device has one of the names; whether this machine has it is another matter.

    Raises:
        ConfigError: it has not.
    """
    named = device in DEVICES or gpu_number(device) is not None
    rule = "auto, cpu, cuda, cuda:N or mps"
    if isinstance(device, str) and device.casefold().startswith("gpu"):  # not a misspelling of "cpu"
        raise ConfigError(f"device must be {rule}, but {device!r} was given; did you mean 'cuda'?")
    require(named, "device", rule, device, DEVICES)


def gpu_number(device: object) -> int | None:
    """N of `cuda:N`; None for every other device."""
    found = _GPU.fullmatch(device) if isinstance(device, str) else None
    return int(found[1]) if found else None
