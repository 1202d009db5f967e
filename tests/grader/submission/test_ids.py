"""Names of submissions that look alike are told apart wherever they are shown."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from grader.cli import app
from grader.cli.inputs import students_from
from grader.errors import UsageError
from grader.submission.ids import distinct, visible
from tests.grader.honest import Size, write_run

ALIKE = [
    "alice",
    "ali\u200bce",
    "alice\u202e",
    "al\u00adice",
    "ali\u2060ce",
    "alice\u00a0",
    " alice",
    "ali\u3164ce",
]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("alice", "alice"),
        ("Zo\u00eb M\u00fcller", "Zo\u00eb M\u00fcller"),
        ("\u674e\u96f7", "\u674e\u96f7"),
        ("ali\u200bce", r"ali\u200bce"),
        ("alice\u202exslx", r"alice\u202exslx"),
        ("a\u00a0b", r"a\xa0b"),
        ("a  b ", r"a \x20b\x20"),
        ("a\nb\x1b[31m", r"a\x0ab\x1b[31m"),
        ("\udcff", r"\udcff"),
        ("a\\x0ab", r"a\\x0ab"),
        ("a\U000e0041", r"a\U000e0041"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_written_out(name: str, shown: str) -> None:
    assert visible(name) == shown
    assert visible(name).isprintable()


@given(st.lists(st.text(max_size=4), unique=True, max_size=6))
def test_different_names_are_shown_differently(names: list[str]) -> None:
    shown = distinct(names)
    assert len(set(shown.values())) == len(names)
    assert len({unicodedata.normalize("NFKC", text) for text in shown.values()}) == len(names)


def test_normal_forms_that_look_alike() -> None:
    found = distinct(["Jos\u00e9", "Jose\u0301", "\uff21nna", "Anna", "Zo\u00eb"])
    assert list(found.values()) == [r"Jos\xe9", r"Jose\u0301", r"\uff21nna", "Anna", "Zo\u00eb"]


def test_in_the_files_and_the_table_of_a_class(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", Size(n_train=100, n_val=60, n_test=70, epochs=2))
    for name in ALIKE:
        shutil.copytree(base, tmp_path / "class" / name)
    words = [str(tmp_path / "class"), "--output", str(tmp_path / "out"), "--format", "json"]
    found = CliRunner().invoke(app.grade_runs, words)
    assert found.exit_code == 0, found.output
    ids = [line.split(",")[0] for line in (tmp_path / "out/grades.csv").read_text().splitlines()[1:]]
    assert len(set(ids)) == len(ALIKE)
    assert set(ids) == {visible(name) for name in ALIKE}
    page = (tmp_path / "out/summary.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in ids)
    assert "\u200b" not in page
    assert {json.loads(path.read_text())["run"] for path in (tmp_path / "out").glob("*.json")} == set(ids)
    (look,) = [line for line in found.output.splitlines() if line.startswith("Look at ")]
    assert r"\x20alice" in look
    one = CliRunner().invoke(app.grade_runs, [str(tmp_path / "class" / ALIKE[1])])
    assert one.output.startswith("ali\\u200bce\n")


def test_one_student_in_two_normal_forms(tmp_path: Path) -> None:
    """The course prescribes both the same seed."""
    path = tmp_path / "students.csv"
    path.write_text("submission,student\na,Jos\u00e9\nb,Jose\u0301\n", "utf-8")
    with pytest.raises(UsageError, match="has several submissions"):
        students_from(path, ["a", "b"])
