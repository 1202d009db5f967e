"""Level 5: whether the variants' recorded times compare as they do where they are trained again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grader.checks.replayed_times import times_replayed
from grader.checks.speed import c_faster
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Status
from grader.grading.grade import graded
from grader.grading.policy import Policy
from grader.isolated.replay import Passage, Replay
from grader.submission.load import load
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, write_run

Judged = Callable[..., Evidence]


@pytest.fixture
def forger(tmp_path: Path) -> Forger:
    write_run(tmp_path / "honest", Size(epochs=4))
    found = Forger(tmp_path / "honest", tmp_path / "run")
    found.doc["environment"]["threads"] = 1
    return found


def shorten(run: dict[str, Any], factor: float, epochs: slice = slice(None)) -> None:
    """What a script does that wants a variant to be faster: all times alike, evaluation included."""
    for epoch in run["epochs"][epochs]:
        for name in ("train_seconds", "train_cpu_seconds", "data_wait_seconds", "evaluation_seconds"):
            epoch[name] *= factor
    training = sum(epoch["train_seconds"] for epoch in run["epochs"])
    run["total_seconds"] = training + sum(e["evaluation_seconds"] for e in run["epochs"]) + 1
    run["images_per_second"] = sum(e["train"]["n_samples"] for e in run["epochs"]) / training


@pytest.fixture
def replayed(forger: Forger, tmp_path: Path) -> Judged:
    """The forger's run beside what training the first epochs of the honest one again gives."""

    honest = load(tmp_path / "honest").document["runs"]

    def run(repeats: dict[str, list[float]] | None = None, **elsewhere: Any) -> Evidence:
        forger.save()
        submission = load(forger.folder)
        passages = [
            Passage(run.name, None, 1, run.initial_sha256, entry["epochs"][:1])
            for run, entry in zip(submission.results.runs, honest, strict=True)
        ]
        environment = submission.document["environment"] | elsewhere
        seconds = [
            {"variant": variant, "train_cpu_seconds": value}
            for variant, values in (repeats or {}).items()
            for value in values
        ]
        found = Replay(passages, environment=environment, precision="fp32", repeats=seconds)
        return replace(gather(submission, Thresholds()), replay=found)

    return run


def other_bits(evidence: Evidence) -> Evidence:
    """The same, as if training again had rounded otherwise."""
    assert evidence.replay is not None
    passages = [
        replace(
            passage,
            epochs=[
                {**epoch, "weights_sha256": "0" * 64, "predictions_sha256": "0" * 64}
                for epoch in passage.epochs
            ],
        )
        for passage in evidence.replay.passages
    ]
    return replace(evidence, replay=replace(evidence.replay, passages=passages))


def test_honest_times(replayed: Judged, policy: Policy) -> None:
    found = times_replayed(replayed())
    assert (found.status, found.held, found.judged) == (Status.HOLDS, 1, 1)
    assert found.numbers["largest_factor"] < 1.2
    assert c_faster(replayed()).status is Status.HOLDS
    assert 5 in graded(replayed(), "x", policy).levels


@pytest.mark.parametrize("epochs", [slice(None), slice(1, None)])
def test_times_of_c_shortened(forger: Forger, replayed: Judged, policy: Policy, epochs: slice) -> None:
    """Consistent at every other level, and the first epoch may even be true."""
    shorten(forger.run("C"), 0.4, epochs)
    evidence = replayed()
    grade = graded(evidence, "x", policy)
    assert grade.refuted == ["times-replayed"]
    assert (5 in grade.levels, grade.refuted_levels) == (False, (5,))
    summary = grade.findings["times-replayed"].summary
    assert summary.startswith("C-seed0: an epoch took 0.2")
    assert "times the CPU time of one of" in summary
    assert grade.findings["c-faster"].status is Status.NOT_CHECKED
    assert not graded(replace(evidence, replay=None), "x", policy).refuted


def test_what_load_could_explain_settles_nothing_about_speed(forger: Forger, replayed: Judged) -> None:
    shorten(forger.run("C"), 0.6)
    evidence = replayed()
    assert times_replayed(evidence).status is Status.INCONCLUSIVE
    speed = c_faster(evidence)
    assert speed.status is Status.INCONCLUSIVE
    assert "times as trained again" in speed.summary
    assert c_faster(replace(evidence, replay=None)).status is Status.HOLDS


@pytest.mark.parametrize("name", ["device_name", "vector_instructions"])
@pytest.mark.parametrize(
    ("factor", "status"), [(0.5, Status.HOLDS), (0.3, Status.INCONCLUSIVE), (0.05, Status.INCONCLUSIVE)]
)
def test_another_machine_has_another_ratio(
    forger: Forger, replayed: Judged, factor: float, status: Status, name: str
) -> None:
    shorten(forger.run("C"), factor)
    assert times_replayed(other_bits(replayed(**{name: "another"}))).status is status


def test_equal_bits_need_equal_instructions_whatever_the_processor_is_called(
    forger: Forger, replayed: Judged
) -> None:
    shorten(forger.run("C"), 0.5)
    evidence = replayed(device_name="another")
    assert times_replayed(evidence).status is Status.INCONCLUSIVE
    assert c_faster(evidence).status is Status.INCONCLUSIVE
    assert c_faster(other_bits(evidence)).status is Status.HOLDS


@pytest.mark.parametrize("runs", [["A-seed0"], ["B-seed0", "C-seed0"], ["A-seed0", "B-seed0", "C-seed0"]])
@pytest.mark.parametrize(
    "change", [["predictions_sha256"], ["weights_sha256"], ["weights_sha256", "predictions_sha256"]]
)
def test_hashes_rewritten_in_some_runs_win_no_room(
    forger: Forger, replayed: Judged, runs: list[str], change: list[str]
) -> None:
    """Not every bit agrees then, but some weights do, or what they predict."""
    shorten(forger.run("C"), 0.5)
    evidence = replayed(device_name="another")
    assert evidence.replay is not None
    passages = [
        replace(p, epochs=[epoch | dict.fromkeys(change, "0" * 64) for epoch in p.epochs])
        if p.run in runs
        else p
        for p in evidence.replay.passages
    ]
    evidence = replace(evidence, replay=replace(evidence.replay, passages=passages))
    is_seen = len(runs) < 3 or len(change) == 1
    assert times_replayed(evidence).status is (Status.INCONCLUSIVE if is_seen else Status.HOLDS)


@pytest.mark.parametrize("how", ["one epoch that took nothing", "as if every epoch had cached features"])
def test_a_run_that_drops_out_of_the_comparison(forger: Forger, replayed: Judged, how: str) -> None:
    """Whoever scales C's times gains nothing by making them incomparable."""
    c = forger.run("C")
    seconds = c["epochs"][1]["train_cpu_seconds"]
    shorten(c, 0.4)
    if how == "one epoch that took nothing":
        c["epochs"][-1] |= {"train_seconds": 0.09, "train_cpu_seconds": 0.0009}
        assert times_replayed(replayed()).status is Status.FAILS
        return
    forger.doc["config"]["cache_views"] = len(c["epochs"])
    evidence = replayed({"C": [seconds]})
    assert times_replayed(evidence).status is Status.INCONCLUSIVE
    assert c_faster(evidence).status is Status.INCONCLUSIVE
    assert "No CPU time is recorded of C-seed0" in c_faster(evidence).summary


def test_threads_that_wait_spend_time_too(forger: Forger, replayed: Judged) -> None:
    """Beside other programs, an epoch in two threads took twelve times as much as another one."""
    forger.doc["environment"]["threads"] = 2
    shorten(forger.run("C"), 0.1)
    assert times_replayed(replayed()).status is Status.INCONCLUSIVE
    assert c_faster(replayed()).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("variant", ["A", "B"])
def test_any_variant_may_be_the_one(forger: Forger, replayed: Judged, variant: str) -> None:
    shorten(forger.run(variant), 2.5)
    assert times_replayed(replayed()).status is Status.FAILS


@pytest.mark.parametrize(("n_epochs", "slow"), [(1, [0]), (2, [1]), (3, [1]), (4, [1, 2])])
def test_what_the_start_of_a_program_costs_refutes_nobody(
    forger: Forger, replayed: Judged, n_epochs: int, slow: list[int]
) -> None:
    """Where an epoch takes tenths of a second, reading the libraries once took twice as long as the rest."""
    for run in forger.doc["runs"]:
        run["epochs"] = run["epochs"][:n_epochs]
        run["best_epoch"] = min(run["best_epoch"], n_epochs)
    for index in slow:
        forger.run("A")["epochs"][index]["train_cpu_seconds"] *= 4
    found = times_replayed(replayed())
    assert found.numbers["largest_factor"] > 2
    assert found.status is Status.INCONCLUSIVE


def test_a_machine_of_another_speed_changes_all_alike(forger: Forger, replayed: Judged) -> None:
    for variant in "ABC":
        shorten(forger.run(variant), 3.0)
    assert times_replayed(replayed()).status is Status.HOLDS


def test_the_least_of_several_passes_counts(replayed: Judged) -> None:
    """A program beside one of them takes nothing from the others."""
    honest = times_replayed(replayed()).numbers["largest_factor"]
    assert times_replayed(replayed({"B": [30.0, 31.0]})).numbers["largest_factor"] == honest
    assert times_replayed(replayed({"B": [1.0]})).status is Status.FAILS


def test_cached_features_are_compared_with_cached_ones(forger: Forger, replayed: Judged) -> None:
    forger.doc["config"]["cache_views"] = 1
    shorten(forger.run("C"), 0.2, slice(1, None))
    c = forger.run("C")["epochs"][1]["train_cpu_seconds"]
    b = forger.run("B")["epochs"][0]["train_cpu_seconds"]
    assert times_replayed(replayed()).numbers.keys() == {
        "largest_factor",
        "A-seed0_to_replay",
        "B-seed0_to_replay",
    }
    assert times_replayed(replayed({"C": [1.5 * c], "B": [b]})).status is Status.HOLDS


@pytest.mark.parametrize("what", ["a GPU there", "a GPU here", "no CPU times", "one variant"])
def test_what_cannot_be_compared(forger: Forger, replayed: Judged, what: str) -> None:
    if what == "a GPU there":
        forger.doc["environment"]["device"] = "cuda"
    if what == "no CPU times":
        for run in forger.doc["runs"]:
            run["epochs"] = [epoch | {"train_cpu_seconds": 0.0} for epoch in run["epochs"]]
    evidence = replayed(**({"device": "cuda"} if what == "a GPU here" else {}))
    assert evidence.replay is not None
    if what == "one variant":
        evidence = replace(evidence, replay=replace(evidence.replay, passages=evidence.replay.passages[:1]))
    assert times_replayed(evidence).status is Status.NOT_CHECKED
    assert c_faster(evidence).status in (Status.HOLDS, Status.INCONCLUSIVE)


def test_without_a_replay(replayed: Judged) -> None:
    evidence = replayed()
    assert times_replayed(replace(evidence, replay=None)).summary == "Requires --replay."
    assert times_replayed(replace(evidence, replay=Replay(failure="No images."))).summary == "No images."
