"""The configuration of an experiment: variants, recipe, data. Immutable, validated when constructed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune.errors import ConfigError

GROUPS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
"""The groups of layers, from input to output: the children of torchvision's ResNet that have parameters."""

SEED_MAX = 2**32 - 1
"""The largest seed that every random number generator in use accepts."""

DATASETS = ("flowers102", "digits", "imagefolder:PATH")
SPLITS = ("70-15-15", "official")
DEVICES = ("auto", "cpu", "cuda")
ON_BAD_IMAGE = ("fail", "skip")
STORES = ("auto", "device", "memory", "disk", "off")
PRECISIONS = ("auto", "fp32", "bf16")
INITS = ("random", "pretrained")


def require(holds: bool, what: str, rule: str, value: object) -> None:
    """Raise an error unless a value meets its rule.

    Args:
        holds: whether it does.
        what: what the value is for, as the subject of the message.
        rule: what it must be, to follow "must be".
        value: as it was given.

    Raises:
        ConfigError: the value breaks the rule.
    """
    if not holds:
        raise ConfigError(f"{what} must be {rule}, but {value!r} was given.")


def _require_choice(what: str, choices: tuple[str, ...], value: object) -> None:
    require(value in choices, what, f"{', '.join(choices[:-1])} or {choices[-1]}", value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nameable(value: str) -> bool:
    """Whether the operating system allows a path of that name."""
    path = value.encode("utf-8", "surrogateescape")
    return b"\0" not in path and len(path) < 4096 and all(len(part) < 256 for part in path.split(b"/"))


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the network: a row of data, not a code path.

    Args:
        name: a letter, then at most 31 letters, digits, hyphens or underscores; unique, ignoring case.
        init: initial weights, `random` or `pretrained`.
        train: `all`, or names from `GROUPS`; everything else is frozen.
        lr: peak learning rate of this variant; None means the recipe's.

    Raises:
        ConfigError: a field breaks its rule.
    """

    name: str
    init: str
    train: str | tuple[str, ...]
    lr: float | None = None

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,31}", self.name) is not None,
            "A variant's name",
            "a letter, then at most 31 letters, digits, hyphens or underscores",
            self.name,
        )
        _require_choice(f"init of variant {self.name}", INITS, self.init)
        listed = isinstance(self.train, str | tuple)
        unknown = [g for g in self.groups if g not in GROUPS] if listed else [self.train]
        require(
            not unknown and len(self.groups) > 0 and len(set(self.groups)) == len(self.groups),
            f"train of variant {self.name}",
            f'"all" or a list of different groups from {", ".join(GROUPS)}',
            unknown[0] if unknown else self.train,
        )
        require(
            self.lr is None or (_number(self.lr) and self.lr > 0),
            f"lr of variant {self.name}",
            "a number above 0",
            self.lr,
        )

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this variant trains."""
        if self.train == "all":
            return GROUPS
        return (self.train,) if isinstance(self.train, str) else tuple(self.train)


STANDARD_VARIANTS = (
    Variant(name="A", init="random", train="all"),
    Variant(name="B", init="pretrained", train="all"),
    Variant(name="C", init="pretrained", train=("layer4", "fc")),
)


RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "image_size": ("at most 65,536 pixels", lambda v: v <= 1 << 16),  # far beyond any memory
    "lr": ("a number above 0", lambda v: v > 0),
    "momentum": ("a number from 0 up to, but not including, 1", lambda v: 0 <= v < 1),
    "weight_decay": ("a number of at least 0", lambda v: v >= 0),
    "warmup_epochs": ("a number of at least 0", lambda v: v >= 0),
    "crop_area_min": ("a number above 0 and at most 1", lambda v: 0 < v <= 1),
    "flip_probability": ("a number from 0 to 1", lambda v: 0 <= v <= 1),
}
"""The rule for each number of a recipe that may have a fraction, and the largest image size."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every variant is trained.

    Args:
        epochs: passes over the training split.
        batch_size: images per step; the last step of an epoch may have fewer.
        lr: peak learning rate of SGD.
        momentum: Nesterov momentum.
        weight_decay: for convolution and linear weights; biases and BatchNorm have none.
        warmup_epochs: epochs of linear warm-up before the cosine decay; may have a fraction.
        image_size: height and width of the network's input, pixels.
        crop_area_min: smallest fraction of the image's area that a random training crop covers
            (Szegedy et al. 2015, "Going deeper with convolutions": 0.08).
        flip_probability: probability that a training image is flipped left to right.

    Raises:
        ConfigError: a field breaks its rule.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    image_size: int = 224
    crop_area_min: float = 0.08
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("image_size", 8)):
            value = getattr(self, name)
            require(_whole(value, least), name, f"a whole number of at least {least}", value)
        for name, (rule, holds) in RANGES.items():
            value = getattr(self, name)
            require(_number(value) and holds(value), name, rule, value)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment: every variant with every seed on the same images.

    Args:
        preset: name of the preset it is based on, for the record.
        dataset: `flowers102`, `digits` or `imagefolder:PATH`.
        data_root: folder for downloads.
        split: `70-15-15`, `official`, or None: official for an image folder with train/, else 70-15-15.
        subset: maximum number of images per class in each split; None means all.
        weights: pretrained weights: `imagenet`, `bundled`, a file or a run folder.
        seed: the first seed; it also determines split and subset.
        seeds: number of seeds to train each variant with: seed, seed + 1, ...
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads that compute; None means OMP_NUM_THREADS, else one per core.
        workers: threads that decode and augment images; None means as many as `threads`.
        store: where decoded images are kept during the run: `device` (GPU memory), `memory`, `disk`, or `off`
            to decode them each time they are needed; `auto` is the first of these with enough space.
        precision: `fp32`, `bf16`, or `auto`: bf16 where the GPU or CPU has instructions for it, else fp32.
        cache_views: number of augmented views of each training image, shared by variants and seeds, with
            cached frozen-layer outputs; `auto`: one per epoch if several seeds share them and they fit into a
            quarter of the free memory; None augments anew for each epoch and seed.
        keep_states: number of training states that each run keeps, so that epochs can be replayed; the epochs
            are drawn in the course of training.
        processes: number of processes that divide each batch, with batch statistics of their own.
        on_bad_image: `fail`, or `skip` to train without the images that cannot be read.
        deterministic: on a GPU, use deterministic algorithms only.
        variants: in training order.
        recipe: the same for all variants.

    Raises:
        ConfigError: a field breaks its rule.
    """

    preset: str = "flowers102"
    dataset: str = "flowers102"
    data_root: str = "data"
    split: str | None = None
    subset: int | None = None
    weights: str = "imagenet"
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    store: str = "auto"
    precision: str = "auto"
    cache_views: int | str | None = None
    keep_states: int = 0
    processes: int = 1
    on_bad_image: str = "fail"
    deterministic: bool = False
    variants: tuple[Variant, ...] = STANDARD_VARIANTS
    recipe: Recipe = Recipe()

    def __post_init__(self) -> None:
        folder = self.dataset.startswith("imagefolder:") and self.dataset != "imagefolder:"
        if not folder:
            _require_choice("dataset", DATASETS, self.dataset)
        for name in ("dataset", "data_root", "weights"):
            value = getattr(self, name)
            require(_nameable(value), name, "a path without null characters and overlong names", value)
        if self.split is not None:
            _require_choice("split", SPLITS, self.split)
        _require_choice("device", DEVICES, self.device)
        _require_choice("store", STORES, self.store)
        _require_choice("precision", PRECISIONS, self.precision)
        _require_choice("on_bad_image", ON_BAD_IMAGE, self.on_bad_image)
        views, cached = self.cache_views, self.cache_views is not None
        valid = not cached or views == "auto" or _whole(views, 1)
        require(valid, "cache_views", "auto or a whole number of at least 1", views)
        require(self.processes == 1 or not cached, "cache_views with --parallel data", "left out", views)
        kept, most = self.keep_states, self.recipe.epochs - 1
        require(
            _whole(kept, 0) and kept <= most,
            "keep_states",
            f"from 0 to {most}, one less than the epochs",
            kept,
        )
        require(self.processes == 1 or not kept, "keep_states with --parallel data", "left out", kept)
        require(isinstance(self.deterministic, bool), "deterministic", "true or false", self.deterministic)
        for name in ("subset", "seeds", "threads", "workers", "processes"):
            value = getattr(self, name)
            optional = name in ("subset", "threads", "workers") and value is None
            require(optional or _whole(value, 1), name, "a whole number of at least 1", value)
        last = self.seed + self.seeds - 1 if _whole(self.seed, 0) else -1
        require(0 <= last <= SEED_MAX, "seed", f"a whole number from 0 to {SEED_MAX:,}", self.seed)
        names = [v.name.casefold() for v in self.variants]
        require(len(names) > 0, "variants", "a list of at least one", [])
        require(len(set(names)) == len(names), "names of variants", "different, ignoring case", names)

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds to train, in order."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def pick(self, names: str) -> ExperimentConfig:
        """The same experiment with only the variants in a comma-separated list, in that order.

        Raises:
            ConfigError: a name is unknown; the message lists the valid ones.
        """
        rows = {v.name.casefold(): v for v in self.variants}
        wanted = [n.strip().casefold() for n in names.split(",")]
        for name in wanted:
            valid = ", ".join(v.name for v in self.variants)
            require(name in rows, "variant", f"one of {valid}", name)
        return dataclasses.replace(self, variants=tuple(rows[n] for n in wanted))
