"""What each run leaves behind that no other training leaves, kept small so that a class fits into memory."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING

from grader.evidence.gathered import Evidence
from grader.evidence.telling import is_telling
from grader.submission.record import SPLITS, Run, run_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_LOSSES = 1000
"""Images of a run whose losses are kept, evenly spaced; more would not tell copies apart any better."""

TIMES, TRAINING = "times", ("losses", "weights", "predictions", "files")
SEEDED = ("start", "stream")


@dataclass(frozen=True)
class Trace:
    """What identifies one run.

    Attributes:
        variant: Its variant.
        seed: Its seed.
        marks: By kind, digests or numbers that two trainings do not share by chance: `times` measured,
            training `losses`, hashes of `weights`, `predictions` and `files`, and `start` and `stream`, which
            follow from the seed.
        images: Digest of the held-out images; empty if there are no predictions.
        losses: Losses of at most 1,000 of these images, float32, shape [n]; None if there are none.
        n_correct: Correct predictions on test in the best epoch.
        n_test: Test images.
    """

    variant: str
    seed: int
    marks: Mapping[str, frozenset[str]]
    images: str = ""
    losses: "NDArray[np.float32] | None" = None
    n_correct: int = 0
    n_test: int = 0

    @property
    def name(self) -> str:
        """Its name, such as `B-seed0`."""
        return run_name(self.variant, self.seed)


@dataclass(frozen=True)
class Traces:
    """What identifies the runs of one submission.

    Attributes:
        runs: Of each run that was completed.
        experiment: What must be equal for accuracies to be comparable, by name.
    """

    runs: tuple[Trace, ...] = ()
    experiment: Mapping[str, str | int] = field(default_factory=dict)


def traces_of(evidence: Evidence) -> Traces:
    """The traces of a submission, from evidence that was already read."""
    results = evidence.results
    experiment: dict[str, str | int] = {
        "data set": results.dataset_name,
        "split": results.split_rule,
        "test images": results.splits["test"].n_samples,
        "image size": results.image_size,
        "epochs": results.epochs,
    }
    runs = [run for run in results.completed if run.best is not None]
    return Traces(tuple(_trace(evidence, run) for run in runs), experiment)


def _trace(evidence: Evidence, run: Run) -> Trace:
    import numpy as np

    found = [evidence.predictions.get((run.name, split)) for split in SPLITS]
    rows = [split for split in found if split is not None]
    tells = [run.best is not None and is_telling(run.best.on(split)) for split in SPLITS]
    images, losses = "", None
    digests: set[str] = set()
    if len(rows) == len(SPLITS):
        everything = np.concatenate([split.nll for split in rows])
        with np.errstate(over="ignore"):  # a made-up loss of 1e308 is none in float32
            losses = everything[:: -(-len(everything) // MOST_LOSSES)].astype(np.float32)
        ids = "\n".join(name for split in rows for name in split.sample_ids)
        images = hashlib.sha256(ids.encode()).hexdigest()
        digests = {
            hashlib.sha256(split.nll.tobytes() + split.predicted.tobytes()).hexdigest()
            for split in compress(rows, tells)
        }
    files = run.artifacts
    predicted = [files.predictions(split).sha256 for split in SPLITS] if files else []
    marks = {
        TIMES: _values(epoch.train_seconds for epoch in run.epochs if not _is_round(epoch.train_seconds)),
        "losses": _values(epoch.train.loss_sum for epoch in run.epochs if is_telling(epoch.train)),
        "weights": _values(epoch.weights_sha256 for epoch in run.epochs),
        "predictions": _values(
            (*digests, *(e.predictions_sha256 for e in run.epochs if is_telling(e.val) or is_telling(e.test)))
        ),
        "files": _values((files.checkpoint.sha256, *compress(predicted, tells)) if files else ()),
        # Pretrained weights whose head fits the classes are the start of every seed.
        "start": frozenset({run.initial_sha256} if run.init == "random" else ()),
        "stream": frozenset({run.budget.stream_sha256}),
    }
    best = run.best.test if run.best else None
    n_correct, n_test = (best.n_correct, best.n_samples) if best else (0, 0)
    return Trace(run.variant, run.seed, marks, images, losses, n_correct, n_test)


def _values(found: Iterable[float | str | None]) -> frozenset[str]:
    return frozenset(str(value) for value in found if value)


def _is_round(seconds: float) -> bool:
    """Whether a time has no digits below a millisecond, so that two could agree by chance."""
    return round(seconds, 3) == seconds
