"""Level 2: networks trained on the same images are related, but no copies of one another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import atanh, exp, sqrt, tanh
from typing import TYPE_CHECKING, Any

from grader.checks.one_network import have_one_best
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, from_problems, not_checked
from grader.statistics.distributions import normal_scores
from grader.submission.record import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from grader.submission.predictions import Predictions

LIMIT = 3.5  # standard errors: one side of the normal distribution beyond has 1 in 4,300
FEWEST = 100  # images beyond one per class and split; with fewer, no pair is judged
LEAST_RELATED = {"one network": 0.1, "siblings": 0.2, "half-siblings": 0.1, "cousins": 0.1, "strangers": 0.1}
MOST_RELATED = {
    "one network": 1,
    "siblings": 0.998,
    "half-siblings": 0.998,
    "cousins": 0.99,
    "strangers": 0.95,
}
"""Bounds of the correlations, by kinship. Siblings start from the same pretrained weights and head,
half-siblings from random weights of one seed, or from the same pretrained weights with heads of which one is
another run's, cousins from pretrained weights with different heads or both at random, strangers one at random
and one pretrained. Weights of a file or an earlier run may bring the head along: all that start from them
were one network, and after an epoch at a low rate they still nearly are."""
ENOUGH, CHANCE_FACTOR, LEAST_ACCURACY = 0.6, 10, 0.25
"""A network is competent if it is right on 60% of the images, or on 25% and ten times as many as always
naming the most frequent class would be, and in any case on a fifth more than that. In an honest run with a
learning rate of 0.3, B lost what it had learned before, got 34% of the digits right and shared no hard images
with C (rho = 0.07)."""
MOST_RUNS = 24  # of which all pairs are compared
RESOLVED = 1e-4


@dataclass(frozen=True)
class Pair:
    """Two runs with predictions for the same test images.

    Attributes:
        first: A run.
        second: Another.
        kinship: A key of `MOST_RELATED`.
        competent: Whether both are much better than chance.
        one_competent: Whether at least one of them is.
        degrees: Held-out images, less one per class and split.
        correlation: Spearman's, of their losses between images of one class and split; -1 to 1.
        untied: How far ties lower it, 0 to 1: where answers are right and certain, most losses are 0.
        n_resolved: Images on which both losses are large enough to be told apart.
        robust: Correlation of most of these: copies stay near 1 if some losses were changed altogether.
    """

    first: Run
    second: Run
    kinship: str
    competent: bool
    one_competent: bool
    degrees: int
    correlation: float
    untied: float
    n_resolved: int
    robust: float

    @property
    def name(self) -> str:
        """The names of both runs."""
        return f"{self.first.name} and {self.second.name}"

    @property
    def at_most(self) -> float:
        """Upper confidence limit of the correlation: Fisher's transformation, with 1.06 for ranks."""
        error = 1.06 / sqrt(self.degrees - 3)
        return tanh(atanh(max(-1 + 1e-12, min(1 - 1e-12, self.correlation))) + LIMIT * error)

    @property
    def robust_at_least(self) -> float:
        """Lower confidence limit: the median absolute deviation has a relative error of 1.17 / sqrt(n)."""
        return 1 - (1 - self.robust) * exp(2 * LIMIT * 1.17 / sqrt(max(1, self.n_resolved)))


def hard_images_shared(evidence: Evidence) -> Finding:
    """Images that are hard for one network are hard for the others, too.

    Rule: rho is Spearman's rank correlation of two runs' losses on the same held-out images, between images
    of the same class. For two competent networks, its upper confidence limit (Fisher's transformation, 3.5
    standard errors) must be at least 0.2 if they start from the same pretrained weights with the same seed
    and head, otherwise 0.1, each times the standard deviations of both runs' ranks relative to ranks without
    ties: of losses that are 0, nothing tells which image is harder. Not checked with fewer than 100 images
    more than classes in both splits.

    Source: measured on honest runs (docs/detection.md); G. Hacohen, L. Choshen, D. Weinshall, Let's agree to
    agree: neural networks share classification order on real datasets (2020); E. C. Fieller, H. O. Hartley
    and E. S. Pearson, Biometrika 44 (1957) 470-481. Losses drawn at random have rho = 0.
    """
    pairs = [pair for pair in _pairs(evidence) if pair.competent]
    problems = {
        pair.name: [f"{pair.name}: rho = {pair.correlation:.2f}; trained networks find the same images hard."]
        if pair.at_most < LEAST_RELATED[pair.kinship] * pair.untied
        else []
        for pair in pairs
    }
    found = [pair.correlation for pair in pairs]
    return _finding(problems, found, "Hard images are hard for all networks")


def networks_differ(evidence: Evidence) -> Finding:
    """No network is another one with some losses and answers changed.

    Rule: a robust correlation of two runs' losses on the same held-out images is 1 - (1.4826 * m)^2 / 2,
    where m is the median absolute difference of their normal scores; losses below 1e-4, which rounding ties,
    are left out. Its lower confidence limit (3.5 standard errors) must be at most 0.998 for two runs with the
    same seed that both start pretrained or both at random, 0.95 if only one starts pretrained, and 0.99
    otherwise; it has no limit if both start from a file or an earlier run whose head may have been kept. Not
    checked with fewer than 100 images more than classes in both splits, nor for two networks of which neither
    is competent (see `hard-images-shared`): all that such networks know is how frequent the classes are.

    Source: measured on honest runs (docs/detection.md); P. J. Rousseeuw and C. Croux, Alternatives to the
    median absolute deviation, JASA 88 (1993) 1273-1283.
    """
    pairs = [pair for pair in _pairs(evidence) if pair.one_competent]
    problems = {
        pair.name: [f"{pair.name}: most of their losses are nearly the same (rho = {pair.robust:.3f})."]
        if pair.robust_at_least > MOST_RELATED[pair.kinship]
        else []
        for pair in pairs
    }
    return _finding(problems, [pair.robust for pair in pairs], "The networks differ")


def _finding(problems: dict[str, list[str]], found: list[float], holds: str) -> Finding:
    if not problems:
        reason = "No two networks that learned anything were evaluated on the same, enough images."
        return not_checked(reason, Level.PREDICTIONS)
    low, high = min(found), max(found)
    finding = from_problems(problems, Level.PREDICTIONS, f"{holds} (rho = {low:.2f} to {high:.2f}).")
    return replace(finding, numbers={"lowest": low, "highest": high})


@lru_cache(maxsize=1)  # for both properties
def _pairs(evidence: Evidence) -> Sequence[Pair]:
    """All pairs of runs with the same held-out images."""
    return tuple(_compared(evidence))


def _compared(evidence: Evidence) -> Iterator[Pair]:
    import numpy as np

    n_classes = len(evidence.results.classes)
    judged = [
        _Losses(run, x.sample_ids + y.sample_ids, *_losses_of(x, y, n_classes))
        for run in evidence.chosen[:MOST_RUNS]
        if (x := evidence.predictions.get((run.name, "val")))
        and (y := evidence.predictions.get((run.name, "test")))
    ]
    for first, second in combinations(judged, 2):
        degrees = len(first.ids) - 2 * n_classes
        spread = float((first.ranks @ first.ranks) * (second.ranks @ second.ranks))
        if degrees < FEWEST or first.ids != second.ids or spread == 0:
            continue
        # Below, losses are multiples of float32's spacing near the logits: many are tied, at 0 for instance.
        resolved = np.minimum(first.losses, second.losses) > RESOLVED
        yield Pair(
            first.run,
            second.run,
            _kinship(evidence, first.run, second.run),
            first.competent and second.competent,
            first.competent or second.competent,
            degrees,
            float(first.ranks @ second.ranks) / sqrt(spread),
            sqrt(spread) / float(sqrt(first.spread_without_ties * second.spread_without_ties)),
            int(resolved.sum()),
            _robust_correlation(first.losses[resolved], second.losses[resolved]),
        )


def _kinship(evidence: Evidence, first: Run, second: Run) -> str:
    if first.init != second.init:
        return "strangers"
    if first.init == "pretrained" and _brings_a_head(evidence.results.weights):
        return "one network"
    if have_one_best(evidence.results, first, second):
        return "one network"
    if first.seed != second.seed:
        return "cousins"
    other_head = evidence.results.has_head(first) or evidence.results.has_head(second)
    return "half-siblings" if first.init == "random" or other_head else "siblings"


def _brings_a_head(weights: Mapping[str, Any] | None) -> bool:
    """Whether the pretrained weights may have had a head that was kept."""
    if weights is None or weights["kind"] not in ("file", "run"):
        return False
    return not any(name.startswith("fc.") for name in weights["dropped"])


def _robust_correlation(x: "NDArray[np.float64]", y: "NDArray[np.float64]") -> float:
    """From the median absolute difference of the normal scores of two samples of shape [n]."""
    import numpy as np

    if len(x) < FEWEST:
        return 0.0
    n, same = len(x), np.zeros(len(x), np.int64)
    first, second = (normal_scores(_ranks(values, same) + (n - 1) / 2, n) for values in (x, y))
    return 1 - (1.4826 * float(np.median(np.abs(first - second)))) ** 2 / 2


@dataclass(frozen=True)
class _Losses:
    """A run's losses on all held-out images, and their ranks within the classes; both of shape [n].

    `spread_without_ties` is the sum of squares that the ranks would have without ties.
    """

    run: Run
    ids: tuple[str, ...]
    losses: "NDArray[np.float64]"
    ranks: "NDArray[np.float64]"
    competent: bool
    spread_without_ties: float


def _losses_of(
    val: "Predictions", test: "Predictions", n_classes: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64], bool, float]":
    """The fields of `_Losses` from `losses` on."""
    import numpy as np

    losses = np.concatenate((val.nll, test.nll))
    groups = np.concatenate((val.labels, test.labels + n_classes))
    accuracy = float(np.concatenate((val.correct, test.correct)).mean())
    largest = float(np.bincount(groups % n_classes).max()) / len(groups)
    enough = min(ENOUGH, max(LEAST_ACCURACY, CHANCE_FACTOR * largest))
    sizes = np.bincount(groups).astype(np.float64)
    untied = float((sizes**3 - sizes).sum() / 12)
    return losses, _ranks(losses, groups), accuracy >= enough and accuracy > 1.2 * largest, untied


def _ranks(values: "NDArray[np.float64]", groups: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Each value's rank in its group, less the group's mean; ties share their ranks. All of shape [n]."""
    import numpy as np

    order = np.lexsort((values, groups))
    of, sorted_values = groups[order], values[order]
    starts = np.flatnonzero(np.r_[True, (of[1:] != of[:-1]) | (sorted_values[1:] != sorted_values[:-1])])
    lengths = np.diff(np.r_[starts, len(order)])
    position = np.repeat(starts + (lengths - 1) / 2, lengths)
    means = np.bincount(of, position) / np.maximum(1, np.bincount(of))
    ranks = np.empty(len(order))
    ranks[order] = position - means[of]
    return ranks
