"""Jobs in a control group with little memory, as in a container: a file, a sentence, or SIGKILL.

Needs the right to make a memory control group: root, and version 1, or version 2 with the memory controller
handed down from the root. Skipped elsewhere.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from finetune.system import host
from tests.builders.runs import CommandResult
from tests.compare_runs import assert_same_run
from tests.faults.crash import readable

pytestmark = pytest.mark.slow

IMAGES = 4, 224
"""Classes and images of each, of which 70 % are trained on: such long images fill memory and are trained on
in seconds."""

LIMIT = 1 << 30
"""The training images take 490 MB, more than half of what is left of this when they are decoded, and
training takes another 600 MB and more: all in memory would be too much."""


@dataclass(frozen=True)
class Group:
    """A memory control group of either version."""

    folder: Path

    @property
    def _is_v2(self) -> bool:
        return (self.folder / "memory.max").exists()

    def limit(self, n_bytes: int) -> None:
        """Let its processes take that many bytes together."""
        name = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        (self.folder / name).write_text(str(n_bytes))

    def used(self) -> int:
        """Bytes taken, pages of files too."""
        name = "memory.current" if self._is_v2 else "memory.usage_in_bytes"
        return int((self.folder / name).read_text())

    def kills(self) -> int:
        """How many of its processes the kernel killed for lack of memory."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        found = re.search(r"^oom_kill (\d+)$", (self.folder / name).read_text(), re.MULTILINE)
        assert found
        return int(found[1])

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Begin `finetune` with these arguments in the group."""
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs")]
        return subprocess.Popen(
            [*enter, *command(*arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
        )

    def run(self, *arguments: object, **environment: str) -> CommandResult:
        """Run `finetune` to its end in the group."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate()
        return CommandResult(process.returncode, out, err)


def command(*arguments: object) -> list[str]:
    """`finetune` with a checkpoint after each epoch, however short, in a process of its own."""
    code = (
        "from finetune.cli.app import main; from finetune.run import saving; saving.EPOCH_SECONDS = 0; main()"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.fixture
def group() -> Iterator[Group]:
    """A control group without a limit yet; its processes are to have ended."""
    if psutil.swap_memory().total:
        pytest.skip("with swap, memory beyond the limit goes there, and nothing is killed")
    v1, v2 = host.CGROUPS / "memory", host.CGROUPS
    folder = (v1 if v1.is_dir() else v2) / f"finetune-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        if not any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            pytest.skip("control groups made here have no memory controller")
        yield Group(folder)
    finally:
        folder.rmdir()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains without a limit; the run folder."""

    def train(*arguments: object) -> Path:
        out = tmp_path_factory.mktemp("undisturbed") / "run"
        subprocess.run(
            command("train", *arguments, "--out", out),
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "XDG_CACHE_HOME": str(out.with_name("cache"))},
        )
        return out

    return train


@pytest.fixture(scope="module")
def long_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with images of 64 x 4096 pixels, each of its own colours."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in range(IMAGES[0]):
        (root / f"class{label}").mkdir()
        for number in range(IMAGES[1]):
            stripes = rng.integers(0, 256, (1, 4, 3), dtype=np.uint8).repeat(1024, axis=1).repeat(64, axis=0)
            Image.fromarray(stripes).save(root / f"class{label}" / f"{number:03d}.png", compress_level=1)
    return root


def options(images: Path) -> list[object]:
    small = "--variants a --epochs 1 --batch-size 32 --image-size 32 --device cpu --workers 1"
    return ["--dataset", f"imagefolder:{images}", *small.split()]


@pytest.mark.parametrize("is_kept", [True, False])
def test_images_beyond_half_of_the_limit_are_in_a_file(
    tmp_path: Path,
    group: Group,
    long_images: Path,
    undisturbed: Callable[..., Path],
    tmpfs: Callable[..., Path],
    is_kept: bool,
) -> None:
    group.limit(LIMIT)
    cache = (
        tmp_path / "cache" if is_kept else tmpfs("16k")
    )  # where nothing can be kept, the file is temporary
    places = {"XDG_CACHE_HOME": str(cache), "TMPDIR": "/var/tmp"}  # noqa: S108
    done = group.run("train", *options(long_images), "--out", tmp_path / "run", **places)
    assert done.code == 0, done
    assert " MB in files" in done.out
    assert group.kills() == 0
    assert_same_run(tmp_path / "run", undisturbed(*options(long_images)), ignore=())


def test_no_disk_space_for_the_file(
    tmp_path: Path, group: Group, long_images: Path, tmpfs: Callable[..., Path]
) -> None:
    group.limit(LIMIT)
    volume = str(tmpfs("16k"))
    places = {"XDG_CACHE_HOME": volume, "TMPDIR": volume}
    said = group.run("train", *options(long_images), "--out", tmp_path / "run", **places).refused()
    assert re.search(r"The decoded images need \d+ MB, more than half of the free memory", said)
    assert "set TMPDIR to another folder" in said
    assert not (tmp_path / "run").exists()


def test_killed_by_the_kernel_and_resumed(
    tmp_path: Path, group: Group, undisturbed: Callable[..., Path]
) -> None:
    digits = "--dataset digits --subset 5 --epochs 3 --batch-size 8 --image-size 32 --device cpu --workers 1"
    job: list[Any] = [*digits.split(), "--weights", "bundled"]
    out = tmp_path / "run"
    cache = str(tmp_path / "cache")
    process = group.start("train", *job, "--out", out, XDG_CACHE_HOME=cache)
    while not list(out.glob("state/*-0*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    while process.poll() is None:  # the limit closes in: the kernel first takes pages of files, then kills
        group.limit(group.used())
        time.sleep(0.01)
    said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert group.kills() == 1
    readable(out)
    assert not (out / "report.html").exists()
    group.limit(4 * LIMIT)
    done = group.run("train", "--resume", out, XDG_CACHE_HOME=cache)
    assert done.code == 0, done
    assert_same_run(out, undisturbed(*job), ignore=())
