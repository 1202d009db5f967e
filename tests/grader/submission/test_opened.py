"""Submissions as they are handed in: nested, zipped, zipped in a folder."""

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from grader.errors import UnusableError
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.submission import opened as module
from grader.submission.opened import opened


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go; must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def zipped(run: Path, path: Path, root: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for found in sorted(run.rglob("*")):
            if found.is_file():
                file.write(found, f"{root}{found.relative_to(run)}")
    return path


@pytest.mark.parametrize("name", ["alice.zip", "alice/digits.zip", "alice/a/b/digits.zip"])
@pytest.mark.parametrize("root", ["", "digits/"])
def test_a_zip_file_gets_the_grade_of_its_run(
    honest: Path, tmp_path: Path, temporary: Path, policy: Policy, name: str, root: str
) -> None:
    zipped(honest, tmp_path / name, root)
    found = grade(Job(tmp_path / name.partition("/")[0], "x", policy))
    wanted = grade(Job(honest, "x", policy))
    assert (found.findings, found.score) == (wanted.findings, wanted.score)
    assert found.levels == wanted.levels
    assert not list(temporary.iterdir())


def test_a_nested_folder(honest: Path, tmp_path: Path, policy: Policy) -> None:
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice/run").symlink_to(honest)
    assert grade(Job(tmp_path / "alice", "x", policy)).problems  # a link is not followed
    (tmp_path / "alice/run").unlink()
    (tmp_path / "alice/notes").mkdir()
    subprocess.run(["cp", "-r", honest, tmp_path / "alice/run"], check=True)
    assert grade(Job(tmp_path / "alice", "x", policy)).passed


def test_nothing_stays_behind_whatever_fails(
    honest: Path, tmp_path: Path, temporary: Path, policy: Policy
) -> None:
    path = zipped(honest, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert grade(Job(path, "x", policy)).exit_code == 2
    good = zipped(honest, tmp_path / "b.zip")
    with opened(good) as (folder, _):
        assert folder.is_relative_to(temporary)
    assert not list(temporary.iterdir())


def test_messages_name_the_zip_file(tmp_path: Path, policy: Policy) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("results.json", "{")
    (problem,) = grade(Job(tmp_path / "a.zip", "x", policy)).problems
    assert problem.startswith("results.json is not JSON")
    (problem,) = grade(Job(tmp_path / "none.zip", "x", policy)).problems
    assert problem.endswith("none.zip: No such file or directory.")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.rar", "a.7z"])
def test_other_archives(tmp_path: Path, policy: Policy, name: str) -> None:
    (tmp_path / name).touch()
    (problem,) = grade(Job(tmp_path / name, "x", policy)).problems
    assert problem.endswith("must be a folder or a zip file; pack the run folder as zip.")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "contains no results.json; submit the whole run folder."),
        (["config.toml", "checkpoints/a"], "is a run that was interrupted or is still training"),
        (["a/config.toml", "a/checkpoints/a"], "is a run that was interrupted or is still training"),
        (["a/results.json", "b/results.json"], "contains 2 runs (a, b); submit one of them."),
        (["a.zip", "b.zip"], "contains 2 zip files and no results.json; submit one run. If each is a"),
        (["1/2/3/4/5/results.json"], "contains no results.json"),
    ],
)
def test_no_run_or_several(tmp_path: Path, policy: Policy, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (problem,) = grade(Job(tmp_path, "x", policy)).problems
    assert message in problem


def test_a_folder_with_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)
    for i in range(4):
        (tmp_path / str(i)).touch()
    with pytest.raises(UnusableError, match="has more than 3 files"), opened(tmp_path):
        pass


@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1), (signal.SIGHUP, 2)]
)
def test_signals_clean_up(honest: Path, tmp_path: Path, number: signal.Signals, jobs: int) -> None:
    """While zip files are unpacked: each process waits where grading would begin."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    for name in ("a", "b", "c"):
        zipped(honest, tmp_path / f"class/{name}.zip")
    code = (
        f"import os, signal, sys, time\nsignal.signal({int(number)}, signal.SIG_DFL)\n"  # nohup ignores
        "from grader.cli import app\nfrom grader.grading import grade\n"
        "grade._grade = lambda *_: (os.write(1, b'ready\\n'), time.sleep(300))\n"
        f"sys.argv = ['grader', {str(tmp_path / 'class')!r}, '--jobs', '{jobs}']\napp.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(folder)}
    )
    assert process.stdout is not None
    for _ in range(jobs):
        assert process.stdout.readline() == b"ready\n"
    assert len(list(folder.glob("grader-*"))) == jobs
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    process.stdout.close()
    assert not list(folder.glob("grader-*"))
