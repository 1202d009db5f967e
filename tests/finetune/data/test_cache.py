"""Cached images: found again to the pixel, removed if a bit is wrong, and never in the way of a run."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import pytest

from finetune.data import cache, entry, store
from finetune.data.cache import cache_folder, cache_limit, clear, discard, entries, entry_name, evict, obtain
from finetune.data.datasets import Sample
from finetune.data.store import StoredImages, decode
from finetune.data.stream import StreamedImages, training_stream
from finetune.errors import BadImagesError, ConfigError, RunFolderError, sized
from tests.builders.images import photo

NAME = entry_name("pets", "train", 16, "fingerprint")
SIZES = [(24, 20), (9, 33), (40, 40)]
MODES = ["memory", "disk", "auto"]


def later() -> float:
    """A moment after which no file changes."""
    return time.time() + 3600


def never() -> StreamedImages:
    raise AssertionError("the images were decoded again")


class Given(NamedTuple):
    """Images and what they decode to."""

    make: Callable[[], StreamedImages]
    pixels: np.ndarray
    samples: list[Sample]

    def obtain(self, mode: str = "memory", since: float | None = None) -> tuple[StoredImages, str]:
        """Decoded, or opened, and held to the right pixels."""
        return self.checked(obtain(NAME, self.make, mode, since or later(), lambda _: None))

    def reopen(self, mode: str = "memory") -> tuple[StoredImages, str]:
        """Opened without being decoded."""
        return self.checked(obtain(NAME, never, mode, later(), lambda _: None))

    def checked(self, obtained: tuple[StoredImages, str]) -> tuple[StoredImages, str]:
        found, _ = obtained
        np.testing.assert_array_equal(np.asarray(found.pixels), self.pixels)
        assert found.sizes.tolist() == [[h, w] for w, h in SIZES]
        assert found.offsets.tolist() == [0, 24 * 20 * 3, (24 * 20 + 9 * 33) * 3]
        return obtained


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "finetune" / "images"


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Three images of different sizes."""
    paths = [photo(tmp_path / f"{i}.png", i, *size) for i, size in enumerate(SIZES)]
    samples = [Sample(p.name, 0, p) for p in paths]

    def make() -> StreamedImages:
        return training_stream(samples, 32, 2)

    return Given(make, decode(make(), lambda _: None).pixels, samples)


def files_left(folder: Path) -> list[str]:
    """What lies in the cache but locks."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def set_free_memory(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    for module in (cache, store):
        monkeypatch.setattr(module, "available_memory_bytes", lambda: n_bytes)


class TestObtain:
    @pytest.mark.parametrize("first", MODES)
    @pytest.mark.parametrize("second", MODES)
    def test_decoded_once_and_opened_after_that(self, given: Given, first: str, second: str) -> None:
        found, problem = given.obtain(first)
        assert (found.in_memory, problem) == (first != "disk", "")
        found, problem = given.reopen(second)
        assert (found.in_memory, problem) == (second != "disk", "")

    @pytest.mark.parametrize(("spare", "in_memory"), [(1, False), (2, True)])
    def test_auto_takes_memory_where_as_much_stays_free(
        self, given: Given, monkeypatch: pytest.MonkeyPatch, spare: int, in_memory: bool
    ) -> None:
        set_free_memory(monkeypatch, 2 * len(given.pixels) + spare)
        assert given.obtain("auto")[0].in_memory == in_memory
        assert given.reopen("auto")[0].in_memory == in_memory

    def test_progress_comes_to_the_same_whether_decoded_or_opened(self, given: Given) -> None:
        for make in (given.make, never):
            told: list[int] = []
            obtain(NAME, make, "memory", later(), told.append)
            assert sum(told) == 3

    @pytest.mark.parametrize("mode", ["memory", "disk"])
    def test_what_a_run_writes_into_its_pixels_is_not_cached(self, given: Given, mode: str) -> None:
        for obtained in (given.obtain(mode), given.reopen(mode)):
            obtained[0].pixels[:] = 0
        given.reopen(mode)

    def test_the_name_identifies_its_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = {
            NAME,
            entry_name("dogs", "train", 16, "fingerprint"),
            entry_name("pets", "val", 16, "fingerprint"),
            entry_name("pets", "train", 17, "fingerprint"),
            entry_name("pets", "train", 16, "fingerprinT"),
        }
        assert entry_name("pets", "train", 16, "fingerprint") == NAME
        monkeypatch.setattr(PIL, "__version__", "0.0")
        names.add(entry_name("pets", "train", 16, "fingerprint"))
        monkeypatch.undo()
        monkeypatch.setattr(cache, "FORMAT", 0)
        names.add(entry_name("pets", "train", 16, "fingerprint"))
        assert len(names) == 7

    def test_the_home_folder_serves_without_the_variable(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder() == tmp_path / "home" / ".cache" / "finetune" / "images"

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("free_memory", [0, 1 << 40])
    def test_bad_images_leave_nothing(
        self, given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, free_memory: int
    ) -> None:
        set_free_memory(monkeypatch, free_memory)
        path = given.samples[1].content
        assert isinstance(path, Path)
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(BadImagesError, match=r"1\.png"):
            given.obtain(mode)
        assert files_left(folder) == []
        assert entries() == []


class TestChanged:
    @pytest.mark.parametrize("mode", MODES)
    def test_an_image_that_changed_after_its_fingerprint(self, given: Given, folder: Path, mode: str) -> None:
        found, problem = given.obtain(mode, since=1.0)
        assert problem == "an image file changed while it was being read"
        assert found.in_memory == (mode != "disk")
        assert files_left(folder) == []

    @pytest.mark.parametrize("mode", ["memory", "disk"])
    @pytest.mark.parametrize("vanish", [False, True])
    def test_while_it_was_decoded(self, given: Given, folder: Path, mode: str, vanish: bool) -> None:
        path = given.samples[0].content
        assert isinstance(path, Path)
        since = path.stat().st_ctime + 0.05  # later than all three were written
        time.sleep(0.1)

        def change(_: int) -> None:
            if vanish:
                path.unlink(missing_ok=True)
            else:
                path.chmod(0o600)

        single = training_stream(given.samples, 32, 1)
        _, problem = obtain(NAME, lambda: single, mode, since, change)
        assert problem == "an image file changed while it was being read"
        assert files_left(folder) == []

    def test_an_earlier_change_does_not_count(self, given: Given) -> None:
        assert given.obtain(since=later())[1] == ""


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


class TestDamage:
    @pytest.mark.parametrize("mode", ["memory", "disk"])
    @pytest.mark.parametrize("name", [entry.PIXELS, entry.SIZES, entry.DESCRIPTION])
    @pytest.mark.parametrize("damage", [cut, emptied, halved, Path.unlink, a_folder])
    def test_a_file(
        self, given: Given, folder: Path, mode: str, name: str, damage: Callable[[Path], None]
    ) -> None:
        given.obtain(mode)
        damage(folder / NAME / name)
        with pytest.raises(AssertionError, match="decoded again"):
            given.reopen(mode)
        assert files_left(folder) == []  # dropped
        assert given.obtain(mode)[1] == ""
        given.reopen(mode)

    @pytest.mark.parametrize("name", [entry.PIXELS, entry.SIZES, entry.DESCRIPTION])
    def test_a_flipped_bit(self, given: Given, folder: Path, tmp_path: Path, name: str) -> None:
        """In headers above all, where one in a hundred changes nothing of what NumPy reads: | to < in |u1."""
        given.obtain()
        shutil.copytree(folder / NAME, tmp_path / "whole")
        n_bits = 8 * (folder / NAME / name).stat().st_size
        bits = [*range(0, min(1024, n_bits), 37), *random.Random(0).sample(range(n_bits), 8)]  # noqa: S311
        harmless = 0
        for bit in bits:
            flip(folder / NAME / name, bit)
            try:
                given.reopen()
                harmless += 1
            except AssertionError as error:
                assert "decoded again" in str(error), bit  # noqa: PT017 - so that wrong pixels are told apart
                assert files_left(folder) == []
            shutil.copytree(tmp_path / "whole", folder / NAME, dirs_exist_ok=True)
        assert harmless <= (0 if name == entry.DESCRIPTION else 2)

    @pytest.mark.parametrize("bit", range(0, 8 * 24 * 20 * 3, 997))
    def test_a_flipped_bit_of_a_pixel(self, given: Given, folder: Path, bit: int) -> None:
        given.obtain()
        flip(folder / NAME / entry.PIXELS, 8 * 128 + bit)
        with pytest.raises(AssertionError, match="decoded again"):
            given.reopen("disk")
        given.obtain("disk")

    def test_pixels_are_digested_in_pieces(
        self, given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(entry, "CHUNK_BYTES", 1000)
        given.obtain()
        given.reopen("disk")
        flip(folder / NAME / entry.PIXELS, 8 * (folder / NAME / entry.PIXELS).stat().st_size - 1)
        with pytest.raises(AssertionError, match="decoded again"):
            given.reopen("disk")

    @pytest.mark.parametrize("mode", ["memory", "disk"])
    @pytest.mark.parametrize("name", [NAME, NAME + entry.PARTIAL])
    @pytest.mark.parametrize("kind", ["file", "link to a file", "link to a folder", "link to nothing"])
    def test_something_else_in_its_place(
        self, given: Given, folder: Path, tmp_path: Path, mode: str, name: str, kind: str
    ) -> None:
        folder.mkdir(parents=True)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "mine.txt").write_text("mine")
        if kind == "file":
            (folder / name).write_text("x")
        else:
            target = {"link to a file": "other/mine.txt", "link to a folder": "other"}.get(kind, "nothing")
            (folder / name).symlink_to(tmp_path / target)
        assert given.obtain(mode)[1] == ""
        given.reopen(mode)
        assert (tmp_path / "other" / "mine.txt").read_text() == "mine"
        assert files_left(folder) == [NAME]

    @pytest.mark.parametrize("mode", ["memory", "disk"])
    def test_what_a_killed_process_left(self, given: Given, folder: Path, mode: str) -> None:
        given.obtain()
        left = folder / (NAME + entry.PARTIAL)
        (folder / NAME).rename(left)
        (left / "deep").mkdir()
        assert entries() == []
        assert given.obtain(mode)[1] == ""
        assert files_left(folder) == [NAME]


class TestNoRoom:
    @pytest.mark.parametrize("stands", ["", "finetune", "finetune/images"])
    def test_a_file_where_the_folder_should_be(
        self, given: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stands: str
    ) -> None:
        base = tmp_path / "base"
        (base / stands).parent.mkdir(parents=True, exist_ok=True)
        (base / stands).write_text("mine")
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        for mode in ("memory", "auto"):
            found, problem = given.obtain(mode)
            assert found.in_memory
            assert problem.startswith(f"{cache_folder()} cannot be written (")
        with pytest.raises(
            RunFolderError,
            match=r"^--store disk needs the image cache, but .* cannot be written .*XDG_CACHE_HOME",
        ):
            given.obtain("disk")
        assert (base / stands).read_text() == "mine"
        assert entries() == []
        assert clear() == 0

    @pytest.mark.parametrize(("spare", "kept"), [(-1, False), (0, True)])
    def test_as_much_disk_space_must_remain_free(
        self, given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch, spare: int, kept: bool
    ) -> None:
        usage = shutil.disk_usage(".")._replace(free=2 * len(given.pixels) + spare)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        said = "" if kept else f"{folder} has too little free space ({sized(usage.free)})"
        assert given.obtain()[1] == said
        assert files_left(folder) == [NAME] * kept

    @pytest.mark.parametrize("mode", ["memory", "disk", "auto"])
    @pytest.mark.parametrize("free_memory", [0, 1 << 40])
    def test_a_volume_that_fills_up(
        self, given: Given, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, free_memory: int
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        set_free_memory(monkeypatch, free_memory)
        monkeypatch.setattr(np, "save", full)
        monkeypatch.setattr(entry, "reserve", full)
        if mode == "disk":
            with pytest.raises(
                RunFolderError, match=r"cannot hold .* \(No space left on device\); free disk"
            ):
                given.obtain(mode)
        else:
            _, problem = given.obtain(mode)
            assert problem.startswith(f"{folder} cannot hold ")
            assert problem.endswith("(No space left on device)")
        assert files_left(folder) == []

    def test_disk_space_is_allocated_before_the_mapping_is_written(
        self, given: Given, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[int] = []
        monkeypatch.setattr(entry, "reserve", lambda _, n_bytes: taken.append(n_bytes))
        given.obtain("disk")
        assert taken == [128 + len(given.pixels)]


class TestTogether:
    @pytest.mark.parametrize("mode", ["memory", "disk"])
    def test_concurrent_requests_decode_once(self, given: Given, mode: str) -> None:
        asked: list[int] = []
        inside = threading.Event()

        def make() -> StreamedImages:
            asked.append(1)
            inside.wait(0.1)  # the others come while the lock is held
            return given.make()

        def ask(number: int) -> None:
            problems[number] = given.checked(obtain(NAME, make, mode, later(), lambda _: None))[1]

        problems: dict[int, str] = {}
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == dict.fromkeys(range(4), "")
        assert len(asked) == 1

    def test_another_entry_does_not_wait(self, given: Given) -> None:
        def make() -> StreamedImages:
            obtain("other", given.make, "memory", later(), lambda _: None)
            return given.make()

        obtain(NAME, make, "memory", later(), lambda _: None)
        assert {e.name for e in entries()} == {NAME, "other"}

    def test_another_process_waits_until_the_lock_is_free(self, given: Given, folder: Path) -> None:
        folder.mkdir(parents=True)
        program = (
            "import fcntl, sys\nfile = open(sys.argv[1], 'ab')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\nsys.stdin.read()\n"
        )
        command = [sys.executable, "-S", "-c", program, str(folder / f"{NAME}.lock")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            done = threading.Event()
            thread = threading.Thread(target=lambda: (given.obtain(), done.set()))
            thread.start()
            assert not done.wait(0.1)
            other.kill()  # the kernel frees what it held
            thread.join(10)
        assert done.is_set()

    def test_signals_are_handled_while_waiting(self, folder: Path) -> None:
        """Ctrl-C ends a run that waits for another one to decode the same images."""
        folder.mkdir(parents=True)
        with (folder / f"{NAME}.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A shell may have started the tests with the signal ignored, as it does in the background.
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                with pytest.raises(KeyboardInterrupt):
                    obtain(NAME, never, "memory", later(), lambda _: None)
            finally:
                timer.join()
                signal.signal(signal.SIGINT, before)

    def test_a_link_at_the_lock_is_not_followed(self, given: Given, folder: Path, tmp_path: Path) -> None:
        folder.mkdir(parents=True)
        (folder / f"{NAME}.lock").symlink_to(tmp_path / "target")
        found, problem = given.obtain()
        assert found.in_memory
        assert problem.startswith(f"{folder} cannot be written (")
        assert not (tmp_path / "target").exists()

    def test_clearing_while_an_entry_is_decoded_keeps_it_locked(self, given: Given, folder: Path) -> None:
        """With a new lock file a second process would write into the folder of the first."""
        inside, go_on, second = threading.Event(), threading.Event(), threading.Event()

        def make() -> StreamedImages:
            inside.set()
            go_on.wait(10)
            return given.make()

        threads = [
            threading.Thread(target=lambda: obtain(NAME, make, "disk", later(), lambda _: None)),
            threading.Thread(target=lambda: (given.obtain(), second.set())),
        ]
        threads[0].start()
        assert inside.wait(10)
        clear()
        threads[1].start()
        assert not second.wait(0.1)
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert second.is_set()
        assert files_left(folder) == [NAME]


@pytest.fixture
def three(given: Given, folder: Path) -> list[str]:
    """The names of three entries, the most recently used first."""
    for age, name in enumerate(["c", "a", "b"]):
        obtain(name, given.make, "memory", later(), lambda _: None)
        os.utime(folder / name / entry.DESCRIPTION, (1e9 - age, 1e9 - age))
    return ["c", "a", "b"]


class TestList:
    def test_what_there_is(self, three: list[str], folder: Path) -> None:
        found = entries()
        assert [e.name for e in found] == three
        assert {e.n_images for e in found} == {3}
        assert found[0].n_bytes == sum(p.stat().st_size for p in (folder / "c").iterdir())
        assert found[0].used_at.timestamp() == 1e9

    def test_opening_is_use(self, three: list[str]) -> None:
        obtain(three[-1], never, "memory", later(), lambda _: None)
        assert [e.name for e in entries()] == ["b", "c", "a"]

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"n_images": null}', "\x00"])
    def test_a_damaged_description_is_passed_over(self, three: list[str], folder: Path, content: str) -> None:
        (folder / three[0] / entry.DESCRIPTION).write_text(content)
        assert [e.name for e in entries()] == three[1:]

    @pytest.mark.parametrize("names", [["a"], ["a", "a"], ["b", "a"]])
    def test_clear_those_named(self, three: list[str], names: list[str]) -> None:
        size = entries()[0].n_bytes
        assert clear(names) == size * len(set(names))
        assert [e.name for e in entries()] == [n for n in three if n not in names]

    @pytest.mark.parametrize("name", ["d", "", ".", "..", "a.lock", "../images/a"])
    def test_clear_an_unknown_name(self, three: list[str], name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            clear(["a", name])
        assert str(caught.value) == f"Cache entry not found: {name!r}; finetune data list shows all names."
        assert [e.name for e in entries()] == three

    @pytest.mark.usefixtures("three")
    def test_clear_all_with_what_is_damaged_or_left_over(self, folder: Path) -> None:
        whole = sum(e.n_bytes for e in entries())
        (folder / "damaged").mkdir()
        (folder / "left.partial").mkdir()
        (folder / "link").symlink_to(folder.parent)
        assert clear() == whole
        assert files_left(folder) == []
        assert clear() == 0

    def test_reports_what_cannot_be_removed(self, three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(_: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(shutil, "rmtree", refused)
        for names in ([], three[:1]):
            with pytest.raises(
                RunFolderError, match=r"cannot be cleared \(Permission denied\); check its perm"
            ):
                clear(names)

    def test_a_run_keeps_what_it_has_open(self, given: Given) -> None:
        found = given.obtain("disk")
        clear()
        given.checked(found)


def names() -> list[str]:
    return [e.name for e in entries()]


class TestLimit:
    def test_nothing_happens_within_the_limit(self, three: list[str]) -> None:
        evict(sum(e.n_bytes for e in entries()), in_use=())
        assert names() == three

    @pytest.mark.parametrize(("excess", "n_left"), [(1, 2), ("one", 2), ("one more", 1), ("all", 0)])
    def test_the_least_recently_used_go_first(self, three: list[str], excess: int | str, n_left: int) -> None:
        size = entries()[0].n_bytes
        n_bytes = {1: 1, "one": size, "one more": size + 1, "all": 3 * size}[excess]
        evict(3 * size - n_bytes, in_use=())
        assert names() == three[:n_left]

    def test_opening_an_entry_saves_it(self, three: list[str]) -> None:
        obtain(three[-1], never, "memory", later(), lambda _: None)
        evict(entries()[0].n_bytes, in_use=())
        assert names() == [three[-1]]

    def test_a_limit_below_one_entry_leaves_those_in_use(self, three: list[str]) -> None:
        evict(1, in_use=[three[-1], "not cached"])
        assert names() == [three[-1]]

    def test_an_entry_in_use_is_never_removed_in_place_of_another(self, three: list[str]) -> None:
        evict(2 * entries()[0].n_bytes, in_use=[three[-1]])
        assert names() == [three[0], three[2]]

    def test_a_mapped_entry_keeps_its_pixels(self, given: Given) -> None:
        found = given.obtain("disk")
        evict(0, in_use=())
        assert names() == []
        given.checked(found)

    def test_a_locked_entry_stays(self, three: list[str], folder: Path) -> None:
        program = (
            "import fcntl, sys\nfile = open(sys.argv[1], 'ab')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\nsys.stdin.read()\n"
        )
        command = [sys.executable, "-S", "-c", program, str(folder / f"{three[1]}.lock")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            evict(0, in_use=())
            assert names() == [three[1]]
            other.kill()
        evict(0, in_use=())
        assert names() == []

    def test_what_a_killed_process_left_goes_too(self, three: list[str], folder: Path) -> None:
        (folder / three[0]).rename(folder / f"killed{entry.PARTIAL}")
        evict(10**9, in_use=())
        assert files_left(folder) == sorted(three[1:])

    def test_what_is_being_written_stays(self, given: Given, folder: Path) -> None:
        def make() -> StreamedImages:
            (folder / f"{NAME}{entry.PARTIAL}").mkdir()
            thread = threading.Thread(target=evict, args=(0, ()))
            thread.start()
            thread.join()
            assert files_left(folder) == [f"{NAME}{entry.PARTIAL}"]
            return given.make()

        assert given.checked(obtain(NAME, make, "memory", later(), lambda _: None))[1] == ""

    def test_several_that_fill_and_evict_at_once(self, given: Given) -> None:
        """Each gets its own images, whatever the others remove meanwhile."""

        def work(number: int) -> None:
            for turn in range(12):
                name = f"shared-{(turn + number) % 3}"
                found = given.checked(obtain(name, given.make, "disk", later(), lambda _: None))
                evict(1, [name])
                problems.append(given.checked(found)[1])

        problems: list[str] = []
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == [""] * 36

    def test_an_unusable_cache_is_left_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        evict(0, in_use=())
        assert not discard("any")

    def test_ten_gigabytes_unless_the_variable_says_otherwise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FINETUNE_CACHE_LIMIT", raising=False)
        assert cache_limit() == 10**10
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "")
        assert cache_limit() == 10**10
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "500MB")
        assert cache_limit() == 5 * 10**8
