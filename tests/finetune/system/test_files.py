"""Files that are complete or absent, the lock on a run folder, and sizes in words."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import ConfigError, RunFolderError
from finetune.system import files
from finetune.system.files import locked, parse_size, write_atomically


class TestWriteAtomically:
    def test_content_and_hash(self, tmp_path: Path) -> None:
        digest = write_atomically(tmp_path / "deep" / "er" / "f", b"content")
        assert (tmp_path / "deep" / "er" / "f").read_bytes() == b"content"
        assert digest == hashlib.sha256(b"content").hexdigest()
        assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["f"]

    def test_synced_before_it_is_renamed_and_its_folder_after(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[bool, bool]] = []
        real = os.fsync

        def fsync(handle: int) -> None:
            is_folder = os.path.isdir(f"/proc/self/fd/{handle}")  # noqa: PTH112
            seen.append((is_folder, (tmp_path / "f").exists()))
            real(handle)

        monkeypatch.setattr(files.os, "fsync", fsync)
        write_atomically(tmp_path / "f", b"x")
        assert seen == [(False, False), (True, True)]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_full_disk_leaves_the_old_file_and_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        write_atomically(tmp_path / "f", b"old")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        target = Path if step == "replace" else files.os
        with monkeypatch.context() as broken:
            broken.setattr(target, step, full)
            with pytest.raises(
                RunFolderError, match=r"f cannot be written \(No space left on device\); free disk space"
            ):
                write_atomically(tmp_path / "f", b"new")
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
        assert (tmp_path / "f").read_bytes() == b"old"

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [
            (
                errno.ENOSPC,
                "free disk space (--resume continues a training) or choose another folder with --out.",
            ),
            (errno.EROFS, "choose another folder with --out."),
        ],
    )
    def test_the_remedy_fits_the_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
    ) -> None:
        def fails(*_: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(files.os, "fsync", fails)
        with pytest.raises(RunFolderError) as raised:
            write_atomically(tmp_path / "f", b"new")
        assert str(raised.value) == f"{tmp_path / 'f'} cannot be written (no); {remedy}"

    def test_a_file_where_a_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunFolderError, match="cannot be written"):
            write_atomically(tmp_path / "file" / "f", b"x")

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_what_is_no_file_is_not_replaced(self, make: Callable[[Path], None], tmp_path: Path) -> None:
        make(tmp_path / "x")
        with pytest.raises(RunFolderError, match=r"^\S+x must be a new or an existing file, but it is a "):
            write_atomically(tmp_path / "x", b"content")
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert not (tmp_path / "x").is_file()


class TestLocked:
    def test_makes_the_folder(self, tmp_path: Path) -> None:
        with locked(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()

    def test_one_at_a_time(self, tmp_path: Path) -> None:
        with locked(tmp_path):
            with (
                pytest.raises(RunFolderError, match="Only one process at a time may use a run folder"),
                locked(tmp_path),
            ):
                pass
            with pytest.raises(RunFolderError), locked(tmp_path):  # a failed attempt does not free it
                pass
        with locked(tmp_path):
            pass

    def test_freed_by_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), locked(tmp_path):
            raise KeyError
        with locked(tmp_path):
            pass

    def test_held_by_another_process_until_it_is_killed(self, tmp_path: Path) -> None:
        program = (
            "import pathlib, sys, time\nfrom finetune.system.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(RunFolderError, match="another one is using"), locked(tmp_path):
                pass
            other.kill()
            other.wait()
        with locked(tmp_path):  # the lock file is still there, but no one holds it
            assert (tmp_path / ".lock").exists()

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(RunFolderError, match=r"cannot be written .*; choose another folder with --out"),
            locked(tmp_path / "file"),
        ):
            pass

    @pytest.mark.parametrize("exists", [False, True])
    def test_a_link_at_the_lock_is_not_followed(self, tmp_path: Path, exists: bool) -> None:
        target = tmp_path / "target"
        if exists:
            target.write_text("mine")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").symlink_to(target)
        with pytest.raises(RunFolderError, match="cannot be written"), locked(tmp_path / "run"):
            pass
        assert target.exists() == exists
        assert not exists or target.read_text() == "mine"

    def test_the_content_of_the_lock_file_survives(self, tmp_path: Path) -> None:
        """It may be a hard link to a file of the user's."""
        (tmp_path / ".lock").write_text("mine")
        with locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == "mine"
        assert (tmp_path / ".lock").read_text() == "mine"

    def test_a_file_system_without_locks_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(*_: object) -> None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(fcntl, "flock", missing)
        with pytest.raises(RunFolderError, match="Function not implemented"), locked(tmp_path):
            pass


class TestParseSize:
    @pytest.mark.parametrize(
        ("text", "n_bytes"),
        [("10GB", 10**10), ("500MB", 5 * 10**8), ("1.5 tb", 15 * 10**11), (" 0mb ", 0), ("2Gb", 2 * 10**9)],
    )
    def test_numbers_with_units(self, text: str, n_bytes: int) -> None:
        assert parse_size(text, "--limit") == n_bytes

    @pytest.mark.parametrize(
        "text",
        ["", "10", "GB", "-1GB", "1e3GB", "1,5GB", "10GiB", "10 GB 5", "nanGB", "9" * 400 + "GB", "٣GB"],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_size(text, "--limit")
        assert str(caught.value) == (
            f"--limit must be a number with MB, GB or TB, such as 500MB or 10GB, but {text!r} was given."
        )
