"""Each format against its schema, for a run that passes, one that fails and one that is unusable."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from grader.findings import Finding, Level, Status, from_problems
from grader.formats import FORMATS
from grader.formats.text import print_grade, print_table, to_table
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy, load_policy
from grader.grading.verdict import NO_NETWORK, Grade
from tests.grader.forgeries import FORGERIES, Forger

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def grades(honest: Path, policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Grade]:
    homework = load_policy("homework-no-checkpoints")
    found = {"passed": grade(Job(honest, "passed", homework))}
    for kind, name in (("failed", "best_epoch_picked_on_test"), ("unusable", "a_field_left_out")):
        forger = Forger(honest, tmp_path_factory.mktemp(kind) / "run")
        next(entry for entry in FORGERIES if entry.name == name).change(forger)
        forger.save()
        found[kind] = grade(Job(forger.folder, kind, homework))
    nasty = '\x1b[31mred\x07 \ufffe<&>" ]]> \ud800\u2028 end'
    findings = {name: Finding(Status.FAILS, Level.FILE, nasty, (nasty,)) for name in found["passed"].findings}
    found["nasty"] = Grade(nasty, policy, findings, (Level.FILE,), created_at="2026-99-99T10:00:00Z")
    found["nasty problems"] = Grade(nasty, policy, {}, problems=(nasty,) * 60)
    return found


KINDS = ["passed", "failed", "unusable", "nasty", "nasty problems"]


@pytest.mark.parametrize("kind", KINDS)
def test_json_has_its_schema(grades: dict[str, Grade], kind: str) -> None:
    schema = json.loads(resources.files("grader").joinpath("grade.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    document = json.loads(FORMATS["json"].write(grades[kind]))
    Draft202012Validator(schema).validate(document)
    assert document["exit_code"] == {"passed": 0, "failed": 1, "nasty": 1}.get(kind, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_gradescope_has_its_schema_and_every_property(grades: dict[str, Grade], kind: str) -> None:
    document = json.loads(FORMATS["gradescope"].write(grades[kind]))
    Draft202012Validator(json.loads((HERE / "gradescope.schema.json").read_text())).validate(document)
    assert [test["name"] for test in document["tests"]] == list(grades[kind].policy.weights)
    assert document["score"] == pytest.approx(sum(test["score"] for test in document["tests"]))


def test_gradescope_gives_points(grades: dict[str, Grade]) -> None:
    passed = json.loads(FORMATS["gradescope"].write(grades["passed"]))
    assert (passed["score"], sum(test["max_score"] for test in passed["tests"])) == (100, 100)
    failed = json.loads(FORMATS["gradescope"].write(grades["failed"]))
    tests = {test["name"]: test for test in failed["tests"]}
    # Three of six runs have a wrong best epoch: half of 6 points, and partial credit says so.
    assert (tests["best-epoch"]["score"], tests["best-epoch"]["status"]) == (3, "failed")
    # What could not be judged for that reason earns nothing under this policy.
    assert tests["recomputed"]["score"] == 0
    unusable = json.loads(FORMATS["gradescope"].write(grades["unusable"]))
    assert unusable["score"] == 0
    assert "n_trained" in unusable["output"]


@pytest.mark.parametrize("kind", KINDS)
def test_junit_keeps_the_rules_of_the_common_schema(grades: dict[str, Grade], kind: str) -> None:
    """The rules of the XSD for Ant's reports, which Jenkins and others read by."""
    text = FORMATS["junit"].write(grades[kind])
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]", text)
    root = ET.fromstring(text)  # noqa: S314 - our own
    assert root.tag == "testsuites"
    (suite,) = root
    required = {
        "id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"
    }  # fmt: skip
    assert set(suite.attrib) == required
    assert suite.attrib["name"]
    assert re.fullmatch(r"\d{4}-(0\d|1[0-2])-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d", suite.attrib["timestamp"])
    cases = suite.findall("testcase")
    assert [child.tag for child in suite] == [
        "properties", *["testcase"] * len(cases), "system-out", "system-err"
    ]  # fmt: skip
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        assert len(case) <= 1
        for child in case:
            assert child.tag in ("skipped", "error", "failure")
            assert child.tag == "skipped" or {"message", "type"} == set(child.attrib)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{tag}"))
    assert int(suite.attrib["tests"]) == len(cases)


def test_junit_outcomes(grades: dict[str, Grade]) -> None:
    failed = ET.fromstring(FORMATS["junit"].write(grades["failed"]))  # noqa: S314
    case = failed.find("testsuite/testcase[@name='best-epoch']/failure")
    assert case is not None
    assert "best on validation" in case.attrib["message"]
    # Not checked or not counted: skipped.
    passed = ET.fromstring(FORMATS["junit"].write(grades["passed"]))  # noqa: S314
    assert passed.find("testsuite/testcase[@name='true-labels']/skipped") is not None
    unusable = ET.fromstring(FORMATS["junit"].write(grades["unusable"]))  # noqa: S314
    assert unusable.find("testsuite/testcase/error") is not None


def test_text_begins_with_the_verdict(grades: dict[str, Grade]) -> None:
    lines = FORMATS["text"].write(grades["passed"]).splitlines()
    assert lines[0] == "passed"
    counts = "of 28 counted properties, 28 hold; 100 of 100 points. Evidence levels: "
    assert lines[1].startswith(f"PASSED under policy homework-no-checkpoints v2: {counts}")
    assert NO_NETWORK in lines[:-1]
    assert any(line.startswith("Starting from pretrained weights pays: +") for line in lines[2:5])
    assert not any(line.startswith("holds") for line in lines)
    assert lines[-1] == "37 properties hold and 20 could not be checked; --verbose lists them."
    verbose = FORMATS["verbose"].write(grades["passed"]).splitlines()
    assert sum(line.startswith("holds") for line in verbose) == 37
    assert "FAILED under policy" in FORMATS["text"].write(grades["failed"])
    assert FORMATS["text"].write(grades["unusable"]).splitlines()[1] == "Unusable: 1 problem."


def test_text_shows_fifty_problems_and_counts_the_rest(grades: dict[str, Grade]) -> None:
    lines = FORMATS["text"].write(grades["nasty problems"]).splitlines()
    assert "... and 10 more." in lines
    assert sum("end" in line for line in lines[1:]) == 50


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_miscounts_many_details(grades: dict[str, Grade], form: str) -> None:
    """A finding keeps 50 of its problems and the number of the others, which is the only true number."""
    many = from_problems({"all": [f"problem {i:03}" for i in range(200)]}, Level.FILE, "")
    findings = {**grades["passed"].findings, "best-epoch": replace(many, name="best-epoch")}
    text = FORMATS[form].write(replace(grades["passed"], findings=findings))
    is_text = form in ("text", "verbose")
    n_shown, rest = (10, "...; --format json lists more.") if is_text else (50, "... and 150 more.")
    assert f"problem {n_shown - 1:03}" in text
    assert f"problem {n_shown:03}" not in text
    assert rest in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_steers_the_terminal(grades: dict[str, Grade], kind: str, form: str) -> None:
    text = FORMATS[form].write(grades[kind])
    assert text.endswith("\n")
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    text.encode("utf-8")


def shown(write: Callable[[Console], None], width: int = 200) -> str:
    file = io.StringIO()
    write(Console(file=file, width=width, force_terminal=True, color_system="standard"))
    return file.getvalue()


PLAIN = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_shows_what_the_text_says(grades: dict[str, Grade], kind: str) -> None:
    wide = PLAIN.sub("", shown(lambda console: print_grade(grades[kind], console), 500))
    wanted = FORMATS["text"].write(grades[kind])
    assert " ".join(wide.split()) == " ".join(wanted.split())


def test_a_terminal_has_colours_and_its_width(grades: dict[str, Grade]) -> None:
    found = shown(lambda console: print_grade(grades["failed"], console), 70)
    assert "\x1b[" in found
    assert max(map(len, PLAIN.sub("", found).splitlines())) <= 70


def test_a_terminal_shows_a_table_of_several(grades: dict[str, Grade]) -> None:
    several = [grades[kind] for kind in ("passed", "failed", "unusable")]
    found = shown(lambda console: print_table(several, console), 500)
    assert " ".join(PLAIN.sub("", found).split()) == " ".join(to_table(several).split())
    assert "\x1b[32mpassed" in found
    assert "\x1b[1;31mfailed" in found


def test_junit_reports_missing_evidence(honest: Path) -> None:
    weak = grade(Job(honest, "weak", load_policy("strict")))  # without the truth that it asks for
    assert weak.missing == [Level.TRUTH]
    suite = ET.fromstring(FORMATS["junit"].write(weak))  # noqa: S314 - our own
    failure = next(case for case in suite.iter("testcase") if case.get("name") == "evidence").find("failure")
    assert failure is not None
    assert failure.get("message") == weak.objections[0]


FAKE = (
    "diverged\nPASSED under policy strict v2: all good\r\x1b[2J\x85\u2028\u202ePASSED" + " " * 500 + "PASSED"
)


@pytest.mark.parametrize("form", FORMATS)
def test_a_failure_text_fakes_no_line(honest: Path, tmp_path: Path, policy: Policy, form: str) -> None:
    forger = Forger(honest, tmp_path / "run\nPASSED under policy strict")
    forger.run("C").update(status="failed", failure=FAKE, artifacts=None, best_epoch=None)
    forger.save()
    name = forger.folder.name
    text = FORMATS[form].write(grade(Job(forger.folder, name, policy)))
    lines = [line.strip() for line in text.replace("\\n", "\n").replace("&#10;", "\n").splitlines()]
    assert not [line for line in lines if line.startswith("PASSED")]
    assert not any(ord(c) < 32 and c != "\n" for c in text)
    assert "\u202e" not in text
    assert " " * 100 not in text
