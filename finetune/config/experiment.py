"""What an experiment is: variants, recipe, data. Frozen, checked once."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from finetune.errors import ConfigError

GROUPS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
"""Top-level children of torchvision's ResNet that have parameters, from input to output."""

SEED_MAX = 2**32 - 1
"""Random generators take no seed beyond some size; this one fits them all."""

SPLITS = ("70-15-15", "official")
DEVICES = ("auto", "cpu", "cuda")
ON_BAD_IMAGE = ("fail", "skip")
STORES = ("auto", "device", "memory", "disk", "off")
PRECISIONS = ("auto", "fp32", "bf16")
INITS = ("random", "pretrained")


def require(holds: bool, what: str, rule: str, value: object) -> None:
    """Make sure that a value keeps its rule.

    Raises:
        ConfigError: it does not.
    """
    if not holds:
        raise ConfigError(f"{what} must be {rule}, but {value!r} was given.")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nameable(value: str) -> bool:
    """Whether the system could have a file of that name at all."""
    path = value.encode("utf-8", "surrogateescape")
    return b"\0" not in path and len(path) < 4096 and all(len(part) < 256 for part in path.split(b"/"))


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the network: a row of data, not a code path.

    Args:
        name: letters, digits, hyphens and underscores; at most 32; unique whatever the case.
        init: where the weights start, `random` or `pretrained`.
        train: `all`, or names out of `GROUPS`; everything else is frozen.
        lr: peak learning rate of this variant alone; None takes the recipe's.

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
        require(self.init in INITS, f"init of variant {self.name}", "random or pretrained", self.init)
        listed = isinstance(self.train, str | tuple)
        unknown = [g for g in self.groups if g not in GROUPS] if listed else [self.train]
        require(
            not unknown and len(self.groups) > 0 and len(set(self.groups)) == len(self.groups),
            f"train of variant {self.name}",
            f'"all" or a list of groups out of {", ".join(GROUPS)}',
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
    "lr": ("a number above 0", lambda v: v > 0),
    "momentum": ("a number from 0 up to, but not including, 1", lambda v: 0 <= v < 1),
    "weight_decay": ("a number of at least 0", lambda v: v >= 0),
    "warmup_epochs": ("a number of at least 0", lambda v: v >= 0),
    "crop_area_min": ("a number above 0 and at most 1", lambda v: 0 < v <= 1),
    "flip_probability": ("a number from 0 to 1", lambda v: 0 <= v <= 1),
}
"""What a recipe's fractional numbers must be."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How every variant is trained. Lengths in epochs, sizes in pixels.

    Args:
        epochs: passes over the training split.
        batch_size: images in a step; the last step of an epoch may have fewer.
        lr: peak learning rate of SGD.
        momentum: Nesterov momentum.
        weight_decay: on convolution and linear weights; none on biases and BatchNorm.
        warmup_epochs: linear warm-up before the cosine decay; a fraction is allowed.
        image_size: height and width of the network's input.
        crop_area_min: smallest share of the image's area that a random training crop covers
            (Szegedy et al. 2015, "Going deeper with convolutions": 0.08).
        flip_probability: chance that a training image is mirrored left to right.

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
        preset: name of the preset it came from, for the record.
        dataset: `flowers102`, `digits` or `imagefolder:PATH`.
        data_root: folder that downloads go to and are read from.
        split: `70-15-15`, `official`, or None: official for a folder that comes divided, else 70-15-15.
        subset: at most this many images a class in each split; None keeps all.
        weights: `imagenet`, `bundled`, a weights file or an earlier run folder.
        seed: the first seed; it also seeds split and subset.
        seeds: how many seeds to train: seed, seed + 1, ...
        device: `auto`, `cpu` or `cuda`.
        workers: threads that decode and augment; None takes one a core.
        store: where decoded images lie: `device` (the GPU), `memory`, `disk`, or `off`, to decode them anew
            each time; `auto` takes the first of these that has room.
        precision: `fp32`, `bf16`, or `auto`: bf16 on a GPU or processor that computes in it, else fp32.
        cache_views: number of augmented views of each training image, shared by variants and seeds, for which
            the outputs of frozen layers are kept; `auto`: one an epoch if several seeds share them and a
            quarter of the free memory holds them; None draws fresh ones for each epoch and seed.
        processes: how many share each batch, each normalising its share by itself.
        on_bad_image: `fail`, or `skip` to go on without images that cannot be read.
        deterministic: on a GPU, only algorithms that give the same result each time.
        variants: in the order they are trained.
        recipe: the same for all of them.

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
    workers: int | None = None
    store: str = "auto"
    precision: str = "auto"
    cache_views: int | str | None = None
    processes: int = 1
    on_bad_image: str = "fail"
    deterministic: bool = False
    variants: tuple[Variant, ...] = STANDARD_VARIANTS
    recipe: Recipe = Recipe()

    def __post_init__(self) -> None:
        known = self.dataset in ("flowers102", "digits") or self.dataset.removeprefix("imagefolder:") not in (
            "",
            self.dataset,
        )
        require(known, "dataset", "flowers102, digits or imagefolder:PATH", self.dataset)
        for name in ("dataset", "data_root", "weights"):
            value = getattr(self, name)
            require(_nameable(value), name, "a path without null characters and overlong names", value)
        require(self.split in (None, *SPLITS), "split", " or ".join(SPLITS), self.split)
        require(self.device in DEVICES, "device", "auto, cpu or cuda", self.device)
        require(self.store in STORES, "store", "auto, device, memory, disk or off", self.store)
        require(self.precision in PRECISIONS, "precision", "auto, fp32 or bf16", self.precision)
        require(
            self.cache_views in (None, "auto") or _whole(self.cache_views, 1),
            "cache_views",
            "auto or a whole number of at least 1",
            self.cache_views,
        )
        require(
            self.processes == 1 or self.cache_views is None,
            "cache_views with --parallel data",
            "left out",
            self.cache_views,
        )
        require(self.on_bad_image in ON_BAD_IMAGE, "on_bad_image", "fail or skip", self.on_bad_image)
        require(isinstance(self.deterministic, bool), "deterministic", "true or false", self.deterministic)
        for name in ("subset", "seeds", "workers", "processes"):
            value = getattr(self, name)
            optional = name in ("subset", "workers") and value is None
            require(optional or _whole(value, 1), name, "a whole number of at least 1", value)
        last = self.seed + self.seeds - 1 if _whole(self.seed, 0) else -1
        require(0 <= last <= SEED_MAX, "seed", f"a whole number from 0 to {SEED_MAX:,}", self.seed)
        names = [v.name.casefold() for v in self.variants]
        require(len(names) > 0, "variants", "a list of at least one", [])
        require(len(set(names)) == len(names), "names of variants", "different, whatever their case", names)

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds to train, in order."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def pick(self, names: str) -> ExperimentConfig:
        """The same experiment with only the variants named in a comma-separated list, in the list's order.

        Raises:
            ConfigError: a name is unknown; the message lists the valid ones.
        """
        rows = {v.name.casefold(): v for v in self.variants}
        wanted = [n.strip().casefold() for n in names.split(",")]
        for name in wanted:
            valid = ", ".join(v.name for v in self.variants)
            require(name in rows, "Each of --variants", f"one of {valid}", name)
        return dataclasses.replace(self, variants=tuple(rows[n] for n in wanted))
