"""Level 4, with a stand-in for `finetune evaluate`."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader import rerun
from grader.findings import Status
from grader.grade import Job, grade
from grader.load import Submission, load
from grader.policy import Policy
from grader.record import results_from
from grader.verdict import Grade
from tests.grader.forgeries import Forger


@pytest.fixture
def stored(honest: Path, tmp_path: Path) -> Forger:
    """The honest run with checkpoints (their content does not matter here)."""
    forger = Forger(honest, tmp_path / "run")
    (forger.folder / "checkpoints").mkdir()
    for run in forger.doc["runs"]:
        artifact = run["artifacts"]["checkpoint"]
        content = artifact["path"].encode()
        (forger.folder / artifact["path"]).write_bytes(content)
        artifact["sha256"] = hashlib.sha256(content).hexdigest()
    forger.save()
    return forger


def evaluate_with(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the grader run this code in place of finetune; argv[1] is the run folder, argv[2] the output."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: real("json") if name == "torch" else real(name)
    )

    def call(command: list[str]) -> str:
        assert command[1:4] == ["-m", "finetune", "evaluate"]
        return real_call([sys.executable, "-c", code, command[4], command[6]])

    real_call = rerun._call
    monkeypatch.setattr(rerun, "_call", call)


COPY = (
    "import pathlib, shutil, sys\n"
    "for p in pathlib.Path(sys.argv[1]).glob('predictions/*'): shutil.copy(p, sys.argv[2])"
)


def graded(forger: Forger, policy: Policy) -> Grade:
    return grade(Job(forger.folder, "x", policy, rerun=True))


def test_agreement_reaches_level_four(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_with(monkeypatch, COPY)
    found = graded(stored, policy)
    assert found.findings["rerun-agrees"].summary == "Fresh predictions agree with all 12 stored files."
    assert found.levels == (1, 2, 4)
    assert found.exit_code == 0


def test_predictions_that_the_weights_do_not_make(
    stored: Forger, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The careful forger: better predictions for C, consistent in every figure and hash."""
    honest = tmp_path / "honest"
    shutil.copytree(stored.folder, honest)
    rows = stored.rows("C", "test")
    for row in [row for row in rows if row[1] != row[2]][:5]:
        row[2], row[3] = row[1], "0.3"
    stored.write_rows("C", "test", rows)
    stored.record("C", "test")
    stored.save()
    assert grade(Job(stored.folder, "x", policy)).exit_code == 0  # nothing shows on lower levels
    evaluate_with(monkeypatch, COPY.replace("sys.argv[1]", repr(str(honest))))
    found = graded(stored, policy)
    assert found.exit_code == 1
    failing = [name for name, finding in found.findings.items() if finding.status is Status.FAILS]
    assert [name for name in failing if found.counts(name)] == ["rerun-agrees"]
    assert found.findings["rerun-agrees"].summary == "C-seed0, test: 5 of 270 images come out differently."


def test_rounding_of_another_machine_is_tolerated(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = COPY + (
        "\nfor p in pathlib.Path(sys.argv[2]).iterdir():\n"
        "    rows = [line.split(',') for line in p.read_text().splitlines()]\n"
        "    for row in rows[1:]: row[3] = str(float(row[3]) * 1.004 + 0.003)\n"
        "    p.write_text('\\n'.join(map(','.join, rows)) + '\\n')"
    )
    evaluate_with(monkeypatch, noise)
    assert graded(stored, policy).findings["rerun-agrees"].status is Status.HOLDS


TIP = COPY + (
    "\nwanted, hits_only = int(sys.argv[3]), sys.argv[4] == 'hits'\n"
    "for p in pathlib.Path(sys.argv[2]).glob('*-test.csv'):\n"
    "    rows = [line.split(',') for line in p.read_text().splitlines()]\n"
    "    classes = sorted({row[1] for row in rows[1:]})\n"
    "    for row in [r for r in rows[1:] if (r[1] == r[2]) == hits_only][:wanted]:\n"
    "        row[2] = next(c for c in classes if c not in (row[1], row[2]))\n"
    "    p.write_text('\\n'.join(map(','.join, rows)) + '\\n')"
)
"""Predicts another class for some images: for wrong ones another wrong one, or a wrong one for hits."""


@pytest.mark.parametrize(
    ("precision", "kind", "n", "why"),
    [
        (None, "misses", 2, ""),
        (None, "misses", 3, "3 of 270 images come out differently."),
        ("fp32", "misses", 3, "3 of 270 images come out differently."),
        ("bf16", "misses", 13, ""),
        ("bf16", "misses", 14, "14 of 270 images come out differently."),
        ("bf16", "hits", 2, ""),
        ("bf16", "hits", 3, "hits of 270, but"),
    ],
)
def test_near_ties_tip_more_often_in_bf16_but_not_all_to_one_side(
    stored: Forger,
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
    precision: str | None,
    kind: str,
    n: int,
    why: str,
) -> None:
    stored.doc["config"].pop("precision", None)
    if precision:
        stored.doc["config"]["precision"] = precision
    stored.save()
    evaluate_with(monkeypatch, TIP.replace("sys.argv[3]", str(n)).replace("sys.argv[4]", repr(kind)))
    found = graded(stored, policy).findings["rerun-agrees"]
    assert found.status is (Status.FAILS if why else Status.HOLDS)
    assert why in found.summary


def test_another_checkpoint(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_with(monkeypatch, COPY)
    (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).write_bytes(b"another")
    found = graded(stored, policy).findings
    assert found["checkpoints-intact"].status is Status.FAILS
    assert found["rerun-agrees"].status is Status.NOT_CHECKED


def test_without_torch_it_says_so(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    found = graded(stored, policy)
    assert "torch is not installed here" in found.findings["rerun-agrees"].summary
    assert found.findings["rerun-agrees"].status is Status.NOT_CHECKED
    assert found.levels == (1, 2)


def test_an_evaluation_that_ends_in_an_error_is_told(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_with(monkeypatch, "import sys; sys.exit('Error: no images in data/')")
    found = graded(stored, policy).findings["rerun-agrees"]
    assert found.summary.endswith("evaluate ended with exit code 1: Error: no images in data/")


def test_other_images_are_told(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = COPY + (
        "\nfor p in pathlib.Path(sys.argv[2]).iterdir():"
        " p.write_text(p.read_text().replace('digit', 'other'))"
    )
    evaluate_with(monkeypatch, rename)
    found = graded(stored, policy).findings["rerun-agrees"]
    assert "the data set here has other images or labels" in found.summary
    assert json.loads((stored.folder / "results.json").read_text())["runs"]  # the submission is as it was


@pytest.mark.parametrize("error", [OSError("no more processes"), subprocess.TimeoutExpired("finetune", 3600)])
def test_an_evaluation_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    name = type(error).__name__
    assert rerun._call(["finetune"]) == f"Not made afresh: finetune evaluate did not finish ({name})."


def test_without_torch_it_says_what_to_install(stored: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = rerun.rerun(load(stored.folder))
    assert not found.predictions
    assert found.failure.startswith("Not made afresh: torch is not installed here; the extra `train`")


def test_checkpoints_of_failed_and_of_hostile_runs(stored: Forger) -> None:
    failed, hostile = stored.doc["runs"][:2]
    failed["artifacts"] = None
    hostile["artifacts"]["checkpoint"]["path"] = "../outside.safetensors"
    submission = Submission(stored.folder, results_from(stored.doc))
    found = rerun._checkpoints(submission)
    assert len(found) == len(stored.doc["runs"]) - 1
    assert [path for path, problems in found.items() if problems] == ["../outside.safetensors"]
