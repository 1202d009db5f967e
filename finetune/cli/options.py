"""Options that several commands share, and the configuration that they make up."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from finetune.cli.command import Option, configured_by, shown
from finetune.config.experiment import (
    NEAR_DUPLICATES,
    ON_BAD_IMAGE,
    PRECISIONS,
    STORES,
    TRACKERS,
    ExperimentConfig,
)
from finetune.config.overrides import configure
from finetune.config.tune import MODES
from finetune.system.signals import StopRequest

Command = Callable[..., Any]

FOLDER = click.Path(path_type=Path)


def _views(value: str) -> int | str:
    """The value of `--cache-views`; the configuration validates it."""
    return int(value) if value.isascii() and value.isdigit() else value


def _option(group: str, text: str, default: object, **attributes: Any) -> dict[str, Any]:
    return {"group": group, "help": text, "default_text": default, **attributes}


STANDARD = ExperimentConfig()
RECIPE = STANDARD.recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "preset": _option("Recipe", "Preset name, or path of a TOML file in the same format.", STANDARD.preset),
    "dataset": _option(
        "Data", "flowers102, digits, or a folder with a folder of images per class.", STANDARD.dataset
    ),
    "data_root": _option("Data", "Folder for downloads.", STANDARD.data_root),
    "split": _option(
        "Data",
        "How to split the images: percentages of each class for training, validation and test, such as "
        "80-10-10, or official: as the data set's authors did.",
        "70-15-15, or official for an image folder with train/",
        metavar="A-B-C|official",
    ),
    "subset": _option("Data", "Use at most this many images per class in each split.", "all", type=int),
    "weights": _option(
        "Recipe",
        "Pretrained weights: imagenet, bundled, a file of safetensors or torch.save, or a run folder.",
        STANDARD.weights,
    ),
    "variants": _option("Recipe", "Variants to train, such as a,c.", "all in the preset"),
    "epochs": _option("Recipe", "Passes over the training images.", RECIPE.epochs, type=int),
    "batch_size": _option("Recipe", "Images per training step.", RECIPE.batch_size, type=int),
    "lr": _option(
        "Recipe",
        "Peak learning rate, one for all variants or by variant: a=0.03,b=0.01. The default is verified "
        "at 64 px from the bundled weights alone; --tune chooses a rate for each variant.",
        RECIPE.lr,
        metavar="RATE",
    ),
    "tune": _option(
        "Recipe",
        "Choose each variant's peak learning rate on validation, by trials of the same rates for all: "
        "halving (all at a quarter of the epochs, the best two at half of them) or full (all at all epochs).",
        "off; without a value, halving",
        type=click.Choice((*MODES, "off")),
        is_flag=False,
        flag_value=MODES[0],
    ),
    "image_size": _option(
        "Recipe", "Height and width of the network's input in pixels.", RECIPE.image_size, type=int
    ),
    "split_seed": _option("Data", "Seed of the split and of --subset.", STANDARD.split_seed, type=int),
    "resplit": _option("Data", "Give each seed a split of its own.", "one split for all", is_flag=True),
    "seed": _option("Recipe", "First seed.", STANDARD.seed, type=int),
    "seed_from": _option("Recipe", "First seed that a course prescribes.", "--seed", metavar="NONCE:STUDENT"),
    "seeds": _option("Recipe", "Number of seeds to train each variant with.", STANDARD.seeds, type=int),
    "longer_scratch": _option(
        "Recipe",
        "Also train from random weights for K times the epochs, as another variant, such as A3.",
        "no such variant",
        type=int,
        metavar="K",
    ),
    "device": _option(
        "Compute",
        "Where to compute: cpu, cuda, cuda:N (GPU number N), mps (Apple) or auto: cuda if possible.",
        STANDARD.device,
        metavar="NAME",
    ),
    "on_bad_image": _option(
        "Data",
        "Stop if an image cannot be read, or skip such images.",
        STANDARD.on_bad_image,
        type=click.Choice(ON_BAD_IMAGE),
    ),
    "near_duplicates": _option(
        "Data",
        "Report resized, re-encoded or mirrored copies across splits, or keep them together in one split.",
        STANDARD.near_duplicates,
        type=click.Choice(NEAR_DUPLICATES),
    ),
    "deterministic": _option("Compute", "On a GPU, use deterministic algorithms only.", "off", is_flag=True),
    "threads": _option(
        "Compute", "CPU threads for computation.", "OMP_NUM_THREADS, else one per core", type=int
    ),
    "workers": _option("Compute", "Threads that decode and augment images.", "same as --threads", type=int),
    "store": _option(
        "Compute",
        "Where decoded images are kept during the run: GPU memory (device), memory or disk; off decodes "
        "them each time they are needed.",
        STANDARD.store,
        type=click.Choice(STORES),
    ),
    "precision": _option(
        "Compute",
        "Number format of convolutions and matrix products; auto is bf16 where the hardware supports it.",
        STANDARD.precision,
        type=click.Choice(PRECISIONS),
    ),
    "cache_views": _option(
        "Recipe",
        "Augment each image in K ways, used in turn by every variant, with cached frozen-layer outputs.",
        "new augmentations in each epoch",
        type=_views,
        metavar="K|auto",
    ),
    "keep_states": _option(
        "Output",
        "Keep this many training states (90 MB each) of each run, from which grader --replay can continue.",
        STANDARD.keep_states,
        type=int,
    ),
    "track": _option(
        "Output",
        "Also write for TensorBoard (into the run folder) or MLflow; may be repeated.",
        "neither",
        type=click.Choice(TRACKERS),
        multiple=True,
        callback=lambda _context, _parameter, names: tuple(dict.fromkeys(names)) or None,
    ),
}
"""The options that set a field of the configuration, by name, with their heading in the help."""

IMAGE_OPTIONS = (
    *("preset", "dataset", "data_root", "split", "subset", "image_size", "split_seed", "resplit"),
    *("seed", "seeds", "on_bad_image", "near_duplicates", "workers"),
)
"""Those that decide which images are decoded, and how."""


def option(name: str, default: object = None, **attributes: Any) -> Callable[[Command], Command]:
    """One of `OPTIONS`.

    Args:
        name: its key.
        default: shown in the help instead of the usual one.
        attributes: of this command's, in place of the usual ones.
    """
    attributes = OPTIONS[name] | attributes
    usual = attributes.pop("default_text")
    attributes["help"] += f"  [default: {usual if default is None else default}]"
    return click.option(f"--{name.replace('_', '-')}", cls=Option, default=None, **attributes)


def takes_config(*names: str, **defaults: Any) -> Callable[[Command], Command]:
    """Give a command these options, and call it with the `ExperimentConfig` that they make up as `config`.

    Args:
        names: keys of `OPTIONS`; none means all.
        defaults: values that this command uses where neither option nor preset should decide.
    """
    names = names or tuple(OPTIONS)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def configured(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in names}
            given = {**defaults, **{name: value for name, value in given.items() if value is not None}}
            return command(config=configured_by(given, configure), **arguments)

        wrapped: Command = configured
        for name in reversed(names):
            shown = (
                "OMP_NUM_THREADS, else one per core" if name == "workers" and "threads" not in names else None
            )
            wrapped = option(name, defaults.get(name, shown))(wrapped)
        return wrapped

    return decorate


def _set_limit(context: click.Context, _option: click.Parameter, size: str | None) -> None:
    if size is None:
        return
    from finetune.system.files import parse_size

    parse_size(size, shown(context, "cache_limit"))
    # Not in the configuration, because it changes no result; and set without data.cache, which imports torch.
    os.environ["FINETUNE_CACHE_LIMIT"] = size


def cache_limit(command: Command) -> Command:
    """Give a command that decodes images the option `--cache-limit`, which its function does not receive."""
    return click.option(
        "--cache-limit",
        cls=Option,
        group="Compute",
        metavar="SIZE",
        expose_value=False,
        callback=_set_limit,
        help="Remove the least recently used images from the cache above this size, such as 500MB.  "
        "[default: FINETUNE_CACHE_LIMIT, else 10GB]",
    )(command)


def checked_threads(command: Command) -> Command:
    """Give a command the option `--threads`, whose value is a number even if it was not given.

    It is checked before PyTorch is imported, whose OpenMP prints a warning of its own.
    """

    def check(_context: click.Context, _option: click.Parameter, given: int | None) -> int:
        from finetune.system.host import choose_threads

        return choose_threads(given)

    return option("threads", callback=check)(command)


def begin_training(config: ExperimentConfig) -> StopRequest:
    """Prepare this process for training, before PyTorch is imported; returns what signals stop it through.

    Raises:
        ConfigError: OMP_NUM_THREADS breaks its rule; OpenMP itself would print a warning and go on.
    """
    from finetune.system import host

    host.choose_threads(config.threads)
    host.keep_freed_memory()
    stop = StopRequest()
    stop.install()
    return stop
