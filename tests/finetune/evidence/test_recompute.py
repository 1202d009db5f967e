"""What determines a run before training, computed again, for rows of every kind; what checkpoints hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.config.tune import Tune
from finetune.data.split_dataset import split_dataset
from finetune.evidence.recompute import Recomputation
from finetune.network.resnet18 import build
from finetune.run.folder import RunFolder
from grader.checks.checkpoint_files import checkpoint_frozen, checkpoint_steps
from grader.checks.recomputed_starts import start_recomputed, stream_recomputed
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.isolated.rerun import Rerun
from grader.submission import checkpoints, resnet18
from grader.submission.load import Submission, load
from grader.submission.record import results_from
from tests.builders.config import tiny_config

ROWS = (
    Variant(name="probe", init="random", train="fc"),
    Variant(name="after", init="random", train="all", head="probe"),
    Variant(name="above", init="random", train="layer4", head="probe"),
    Variant(name="long", init="random", train="all", epochs=3),
    Variant(name="adapts", init="random", train=("layer4", "fc"), norm="adapt"),
)
Run = Callable[..., dict[str, Any]]


def recomputed(config: ExperimentConfig, folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    submission = Submission(folder, results_from(document), document)
    found = Recomputation(config, split_dataset(config, 1), submission, RunFolder(folder), 1)
    rows = {variant.name: variant for variant in config.variants}
    networks = {}
    for run in submission.results.runs:
        network = build(rows[run.variant], 10, 0, None)
        network.load_state_dict(
            safetensors.torch.load_file(folder / "checkpoints" / f"{run.name}.safetensors")
        )
        networks[run.name] = found.of(run, network)
    return networks


@pytest.mark.parametrize("fields", [{"split_seed": 5}, {"resplit": True, "split_seed": 5}])
def test_rows_of_every_kind(experiment: Run, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Rows with epochs, a head or adapting statistics of their own, on one split or one for each seed."""
    fields |= {"variants": ROWS, "seeds": 2}
    document = experiment(tmp_path / "run", **fields)
    found = recomputed(tiny_config(**fields), tmp_path / "run", document)
    for run in document["runs"]:
        assert found[f"{run['variant']}-seed{run['seed']}"] == {
            "initial_sha256": run["initial_sha256"],
            "frozen_sha256": run["frozen_sha256_before"],
            "stream_sha256": run["budget"]["stream_sha256"],
            "unchanged": [],
            "why": "",
        }


def test_a_head_from_a_run_that_is_missing(experiment: Run, tmp_path: Path) -> None:
    document = experiment(tmp_path / "run", variants=ROWS[:2])
    document["runs"] = document["runs"][1:]
    found = recomputed(tiny_config(variants=ROWS[:2]), tmp_path / "run", document)
    assert found["after-seed0"]["initial_sha256"] is None
    assert found["after-seed0"]["why"] == "after-seed0: the run that gives its head is missing."


@pytest.mark.parametrize("statistics", ["running", "reestimated"])
def test_checkpoints_of_rows_of_every_kind(
    experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics: str
) -> None:
    """Frozen tensors hash as recorded, and BatchNorm counted what it must have, in what training wrote."""
    pretrained = tuple(
        Variant(**{**vars(row), "name": f"{row.name}-pre", "init": "pretrained"})
        for row in ROWS[:1] + ROWS[4:]
    )
    frozen = Variant(name="frozen", init="pretrained", train=("layer4", "fc"))
    experiment(tmp_path / "run", variants=(*ROWS, *pretrained, frozen), statistics=statistics)
    stored = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / "long-seed0.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    parameters = {n for n in shapes if n in resnet18.parameter_shapes(10)}
    monkeypatch.setattr(checkpoints, "state_shapes", lambda _: shapes)
    monkeypatch.setattr(checkpoints, "parameter_shapes", lambda _: parameters)
    submission = load(tmp_path / "run")
    evidence = Evidence(submission.results, checkpoints=checkpoints.read_checkpoints(submission))
    for check in (checkpoint_frozen, checkpoint_steps):
        found = check(evidence)
        assert (found.status, found.judged) == (Status.HOLDS, 8), found.summary
    # What it must not accept: a count that is another statistics' one.
    other = {"running": "reestimated", "reestimated": "running"}[statistics]
    document = dict(submission.document)
    document["config"]["recipe"]["statistics"] = other
    assert checkpoint_steps(Evidence(results_from(document), checkpoints=evidence.checkpoints)).status is (
        Status.FAILS
    )


@pytest.mark.parametrize("fields", [{}, {"resplit": True, "seeds": 2, "cache_views": 2}])
def test_trials(experiment: Run, tmp_path: Path, fields: dict[str, Any]) -> None:
    """Of rows of every kind and of trials that diverged; a head taken from another trial is not kept."""
    rows = (*ROWS[:2], ROWS[3])
    fields |= {"variants": rows, "tune": Tune(rates=(0.01, 0.02, 1e12)), "split_seed": 5}
    document = experiment(tmp_path / "run", **fields)
    config = tiny_config(**fields)
    results = results_from(document)
    submission = Submission(tmp_path / "run", results, document)
    found = Recomputation(config, split_dataset(config, 1), submission, RunFolder(tmp_path / "run"), 1)
    assert results.tuning is not None
    trials = results.tuning.trials
    assert {trial.status for trial in trials} == {"completed", "failed"}
    again = [found.of_trial(trial) for trial in trials]
    assert again == [
        {
            "initial_sha256": None if trial.variant == "after" else trial.initial_sha256,
            "stream_sha256": trial.stream_sha256,
        }
        for trial in trials
    ]
    environment = dict(results.environment)
    evidence = Evidence(results, rerun=Rerun({}, environment=environment, recomputed={"x": {}}, trials=again))
    n_starts = sum(trial.variant != "after" for trial in trials)
    for check, n in ((start_recomputed, n_starts), (stream_recomputed, len(trials))):
        finding = check(evidence)
        assert (finding.status, finding.held) == (Status.HOLDS, n), finding.summary
    for key, check in (("initial_sha256", start_recomputed), ("stream_sha256", stream_recomputed)):
        made_up = dataclasses.replace(trials[0], **{key: "0" * 64})
        tuning = dataclasses.replace(results.tuning, trials=(made_up, *trials[1:]))
        forged = dataclasses.replace(evidence, results=dataclasses.replace(results, tuning=tuning))
        finding = check(forged)
        assert (finding.status, finding.judged - finding.held) == (Status.FAILS, 1)
        assert finding.summary.startswith(made_up.name)
