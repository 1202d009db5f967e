"""What a consistent story betrays of rows of their own kind: tuned, longer, with another head or split."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from grader.checks.design import as_configured
from grader.checks.kinship import Pair, _kinship
from grader.checks.learning import one_rate
from grader.checks.peak_rates import comparable_rates
from grader.checks.schedule import rates_exact
from grader.checks.whole_data import whole_data
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.submission.load import load
from grader.submission.record import Results, results_from
from tests.grader.forgeries import SMOKE
from tests.grader.honest import Size, write_run
from tests.grader.tuned import write_tuned


def configured(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in document["config"]["variants"] if row["name"] == name)


class TestComparableRates:
    def test_rates_that_trials_chose(self, tmp_path: Path) -> None:
        """However far apart they lie."""
        found = comparable_rates(Evidence(load(write_tuned(tmp_path / "run")).results))
        assert (found.status, found.summary[:5]) == (Status.HOLDS, "Tuned")
        assert max(found.numbers.values()) > 10 * min(found.numbers.values())

    def test_a_rate_that_no_trial_chose(self, tmp_path: Path) -> None:
        results = load(write_tuned(tmp_path / "run")).results
        assert results.tuning is not None
        choices = tuple(choice for choice in results.tuning.choices if choice.variant != "A")
        partly = dataclasses.replace(results, tuning=dataclasses.replace(results.tuning, choices=choices))
        assert comparable_rates(Evidence(partly)).status is Status.FAILS

    @pytest.mark.parametrize(
        ("factor", "status"), [(1, Status.HOLDS), (3, Status.INCONCLUSIVE), (11, Status.FAILS)]
    )
    def test_rates_given_by_variant(self, tmp_path: Path, factor: float, status: Status) -> None:
        """By hand, as finetune train --lr b=... records it; what nobody tuned stays untuned."""
        document = json.loads((write_run(tmp_path / "run") / "results.json").read_text())
        rate = document["config"]["recipe"]["lr"] / factor
        configured(document, "B").update(lr=rate)
        next(run for run in document["runs"] if run["variant"] == "B").update(learning_rate=rate)
        evidence = Evidence(results_from(document))
        assert as_configured(evidence).status is Status.HOLDS
        assert comparable_rates(evidence).status is status
        found = one_rate(evidence)
        assert found.status is Status.FAILS
        words = "Every variant ran at the peak rate" if factor == 1 else "The peak rates differ (B at"
        assert found.summary.startswith(words)


class TestRatesExact:
    @pytest.fixture
    def document(self, tmp_path: Path) -> dict[str, Any]:
        """B and C of four epochs, and an A with twelve of its own."""
        short, long = write_run(tmp_path / "4"), write_run(tmp_path / "12", Size(epochs=12))
        document, other = (json.loads((folder / "results.json").read_text()) for folder in (short, long))
        document["runs"][0] = other["runs"][0]
        configured(document, "A").update(epochs=12)
        return document  # type: ignore[no-any-return]

    def test_follow_from_the_variants_own_epochs(self, document: dict[str, Any]) -> None:
        assert rates_exact(Evidence(results_from(document))).status is Status.HOLDS

    def test_a_schedule_of_other_epochs(self, document: dict[str, Any]) -> None:
        configured(document, "A").update(epochs=24)
        found = rates_exact(Evidence(results_from(document)))
        assert (found.status, found.judged - found.held) == (Status.FAILS, 1)
        assert found.summary.startswith("A-seed0, epoch 1: the mean learning rate is ") or found.details


class TestWholeData:
    def resplit(self, dropped: int) -> Results:
        """The real run with a split for each seed, the second with test images dropped."""
        results = load(SMOKE).results
        second = dict(results.splits)
        first, *rest = second["test"].class_counts
        counts = (first - dropped, *rest)
        second["test"] = dataclasses.replace(second["test"], class_counts=counts, n_samples=sum(counts))
        return dataclasses.replace(results, resplit=True, resplits={0: results.splits, 1: second})

    def test_each_seeds_split_is_judged(self) -> None:
        assert whole_data(Evidence(self.resplit(0))).status is Status.HOLDS
        found = whole_data(Evidence(self.resplit(9)))
        assert (found.status, found.summary[:6]) == (Status.FAILS, "test: ")


def test_the_limits_of_a_correlation_are_three_and_a_half_standard_errors_away() -> None:
    """1.06 / 10 for ranks with 103 degrees of freedom; 1.17 / sqrt(6,708) of a median absolute deviation."""
    run = load(SMOKE).results.runs[0]
    pair = Pair(run, run, "siblings", True, True, 103, 0.0, 1.0, 6708, 0.9)
    assert pair.at_most == pytest.approx(math.tanh(0.371))
    assert pair.robust_at_least == pytest.approx(1 - 0.1 * math.exp(0.1), abs=1e-5)


def test_kinship_of_rows_with_another_head_or_a_longer_schedule(tmp_path: Path) -> None:
    document = json.loads((write_run(tmp_path / "run", Size(seeds=(0, 1))) / "results.json").read_text())
    results = results_from(document)
    a, b, c, _, b1, _ = results.runs
    assert _kinship(Evidence(results), b, c) == "siblings"
    assert _kinship(Evidence(results), b, b1) == "cousins"
    assert _kinship(Evidence(results), a, b) == "strangers"
    assert _kinship(Evidence(results), a, dataclasses.replace(a, variant="A3")) == "half-siblings"
    configured(document, "B").update(head="C")
    assert _kinship(Evidence(results_from(document)), b, c) == "half-siblings"
