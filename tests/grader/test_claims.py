"""The questions themselves: what is said when the answer is yes, no, or cannot be told."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from grader.checks.learning import plateau
from grader.checks.speed import c_faster
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.grading.verdict import NO_NETWORK, Grade
from grader.submission.record import Results
from tests.grader import honest as simulated
from tests.grader.honest import Size, write_run

Graded = Callable[..., Grade]

LARGE = Size(n_test=2000, n_val=2000)


@pytest.fixture
def graded(tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Graded:
    """Grade a simulated run with these skills, and predictions or not."""

    def make(
        size: Size,
        skill: Mapping[str, float] | None = None,
        seconds: Mapping[str, float] | None = None,
        keep_predictions: bool = True,
        policy: Policy = policy,
    ) -> Grade:
        monkeypatch.setattr(simulated, "SKILL", simulated.SKILL | dict(skill or {}))
        monkeypatch.setattr(simulated, "EPOCH_SECONDS", simulated.EPOCH_SECONDS | dict(seconds or {}))
        run = write_run(tmp_path / "run", size)
        if not keep_predictions:
            for path in run.glob("predictions/*"):
                path.unlink()
        found = grade(Job(run, "run", policy))
        assert not found.problems
        return found

    return make


class TestBeats:
    def test_equal_networks_are_inconclusive(self, graded: Graded) -> None:
        found = graded(Size(), {"A": 4.0, "B": 4.0, "C": 4.0})
        finding = found.findings["b-beats-a"]
        assert finding.status is Status.INCONCLUSIVE
        assert "test images would settle it; there are 270." in finding.summary
        assert any(sentence.startswith("It is unclear whether") for sentence in found.sentences)
        assert found.exit_code == 0

    @pytest.mark.parametrize(
        ("seeds", "words"),
        [((0,), "McNemar p"), ((0, 1), "2 seeds, p"), ((0, 1, 2), "3 seeds, p")],
    )
    def test_each_number_of_seeds_has_its_test(
        self, graded: Graded, seeds: tuple[int, ...], words: str
    ) -> None:
        finding: Finding = graded(Size(seeds=seeds)).findings["b-beats-a"]
        assert (finding.status, finding.level) == (Status.HOLDS, Level.PREDICTIONS)
        assert words in finding.summary
        assert len(finding.details) == (len(seeds) if len(seeds) > 1 else 0)

    def test_two_seeds_that_disagree_are_inconclusive(
        self, graded: Graded, policy: Policy, tmp_path: Path
    ) -> None:
        graded(Size(seeds=(0, 1)))
        run = tmp_path / "run"
        document = json.loads((run / "results.json").read_text())
        first, second = (
            next(r for r in document["runs"] if (r["variant"], r["seed"]) == (v, 1)) for v in "AB"
        )
        for key in ("epochs", "best_epoch", "calibration", "artifacts", "total_seconds", "images_per_second"):
            first[key], second[key] = second[key], first[key]
        (run / "results.json").write_text(json.dumps(document))
        finding = grade(Job(run, "run", policy)).findings["b-beats-a"]
        assert finding.status is Status.INCONCLUSIVE
        assert finding.numbers["low"] < -0.3
        assert finding.numbers["high"] > 0.3

    @pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
    def test_without_predictions_the_counts_speak(self, graded: Graded, seeds: tuple[int, ...]) -> None:
        found = graded(Size(seeds=seeds), keep_predictions=False)
        finding = found.findings["b-beats-a"]
        assert (finding.status, finding.level) == (Status.HOLDS, Level.FILE)
        assert "unpaired, p" in finding.summary
        assert found.levels == (Level.FILE,)

    @pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2)])
    def test_pairs_and_counts_give_one_difference(
        self, graded: Graded, policy: Policy, tmp_path: Path, seeds: tuple[int, ...]
    ) -> None:
        paired = graded(Size(seeds=seeds)).findings["b-beats-a"]
        for path in (tmp_path / "run").glob("predictions/*"):
            path.unlink()
        unpaired = grade(Job(tmp_path / "run", "run", policy)).findings["b-beats-a"]
        assert paired.numbers["difference"] == pytest.approx(unpaired.numbers["difference"])


class TestCAgainstB:
    @pytest.mark.parametrize(
        ("skill", "status", "word", "advice"),
        [
            (8.5, Status.HOLDS, "superior", "in these runs C has the advantage."),
            (6.5, Status.HOLDS, "non-inferior", "in these runs C has the advantage."),
            (4.5, Status.FAILS, "inferior", "in these runs B has the advantage."),
        ],
    )
    def test_the_four_answers(
        self, graded: Graded, skill: float, status: Status, word: str, advice: str
    ) -> None:
        found = graded(LARGE, {"B": 6.5, "C": skill})
        finding = found.findings["c-against-b"]
        assert finding.status is status, finding.summary
        assert f": {word} at a margin of 2 points." in finding.summary
        assert any(sentence.endswith(advice) for sentence in found.verdict)
        assert found.exit_code == 0  # for information: either answer is a good result

    def test_undecided(self, graded: Graded) -> None:
        found = graded(Size(), {"B": 6.5, "C": 6.2})
        assert found.findings["c-against-b"].status is Status.INCONCLUSIVE
        assert (
            "inconclusive at a margin of 2 points. On the order of" in found.findings["c-against-b"].summary
        )

    def test_the_margin_is_the_policys(self, graded: Graded, policy: Policy) -> None:
        wide = replace(policy, thresholds=replace(policy.thresholds, margin=0.3))
        assert graded(Size(), {"C": 4.5}, policy=wide).findings["c-against-b"].status is Status.HOLDS


Times = list[float]


def speed(
    seeds: list[tuple[Times, ...]], cpu: tuple[float, float] | tuple[float, float, float] | None = (1.0, 1.0)
) -> Finding:
    """What c-faster says of times of C and B, and perhaps A, by seed.

    Args:
        seeds: Training seconds of the epochs of C and of B, and of A if it was trained.
        cpu: Processor seconds of each of their epochs; None if they are not recorded.
    """
    runs = [
        SimpleNamespace(
            name=f"{variant}-seed{seed}",
            variant=variant,
            seed=seed,
            trained_groups=("layer4", "fc") if variant == "C" else ("all",),
            epochs=[
                SimpleNamespace(train_seconds=t, data_wait_seconds=0.1 * t, train_cpu_seconds=cpu and cpu[i])
                for t in times[i]
            ],
        )
        for seed, times in enumerate(seeds)
        for i, variant in enumerate("CBA"[: len(times)])
    ]
    results = SimpleNamespace(
        device="cpu", of=lambda name: [run for run in runs if run.variant == name], runs=runs
    )
    return c_faster(Evidence(cast("Results", results)))


EVEN = [1.1, 1.0, 1.02, 0.99, 1.01]


def scaled(factor: float, times: Times = EVEN) -> Times:
    return [factor * t for t in times]


class TestSpeed:
    @pytest.mark.parametrize(
        ("factor", "status"),
        [
            (0.5, Status.HOLDS),
            (0.64, Status.HOLDS),
            (0.7, Status.INCONCLUSIVE),
            (1.0, Status.INCONCLUSIVE),
            (1.5, Status.INCONCLUSIVE),
            (1.6, Status.FAILS),
        ],
    )
    def test_one_seed_needs_a_clear_ratio(self, factor: float, status: Status) -> None:
        found = speed([(scaled(factor), EVEN)], (factor, 1.0))
        assert found.status is status
        assert found.numbers["ratio"] == pytest.approx(factor)
        assert "in this job, in CPU time" in found.summary
        wanted = "In one job only a clear difference counts; more epochs or seeds would settle it."
        assert found.summary.endswith(wanted) == (status is Status.INCONCLUSIVE)

    @pytest.mark.parametrize(
        ("factor", "status"),
        [
            (0.7, Status.HOLDS),
            (0.85, Status.HOLDS),
            (0.93, Status.INCONCLUSIVE),
            (1.08, Status.INCONCLUSIVE),
            (1.2, Status.FAILS),
        ],
    )
    def test_several_seeds_need_a_tenth(self, factor: float, status: Status) -> None:
        seeds = [(scaled(factor * level), scaled(level)) for level in (1.0, 2.0, 1.5)]  # the levels cancel
        found = speed(seeds, (factor, 1.0))
        assert found.status is status
        assert found.numbers["low"] == pytest.approx(found.numbers["high"]) == pytest.approx(factor)

    def test_each_sign_of_a_busy_machine_is_said_once(self) -> None:
        found = speed([([1.0, 0.6, 1.0], EVEN, scaled(1.5))], None)
        assert "although both train every layer." in found.summary
        assert found.details == ("Epochs of C-seed0 took 0.6 to 1 s.",)

    def test_two_seeds_that_disagree_settle_nothing(self) -> None:
        found = speed([(scaled(0.5), EVEN), (scaled(1.1), EVEN)], (0.7, 1.0))
        assert found.status is Status.INCONCLUSIVE
        assert found.summary.endswith("More seeds or a less busy machine would settle it.")

    @pytest.mark.parametrize("cpu", [(1.0, 1.0), None])
    def test_neighbours_make_no_failure(self, cpu: tuple[float, float] | None) -> None:
        """Times seen on a shared machine, for the same work in every epoch."""
        found = speed([([38.8, 60.3, 9.0, 3.9, 3.8], [3.9, 3.8, 3.7, 3.8, 3.9])], cpu)
        assert found.status is Status.INCONCLUSIVE
        assert (
            "The machine was busy, so the times cannot be compared: epochs of C-seed0 took" in found.summary
        )

    @pytest.mark.parametrize("cpu", [(1.0, 1.0), None])
    def test_neighbours_of_b_make_c_no_faster(self, cpu: tuple[float, float] | None) -> None:
        found = speed([(EVEN, [9.0, 8.0, 2.5, 9.5, 4.0])], cpu)
        assert found.status is Status.INCONCLUSIVE

    @pytest.mark.parametrize("cpu", [(0.5, 1.0, 1.0), None])
    @pytest.mark.parametrize(("a", "status"), [(1.1, Status.HOLDS), (1.3, Status.INCONCLUSIVE)])
    def test_a_must_take_as_long_as_b_in_one_job(
        self, cpu: tuple[float, float, float] | None, a: float, status: Status
    ) -> None:
        """They do the same work, so that a difference is the machine's."""
        for of_a, of_b in ((a, 1.0), (1.0, a)):
            times = (scaled(0.5), scaled(of_b), scaled(of_a))
            found = speed([times], cpu)
            assert found.status is status
            assert ("although both train every layer" in found.summary) is (status is not Status.HOLDS)
        assert speed([times] * 3, cpu).status is Status.HOLDS

    def test_slower_by_the_clock_alone_is_no_failure(self) -> None:
        assert speed([(scaled(2.0), EVEN)], None).status is Status.INCONCLUSIVE
        assert speed([(scaled(2.0), EVEN)] * 3, None).status is Status.INCONCLUSIVE

    def test_overlapping_epochs_settle_nothing(self) -> None:
        found = speed([([0.6, 0.7, 0.7, 1.2, 0.7, 1.1], [1.0, 1.1, 1.3, 0.7, 1.2, 0.8])], (0.7, 1.0))
        assert found.status is Status.INCONCLUSIVE

    def test_one_epoch_settles_nothing(self, graded: Graded) -> None:
        found = graded(Size(epochs=1))
        assert found.findings["c-faster"].status is Status.INCONCLUSIVE
        assert found.exit_code == 0

    def test_times_too_short_to_be_times(self) -> None:
        assert speed([([5e-324, 5e-324], EVEN)]).status is Status.NOT_CHECKED


class TestVerdict:
    def test_every_number_is_a_findings(self, graded: Graded) -> None:
        found = graded(Size())
        gap, against = found.findings["b-beats-a"].numbers, found.findings["c-against-b"].numbers
        first, second, scope, limit, _ = (s for s in found.sentences if not s.startswith("Caution"))
        assert limit == NO_NETWORK
        assert scope.startswith("Scope: ")
        for number in (gap["difference"], gap["corrected_low"], gap["corrected_high"]):
            assert f"{100 * number:.1f}" in first
        for number in (against["difference"], against["low"], against["high"]):
            assert f"{abs(100 * number):.1f}" in second
        assert f"{found.findings['c-faster'].numbers['ratio']:.2f} times as long" in second

    def test_a_failed_run_leaves_the_rest_judged(self, policy: Policy, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", Size())
        document = json.loads((run / "results.json").read_text())
        c = next(r for r in document["runs"] if r["variant"] == "C")
        c.update(status="failed", failure="loss became nan in epoch 1", epochs=[], best_epoch=None)
        c.update(artifacts=None, images_per_second=0)
        c["budget"].update(epochs=0, steps=20, images=1257)  # of the epoch it failed in
        (run / "results.json").write_text(json.dumps(document))
        found = grade(Job(run, "run", policy))
        assert found.findings["complete"].summary == "C-seed0: failed: 'loss became nan in epoch 1'."
        assert found.findings["b-beats-a"].status is Status.HOLDS
        assert found.findings["c-beats-a"].status is Status.NOT_CHECKED
        failing = [n for n, f in found.findings.items() if f.status is Status.FAILS and found.counts(n)]
        assert failing == ["complete"]


@pytest.mark.parametrize(
    ("accuracy", "epoch"),
    [
        ([0.5, 0.6, 0.7], 3),
        ([0.5, 0.7, 0.705, 0.69], 2),
        ([0.5, 0.505, 0.51, 0.515], 4),  # many small gains add up to more than a point
        ([0.5], 1),
    ],
)
def test_plateau(accuracy: list[float], epoch: int) -> None:
    assert plateau(accuracy) == epoch
