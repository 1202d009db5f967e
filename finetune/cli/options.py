"""Options that several commands share, and the configuration that they make up."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from finetune.config.experiment import (
    DEVICES,
    ON_BAD_IMAGE,
    PRECISIONS,
    SPLITS,
    STORES,
    ExperimentConfig,
    Recipe,
)
from finetune.config.presets import load_preset
from finetune.system.signals import StopRequest

Command = Callable[..., Any]

RECIPE_FIELDS = {field.name for field in dataclasses.fields(Recipe)}
FOLDER = click.Path(path_type=Path)


def _views(value: str) -> int | str:
    """The value of `--cache-views`; the configuration validates it."""
    return int(value) if value.isascii() and value.isdigit() else value


def _option(text: str, default: object, **attributes: Any) -> dict[str, Any]:
    return {"help": text, "default_text": default, **attributes}


STANDARD = ExperimentConfig()
RECIPE = STANDARD.recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "preset": _option("Preset name, or path of a TOML file in the same format.", STANDARD.preset),
    "dataset": _option("flowers102, digits, or imagefolder:PATH (a folder per class).", STANDARD.dataset),
    "data_root": _option("Folder for downloads.", STANDARD.data_root),
    "split": _option(
        "How to split the images: randomly, or as the data set's authors did.",
        "70-15-15, or official for an image folder with train/",
        type=click.Choice(SPLITS),
    ),
    "subset": _option("Use at most this many images per class in each split.", "all", type=int),
    "weights": _option(
        "Pretrained weights: imagenet, bundled, a .safetensors or .pth file, or a run folder.",
        STANDARD.weights,
    ),
    "variants": _option("Variants to train, such as a,c.", "all in the preset"),
    "epochs": _option("Passes over the training images.", RECIPE.epochs, type=int),
    "batch_size": _option("Images per training step.", RECIPE.batch_size, type=int),
    "lr": _option("Peak learning rate, for every variant.", RECIPE.lr, type=float),
    "image_size": _option("Height and width of the network's input in pixels.", RECIPE.image_size, type=int),
    "seed": _option("First seed; it also determines the split.", STANDARD.seed, type=int),
    "seeds": _option("Number of seeds to train each variant with.", STANDARD.seeds, type=int),
    "device": _option("Where to compute.", STANDARD.device, type=click.Choice(DEVICES)),
    "on_bad_image": _option(
        "Stop if an image cannot be read, or skip such images.",
        STANDARD.on_bad_image,
        type=click.Choice(ON_BAD_IMAGE),
    ),
    "deterministic": _option("On a GPU, use deterministic algorithms only.", "off", is_flag=True),
    "threads": _option("CPU threads for computation.", "OMP_NUM_THREADS, else one per core", type=int),
    "workers": _option("Threads that decode and augment images.", "same as --threads", type=int),
    "store": _option(
        "Where decoded images are kept during the run: GPU memory (device), memory or disk; off decodes "
        "them each time they are needed.",
        STANDARD.store,
        type=click.Choice(STORES),
    ),
    "precision": _option(
        "Number format of convolutions and matrix products; auto is bf16 where the hardware supports it.",
        STANDARD.precision,
        type=click.Choice(PRECISIONS),
    ),
    "cache_views": _option(
        "Augment each image in K ways, used in turn by every variant, with cached frozen-layer outputs.",
        "augment anew in each epoch",
        type=_views,
        metavar="K|auto",
    ),
    "keep_states": _option(
        "Keep this many training states (90 MB each) of each run, from which grader --replay can go on.",
        STANDARD.keep_states,
        type=int,
    ),
}
"""The options that set a field of the configuration, in the order of the help."""

IMAGE_OPTIONS = (
    "preset",
    "dataset",
    "data_root",
    "split",
    "subset",
    "image_size",
    "seed",
    "on_bad_image",
    "workers",
)
"""Those that decide which images are decoded, and how."""


def option(name: str, default: object = None) -> Callable[[Command], Command]:
    """One of `OPTIONS`.

    Args:
        name: its key.
        default: shown in the help in place of the usual one.
    """
    attributes = dict(OPTIONS[name])
    usual = attributes.pop("default_text")
    attributes["help"] += f"  [default: {usual if default is None else default}]"
    return click.option(f"--{name.replace('_', '-')}", default=None, **attributes)


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
            return command(config=configure(given), **arguments)

        wrapped: Command = configured
        for name in reversed(names):
            wrapped = option(name, defaults.get(name))(wrapped)
        return wrapped

    return decorate


def _set_limit(_context: click.Context, _option: click.Parameter, size: str | None) -> None:
    if size is None:
        return
    from finetune.system.files import parse_size

    parse_size(size, "--cache-limit")
    # Not in the configuration, because it changes no result; and set without data.cache, which imports torch.
    os.environ["FINETUNE_CACHE_LIMIT"] = size


def cache_limit(command: Command) -> Command:
    """Give a command that decodes images the option `--cache-limit`, which its function does not receive."""
    return click.option(
        "--cache-limit",
        metavar="SIZE",
        expose_value=False,
        callback=_set_limit,
        help="Remove the least recently used images from the cache above this size, such as 500MB.  "
        "[default: FINETUNE_CACHE_LIMIT, else 10GB]",
    )(command)


def configure(given: Mapping[str, Any]) -> ExperimentConfig:
    """A preset with the options that were given in place of its own values.

    Args:
        given: values by field of `ExperimentConfig` or `Recipe`; `variants` as in "a,c".

    Raises:
        ConfigError: an unknown preset or variant, or a value that breaks its rule.
    """
    fields = dict(given)
    config = load_preset(fields.pop("preset", STANDARD.preset))
    variants = fields.pop("variants", None)
    recipe = {name: fields.pop(name) for name in RECIPE_FIELDS & fields.keys()}
    rows = config.variants
    if "lr" in recipe:  # the option is for every variant, so it overrides a variant's own rate in the preset
        rows = tuple(dataclasses.replace(row, lr=None) for row in rows)
    # The preset may be the configuration of a run of several processes; a new run decides for itself.
    fields |= {"processes": 1, "variants": rows, "recipe": dataclasses.replace(config.recipe, **recipe)}
    config = dataclasses.replace(config, **fields)
    return config if variants is None else config.pick(variants)


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
