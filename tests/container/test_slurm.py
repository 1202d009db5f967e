"""The SLURM scripts on a cluster of one node, where its daemons are installed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import ROOT, Done
from tests.container.slurm import Slurm, cluster, require_slurm

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "deploy" / "slurm-all.sh"
PROGRAMS = Path(sys.executable).parent

TINY = """
dataset = "digits"
weights = "bundled"
subset = 6
threads = 1
[recipe]
epochs = 2
batch_size = 16
image_size = 32
lr = 0.02
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    require_slurm()
    with cluster(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def slurm(shared: Slurm, tmp_path: Path) -> Slurm:
    """The cluster, in a folder of the test's own."""
    own = Slurm(shared.folder)
    own.folder = tmp_path
    return own


def submit(slurm: Slurm, **environment: str) -> tuple[str, str, str]:
    """The ids of the three jobs."""
    done: Done = slurm(SCRIPT, "--gres=none", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.match(r"prepare (\d+), then shards (\d+), then grade (\d+):", done.stdout)
    assert found, done.stdout
    return found[1], found[2], found[3]


def stub(slurm: Slurm, body: str) -> dict[str, str]:
    """Programs in place of finetune and grader, since only how the jobs end matters."""
    for name in ("finetune", "grader"):
        (slurm.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (slurm.folder / name).chmod(0o755)
    return {name.upper(): str(slurm.folder / name) for name in ("finetune", "grader")}


def test_nine_runs_of_which_one_is_stopped_and_goes_on_by_itself(slurm: Slurm) -> None:
    (slurm.folder / "tiny.toml").write_text(TINY)
    programs = {name.upper(): str(PROGRAMS / name) for name in ("finetune", "grader")}
    prepare, shards, grade = submit(
        slurm,
        **programs,
        FINETUNE_TRAIN_PRESET="tiny.toml",
        XDG_CACHE_HOME=str(slurm.folder / "cache"),
        OMP_NUM_THREADS="1",
    )
    assert slurm.wait(prepare, seconds=120) == "COMPLETED"
    first = f"{shards}_0"
    log = slurm.folder / f"finetune-{first}.log"
    slurm.until(lambda: log.exists() and "A 1/" in log.read_text("utf-8"), "the first epoch", 300)
    # What SLURM does two minutes before the time limit: SIGTERM for the step, not for the script.
    step = f"{slurm.jobs()[first]['JobId']}.0"
    assert slurm("scancel", "--signal", "TERM", step).returncode == 0
    slurm.until(lambda: slurm.jobs()[first]["Restarts"] == "1", "the requeued task", 300)
    slurm("scontrol", "update", f"JobId={first}", "StartTime=now")  # SLURM would wait for two minutes
    assert slurm.wait(grade, seconds=900) == "COMPLETED"
    said = log.read_text("utf-8")
    assert "Interrupted." in said
    assert said.count("A 1/2") == 1, "the first epoch was not trained again"
    results = json.loads((slurm.folder / "runs/merged/results.json").read_text("utf-8"))
    assert [run["status"] for run in results["runs"]] == ["completed"] * 9
    assert "PASSED" in (slurm.folder / f"finetune-grade-{grade}.log").read_text("utf-8")


@pytest.mark.parametrize(
    ("failing", "code", "ends"),
    [
        ("data", 2, ("FAILED", "CANCELLED", "CANCELLED")),
        ("train", 1, ("COMPLETED", "FAILED", "CANCELLED")),
        ("merge", 2, ("COMPLETED", "COMPLETED", "FAILED")),
        ("runs/merged", 1, ("COMPLETED", "COMPLETED", "FAILED")),  # the grader's argument
        ("nothing", 0, ("COMPLETED", "COMPLETED", "COMPLETED")),
    ],
)
def test_a_failure_ends_the_chain(slurm: Slurm, failing: str, code: int, ends: tuple[str, str, str]) -> None:
    rank = "4" if failing == "train" else ""
    programs = stub(slurm, f'if [ "$1" = {failing} ] && [ "${{RANK:-}}" = "{rank}" ]; then exit {code}; fi')
    prepare, shards, grade = submit(slurm, **programs)
    assert (slurm.wait(prepare), slurm.wait(shards), slurm.wait(grade)) == ends
