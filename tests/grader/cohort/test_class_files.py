"""A class from the folder of submissions to the table and the page, as one types it."""

import csv
import html.parser
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grader.checks import PROPERTIES
from grader.cli import app
from grader.evidence.seeds import Prescription
from tests.grader.honest import Size, write_run

SMALL = {"n_train": 100, "n_val": 60, "n_test": 70, "epochs": 2}
HOSTILE = ["=1+2", "+x", "-x", "@x", "<script>alert(1)<", '"onload="x', "a\nb", "\x1b[31m", "&amp;", "\udcff"]


def run(*words: object) -> Result:
    return CliRunner().invoke(app.grade_runs, [str(word) for word in words])


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


class Page(html.parser.HTMLParser):
    """Counts elements and attributes, and keeps the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest student, a copy, a zip file, a student without a run, and a loose file; not to be changed."""
    folder = tmp_path_factory.mktemp("class")
    for name in ("alice", "bob"):
        write_run(folder / name / "digits", Size(seeds=(Prescription("n", name).seed,), **SMALL))
    shutil.copytree(folder / "alice", folder / "eve")
    shutil.make_archive(str(folder / "zoe"), "zip", folder / "bob")
    (folder / "grace").mkdir()
    (folder / "roster.csv").touch()
    return folder


class TestAClass:
    def test_on_the_terminal(self, submissions: Path) -> None:
        found = run(submissions)
        assert found.exit_code == 2
        lines = found.output.splitlines()
        assert [line.split()[0] for line in lines[1:6]] == ["alice", "bob", "eve", "grace", "zoe"]
        assert "4 of 5 runs passed under policy default." in lines
        assert any(line.startswith("Look at alice and eve: the same measured times") for line in lines)
        assert "Ignored, since neither folder nor zip file: roster.csv." in lines
        assert "--output FOLDER writes grades.csv, summary.html and a file for each submission." in lines

    def test_its_table(self, submissions: Path, tmp_path: Path) -> None:
        found = run(submissions, "--seed-from", "n", "--output", tmp_path, "--format", "json")
        assert found.exit_code == 2
        table = rows(tmp_path)
        assert list(table) == ["alice", "bob", "eve", "grace", "zoe"]
        columns = ["id", "score", "max_score", "passed", "level", "inconclusive_levels", "why", "flags"]
        assert list(table["alice"]) == [*columns, *PROPERTIES]
        assert [row["passed"] for row in table.values()] == ["yes", "yes", "no", "no", "no"]
        assert table["eve"]["why"] == table["zoe"]["why"] == "seed-prescribed, own-runs"
        assert table["eve"]["own-runs"] == "fails"
        assert table["alice"]["own-runs"] == "holds"
        assert table["eve"]["flags"].startswith("as alice: the same measured times")
        assert (table["grace"]["score"], table["grace"]["level"], table["grace"]["complete"]) == ("0", "", "")
        written = json.loads((tmp_path / "eve.json").read_text())  # after the comparison
        own = next(entry for entry in written["findings"] if entry["property"] == "own-runs")
        assert own["status"] == "fails"

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_given_one_by_one(self, submissions: Path, tmp_path: Path, jobs: int) -> None:
        paths = [path for path in sorted(submissions.iterdir()) if path.suffix != ".csv"]
        run(submissions, "--output", tmp_path / "a")
        run(*paths, "--output", tmp_path / "b", "--jobs", jobs)
        assert (tmp_path / "a/grades.csv").read_text() == (tmp_path / "b/grades.csv").read_text()

    def test_its_page(self, submissions: Path, tmp_path: Path) -> None:
        run(submissions, "--output", tmp_path)
        page = Page(tmp_path / "summary.html")
        assert page.tags.count("tr") == 6
        assert "script" not in page.tags
        assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "href")}
        assert "4 passed under policy default" in page.text
        assert "alice and eve: the same measured times" in page.text
        assert "1 submission could not be graded." in page.text

    def test_ids_of_students(self, submissions: Path, tmp_path: Path) -> None:
        names = tmp_path / "students.csv"
        names.write_text("submission,student\nalice,bob\nbob,alice\neve,3\ngrace,4\nzoe,5\n")
        run(submissions, "--students", names, "--seed-from", "n", "--output", tmp_path / "out")
        table = rows(tmp_path / "out")
        assert [table[name]["seed-prescribed"] for name in ("alice", "bob", "3")] == 3 * ["fails"]
        assert (tmp_path / "out/3.txt").exists()

    def test_sections_with_students_of_one_name(self, submissions: Path, tmp_path: Path) -> None:
        for section in ("monday", "friday"):
            for name in ("alice", "bob"):
                shutil.copytree(submissions / name, tmp_path / section / name)
        sections = (tmp_path / "monday", tmp_path / "friday")
        run(*sections, "--seed-from", "n", "--output", tmp_path / "out")
        table = rows(tmp_path / "out")
        assert list(table) == ["monday-alice", "monday-bob", "friday-alice", "friday-bob"]
        assert {row["seed-prescribed"] for row in table.values()} == {"holds"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--output", "{}/grades"], "is in the folder of submissions; write the grades elsewhere"),
            (["--students", "{}/roster.csv"], "is inside the submission"),
            (["--seed-from", "a:b"], "--seed-from must be a nonce, a word without a colon, not 'a:b'."),
            (["--reference", "{}/grace"], "--reference: "),
            (["--attest", "/dev/null"], "--attest"),
        ],
    )
    def test_misuse(self, submissions: Path, words: list[str], message: str) -> None:
        found = run(submissions, *(word.format(submissions) for word in words))
        assert found.exit_code == 2
        assert message in found.output
        assert "Traceback" not in found.output
        assert not (submissions / "grades").exists()


def test_hostile_names(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", Size(**SMALL))
    for name in HOSTILE:
        shutil.copytree(base, tmp_path / "class" / name)
    assert run(tmp_path / "class", "--output", tmp_path / "out").exit_code == 0
    with (tmp_path / "out/grades.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert "'=1+2" in cells
    assert all(cell.isprintable() for cell in cells)
    page = Page(tmp_path / "out/summary.html")
    assert set(page.tags) == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "svg", "rect", "text", "ul", "li",
        "div", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert "<script>alert(1)<" in page.text
    assert "&amp;" in page.text


def test_three_hundred(tmp_path: Path) -> None:
    """One is damaged, two share a run; nobody else is flagged, and nothing takes long."""
    folder = tmp_path / "class"
    for i in range(298):
        write_run(folder / f"s{i:03d}", Size(seeds=(i,), n_train=100, n_val=60, n_test=70, epochs=2))
    shutil.copytree(folder / "s000", folder / "s298")
    (folder / "s299").mkdir()
    (folder / "s299/results.json").write_text("{")
    found = run(folder, "--output", tmp_path / "out")
    assert found.exit_code == 2
    table = rows(tmp_path / "out")
    assert len(table) == 300
    assert [name for name, row in table.items() if row["flags"]] == ["s000", "s298"]
    assert [name for name, row in table.items() if not row["level"]] == ["s299"]
    assert sum(row["passed"] == "yes" for row in table.values()) > 280


def test_what_was_skipped_is_not_called_a_failure(tmp_path: Path) -> None:
    write_run(tmp_path / "class/amy", Size(**SMALL))
    shutil.copytree(tmp_path / "class/amy", tmp_path / "class/ben")
    path = tmp_path / "class/ben/results.json"
    document = json.loads(path.read_text())
    document["runs"][0]["failure"] = "out of memory"
    path.write_text(json.dumps(document))
    policy = "homework-no-checkpoints"
    found = run(tmp_path / "class", "--policy", policy, "--output", tmp_path / "out")
    assert "complete, roles (not checked)" in found.output
    assert rows(tmp_path / "out")["ben"]["why"].startswith("complete, roles (not checked)")
