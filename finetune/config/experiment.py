"""The configuration of an experiment: variants, recipe, data. Immutable, validated when constructed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from finetune.config.names import DATASETS, require_device
from finetune.config.prescribed import require_prescribed
from finetune.config.rules import is_nameable, is_number, is_whole, require, require_choice
from finetune.config.split import require_split
from finetune.config.tune import Tune
from finetune.config.variant import STANDARD_VARIANTS, Variant, pick
from finetune.errors import ConfigError
from grader.submission.resnet18 import GROUPS

__all__ = ["GROUPS", "STANDARD_VARIANTS", "ExperimentConfig", "Recipe", "Variant", "pick", "require"]

SEED_MAX = 2**32 - 1
"""The largest seed that every random number generator in use accepts."""

ON_BAD_IMAGE = ("fail", "skip")
STORES = ("auto", "device", "memory", "disk", "off")
NEAR_DUPLICATES = ("report", "together")
TRACKERS = ("tensorboard", "mlflow")
PRECISIONS = ("auto", "fp32", "bf16")
STATISTICS = ("auto", "running", "reestimated")

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
        lr: peak learning rate of SGD. The default was chosen on two data sets at 64 px from the bundled
            weights; at 224 px from ImageNet weights it has not been verified (docs/benchmarks.md).
        momentum: Nesterov momentum.
        weight_decay: for convolution and linear weights; biases and BatchNorm have none.
        warmup_epochs: epochs of linear warm-up before the cosine decay; may have a fraction.
        statistics: what BatchNorm of the trained layers normalizes by in evaluation: the `running` averages
            of the training steps, averages `reestimated` on training images before each evaluation, or
            `auto`: reestimated where training has too few steps for running averages.
        image_size: height and width of the network's input, pixels.
        crop_area_min: smallest fraction of the image's area that a random training crop covers
            (Szegedy et al. 2015, "Going deeper with convolutions": 0.08).
        flip_probability: probability that a training image is flipped left to right.

    Raises:
        ConfigError: a field breaks its rule.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    statistics: str = "auto"
    image_size: int = 224
    crop_area_min: float = 0.08
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("image_size", 8)):
            value = getattr(self, name)
            require(is_whole(value, least), name, f"a whole number of at least {least}", value)
        for name, (rule, holds) in RANGES.items():
            value = getattr(self, name)
            require(is_number(value) and holds(value), name, rule, value)
        require_choice("statistics", STATISTICS, self.statistics)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One experiment: every variant with every seed on the same images.

    Args:
        preset: name of the preset it is based on, for the record.
        dataset: `flowers102`, `digits` or `imagefolder:PATH`.
        data_root: folder for downloads.
        split: shares in percent such as `70-15-15`, `official`, or None: official for an image folder with
            train/, else 70-15-15.
        subset: maximum number of images per class in each split; None means all.
        weights: pretrained weights: `imagenet`, `bundled`, a file or a run folder.
        split_seed: determines split and subset.
        seed_from: NONCE:STUDENT, from which a course derives the first seed; None if nobody prescribes it.
        resplit: give each seed a split of its own: that of split_seed + seed.
        seed: the first seed.
        seeds: number of seeds to train each variant with: seed, seed + 1, ...
        device: `auto` (a GPU that CUDA can use, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.
        threads: CPU threads that compute; None means OMP_NUM_THREADS, else one per core.
        workers: threads that decode and augment images; None means as many as `threads`.
        store: where decoded images are kept during the run: `device` (GPU memory), `memory`, `disk`, or `off`
            to decode them each time they are needed; `auto` is the first of these with enough space.
        precision: `fp32`, `bf16`, or `auto`: bf16 where the GPU or CPU has instructions for it, else fp32.
        cache_views: number of augmented views of each training image, shared by variants and seeds, with
            cached frozen-layer outputs; `auto`: one per epoch if several seeds or trials share them and they
            fit into a quarter of the free memory; None augments anew for each epoch and seed.
        keep_states: number of training states that each run keeps, so that epochs can be replayed; the epochs
            are drawn in the course of training.
        processes: number of processes that divide each batch, with batch statistics of their own.
        near_duplicates: `report` those across splits, or keep them `together` in one split.
        on_bad_image: `fail`, or `skip` to train without the images that cannot be read.
        deterministic: on a GPU, use deterministic algorithms only.
        tune: the trials that choose each variant's peak learning rate; None trains all at the recipe's.
        track: experiment trackers to write for as well: `tensorboard`, `mlflow`.
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
    split_seed: int = 0
    seed_from: str | None = None
    resplit: bool = False
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
    near_duplicates: str = "report"
    on_bad_image: str = "fail"
    deterministic: bool = False
    tune: Tune | None = None
    track: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = STANDARD_VARIANTS
    recipe: Recipe = Recipe()

    def __post_init__(self) -> None:
        folder = self.dataset.startswith("imagefolder:") and self.dataset != "imagefolder:"
        if not folder:
            require_choice("dataset", DATASETS, self.dataset)
        for name in ("dataset", "data_root", "weights"):
            value = getattr(self, name)
            require(is_nameable(value), name, "a path without null characters and overlong names", value)
        if self.split is not None:
            require_split(self.split)
        require_device(self.device)
        require_choice("store", STORES, self.store)
        require_choice("precision", PRECISIONS, self.precision)
        require_choice("near_duplicates", NEAR_DUPLICATES, self.near_duplicates)
        require_choice("on_bad_image", ON_BAD_IMAGE, self.on_bad_image)
        views, cached = self.cache_views, self.cache_views is not None
        valid = not cached or views == "auto" or is_whole(views, 1)
        require(valid, "cache_views", "auto or a whole number of at least 1", views)
        require(self.processes == 1 or not cached, "cache_views with --parallel data", "left out", views)
        kept, most = self.keep_states, min(map(self.epochs_of, self.variants), default=1) - 1
        require(
            is_whole(kept, 0) and kept <= most,
            "keep_states",
            f"from 0 to {most}, one less than the epochs",
            kept,
        )
        require(self.processes == 1 or not kept, "keep_states with --parallel data", "left out", kept)
        known = isinstance(self.track, tuple) and all(name in TRACKERS for name in self.track)
        require(known, "track", f"a list of {' and '.join(TRACKERS)}", self.track)
        for name in ("deterministic", "resplit"):
            value = getattr(self, name)
            require(isinstance(value, bool), name, "true or false", value)
        for name in ("subset", "seeds", "threads", "workers", "processes"):
            value = getattr(self, name)
            optional = name in ("subset", "threads", "workers") and value is None
            require(optional or is_whole(value, 1), name, "a whole number of at least 1", value)
        last = self.seed + self.seeds - 1 if is_whole(self.seed, 0) else -1
        require(0 <= last <= SEED_MAX, "seed", f"a whole number from 0 to {SEED_MAX:,}", self.seed)
        require(is_whole(self.split_seed, 0), "split_seed", "a whole number of at least 0", self.split_seed)
        require_prescribed(self.seed_from, self.seed, self.split_seed)
        if self.tune is not None:
            fixed = next((v for v in self.variants if v.lr is not None), None)
            require(fixed is None, "lr of a variant that is tuned", "left out", fixed and fixed.lr)
        names = [v.name.casefold() for v in self.variants]
        require(len(names) > 0, "variants", "a list of at least one", [])
        require(len(set(names)) == len(names), "names of variants", "different, ignoring case", names)
        self._require_heads()

    def _require_heads(self) -> None:
        """Check that each head comes from an earlier variant that trains it on the same starting weights."""
        earlier: list[Variant] = []
        for variant in self.variants:
            if variant.head is not None:
                valid = [v.name for v in earlier if v.init == variant.init and "fc" in v.groups]
                require(
                    variant.head in valid,
                    f"head of variant {variant.name}",
                    f"an earlier variant that trains fc from {variant.init} weights"
                    + (f" ({', '.join(valid)})" if valid else ", of which there is none"),
                    variant.head,
                )
                require(self.processes == 1, "head with --parallel data", "left out", variant.head)
            earlier.append(variant)

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds to train, in order."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def tuning_seed(self) -> int:
        """The seed of all trials, which is none of the final runs'."""
        after = self.seed + self.seeds
        return after if after <= SEED_MAX else self.seed - 1

    def split_seed_of(self, seed: int) -> int:
        """The seed of the split that a seed trains on; the same whatever other seeds a job has."""
        return self.split_seed + (seed if self.resplit else 0)

    def epochs_of(self, variant: Variant) -> int:
        """The passes over the training split that a variant makes."""
        return variant.epochs or self.recipe.epochs

    def with_longer_scratch(self, factor: int) -> ExperimentConfig:
        """The same experiment with one more row: the variant from random weights, for `factor` times as long.

        Raises:
            ConfigError: the factor is no whole number above 1, or no variant trains every layer from random
                weights.
        """
        require(is_whole(factor, 2), "longer-scratch", "a whole number of at least 2", factor)
        rows = list(self.variants)
        scratch = next((v for v in rows if v.init == "random" and set(v.groups) == set(GROUPS)), None)
        if scratch is None:
            raise ConfigError(
                "--longer-scratch repeats the variant that trains every layer from random weights, but "
                f"there is none among {', '.join(v.name for v in rows)}; add A to --variants."
            )
        longer = dataclasses.replace(
            scratch, name=f"{scratch.name}{factor}", epochs=factor * self.epochs_of(scratch)
        )
        rows.insert(rows.index(scratch) + 1, longer)
        return dataclasses.replace(self, variants=tuple(rows))

    def pick(self, names: str) -> ExperimentConfig:
        """The same experiment with only the variants in a comma-separated list, in that order.

        Raises:
            ConfigError: a name is unknown; the message lists the valid ones.
        """
        return dataclasses.replace(self, variants=pick(self.variants, names.split(",")))
