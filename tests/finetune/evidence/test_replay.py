"""Epochs trained again from the start of a run or from a state that it kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.tune import Tune
from finetune.errors import ConfigError, FinetuneError
from finetune.evidence.replay import replay_run
from finetune.run.merge import merge_runs
from finetune.system.host import cores
from finetune.system.signals import Stopped
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.isolated.replay import Request
from grader.submission.checkpoints import network_sha256
from grader.submission.commitments import drawn_epochs
from tests.builders.runs import RecordingReporter, StopAt, results_of, run_finetune

Experiment = Callable[..., dict[str, Any]]
HASHES = ("weights_sha256", "predictions_sha256", "commitment")


def hashes(epochs: list[dict[str, Any]]) -> list[list[str]]:
    return [[epoch[name] for name in HASHES] for epoch in epochs]


def again(run: Path, *passages: tuple[str, int, int], weights: Path) -> dict[str, Any]:
    out = run.parent / "replay.json"
    replay_run(run, out, RecordingReporter(), passages=passages, weights=str(weights), device="cpu")
    return dict(json.loads(out.read_text()))


def test_epochs_are_the_same_again(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    record = experiment(tmp_path / "run", epochs=3, keep_states=1)
    runs = {run["variant"]: run for run in record["runs"]}
    kept = runs["C"]["states"][0]["epoch"]
    wanted = [("A-seed0", 1, 3), ("B-seed0", 1, 1), ("C-seed0", kept + 1, 1)]
    found = again(tmp_path / "run", *wanted, weights=narrow_weights)["passages"]
    for (name, first, count), passage in zip(wanted, found, strict=True):
        recorded = runs[name[0]]["epochs"][first - 1 : first - 1 + count]
        assert hashes(passage["epochs"]) == hashes(recorded)
        assert passage["initial_sha256"] == runs[name[0]]["initial_sha256"]


def test_a_million_threads(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    """Recorded threads are a claim: more than a few per core would keep the grader for hours."""
    record = experiment(tmp_path / "run", epochs=1)
    record["environment"]["threads"] = 10**6
    (tmp_path / "run" / "results.json").write_text(json.dumps(record))
    found = again(tmp_path / "run", ("A-seed0", 1, 1), weights=narrow_weights)
    assert found["environment"]["threads"] == 4 * cores()


def replay_staged(folder: Path, weights: Path, **what: Any) -> None:
    """What `finetune replay` does in the folder that the grader stages, in this process."""
    replay_run(
        folder / "run",
        folder / "replay.json",
        RecordingReporter(),
        weights=str(weights),
        device="cpu",
        **what,
    )


def test_rows_of_their_own_kind(
    tmp_path: Path, experiment: Experiment, narrow_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grader replays a longer row, and names the one that it leaves out: its head is another run's."""
    probe = Variant(name="fc", init="pretrained", train=("fc",))
    headed = Variant(name="LP-FT", init="pretrained", train="all", head="fc")
    a = Variant(name="A", init="random", train="all")
    rows = (a, dataclasses.replace(a, name="A3", epochs=6), probe, headed)
    record = experiment(tmp_path / "run", variants=rows, keep_states=1, lr=0.01, subset=3)
    asked: list[list[str]] = []

    def here(arguments: Sequence[str], folder: Path) -> str:
        """`finetune replay` in this process, since the network is narrow here alone."""
        asked.append(list(arguments))
        words = list(arguments)
        passages = [
            (words[i + 1], int(words[i + 2]), int(words[i + 3]))
            for i, word in enumerate(words)
            if word == "--passage"
        ]
        replay_staged(folder, narrow_weights, passages=passages)
        return ""

    monkeypatch.setattr("grader.isolated.replay.call", here)
    found = grade(Job(tmp_path / "run", "run", load_policy("default"), replay=Request(seed=1)))
    finding = found.findings["replay-agrees"]
    assert finding.status is Status.HOLDS, finding.details
    kept = [state["epoch"] for run in record["runs"] for state in run["states"] if run["variant"] != "LP-FT"]
    assert len(asked) == 1
    assert asked[0].count("--passage") == finding.numbers["identical"] == 3 + len(kept)
    assert "Left out, because their head comes from another run: LP-FT-seed0." in finding.details
    assert found.findings["commitments-chain"].status is Status.HOLDS
    runs = {run["variant"]: run for run in record["runs"]}
    first, second = (runs[name]["epochs"][:2] for name in ("A", "A3"))
    assert first[0]["val"] == second[0]["val"]  # one network until the warm-up ends
    assert first[1]["val"] != second[1]["val"]
    assert found.findings["distinct-runs"].status is Status.HOLDS

    copied = json.loads((tmp_path / "run" / "results.json").read_text())
    a_run, longer = (next(r for r in copied["runs"] if r["variant"] == name) for name in ("A", "A3"))
    longer["epochs"][1]["val"]["loss_sum"] = a_run["epochs"][1]["val"]["loss_sum"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(copied))
    again = grade(Job(tmp_path / "run", "run", load_policy("default")))
    assert again.findings["distinct-runs"].status is Status.FAILS


@pytest.mark.parametrize("fields", [{}, {"resplit": True, "seeds": 2}, {"cache_views": 2}])
def test_trials_are_trained_again_too(
    tmp_path: Path,
    experiment: Experiment,
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
) -> None:
    """Interrupted, resumed and merged, every trial commits to the epochs that training again gives."""
    variants, tune = STANDARD_VARIANTS[1:], Tune(rates=(0.01, 0.02, 1e12))
    options = {"variants": variants, "tune": tune, "epochs": 5, **fields}
    with pytest.raises(Stopped):
        experiment(tmp_path / "part", stop=StopAt(30), **options)
    part = experiment(tmp_path / "part", resume=True, **options)
    record = merge_runs([tmp_path / "part"], tmp_path / "run", RecordingReporter())
    trials = record["tuning"]["trials"]
    assert trials == part["tuning"]["trials"]
    assert all(len(trial["commitments"]) == len(trial["validation"]) for trial in trials)
    assert {trial["status"] for trial in trials} == {"completed", "failed"}
    asked: list[str] = []

    def here(arguments: Sequence[str], folder: Path) -> str:
        asked.extend(arguments)
        indices = [int(arguments[i + 1]) for i, word in enumerate(arguments) if word == "--trial"]
        assert [trials[i]["variant"] for i in sorted(indices)] == ["B", "C"]
        every = [(index, 9) for index in range(len(trials))]  # to the end
        replay_staged(folder, narrow_weights, passages=[("B-seed0", 1, 1)], trials=every)
        return ""

    monkeypatch.setattr("grader.isolated.replay.call", here)
    found = grade(Job(tmp_path / "run", "run", load_policy("default"), replay=Request(seed=1)))
    finding = found.findings["replay-agrees"]
    n_epochs = 1 + sum(len(trial["commitments"]) for trial in trials)
    assert (finding.status, finding.numbers["identical"]) == (Status.HOLDS, n_epochs), finding.summary
    assert found.findings["trials-committed"].status is Status.HOLDS
    assert asked.count("--trial") == 2


def test_another_rate_seed_or_state_gives_other_weights(
    tmp_path: Path, experiment: Experiment, narrow_weights: Path
) -> None:
    experiment(tmp_path / "run", epochs=3, keep_states=1)
    file = tmp_path / "run" / "results.json"
    document = json.loads(file.read_text())
    a, b = document["runs"][:2]
    a["learning_rate"] *= 1.01
    file.write_text(json.dumps(document))
    (passage,) = again(tmp_path / "run", ("A-seed0", 1, 1), weights=narrow_weights)["passages"]
    assert passage["initial_sha256"] == a["initial_sha256"]
    assert hashes(passage["epochs"]) != hashes(a["epochs"][:1])
    kept = b["states"][0]["epoch"]
    b["epochs"][kept - 1]["weights_sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    with pytest.raises(FinetuneError, match=r"its hash is not the one that the results record"):
        again(tmp_path / "run", ("B-seed0", kept + 1, 1), weights=narrow_weights)


def test_weights_that_the_results_do_not_record(
    tmp_path: Path, experiment: Experiment, narrow_weights: Path
) -> None:
    experiment(tmp_path / "run", epochs=1)
    document = results_of(tmp_path / "run")
    for recorded in (None, {**document["weights"], "sha256": "0" * 64}):
        document["weights"] = recorded
        (tmp_path / "run/results.json").write_text(json.dumps(document))
        with pytest.raises(FinetuneError, match="pretrained weights must be those of the run"):
            again(tmp_path / "run", ("B-seed0", 1, 1), weights=narrow_weights)


def test_a_state_of_another_network(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    experiment(tmp_path / "run", epochs=3, keep_states=1)
    document = results_of(tmp_path / "run")
    state = document["runs"][1]["states"][0]
    for content in (b"no tensors", (tmp_path / "run/checkpoints/B-seed0.safetensors").read_bytes()):
        (tmp_path / "run" / state["path"]).write_bytes(content)
        state["sha256"] = hashlib.sha256(content).hexdigest()
        (tmp_path / "run/results.json").write_text(json.dumps(document))
        with pytest.raises(FinetuneError, match="must be a training state of this network"):
            again(tmp_path / "run", ("B-seed0", state["epoch"] + 1, 1), weights=narrow_weights)


def test_an_interrupted_run_commits_to_the_same_epochs(tmp_path: Path, experiment: Experiment) -> None:
    fields = {"epochs": 4, "keep_states": 2}
    whole = experiment(tmp_path / "whole", **fields)
    with pytest.raises(Stopped):
        experiment(tmp_path / "run", stop=StopAt(9), **fields)
    resumed = experiment(tmp_path / "run", resume=True, **fields)
    for run, other in zip(whole["runs"], resumed["runs"], strict=True):
        assert hashes(run["epochs"]) == hashes(other["epochs"])
        assert [s["epoch"] for s in run["states"]] == [s["epoch"] for s in other["states"]]
        chain = [epoch["commitment"] for epoch in run["epochs"]]
        assert [s["epoch"] for s in run["states"]] == drawn_epochs(2, 4, chain)
        for state in other["states"]:
            content = (tmp_path / "run" / state["path"]).read_bytes()
            assert network_sha256(content, "state") == run["epochs"][state["epoch"] - 1]["weights_sha256"]
    assert not (tmp_path / "run" / "state").exists()


def test_states_are_merged(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    experiment(tmp_path / "part", epochs=3, keep_states=1)
    merged = merge_runs([tmp_path / "part"], tmp_path / "merged", RecordingReporter())
    run = merged["runs"][0]
    state = run["states"][0]
    assert (tmp_path / "merged" / state["path"]).read_bytes() == (
        tmp_path / "part" / state["path"]
    ).read_bytes()
    found = again(tmp_path / "merged", ("A-seed0", state["epoch"] + 1, 1), weights=narrow_weights)
    (passage,) = found["passages"]
    assert hashes(passage["epochs"]) == hashes(run["epochs"][state["epoch"] : state["epoch"] + 1])


def test_cached_views_are_replayed_too(tmp_path: Path, experiment: Experiment, narrow_weights: Path) -> None:
    record = experiment(tmp_path / "run", epochs=3, cache_views=2)
    (passage,) = again(tmp_path / "run", ("C-seed0", 1, 2), weights=narrow_weights)["passages"]
    assert hashes(passage["epochs"]) == hashes(record["runs"][2]["epochs"][:2])


def test_weights_of_a_file_must_be_named(tmp_path: Path, experiment: Experiment) -> None:
    experiment(tmp_path / "run")
    with pytest.raises(ConfigError, match="name the file with --weights"):
        replay_run(
            tmp_path / "run",
            tmp_path / "out",
            RecordingReporter(),
            passages=[("B-seed0", 1, 1)],
            device="cpu",
        )


def test_other_images_or_weights_are_refused(
    tmp_path: Path, experiment: Experiment, narrow_weights: Path
) -> None:
    experiment(tmp_path / "run")
    file = tmp_path / "run" / "results.json"
    for part, keys in (("images", ("dataset", "splits", "train")), ("pretrained weights", ("weights",))):
        document = json.loads(file.read_text())
        changed = document
        for key in keys:
            changed = changed[key]
        changed["fingerprint" if part == "images" else "sha256"] = "0" * 64
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "results.json").write_text(json.dumps(document))
        with pytest.raises(FinetuneError, match=f"The {part} must be those of the run"):
            again(tmp_path / "other", ("B-seed0", 1, 1), weights=narrow_weights)


@pytest.mark.parametrize("kept", ["-1", "2"])
def test_no_more_states_than_epochs_but_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: str
) -> None:
    out = tmp_path / "run"
    found = run_finetune(
        capsys, "train", "--preset", "smoke", "--epochs", 2, "--keep-states", kept, "--out", out
    )
    assert found.refused() == (
        f"Error: keep_states must be from 0 to 1, one less than the epochs, but {kept} was given."
    )


class TestDraws:
    def test_every_epoch_but_the_last_can_be_drawn(self) -> None:
        n, counts = 3000, dict.fromkeys(range(1, 10), 0)
        for i in range(n):
            chain = [hashlib.sha256(f"{i} {k}".encode()).hexdigest() for k in range(10)]
            drawn = drawn_epochs(2, 10, chain)
            assert len(drawn) == 2
            assert drawn[0] <= 4 < drawn[1]
            for epoch in drawn:
                counts[epoch] += 1
        for epoch, count in counts.items():
            share = 1 / 4 if epoch <= 4 else 1 / 5
            assert abs(count - share * n) < 4 * (share * (1 - share) * n) ** 0.5

    def test_what_is_known_so_far_decides(self) -> None:
        chain = ["f" * 64, "0" * 64, "f" * 64, "0" * 64]
        assert drawn_epochs(1, 5, chain[:1]) == []
        assert drawn_epochs(1, 5, chain[:2]) == drawn_epochs(1, 5, chain) == [2]
        assert drawn_epochs(1, 5, ["f" * 64] * 5) == [4]  # the last chance

    @pytest.mark.parametrize(("n", "epochs"), [(0, 5), (1, 1), (3, 1)])
    def test_nothing_to_draw(self, n: int, epochs: int) -> None:
        assert drawn_epochs(n, epochs, ["0" * 64] * epochs) == []

    def test_as_many_as_there_are(self) -> None:
        assert drawn_epochs(9, 4, ["0" * 64] * 4) == [1, 2, 3]
