"""What a run's seed, weights and images determine before any training, computed again for the grader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.data.augment import Views, plan_epoch
from finetune.data.split_dataset import SplitDataset
from finetune.data.stream import training_stream
from finetune.errors import WeightsError
from finetune.network.network import Network, fingerprint
from finetune.network.resnet18 import build, state_shapes
from finetune.network.weights import NAMED_WEIGHTS, Weights, load_weights
from finetune.run.folder import RunFolder
from finetune.run.heads import put_head
from finetune.run.recorded import recorded_variant
from finetune.run.records import Json
from grader.submission.load import Submission
from grader.submission.record import Run
from grader.submission.trials import Trial


class Recomputation:
    """Starts and streams of a run folder's runs.

    Args:
        config: of the experiment, with `config.seed` the first seed.
        split: its images.
        found: the results.
        folder: where heads taken from other runs are.
        workers: threads that read the headers of the training images.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        split: SplitDataset,
        found: Submission,
        folder: RunFolder,
        workers: int,
    ) -> None:
        self.config = config
        self.split = split
        self.folder = folder
        self.results = found.results
        self.runs: list[Json] = found.document["runs"]
        self.workers = workers
        self.n_classes = len(split.dataset.classes)
        training = split.decoded["train"].samples
        self.images = training_stream(training, config.recipe.image_size, workers)
        self.views = Views(config.cache_views, config.seed) if isinstance(config.cache_views, int) else None
        self.weights, self.why = _weights(self.results.weights, self.n_classes)
        self.starts: dict[tuple[str, int], str] = {}
        self.streams: dict[tuple[int, int, int], str] = {}

    def of(self, run: Run, trained: Network) -> Json:
        """What must hold for one run.

        Args:
            run: as recorded.
            trained: with the weights of its checkpoint.

        Returns:
            `initial_sha256` and `frozen_sha256` of its start and `unchanged`, the trained kernels that are
            still as they were there; the three are None if the weights or the run that gives the head are not
            at hand, and `why` says why. `stream_sha256` of its training images in order; None for a failed
            run.
        """
        completed = run.status == "completed"
        found: Json = {
            "stream_sha256": self.stream(run.seed, len(run.epochs)) if completed else None,
            **dict.fromkeys(("initial_sha256", "frozen_sha256", "unchanged")),
            "why": self.why if run.init == "pretrained" else "",
        }
        if run.init == "pretrained" and self.weights is None:
            return found
        row = self.results.variant(run.variant)
        norm, head = (row.norm, row.head) if row else ("frozen", None)
        variant = Variant(name=run.variant, init=run.init, train=run.trained_groups, norm=norm, head=head)
        if variant.head and not any((r["variant"], r["seed"]) == (variant.head, run.seed) for r in self.runs):
            return found | {"why": f"{run.name}: the run that gives its head is missing."}
        start = build(variant, self.n_classes, run.seed, self.weights.state if self.weights else None)
        if why := put_head(start, variant, run.seed, self.folder, self.runs):
            return found | {"why": why}
        before, after = dict(start.named_parameters()), dict(trained.named_parameters())
        return found | {
            "initial_sha256": fingerprint(start.state_dict()),
            "frozen_sha256": start.frozen_sha256(),
            "unchanged": [
                n for n, p in start.trainable() if p.ndim > 1 and before[n].cpu().equal(after[n].cpu())
            ],
        }

    def of_trial(self, trial: Trial) -> Json:
        """What must hold for one trial, as recorded.

        Returns:
            `initial_sha256` of its start, None if that cannot be computed, and `stream_sha256` of the epochs
            that it began.
        """
        n_epochs = len(trial.validation) + (trial.status != "completed")  # the one in which it diverged
        stream = self.stream(trial.seed, n_epochs, trial.for_seed)
        return {"initial_sha256": self._start_of_trials(trial.variant, trial.seed), "stream_sha256": stream}

    def _start_of_trials(self, name: str, seed: int) -> str | None:
        """Hash of the start that all trials of a variant share; None if it is not known."""
        row = self.results.variant(name)
        if row is None or row.head or (row.init == "pretrained" and self.weights is None):
            return None
        if (name, seed) not in self.starts:
            pretrained = self.weights.state if self.weights else None
            start = build(recorded_variant(row), self.n_classes, seed, pretrained)
            self.starts[name, seed] = fingerprint(start.state_dict())
        return self.starts[name, seed]

    def stream(self, seed: int, epochs: int, split_of: int | None = None) -> str:
        """SHA-256 of order, crops and flips of that many epochs; variants of a seed share it.

        Args:
            seed: of order and augmentation.
            epochs: from the first.
            split_of: the seed whose split it is, if each has its own; None means the same seed.
        """
        owner = seed if split_of is None else split_of
        if (seed, owner, epochs) not in self.streams:
            sizes = self.split.of_seed(owner, {"train": self.images}, self.workers)[1]["train"].sizes
            digest = ""
            for epoch in range(1, epochs + 1):
                digest = plan_epoch(seed, epoch, sizes, self.config.recipe, self.views).digest(digest)
            self.streams[seed, owner, epochs] = digest
        return self.streams[seed, owner, epochs]


def _weights(recorded: Mapping[str, Any] | None, n_classes: int) -> tuple[Weights | None, str]:
    """The recorded pretrained weights, or why they are not at hand."""
    if recorded is None:
        return None, "No pretrained weights are recorded."
    if recorded["kind"] not in NAMED_WEIGHTS:
        return None, "The pretrained weights come from a file, which is not part of the submission."
    try:
        weights = load_weights(recorded["kind"], state_shapes(n_classes))
    except WeightsError as error:
        return None, str(error)
    if weights.sha256 != recorded["sha256"]:
        return None, f"The {recorded['kind']} weights have another SHA-256 here."
    return weights, ""
