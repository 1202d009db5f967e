"""Options that several commands share, and the configuration that they make up."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from finetune.cli.command import configured_by, shown
from finetune.config.dataset import dataset_of
from finetune.config.experiment import (
    NEAR_DUPLICATES,
    ON_BAD_IMAGE,
    PRECISIONS,
    STORES,
    TRACKERS,
    ExperimentConfig,
    Recipe,
)
from finetune.config.prescribed import prescribe
from finetune.config.presets import load_preset
from finetune.config.rates import rates_of, with_rates
from finetune.config.tune import MODES, Tune
from finetune.errors import ConfigError
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
    "dataset": _option(
        "flowers102, digits, or a folder with a folder of images per class.", STANDARD.dataset
    ),
    "data_root": _option("Folder for downloads.", STANDARD.data_root),
    "split": _option(
        "How to split the images: percentages of each class for training, validation and test, such as "
        "80-10-10, or official: as the data set's authors did.",
        "70-15-15, or official for an image folder with train/",
        metavar="A-B-C|official",
    ),
    "subset": _option("Use at most this many images per class in each split.", "all", type=int),
    "weights": _option(
        "Pretrained weights: imagenet, bundled, a file (.safetensors, .pth, .pt, .ckpt), or a run folder.",
        STANDARD.weights,
    ),
    "variants": _option("Variants to train, such as a,c.", "all in the preset"),
    "epochs": _option("Passes over the training images.", RECIPE.epochs, type=int),
    "batch_size": _option("Images per training step.", RECIPE.batch_size, type=int),
    "lr": _option(
        "Peak learning rate: of every variant, or a=0.03,b=0.01. The default is verified at 64 px from the "
        "bundled weights alone; --tune chooses a rate for each variant.",
        RECIPE.lr,
        metavar="RATE",
    ),
    "tune": _option(
        "Choose each variant's peak learning rate on validation, by trials of the same rates for all: "
        "halving (all at a quarter of the epochs, the best two at half of them) or full (all at all epochs).",
        "off; without a value, halving",
        type=click.Choice((*MODES, "off")),
        is_flag=False,
        flag_value=MODES[0],
    ),
    "image_size": _option("Height and width of the network's input in pixels.", RECIPE.image_size, type=int),
    "split_seed": _option("Seed of the split and of --subset.", STANDARD.split_seed, type=int),
    "resplit": _option("Give each seed a split of its own.", "one split for all", is_flag=True),
    "seed": _option("First seed.", STANDARD.seed, type=int),
    "seed_from": _option("First seed that a course prescribes.", "--seed", metavar="NONCE:STUDENT"),
    "seeds": _option("Number of seeds to train each variant with.", STANDARD.seeds, type=int),
    "longer_scratch": _option(
        "Also train from random weights for K times the epochs, as another variant, such as A3.",
        "no such variant",
        type=int,
        metavar="K",
    ),
    "device": _option(
        "Where to compute: cpu, cuda, cuda:N (GPU number N), mps (Apple) or auto: cuda if possible.",
        STANDARD.device,
        metavar="NAME",
    ),
    "on_bad_image": _option(
        "Stop if an image cannot be read, or skip such images.",
        STANDARD.on_bad_image,
        type=click.Choice(ON_BAD_IMAGE),
    ),
    "near_duplicates": _option(
        "Report resized, re-encoded or mirrored copies across splits, or keep them together in one split.",
        STANDARD.near_duplicates,
        type=click.Choice(NEAR_DUPLICATES),
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
    "track": _option(
        "Also write for TensorBoard (into the run folder) or MLflow; may be repeated.",
        "neither",
        type=click.Choice(TRACKERS),
        multiple=True,
        callback=lambda _context, _parameter, names: tuple(dict.fromkeys(names)) or None,
    ),
}
"""The options that set a field of the configuration, in the order of the help."""

IMAGE_OPTIONS = (
    *("preset", "dataset", "data_root", "split", "subset", "image_size", "split_seed", "resplit"),
    *("seed", "seeds", "on_bad_image", "near_duplicates", "workers"),
)
"""Those that decide which images are decoded, and how."""


def option(name: str, default: object = None) -> Callable[[Command], Command]:
    """One of `OPTIONS`.

    Args:
        name: its key.
        default: shown in the help instead of the usual one.
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
            return command(config=configured_by(given, configure), **arguments)

        wrapped: Command = configured
        for name in reversed(names):
            wrapped = option(name, defaults.get(name))(wrapped)
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
        metavar="SIZE",
        expose_value=False,
        callback=_set_limit,
        help="Remove the least recently used images from the cache above this size, such as 500MB.  "
        "[default: FINETUNE_CACHE_LIMIT, else 10GB]",
    )(command)


def configure(given: Mapping[str, Any]) -> ExperimentConfig:
    """A preset whose values are overridden by the options that were given.

    Args:
        given: values by field of `ExperimentConfig` or `Recipe`; `variants` as in "a,c"; `lr` as `rates_of`
            takes it; `longer_scratch`.

    Raises:
        ConfigError: an unknown preset or variant, or a value that breaks its rule.
    """
    fields = dict(given)
    if "dataset" in fields:
        fields["dataset"] = dataset_of(fields["dataset"])
    prescribe(fields)
    config = load_preset(fields.pop("preset", STANDARD.preset))
    variants, longer = fields.pop("variants", None), fields.pop("longer_scratch", None)
    given_lr = fields.pop("lr", None)
    lr, own_lr = (None, {}) if given_lr is None else rates_of(given_lr)
    recipe = {name: fields.pop(name) for name in RECIPE_FIELDS & fields.keys()}
    recipe |= {} if lr is None else {"lr": lr}
    rows = config.variants
    tune = _tune(fields.pop("tune", None), config.tune, given_lr)
    if tune is not None or lr is not None:  # both are for every variant, so they override its own rate
        rows = tuple(dataclasses.replace(row, lr=None) for row in rows)
    # The preset may be the configuration of a run of several processes; a new run decides for itself.
    fields |= {
        "processes": 1,
        "tune": tune,
        "variants": rows,
        "recipe": dataclasses.replace(config.recipe, **recipe),
    }
    config = dataclasses.replace(config, **fields)
    config = config if variants is None else config.pick(variants)
    config = dataclasses.replace(config, variants=with_rates(config.variants, own_lr))
    return config if longer is None else config.with_longer_scratch(longer)


def _tune(given: str | None, preset: Tune | None, lr: object) -> Tune | None:
    """The preset's tuning, or what `--tune` says in its place.

    Raises:
        ConfigError: `--lr` was given too.
    """
    if given is None:
        tune = preset
    else:
        rates = preset.rates if preset else Tune().rates
        tune = None if given == "off" else Tune(mode=given, rates=rates)
    if tune is not None and lr is not None:
        advice = "name the rates to try in a preset, [tune] rates = [...]" if given else "add --tune off"
        raise ConfigError(
            f"With --tune trials choose the learning rate of each variant, but --lr {lr} was given too; "
            f"leave --lr out, or {advice}."
        )
    return tune


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


def takes_model(command: Command) -> Command:
    """Give a command the argument RUN, and the options that choose one of the networks that it trained."""
    seed = click.option("--seed", type=int, help="Seed of the network.  [default: the best on validation]")
    variant = click.option(
        "--variant",
        help="Variant of the network.  [default: the one that the verdict favors, else the best on "
        "validation]",
    )
    decorated: Command = click.argument("run", type=FOLDER)(variant(seed(command)))
    return decorated
