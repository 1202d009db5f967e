"""Full disks and read-only folders, on real file systems: one sentence, nothing lost, and the job resumes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from finetune.data import cache, store
from finetune.run import artifacts, folder
from finetune.run import experiment as job
from tests.builders.config import tiny_command
from tests.builders.runs import results_of, run_finetune
from tests.compare_runs import assert_same_run


@pytest.fixture
def small_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an experiment begin on a volume that could not hold a real ResNet-18's checkpoints."""
    monkeypatch.setattr(folder, "STATE_BYTES", 1 << 16)
    monkeypatch.setattr(folder, "CHECKPOINT_BYTES", 1)


@pytest.fixture
def whole(
    tmp_path_factory: pytest.TempPathFactory, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The run folder of a training that nothing disturbed; made once."""
    out = tmp_path_factory.getbasetemp() / "undisturbed"
    if not out.exists():
        assert run_finetune(capsys, *tiny_command(out, narrow_weights)).code == 0
    return out


def fill(volume: Path) -> None:
    """Write until the volume takes not one more byte."""
    with (volume / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    assert os.statvfs(volume).f_bavail == 0


def fails_full(monkeypatch: pytest.MonkeyPatch, volume: Path, module: Any, name: str, call: int) -> None:
    """Fill the volume right before one call of a function that writes to it."""
    write, calls = getattr(module, name), []

    def with_full_disk(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            fill(volume)
        return write(*arguments, **options)

    monkeypatch.setattr(module, name, with_full_disk)


def test_no_disk_space_for_the_decoded_images(
    tmp_path: Path,
    tmpfs: Callable[..., Path],
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (store, cache):
        monkeypatch.setattr(module, "available_memory_bytes", lambda: 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmpfs("16k")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmpfs("16k")))
    out = tmp_path / "run"
    said = run_finetune(capsys, *tiny_command(out, narrow_weights)).refused()
    assert "the folder for temporary files cannot hold them (No space left on device)" in said
    assert "set TMPDIR" in said
    assert not out.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmpfs("2m")))
    assert run_finetune(capsys, *tiny_command(out, narrow_weights)).code == 0
    assert {r["status"] for r in results_of(out)["runs"]} == {"completed"}


@pytest.mark.parametrize(
    ("module", "name", "call", "finished"),
    [
        pytest.param(folder.RunFolder, "begin", 1, 0, id="configuration"),
        pytest.param(safetensors.torch, "save_file", 6, 1, id="best network"),
        pytest.param(job.Checkpoints, "save", 4, 1, id="checkpoint"),
        pytest.param(artifacts, "write_artifacts", 2, 1, id="predictions"),
        pytest.param(folder.RunFolder, "write_results", 3, 2, id="last results"),
        pytest.param(job, "write_report", 1, 3, id="report"),
    ],
)
@pytest.mark.usefixtures("small_needs")
def test_disk_full_while_writing(
    whole: Path,
    tmpfs: Callable[..., Path],
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: Any,
    name: str,
    call: int,
    finished: int,
) -> None:
    volume = tmpfs("8m")
    out = volume / "run"
    with monkeypatch.context() as patch:
        fails_full(patch, volume, module, name, call)
        said = run_finetune(capsys, *tiny_command(out, narrow_weights)).refused()
    assert "No space left on device" in said
    assert "free disk space" in said
    assert not list(out.rglob("*.partial"))
    if finished:
        assert [r["variant"] for r in results_of(out)["runs"]] == ["A", "B", "C"][:finished]
    else:
        assert not (out / "results.json").exists()
    (volume / "filler").unlink()
    begun = (out / "config.toml").exists()
    again = ["train", "--resume", out] if begun else tiny_command(out, narrow_weights)
    done = run_finetune(capsys, *again)
    assert done.code == 0, done
    for variant in ["A", "B", "C"][:finished]:
        assert f"{variant} seed 0:" not in done.out, "a finished variant was run again"
    assert_same_run(out, whole)


@pytest.mark.usefixtures("small_needs")
def test_too_little_disk_space_is_reported_before_training(
    tmpfs: Callable[..., Path],
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(folder, "STATE_BYTES", 8 << 20)
    out = tmpfs("4m") / "run"
    done = run_finetune(capsys, *tiny_command(out, narrow_weights))
    assert "needs 8.39 MB of disk space, but its volume has 4.19 MB free" in done.refused()
    assert done.out == ""
    assert not out.exists()


@pytest.mark.usefixtures("small_needs")
def test_read_only_volume(
    tmpfs: Callable[..., Path], narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmpfs("8m")
    assert run_finetune(capsys, *tiny_command(volume / "old", narrow_weights, "--variants", "a")).code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    for arguments in (tiny_command(volume / "new", narrow_weights), ["train", "--resume", volume / "old"]):
        said = run_finetune(capsys, *arguments).refused()
        assert "read-only file system; mount the volume writable" in said


@pytest.mark.usefixtures("small_needs")
def test_run_folder_turns_read_only(
    whole: Path,
    tmpfs: Callable[..., Path],
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmpfs("8m") / "run"
    out.mkdir()
    state, inner = out / "state", [0]
    save = job.Checkpoints.save

    def covered(*arguments: Any) -> None:
        inner[0] += 1
        if inner[0] == 4:  # in variant B; the lock, held open, lies elsewhere, so only the state is covered
            subprocess.run(["mount", "--bind", "-o", "ro", str(state), str(state)], check=True)
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(job.Checkpoints, "save", covered)
        try:
            said = run_finetune(capsys, *tiny_command(out, narrow_weights)).refused()
        finally:
            subprocess.run(["umount", str(state)], check=True)
    assert "cannot be written (Read-only file system)" in said
    assert [r["variant"] for r in results_of(out)["runs"]] == ["A"]
    assert run_finetune(capsys, "train", "--resume", out).code == 0
    assert_same_run(out, whole)
