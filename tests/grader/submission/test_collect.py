"""Whether a path is a submission or a folder of submissions."""

from pathlib import Path

import pytest

from grader.errors import UsageError
from grader.submission.collect import Collected, collect, require_elsewhere


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(found: Collected) -> list[str]:
    return [path.name for path in found.paths]


@pytest.mark.parametrize("name", ["results.json", "config.toml"])
def test_a_run_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name, tmp_path / "predictions/a.csv", tmp_path / "checkpoints/a")
    assert collect([tmp_path]) == Collected([tmp_path])


def test_a_folder_of_submissions(tmp_path: Path) -> None:
    touch(
        tmp_path / "bob/run/results.json", tmp_path / "alice/results.json", tmp_path / "carol.ZIP",
        tmp_path / "dave.tar.gz", tmp_path / ".git/config", tmp_path / "__MACOSX/x", tmp_path / "roster.csv",
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    found = collect([tmp_path])
    assert names(found) == ["alice", "bob", "carol.ZIP", "dave.tar.gz", "empty"]
    assert (found.folders, found.ignored) == ((tmp_path,), ("link", "roster.csv"))


def test_a_class_of_one(tmp_path: Path) -> None:
    """The first to hand in is treated as one of many."""
    touch(tmp_path / "alice/results.json")
    assert names(collect([tmp_path])) == ["alice"]


def test_several_paths_are_a_submission_each(tmp_path: Path) -> None:
    touch(tmp_path / "alice/run/results.json", tmp_path / "bob/results.json")
    paths = [tmp_path / "alice", tmp_path / "bob"]
    assert collect(paths) == Collected(paths)


def test_sections_of_a_class(tmp_path: Path) -> None:
    touch(
        tmp_path / "monday/alice/results.json", tmp_path / "monday/bob.zip", tmp_path / "monday/notes.txt",
        tmp_path / "friday/alice/homework/results.json", tmp_path / "friday/carol/run.zip",
    )  # fmt: skip
    (tmp_path / "friday/dave").mkdir()  # has handed in nothing
    sections = [tmp_path / "monday", tmp_path / "friday"]
    found = collect(sections)
    assert names(found) == ["alice", "bob.zip", "alice", "carol", "dave"]
    assert (found.folders, found.ignored) == (tuple(sections), ("notes.txt",))
    with pytest.raises(UsageError, match="is in the folder of submissions"):
        require_elsewhere([tmp_path / "friday/grades"], found)


@pytest.mark.parametrize("other", ["bob/results.json", "bob/run/results.json", "bob/predictions/a.csv"])
def test_a_student_with_two_runs_makes_no_section(tmp_path: Path, other: str) -> None:
    """Only if every path holds several submissions: `grader submissions/*` gives one path per student."""
    touch(tmp_path / "alice/1/results.json", tmp_path / "alice/2/results.json", tmp_path / other)
    paths = [tmp_path / "alice", tmp_path / "bob"]
    assert collect(paths) == Collected(paths)


def test_parts_of_runs_make_no_section(tmp_path: Path) -> None:
    touch(*(tmp_path / name / part / "a" for name in ("a", "b") for part in ("predictions", "checkpoints")))
    paths = [tmp_path / "a", tmp_path / "b"]
    assert collect(paths) == Collected(paths)


@pytest.mark.parametrize("name", ["", "nothing", "a\0b", "a" * 300])
def test_what_is_no_folder_stays_as_it_is(tmp_path: Path, name: str) -> None:
    assert collect([tmp_path / name]) == Collected([tmp_path / name])


def test_no_grades_among_the_submissions(tmp_path: Path) -> None:
    touch(tmp_path / "class/alice/results.json")
    with pytest.raises(UsageError, match="is in the folder of submissions; write the grades elsewhere"):
        require_elsewhere([tmp_path / "class/grades"], collect([tmp_path / "class"]))
    require_elsewhere([tmp_path / "grades"], collect([tmp_path / "class"]))
    require_elsewhere([tmp_path / "class/alice/grades"], collect([tmp_path / "class/alice"]))
