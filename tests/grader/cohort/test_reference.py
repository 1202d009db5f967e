"""The band of accuracies that an instructor's own runs make plausible."""

import math

import numpy as np
import pytest

from grader.cohort.reference import Reference, implausible, reference_of
from grader.errors import UsageError
from grader.evidence.traces import Trace, Traces

N = 1000
EXPERIMENT: dict[str, str | int] = {
    "data set": "digits", "split": "70-15-15", "test images": N, "image size": 32, "epochs": 5
}  # fmt: skip


def runs(correct: dict[str, list[int]], first_seed: int = 0, **experiment: str | int) -> Traces:
    found = [
        Trace(variant, first_seed + i, {}, n_correct=n, n_test=N)
        for variant, counts in correct.items()
        for i, n in enumerate(counts)
    ]
    return Traces(tuple(found), {**EXPERIMENT, **experiment})


@pytest.fixture
def reference() -> Reference:
    """Three seeds of A and C; C's standard deviation is 1 point, A's 2."""
    return reference_of([runs({"A": [480, 500, 520], "C": [790, 800, 810]})])


def test_the_band(reference: Reference) -> None:
    assert reference.degrees == 4
    assert reference.deviation == pytest.approx(math.sqrt((0.02**2 + 0.01**2) / 2))
    error = math.sqrt(reference.deviation**2 * (1 / 3 + 1) + 0.895 * 0.105 * 2 / N)
    allowed = f"+{100 * 7.173182 * error:.1f}"  # Student's t with 4 degrees of freedom, 0.999
    (found,) = implausible(runs({"C": [990]}), reference)
    assert found == (
        f"C has 99.0% on test, +19.0 points from the reference (3 runs); up to {allowed} are plausible"
    )


@pytest.mark.parametrize(("n", "flagged"), [(810, False), (850, False), (990, True)])
def test_only_what_is_far_above(reference: Reference, n: int, flagged: bool) -> None:
    assert len(list(implausible(runs({"C": [n]}), reference))) == flagged


def test_what_is_far_below_is_no_concern(reference: Reference) -> None:
    assert list(implausible(runs({"A": [100], "C": [100], "D": [999]}), reference)) == []


def test_several_seeds_are_held_to_a_narrower_band(reference: Reference) -> None:
    n = next(n for n in range(800, N) if list(implausible(runs({"C": [n] * 9}), reference)))
    assert list(implausible(runs({"C": [n]}), reference)) == []


def test_another_experiment(reference: Reference) -> None:
    (found,) = implausible(runs({"C": [999]}, **{"data set": "flowers102"}), reference)
    assert found == "not comparable with the reference: data set flowers102 instead of digits"
    (found,) = implausible(runs({"C": [999]}, epochs=30), reference)
    assert found.endswith("; epochs 30 instead of 5")


def test_one_honest_run_in_a_thousand() -> None:
    """Accuracies that vary between seeds by two points: far fewer flags than one per hundred runs."""
    rng = np.random.default_rng(0)

    def counts(n_seeds: int) -> dict[str, list[int]]:
        shares = {"A": 0.5, "B": 0.85, "C": 0.8}
        return {
            v: rng.binomial(N, np.clip(rng.normal(p, 0.02, n_seeds), 0, 1)).tolist()
            for v, p in shares.items()
        }

    flagged = sum(
        len(list(implausible(runs(counts(1)), reference_of([runs(counts(3))])))) for _ in range(1000)
    )
    assert flagged <= 10  # of 3,000


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ([runs({"A": [1], "B": [2]})], "needs at least two seeds of a variant"),
        ([runs({"A": [1, 2]}), runs({"A": [1, 2]}, epochs=9)], "must be of one experiment"),
    ],
)
def test_misuse(traces: list[Traces], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        reference_of(traces)


def test_a_run_of_each_seed(reference: Reference) -> None:
    parts = [runs({"A": [n], "C": [m]}, seed) for seed, n, m in ((0, 480, 790), (1, 500, 800), (2, 520, 810))]
    assert reference_of(parts) == reference
