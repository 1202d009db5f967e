"""The chain of hashes that commits a run to its epochs, one after another.

`finetune` computes it while it trains, and the grader again from the results file.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from grader.submission.parts import Metrics


class _Epoch(Protocol):
    @property
    def epoch(self) -> int: ...
    @property
    def train(self) -> Metrics: ...
    @property
    def val(self) -> Metrics: ...
    @property
    def test(self) -> Metrics | None: ...


def of_start(run: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """The commitment before the first epoch: everything that decides how the run will go.

    The order, crops and flips of the images follow from the seed and the recipe.

    Args:
        run: `variant`, `seed`, `initial_sha256`, `trained_groups` and `learning_rate`; the rest is ignored.
        recipe: as in the results file, with the variant's own epochs if it has some.

    Returns:
        SHA-256 of the canonical JSON of these values: sorted keys, no spaces.
    """
    names = ("variant", "seed", "initial_sha256", "trained_groups", "learning_rate")
    start = {**{name: run[name] for name in names}, "recipe": dict(recipe)}
    return _sha256(start)


def of_epoch(before: str, epoch: _Epoch, weights_sha256: str, predictions_sha256: str) -> str:
    """The commitment after an epoch: SHA-256 of the one before, the epoch's figures and its two hashes."""
    figures = [
        [m.loss_sum, m.n_correct, m.n_samples] for m in (epoch.train, epoch.val, epoch.test) if m
    ]  # fmt: skip
    return _sha256([before, epoch.epoch, figures, weights_sha256, predictions_sha256])


def of_predictions(columns: Iterable[tuple[Any, Any, Any]]) -> str:
    """SHA-256 of the predictions after an epoch.

    Args:
        columns: of the validation, then the test images, each in the order of the predictions file:
            predicted classes [n], negative log-likelihoods [n] and confidences [n], as NumPy arrays. Hashed
            are int64, float32 and float32 values, little-endian; a file's nine digits restore a float32
            exactly.
    """
    import numpy as np

    digest = hashlib.sha256()
    with np.errstate(over="ignore"):  # a made-up loss of 1e308 is none in float32
        for predicted, nll, confidence in columns:
            digest.update(predicted.astype("<i8").tobytes())
            digest.update(nll.astype("<f4").tobytes())
            digest.update(confidence.astype("<f4").tobytes())
    return digest.hexdigest()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def drawn_epochs(n_states: int, n_epochs: int, chain: Sequence[str]) -> list[int]:
    """The epochs after which a run that keeps `n_states` training states keeps one.

    The epochs but the last are divided into `n_states` stretches. In each, every epoch has the same chance,
    and its own commitment decides, so that nobody knows before an epoch is trained whether its state is kept.

    Args:
        n_states: How many to keep; at most `n_epochs` - 1 can be.
        n_epochs: Epochs of the whole run.
        chain: Commitments after epochs 1, 2, ..., as many as are known.
    """
    n_states = min(n_states, n_epochs - 1)
    found = []
    for i in range(n_states):
        first, last = ((n_epochs - 1) * k // n_states for k in (i, i + 1))  # of the stretch, from 0
        if first >= len(chain):
            break  # a results file may claim any number of states
        for index in range(first, min(last, len(chain))):
            if int(chain[index], 16) * (last - index) < 16 ** len(chain[index]):  # one of those that are left
                found.append(index + 1)
                break
    return found
