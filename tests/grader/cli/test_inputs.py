"""Student ids and reference runs."""

from pathlib import Path

import pytest

from grader.cli.inputs import reference_runs, students_from
from grader.errors import UsageError


def ids(tmp_path: Path, text: str, names: list[str]) -> list[str]:
    (tmp_path / "students.csv").write_text(text, "utf-8")
    return students_from(tmp_path / "students.csv", names)


def test_ids_by_submission(tmp_path: Path) -> None:
    text = "student,submission,more\n0042,alice_123_digits,x\n=7,bob,y\nZo\u00eb,zoe,z\n"
    assert ids(tmp_path, text, ["bob", "alice_123_digits", "zoe"]) == ["=7", "0042", "Zo\u00eb"]
    assert ids(tmp_path, "\ufeff" + text, ["bob"]) == ["=7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "the header must contain submission and student"),
        ("submission,student\na,\n", "line 2: each line must have a unique submission, and an id"),
        ("submission,student\na,1\na,2\n", "line 3: each line must have a unique submission"),
        ("submission,student\na,../b\n", "an id that can name a file, found 'a', '../b'"),
        ("submission,student\na,..\n", "an id that can name a file"),
        (f"submission,student\na,{'x' * 201}\n", "an id that can name a file"),
        ("submission,student\nb,1\n", "lacks the submissions 'a'; add them"),
        ("submission,student\n", "lacks the submissions 'a'; add them"),
        ("", "the header must contain"),
    ],
)
def test_bad_ids(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--students") as caught:
        ids(tmp_path, text, ["a"])
    assert message in str(caught.value)


def test_two_submissions_of_one_student(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'1' has several submissions; grade one of them"):
        ids(tmp_path, "submission,student\na,1\nb,1\n", ["a", "b"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--students cannot be read"):
        students_from(tmp_path / "none.csv", ["a"])
    with pytest.raises(UsageError, match="--reference"):
        reference_runs([tmp_path / "none"])


def test_reference_runs(honest: Path) -> None:
    (found,) = reference_runs([honest]).items()
    assert found[0] == "reference run"
    assert len(found[1].runs) == 6
