"""Cached images on full volumes, after kills and with flipped bits: a run never trains on anything else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from finetune.data import entry
from finetune.data.cache import cache_folder, entries
from finetune.run import experiment as job
from tests.builders.config import tiny_command
from tests.builders.runs import results_of, run_finetune
from tests.compare_runs import assert_same_run

STORES = ["memory", "disk"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        job, "write_report", lambda _, path: path.write_bytes(b"<!DOCTYPE html>")
    )  # takes longest
    return cache_folder()


@pytest.fixture
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    narrow_weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The run folder of a training without cached images; trained once."""
    out = tmp_path_factory.getbasetemp() / "without-cache"
    if not out.exists():
        with monkeypatch.context() as patch:
            (out.parent / "no-folder").touch()
            patch.setenv("XDG_CACHE_HOME", str(out.parent / "no-folder"))
            done = run_finetune(capsys, *command(out, narrow_weights, "memory"))
        assert done.code == 0, done
        assert "not cached" in done.out
        assert [r["status"] for r in results_of(out)["runs"]] == ["completed"]
    return out


def command(out: Path, weights: Path, store: str) -> list[object]:
    """A training of one variant. Where images lie is part of the configuration, but of no result."""
    return tiny_command(out, weights, "--variants", "a", "--store", store)


def volume_as_cache(monkeypatch: pytest.MonkeyPatch, volume: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(volume))
    return cache_folder()


def fill(volume: Path, leave: int = 0) -> None:
    """Write until the volume takes not one more byte, then give some back."""
    filler = volume / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(filler, filler.stat().st_size - leave)


def left(folder: Path) -> list[str]:
    """What lies in the cache but locks."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_full_volume_costs_only_the_next_runs_time(
    tmpfs: Callable[..., Path],
    whole: Path,
    narrow_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    volume = tmpfs("1m")
    cache = volume_as_cache(monkeypatch, volume)
    cache.mkdir(parents=True)
    fill(volume)
    done = run_finetune(capsys, *command(tmp_path / "run", narrow_weights, "memory"))
    assert done.code == 0, done
    assert done.out.count("Decoded images not cached: ") == 1
    assert f"{cache} has too little free space (0 B)." in done.out
    assert left(cache) == []
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("file", [entry.PIXELS, entry.SIZES, entry.HASHES, entry.DESCRIPTION])
def test_a_volume_that_fills_up_while_an_entry_is_written(
    tmpfs: Callable[..., Path],
    whole: Path,
    narrow_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    volume = tmpfs("1m")
    cache = volume_as_cache(monkeypatch, volume)
    save, describe = np.save, entry._describe

    def full_save(path: Path, values: np.ndarray) -> None:
        if path.name == file:
            fill(volume)
        save(path, values)

    def full_describe(*arguments: np.ndarray) -> dict[str, object]:
        if file == entry.DESCRIPTION:
            fill(volume)
        return describe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_save)
        patch.setattr(entry, "_describe", full_describe)
        done = run_finetune(capsys, *command(tmp_path / "run", narrow_weights, "memory"))
    assert done.code == 0, done
    assert "Decoded images not cached: " in done.out
    assert left(cache) == []
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("room", [0, 20 << 10])
def test_store_disk_on_a_full_disk(
    tmpfs: Callable[..., Path],
    narrow_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    room: int,
) -> None:
    volume = tmpfs("1m")
    cache = volume_as_cache(monkeypatch, volume)
    cache.mkdir(parents=True)
    fill(volume, room)
    done = run_finetune(capsys, *command(tmp_path / "run", narrow_weights, "disk"))
    said = done.refused()
    assert said.startswith("Error: --store disk needs the image cache, but ")
    assert "(No space left on device)" in said
    assert "free disk space, or set XDG_CACHE_HOME to another folder." in said
    assert "A seed 0" not in done.out
    assert not (tmp_path / "run").exists()
    assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("moment", ["pixels written", "described", "renamed"])
def test_a_kill_while_an_entry_is_written(
    whole: Path,
    narrow_weights: Path,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    store: str,
    moment: str,
) -> None:
    child = os.fork()
    if not child:  # SIGKILL runs nothing on its way out
        rename = Path.rename

        def killed(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def renamed(path: Path, target: Path) -> None:
            rename(path, target)
            killed()

        try:
            if moment == "pixels written":
                monkeypatch.setattr(entry, "_finish", killed)
            else:
                monkeypatch.setattr(Path, "rename", killed if moment == "described" else renamed)
            run_finetune(capsys, *command(tmp_path / "killed", narrow_weights, store))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (name,) = left(folder)
    assert name.endswith(".partial") == (moment != "renamed")
    assert not (tmp_path / "killed").exists()
    assert len(entries()) == (moment == "renamed")
    done = run_finetune(capsys, *command(tmp_path / "run", narrow_weights, store))
    assert done.code == 0, done
    assert "not cached" not in done.out
    assert len(left(folder)) == len(entries()) == 3
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("file", [entry.PIXELS, entry.SIZES, entry.HASHES, entry.DESCRIPTION])
def test_a_bit_that_flips_between_two_commands(
    whole: Path,
    narrow_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    store: str,
    file: str,
) -> None:
    prepare = "data prepare --dataset digits --weights bundled --subset 2 --image-size 16 --workers 1"
    assert run_finetune(capsys, *prepare.split()).code == 0
    files = [folder / name / file for name in left(folder)]
    assert len(files) == 3
    before = [path.read_bytes() for path in files]
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 16]) + content[-4:])
    done = run_finetune(capsys, *command(tmp_path / "run", narrow_weights, store))
    assert done.code == 0, done
    assert_same_run(tmp_path / "run", whole)
    assert [path.read_bytes() for path in files] == before  # decoded again, and cached
