"""The results file as typed, immutable records, built only from a document that is valid under the schema."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from grader.submission.near_duplicates import NearDuplicates, near_duplicates_from
from grader.submission.parts import (
    Artifact,
    Artifacts,
    Budget,
    Calibration,
    Metrics,
    Parameter,
    Split,
    State,
    VariantConfig,
)
from grader.submission.trials import Choice, Round, Trial, TrialCommitment, Tuning

SPLITS = ("val", "test")

T = TypeVar("T")


def run_name(variant: str, seed: int) -> str:
    """The name of a run in messages, with which the names of its files begin, such as `B-seed0`."""
    return f"{variant}-seed{seed}"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split and the evaluations after it."""

    epoch: int
    learning_rate: float
    train: Metrics
    val: Metrics
    test: Metrics
    train_seconds: float
    train_cpu_seconds: float | None
    data_wait_seconds: float
    evaluation_seconds: float
    weights_sha256: str | None
    predictions_sha256: str | None
    commitment: str | None

    def on(self, split: str) -> Metrics:
        """The metrics on `train`, `val` or `test`."""
        return {"train": self.train, "val": self.val, "test": self.test}[split]


@dataclass(frozen=True, slots=True)
class Run:
    """One variant trained with one seed."""

    variant: str
    seed: int
    status: str
    failure: str | None
    init: str
    initial_sha256: str
    trained_groups: tuple[str, ...]
    trainable_parameters: tuple[Parameter, ...]
    n_trained: int
    n_frozen: int
    frozen_sha256_before: str
    frozen_sha256_after: str
    learning_rate: float
    trial: int | None
    budget: Budget
    epochs: tuple[Epoch, ...]
    best_epoch: int | None
    calibration: Calibration | None
    total_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    artifacts: Artifacts | None
    states: tuple[State, ...]

    @property
    def name(self) -> str:
        """Its name in messages and the stem of its files."""
        return run_name(self.variant, self.seed)

    @property
    def best(self) -> Epoch | None:
        """The epoch numbered `best_epoch`; None if it is not listed."""
        return next((epoch for epoch in self.epochs if epoch.epoch == self.best_epoch), None)


@dataclass(frozen=True, slots=True)
class Results:
    """One experiment: its configuration, its data set and its runs."""

    schema_version: str
    created_at: str
    dataset_name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    resplits: Mapping[int, Mapping[str, Split]] | None
    near_duplicates: Mapping[int, NearDuplicates]
    split_rule: str
    split_seed: int
    seed_from: str | None
    subset: int | None
    excluded: frozenset[str]
    seeds: tuple[int, ...]
    resplit: bool
    tune: str | None
    variants: tuple[VariantConfig, ...]
    epochs: int
    batch_size: int
    image_size: int
    lr: float
    recipe: Mapping[str, Any]
    statistics: str
    precision: str
    device: str
    environment: Mapping[str, Any]
    keep_states: int
    processes: int
    cache_views: int | None
    configured_weights: str
    weights: Mapping[str, Any] | None
    timings: Mapping[str, float]
    tuning: Tuning | None
    runs: tuple[Run, ...]

    @property
    def completed(self) -> list[Run]:
        """The runs that were completed, in file order."""
        return [run for run in self.runs if run.status == "completed"]

    def of(self, variant: str) -> Iterator[Run]:
        """The completed runs of one variant that have a best epoch, in file order."""
        return (run for run in self.completed if run.variant == variant and run.best)

    def variant(self, name: str) -> VariantConfig | None:
        """The configured variant of that name."""
        return next((v for v in self.variants if v.name == name), None)

    def epochs_of(self, variant: str) -> int:
        """The epochs configured for a variant."""
        configured = self.variant(variant)
        return (configured and configured.epochs) or self.epochs

    def adapts(self, run: Run) -> bool:
        """Whether the BatchNorm statistics of a run's frozen layers follow the images."""
        configured = self.variant(run.variant)
        return configured is not None and configured.norm == "adapt"

    def has_head(self, run: Run) -> bool:
        """Whether a run's initial fc comes from another run."""
        configured = self.variant(run.variant)
        return configured is not None and configured.head is not None

    def splits_of(self, seed: int | None) -> Mapping[str, Split]:
        """The splits that runs with a seed use; None stands for trials whose splits all seeds share."""
        return self.splits if self.resplits is None or seed is None else self.resplits.get(seed, self.splits)


VARIANT_1 = {"epochs": None, "norm": "frozen", "head": None}
"""What version 1 of the schema, which could not say otherwise, means for a variant."""


def results_from(document: Mapping[str, Any]) -> Results:
    """Build the records from a valid document, of this version of the schema or an earlier one."""
    config, dataset = document["config"], document["dataset"]
    resplits = dataset.get("resplits")
    return Results(
        schema_version=document["schema_version"],
        created_at=document["created_at"],
        dataset_name=dataset["name"],
        classes=tuple(dataset["classes"]),
        splits=_splits(dataset["splits"]),
        resplits=resplits and {entry["seed"]: _splits(entry["splits"]) for entry in resplits},
        near_duplicates=near_duplicates_from(dataset, config["seeds"]),
        split_rule=config["split"],
        split_seed=config.get("split_seed", config["seeds"][0]),
        seed_from=config.get("seed_from"),
        subset=config["subset"],
        excluded=frozenset(entry["sample_id"] for entry in dataset["excluded"]),
        seeds=tuple(config["seeds"]),
        resplit=config.get("resplit", False),
        tune=config.get("tune"),
        variants=tuple(_take(VariantConfig, VARIANT_1 | variant) for variant in config["variants"]),
        epochs=config["recipe"]["epochs"],
        batch_size=config["recipe"]["batch_size"],
        image_size=config["recipe"]["image_size"],
        lr=config["recipe"]["lr"],
        recipe=config["recipe"],
        statistics=config["recipe"].get("statistics", "running"),
        precision=config.get("precision", "fp32"),
        device=document["environment"]["device"],
        environment=document["environment"],
        keep_states=config.get("keep_states", 0),
        processes=config.get("processes", 1),
        cache_views=config.get("cache_views"),
        configured_weights=config["weights"],
        weights=document["weights"],
        timings=document["timings"],
        tuning=_tuning(document.get("tuning")),
        runs=tuple(_run({"trial": None, "calibration": None} | run) for run in document["runs"]),
    )


def _splits(splits: Mapping[str, Any]) -> Mapping[str, Split]:
    return {name: _take(Split, split) for name, split in splits.items()}


def _tuning(tuning: Mapping[str, Any] | None) -> Tuning | None:
    if tuning is None:
        return None
    return _take(
        Tuning,
        tuning,
        rounds=tuple(_take(Round, entry) for entry in tuning["rounds"]),
        trials=tuple(
            _take(
                Trial,
                trial,
                validation=tuple(_take(Metrics, m) for m in trial["validation"]),
                commitments=tuple(
                    _take(TrialCommitment, entry, train=_take(Metrics, entry["train"]))
                    for entry in trial["commitments"]
                ),
            )
            for trial in tuning["trials"]
        ),
        choices=tuple(_take(Choice, choice) for choice in tuning["choices"]),
    )


EPOCH_1 = dict.fromkeys(("train_cpu_seconds", "weights_sha256", "predictions_sha256", "commitment"))
"""What version 1 of the schema did not record of an epoch."""


def _run(run: Mapping[str, Any]) -> Run:
    artifacts = run["artifacts"]
    return _take(
        Run,
        run,
        trainable_parameters=tuple(_take(Parameter, p) for p in run["trainable_parameters"]),
        budget=_take(Budget, run["budget"]),
        calibration=run["calibration"] and _take(Calibration, run["calibration"]),
        epochs=tuple(
            _take(
                Epoch,
                EPOCH_1 | epoch,
                **{split: _take(Metrics, epoch[split]) for split in ("train", "val", "test")},
            )
            for epoch in run["epochs"]
        ),
        artifacts=artifacts and _take(Artifacts, {k: _take(Artifact, v) for k, v in artifacts.items()}),
        states=tuple(_take(State, state) for state in run.get("states", ())),
    )


def _take(record: type[T], found: Mapping[str, Any], **built: Any) -> T:
    """Fill a dataclass from a JSON object, ignoring fields of later minor versions."""
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    values = {name: built[name] if name in built else found[name] for name in names}
    return record(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
