"""Zip files as students hand them in, and as attackers do."""

import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from grader.errors import UnusableError
from grader.submission import unzip
from grader.submission.unzip import unpack

Fill = Callable[[zipfile.ZipFile], object]


def archive(path: Path, fill: Fill, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        fill(file)
    return path


def with_run(root: str = "", more: Fill = lambda _: None) -> Fill:
    def fill(file: zipfile.ZipFile) -> None:
        file.writestr(f"{root}results.json", "{}")
        file.writestr(f"{root}predictions/A-seed0-test.csv", "sample_id\n")
        more(file)

    return fill


def special(name: str, kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry


def unpacked(path: Path, folder: Path) -> list[str]:
    folder.mkdir()
    assert unpack(path, folder, path.name) == folder
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


FILES = ["predictions/A-seed0-test.csv", "results.json"]


@pytest.mark.parametrize("root", ["", "run/", "homework/my run/", "a\\b\\", "./", "./run/", "run 12:30/"])
def test_a_run_wherever_it_lies(tmp_path: Path, root: str) -> None:
    path = archive(tmp_path / "a.zip", with_run(root))
    assert unpacked(path, tmp_path / "out") == FILES


def test_what_programs_add_is_ignored(tmp_path: Path) -> None:
    def more(file: zipfile.ZipFile) -> None:
        file.writestr("__MACOSX/run/._results.json", "x")
        file.writestr("__MACOSX/results.json", "x")
        file.writestr(".DS_Store", "x")
        file.writestr("run/", "")

    path = archive(tmp_path / "a.zip", with_run("run/", more))
    assert unpacked(path, tmp_path / "out") == FILES


def test_only_what_the_grader_reads(tmp_path: Path) -> None:
    def more(file: zipfile.ZipFile) -> None:
        for name in ("run/finetune/deep/x.py", "other/x.csv", "run/setup.py", "run/a b/c", "run/.pth"):
            file.writestr(name, "x")

    path = archive(tmp_path / "a.zip", with_run("run/", more))
    assert unpacked(path, tmp_path / "out") == FILES


@pytest.mark.parametrize(
    "name",
    ["../evil", "run/../../evil", "/etc/evil", "C:/evil", "..\\evil", "predictions/../../evil.csv", "C:evil"],
)
def test_paths_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", with_run("", lambda file: file.writestr(name, "x")))
    with pytest.raises(UnusableError, match="the path leaves the folder"):
        unpacked(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "out"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
@pytest.mark.parametrize("name", ["predictions/link.csv", "results.json"])
def test_links_and_devices(tmp_path: Path, kind: int, name: str) -> None:
    path = archive(tmp_path / "a.zip", lambda file: file.writestr(special(name, kind), "/etc/passwd"))
    with pytest.raises(UnusableError, match="is a link or a device"):
        unpacked(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_twice(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", with_run("", lambda file: file.writestr("results.json", "[]")))
    with pytest.raises(UnusableError, match="is there twice"):
        unpacked(path, tmp_path / "out")


class TestSizes:
    def test_a_file_that_grows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unzip, "MAX_CHECKPOINT_BYTES", 10_000)
        fill = with_run("", lambda file: file.writestr("checkpoints/a", b"\0" * 20_001))
        with pytest.raises(UnusableError, match="is too large unpacked"):
            unpacked(archive(tmp_path / "a.zip", fill), tmp_path / "out")

    def test_many_that_grow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unzip, "MAX_TOTAL_BYTES", 50_000)

        def more(file: zipfile.ZipFile) -> None:
            for i in range(6):
                file.writestr(f"checkpoints/{i}", b"\0" * 10_000)

        with pytest.raises(UnusableError, match="50,000 in total"):
            unpacked(archive(tmp_path / "a.zip", with_run("", more)), tmp_path / "out")

    def test_a_size_that_is_a_lie(self, tmp_path: Path) -> None:
        """More is never written than the list of files says."""
        path = archive(
            tmp_path / "a.zip", with_run("", lambda file: file.writestr("checkpoints/a", b"\0" * 9999))
        )
        content = path.read_bytes()
        assert content.count(struct.pack("<L", 9999)) == 2  # in the file's header, and in the list
        path.write_bytes(content.replace(struct.pack("<L", 9999), struct.pack("<L", 5)))
        with pytest.raises(UnusableError, match=r"a\.zip is not a zip file, or it is damaged: Bad CRC-32"):
            unpacked(path, tmp_path / "out")
        assert (tmp_path / "out/checkpoints/a").stat().st_size <= 5

    def test_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unzip, "MAX_FILES", 2)
        path = archive(tmp_path / "a.zip", with_run("", lambda file: file.writestr("x", "")))
        with pytest.raises(UnusableError, match="has 3 files; the limit is 2"):
            unpacked(path, tmp_path / "out")

    def test_a_list_of_files_that_fills_the_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unzip, "MAX_DIRECTORY_BYTES", 1000)

        def more(file: zipfile.ZipFile) -> None:
            for i in range(100):
                file.writestr(f"x{i}", "")

        with pytest.raises(UnusableError, match="its list of files is longer than 1,000 bytes"):
            unpacked(archive(tmp_path / "a.zip", with_run("", more)), tmp_path / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_methods(tmp_path: Path, method: int) -> None:
    with pytest.raises(UnusableError, match="packed by an unusual method"):
        unpacked(archive(tmp_path / "a.zip", with_run(), method), tmp_path / "out")


def test_an_encrypted_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", with_run())
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(UnusableError, match="is encrypted"):
        unpacked(path, tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06", b"PK\x03\x04" + b"\xff" * 200, b"Rar!\x1a", b"\0" * 50_000]
)
def test_what_is_no_zip_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UnusableError, match=r"a\.zip is not a zip file, or it is damaged"):
        unpacked(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("part", range(12))
def test_a_damaged_one_is_never_a_traceback(tmp_path: Path, part: int) -> None:
    path = archive(tmp_path / "a.zip", with_run("run/"))
    content = path.read_bytes()
    for i in range(part, len(content), 12):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :])
        folder = tmp_path / f"out{i}"
        folder.mkdir()
        try:
            unpack(path, folder, "a.zip")
        except UnusableError as error:
            assert len(error.problems) == 1  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/results.json", "b/results.json"], r"contains 2 runs \(a, b\); submit one of them"),
        (["predictions/a.csv"], "contains no results.json; submit the whole run folder"),
        (["run/config.toml"], "and has no results.json yet; finish it with `finetune train --resume RUN`."),
        (["1/2/3/4/5/results.json"], "contains no results.json"),
    ],
)
def test_not_one_run(tmp_path: Path, names: list[str], message: str) -> None:
    path = archive(tmp_path / "a.zip", lambda file: [file.writestr(name, "{}") for name in names])
    with pytest.raises(UnusableError, match=message):
        unpacked(path, tmp_path / "out")


def test_the_nearest_run_counts(tmp_path: Path) -> None:
    fill = with_run("run/", lambda file: file.writestr("run/old/results.json", "[]"))
    unpacked(archive(tmp_path / "a.zip", fill), tmp_path / "out")
    assert (tmp_path / "out/results.json").read_text() == "{}"
