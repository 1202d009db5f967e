"""Which of a run's networks is used, and that it is the recorded one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from finetune.errors import ConfigError, FinetuneError
from finetune.inference.trained import choose_run, load_model
from finetune.run.folder import RunFolder
from grader.grading.verdict import Grade

pytestmark = pytest.mark.usefixtures("narrow")
CPU = torch.device("cpu")


def test_a_variant_is_named_in_any_case(photos_run: tuple[Path, Path]) -> None:
    model = load_model(RunFolder(photos_run[0]), CPU, "c")
    assert model.run.variant == "C"
    assert model.why == ""
    assert not model.network.training


@pytest.mark.parametrize("advised", ["B", "C"])
def test_the_verdict_chooses(
    photos_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, advised: str
) -> None:
    monkeypatch.setattr(Grade, "advised", advised)
    folder = RunFolder(photos_run[0])
    run, why = choose_run(folder, folder.results())
    assert run.variant == advised
    assert why == f"Using {advised}, seed 0: the verdict favors it."


def test_without_advice_validation_chooses(photos_run: tuple[Path, Path]) -> None:
    folder = RunFolder(photos_run[0])  # there is no A, so the verdict cannot advise
    results = folder.results()
    scores = {run.variant: run.best.val.accuracy for run in results.runs if run.best}
    run, why = choose_run(folder, results)
    assert scores[run.variant] == max(scores.values())
    if "favors none" not in why:
        assert "the verdict favors it" in why


def test_one_figure_chooses_variant_and_seed_without_advice(
    photos_run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grade, "advised", None)
    folder = RunFolder(photos_run[0])
    results = folder.results()
    b = next(run for run in results.runs if run.variant == "B")
    c = next(run for run in results.runs if run.variant == "C")
    runs = (c, dataclasses.replace(c, seed=1), b, dataclasses.replace(b, seed=1))
    run, why = choose_run(folder, dataclasses.replace(results, runs=runs))
    assert run.best is not None
    assert why == (
        f"Using {run.variant}, seed {run.seed}: the verdict favors none, and this network has the "
        f"highest validation accuracy ({run.best.val.accuracy:.1%})."
    )
    named, why = choose_run(folder, dataclasses.replace(results, runs=runs), seed=1)
    assert (named.variant, named.seed) == (run.variant, 1)
    assert f", seed 1: the verdict favors none, and its seed {run.seed} has the highest" in why


def test_the_best_seed_is_used_unless_one_is_named(photos_run: tuple[Path, Path]) -> None:
    folder = RunFolder(photos_run[0])
    results = folder.results()
    b = next(run for run in results.runs if run.variant == "B")
    assert b.best is not None
    better = dataclasses.replace(b.best, val=dataclasses.replace(b.best.val, n_correct=b.best.val.n_samples))
    worse = dataclasses.replace(b.best, val=dataclasses.replace(b.best.val, n_correct=0))
    runs = tuple(
        dataclasses.replace(b, seed=seed, epochs=(epoch,), best_epoch=epoch.epoch)
        for seed, epoch in ((0, worse), (1, better), (2, worse))
    )
    results = dataclasses.replace(results, runs=runs)
    run, why = choose_run(folder, results, "B")
    assert run.seed == 1
    assert "highest validation accuracy (100.0%)" in why
    assert choose_run(folder, results, "B", 2)[0].seed == 2
    with pytest.raises(ConfigError, match=r"seed must be one of 0, 1, 2, but 7"):
        choose_run(folder, results, "B", 7)
    with pytest.raises(ConfigError, match=r"variant must be one of B, but 'A'"):
        choose_run(folder, results, "A")


@pytest.mark.parametrize("damage", ["swapped", "gone"])
def test_a_checkpoint_that_is_not_the_recorded_one(
    photos_run: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    run = shutil.copytree(photos_run[0], tmp_path / "run")
    checkpoints = run / "checkpoints"
    if damage == "gone":
        (checkpoints / "B-seed0.safetensors").unlink()
    else:
        shutil.copy(checkpoints / "C-seed0.safetensors", checkpoints / "B-seed0.safetensors")
    with pytest.raises(FinetuneError, match="SHA-256" if damage == "swapped" else "Cannot read"):
        load_model(RunFolder(run), CPU, "B")


def test_a_run_in_which_no_epoch_ended(photos_run: tuple[Path, Path], tmp_path: Path) -> None:
    run = shutil.copytree(photos_run[0], tmp_path / "run")
    document = json.loads((run / "results.json").read_text())
    for entry in document["runs"]:
        entry |= {"status": "failed", "failure": "x", "epochs": [], "best_epoch": None}
        entry |= {"calibration": None, "artifacts": None}
    (run / "results.json").write_text(json.dumps(document))
    with pytest.raises(FinetuneError, match="it holds none"):
        load_model(RunFolder(run), CPU)
