"""Names of data sets, as people give them."""

from __future__ import annotations

import os

from finetune.config.experiment import DATASETS
from finetune.config.rules import require


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
        "flowers102, digits or an existing folder of images",
        value,
        ("flowers102", "digits"),
    )
    return f"imagefolder:{value}"
