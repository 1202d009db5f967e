"""Edges of the checks that look at predictions: what is tolerated, and what one step beyond is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks import architecture, prediction_files, rerun, truth
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Level, Status, not_checked
from grader.isolated.rerun import Rerun
from grader.submission.load import load
from grader.submission.predictions import Predictions
from grader.submission.resnet18 import GROUPS
from tests.grader.honest import truth_of

FIRST = ("A-seed0", "test")


@pytest.fixture
def evidence(smoke: Path) -> Evidence:
    """What is known of the real run, with its predictions and their truth."""
    return gather(load(smoke), Thresholds(), truth_of(smoke))


def with_rows(evidence: Evidence, change: Callable[[Predictions], Predictions]) -> Evidence:
    """The evidence with other rows for the first run's test images."""
    return replace(evidence, predictions={**evidence.predictions, FIRST: change(evidence.predictions[FIRST])})


def first_run(evidence: Evidence, **changes: Any) -> Evidence:
    first, *others = evidence.results.runs
    return replace(evidence, results=replace(evidence.results, runs=(replace(first, **changes), *others)))


def set_at(array: Any, index: int, value: float) -> Any:
    changed = array.copy()
    changed[index] = value
    return changed


def first_20(rows: Predictions) -> Predictions:
    return Predictions(rows.sample_ids[:20], rows.labels[:20], rows.predicted[:20], rows.nll[:20])


class TestRowsPlausible:
    # Ten classes: a right answer's loss is at most ln 10 = 2.302585, a wrong one's at least ln 2 = 0.693147.
    @pytest.mark.parametrize(
        ("is_right", "nll", "status"),
        [
            (True, 2.3035, Status.HOLDS),
            (True, 2.3037, Status.FAILS),
            (False, 0.6923, Status.HOLDS),
            (False, 0.6920, Status.FAILS),
        ],
    )
    def test_a_thousandth_is_rounding(
        self, evidence: Evidence, is_right: bool, nll: float, status: Status
    ) -> None:
        def change(rows: Predictions) -> Predictions:
            predicted = rows.labels[0] if is_right else (rows.labels[0] + 1) % 10
            return replace(rows, predicted=set_at(rows.predicted, 0, predicted), nll=set_at(rows.nll, 0, nll))

        assert prediction_files.rows_plausible(with_rows(evidence, change)).status is status


class TestConfidence:
    # Ten classes, and the second class is as probable as the rest allows.
    @pytest.mark.parametrize(
        ("is_right", "nll", "confidence", "status"),
        [
            (True, 0.693147181, 0.5, Status.HOLDS),
            (True, 0.693147181, 0.50002, Status.FAILS),
            (True, 0.693147181, 0.49998, Status.FAILS),
            (False, 1.2039728, 0.7, Status.HOLDS),  # the label has the other 0.3
            (False, 1.2039728, 0.70002, Status.FAILS),  # more than 1 in all
            (False, 0.9162907, 0.4, Status.HOLDS),  # a tie
            (False, 0.9162907, 0.39998, Status.FAILS),  # the label is more probable than the prediction
            (False, 5.0, 0.1, Status.HOLDS),
            (False, 5.0, 0.09998, Status.FAILS),  # another class is more probable
        ],
    )
    def test_what_is_possible(
        self, evidence: Evidence, is_right: bool, nll: float, confidence: float, status: Status
    ) -> None:
        def change(_: Predictions) -> Predictions:
            labels = np.zeros(3, np.int64)
            predicted = labels if is_right else labels + 1
            return Predictions(("a", "b", "c"), labels, predicted, np.full(3, nll), np.full(3, confidence))

        assert prediction_files.rows_plausible(with_rows(evidence, change)).status is status


class TestCalibration:
    def changed(self, honest: Path, **recorded: float) -> Evidence:
        evidence = gather(load(honest), Thresholds())
        first = evidence.results.runs[0].calibration
        assert first is not None
        return first_run(evidence, calibration=replace(first, **recorded))

    def test_errors_recomputed_from_the_files(self, honest: Path) -> None:
        assert prediction_files.recomputed(self.changed(honest)).status is Status.HOLDS
        for name in ("ece_val", "ece_test"):
            found = prediction_files.recomputed(self.changed(honest, **{name: 0.5}))
            assert found.status is Status.FAILS
            assert "calibration error" in found.summary

    def test_none_is_recorded(self, honest: Path) -> None:
        evidence = first_run(gather(load(honest), Thresholds()), calibration=None)
        assert "calibration is null" in prediction_files.recomputed(evidence).summary


class TestRecomputed:
    @pytest.mark.parametrize(
        ("factor", "status"), [(1 + 9e-7, Status.HOLDS), (1 - 9e-7, Status.HOLDS), (1 + 2e-6, Status.FAILS)]
    )
    def test_a_millionth_is_rounding(self, evidence: Evidence, factor: float, status: Status) -> None:
        changed = with_rows(evidence, lambda rows: replace(rows, nll=rows.nll * factor))
        assert prediction_files.recomputed(changed).status is status

    @pytest.mark.parametrize(("loss", "status"), [(9e-7, Status.HOLDS), (1.5e-6, Status.FAILS)])
    def test_next_to_no_loss(self, evidence: Evidence, loss: float, status: Status) -> None:
        run = evidence.results.runs[0]
        epochs = tuple(
            replace(e, test=replace(e.test, loss_sum=loss)) if e.epoch == run.best_epoch else e
            for e in run.epochs
        )
        none = with_rows(first_run(evidence, epochs=epochs), lambda rows: replace(rows, nll=rows.nll * 0))
        assert prediction_files.recomputed(none).status is status


class TestSameSamples:
    def test_a_list_that_ends_early(self, evidence: Evidence) -> None:
        def change(rows: Predictions) -> Predictions:
            return Predictions(rows.sample_ids[:-1], rows.labels[:-1], rows.predicted[:-1], rows.nll[:-1])

        n = len(evidence.predictions[FIRST].labels)
        found = prediction_files.same_samples(with_rows(evidence, change))
        assert found.status is Status.FAILS
        assert f", test, line {n + 1}: image differs from A-seed0." in found.summary


def test_shared_images_are_listed_in_order(evidence: Evidence) -> None:
    shared = tuple(f"shared-{i:02d}" for i in range(20))
    predictions = {
        key: replace(rows, sample_ids=(*shared[::-1], *rows.sample_ids[20:]))
        for key, rows in evidence.predictions.items()
    }
    found = prediction_files.val_test_disjoint(replace(evidence, predictions=predictions))
    assert list(found.details) == [f"{name!r} is in both validation and test." for name in shared]


class TestCloseToValidation:
    @pytest.mark.parametrize("kept", ["val", "test"])
    def test_one_splits_predictions_are_inconclusive(self, evidence: Evidence, kept: str) -> None:
        half = {key: rows for key, rows in evidence.predictions.items() if key[1] == kept}
        alone = prediction_files.test_close_to_validation(replace(evidence, predictions={}))
        assert alone.level is Level.FILE
        assert prediction_files.test_close_to_validation(replace(evidence, predictions=half)) == alone

    def test_a_run_without_choice_does_not_hide_the_others(self, evidence: Evidence) -> None:
        evidence = replace(evidence, predictions={})
        found = prediction_files.test_close_to_validation(first_run(evidence, best_epoch=None))
        assert found.judged == len(evidence.results.runs) - 1

    def test_without_any_choice(self, evidence: Evidence) -> None:
        runs = tuple(replace(run, best_epoch=None) for run in evidence.results.runs)
        nothing = replace(evidence, results=replace(evidence.results, runs=runs))
        wanted = not_checked("No run has a best epoch.", Level.FILE)
        assert prediction_files.test_close_to_validation(nothing) == wanted

    @pytest.mark.parametrize(
        ("right", "status"),
        # Of 10,000 each, half of validation right: half widths are 1.4 to 1.9 points, the floor is 5.
        [(5450, Status.HOLDS), (5560, Status.INCONCLUSIVE), (5800, Status.FAILS), (4200, Status.FAILS)],
    )
    def test_the_three_answers(self, evidence: Evidence, right: int, status: Status) -> None:
        run = evidence.results.runs[0]
        epochs = tuple(
            replace(
                e,
                val=replace(e.val, n_correct=5000, n_samples=10000),
                test=replace(e.test, n_correct=right, n_samples=10000),
            )
            for e in run.epochs
        )
        results = replace(evidence.results, runs=(replace(run, epochs=epochs),))
        found = prediction_files.test_close_to_validation(Evidence(results))
        assert found.status is status
        assert (found.held, found.judged) == (status is Status.HOLDS, 1)
        advice = "). More validation and test images would settle it."
        assert found.summary.endswith(advice) == (status is Status.INCONCLUSIVE)

    @pytest.mark.parametrize("n_beyond", [1, 2, 3])
    def test_each_of_several_gaps_is_reported(self, evidence: Evidence, n_beyond: int) -> None:
        runs = tuple(
            replace(
                run,
                epochs=tuple(
                    replace(
                        e,
                        val=replace(e.val, n_correct=5000, n_samples=10000),
                        test=replace(e.test, n_correct=5800 if i < n_beyond else 5000, n_samples=10000),
                    )
                    for e in run.epochs
                ),
            )
            for i, run in enumerate(evidence.results.runs)
        )
        found = prediction_files.test_close_to_validation(Evidence(replace(evidence.results, runs=runs)))
        assert (found.status, found.held) == (Status.FAILS, len(runs) - n_beyond)
        names = [run.name for run in runs[:n_beyond]] if n_beyond > 1 else []
        assert [line.partition(": +8.0 points (")[0] for line in found.details] == names

    @pytest.mark.parametrize("right", [24, 27])  # half the width is 23 points, a third of it 15
    def test_a_gap_within_wide_limits_holds(self, evidence: Evidence, right: int) -> None:
        run = evidence.results.runs[0]
        epochs = tuple(
            replace(
                e,
                val=replace(e.val, n_correct=20, n_samples=40),
                test=replace(e.test, n_correct=right, n_samples=40),
            )
            for e in run.epochs
        )
        results = replace(evidence.results, runs=(replace(run, epochs=epochs),))
        assert prediction_files.test_close_to_validation(Evidence(results)).status is Status.HOLDS


class TestRerun:
    def made(
        self, evidence: Evidence, n_moved: int, by: float, repeat: int = 1, nll: float | None = None
    ) -> Evidence:
        """Stored rows `repeat` times over, and fresh ones of which some have another loss."""

        def many(rows: Predictions) -> Predictions:
            labels, predicted = np.tile(rows.labels, repeat), np.tile(rows.predicted, repeat)
            losses = np.tile(rows.nll, repeat) if nll is None else np.full(len(labels), nll)
            return Predictions(rows.sample_ids * repeat, labels, predicted, losses)

        stored = {FIRST: many(evidence.predictions[FIRST])}
        losses = stored[FIRST].nll.copy()
        losses[:n_moved] += by
        fresh = {FIRST: replace(stored[FIRST], nll=losses)}
        return replace(evidence, predictions=stored, rerun=Rerun({}, fresh))

    @pytest.mark.parametrize(("factor", "status"), [(0.985, Status.HOLDS), (0.9, Status.FAILS)])
    def test_how_far_a_confidence_may_move(self, honest: Path, factor: float, status: Status) -> None:
        evidence = gather(load(honest), Thresholds())
        stored = evidence.predictions[FIRST]
        assert stored.confidence is not None
        fresh = {FIRST: replace(stored, confidence=stored.confidence * factor)}
        evidence = replace(evidence, predictions={FIRST: stored}, rerun=Rerun({}, fresh))
        assert rerun.rerun_agrees(evidence).status is status

    @pytest.mark.parametrize(
        ("by", "nll", "status"),
        [
            (0.019, 0.0, Status.HOLDS),
            (0.021, 0.0, Status.FAILS),
            (0.059, 2.0, Status.HOLDS),
            (0.061, 2.0, Status.FAILS),
        ],
    )
    def test_how_far_a_loss_may_move(self, evidence: Evidence, by: float, nll: float, status: Status) -> None:
        assert rerun.rerun_agrees(self.made(evidence, 50, by, nll=nll)).status is status

    def test_how_many_images_may_differ(self, evidence: Evidence) -> None:
        n = len(evidence.predictions[FIRST].labels)
        for n_moved, repeat in ((n // 100, 1), (10 * n // 100, 10)):
            assert rerun.rerun_agrees(self.made(evidence, n_moved, 1.0, repeat)).status is Status.HOLDS
            found = rerun.rerun_agrees(self.made(evidence, n_moved + 1, 1.0, repeat))
            assert found.status is Status.FAILS
            said = f"A-seed0, test: {n_moved + 1:,} of {n * repeat:,} images have other predictions."
            assert found.summary == said

    def test_one_image_may_always_differ(self, evidence: Evidence) -> None:
        for n_moved, status in ((1, Status.HOLDS), (2, Status.FAILS)):
            made = self.made(evidence, n_moved, 1.0)
            assert made.rerun
            few, fresh = ({FIRST: first_20(x[FIRST])} for x in (made.predictions, made.rerun.predictions))
            small = replace(made, predictions=few, rerun=Rerun({}, fresh))
            assert rerun.rerun_agrees(small).status is status

    def test_what_was_not_recomputed(self, evidence: Evidence) -> None:
        unrequested = not_checked("Requires --rerun.", Level.CHECKPOINTS)
        assert rerun.checkpoints_intact(evidence) == rerun.rerun_agrees(evidence) == unrequested
        failed = replace(evidence, rerun=Rerun({}, failure="No room."))
        assert rerun.rerun_agrees(failed) == not_checked("No room.", Level.CHECKPOINTS)
        nothing = replace(evidence, predictions={}, rerun=Rerun({}))
        wanted = "There are no stored predictions to compare with."
        assert rerun.rerun_agrees(nothing) == not_checked(wanted, Level.CHECKPOINTS)

    def test_a_file_that_was_not_recomputed(self, evidence: Evidence) -> None:
        found = rerun.rerun_agrees(replace(evidence, rerun=Rerun({})))
        assert (found.status, found.level) == (Status.FAILS, Level.CHECKPOINTS)
        assert found.summary.startswith("A-seed0, val: no predictions could be recomputed.")


class TestTruth:
    def test_official_splits_bind_a_run_that_uses_them(self, evidence: Evidence) -> None:
        assert evidence.truth
        official = replace(evidence, truth=replace(evidence.truth, is_official=True))
        assert truth.true_splits(official).status is Status.NOT_CHECKED
        used = replace(official, results=replace(official.results, split_rule="official"))
        assert truth.true_splits(used).status is Status.HOLDS

    def test_missing_samples_are_listed_in_order(self, evidence: Evidence) -> None:
        assert evidence.truth
        assert evidence.truth.splits
        more = frozenset(f"more-{i:02d}" for i in range(20))
        splits = {**evidence.truth.splits, "val": evidence.truth.splits["val"] | more}
        whole = replace(evidence.results, subset=None)
        doctored = replace(evidence, results=whole, truth=replace(evidence.truth, splits=splits))
        found = truth.true_splits(doctored)
        told = [f"A-seed0, val: 'more-{i:02d}' is missing." for i in range(20)]
        assert list(found.details[:20]) == told

    def test_without_predictions(self, evidence: Evidence) -> None:
        nothing = replace(evidence, predictions={})
        wanted = not_checked("There are no predictions to compare with the true labels.", Level.TRUTH)
        assert truth.true_labels(nothing) == truth.true_splits(nothing) == wanted


class TestFrozen:
    @pytest.mark.parametrize(
        ("init", "trained", "status"),
        [
            ("pretrained", ("layer4", "fc"), Status.FAILS),
            ("random", ("layer4", "fc"), Status.HOLDS),  # each starts elsewhere
            ("pretrained", ("layer4",), Status.HOLDS),  # a new fc is random, frozen or not
        ],
    )
    def test_pretrained_parts_are_the_same_everywhere(
        self, evidence: Evidence, init: str, trained: tuple[str, ...], status: Status
    ) -> None:
        runs = tuple(
            replace(
                run,
                init=init,
                trained_groups=trained,
                frozen_sha256_before=digest,
                frozen_sha256_after=digest,
            )
            for run, digest in zip(evidence.results.runs, ("1" * 64, "2" * 64), strict=False)
        )
        changed = replace(evidence, results=replace(evidence.results, runs=runs))
        assert architecture.frozen_unchanged(changed).status is status

    def test_nothing_frozen_is_no_frozen_part(self, evidence: Evidence) -> None:
        changed = first_run(evidence, trained_groups=("layer4", "fc"))
        frozen = ", ".join(sorted(set(GROUPS) - {"layer4", "fc"}))
        wanted = f"A-seed0: froze {frozen}, but the hash is that of empty input."
        assert architecture.frozen_unchanged(changed).summary == wanted


def test_a_parameter_listed_twice(evidence: Evidence) -> None:
    listed = evidence.results.runs[0].trainable_parameters
    found = architecture.resnet18_layers(first_run(evidence, trainable_parameters=(*listed, listed[0])))
    assert (found.status, found.summary) == (Status.FAILS, "A-seed0: a parameter is listed twice.")
