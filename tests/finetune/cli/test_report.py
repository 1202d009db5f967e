"""`finetune report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from tests.builders.reports import edit_results, simulated_run
from tests.builders.runs import Command


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return simulated_run(tmp_path / "run")


def test_beside_the_results(finetune: Command, run: Path) -> None:
    for named in (run, run / "results.json"):
        code, out, err = finetune("report", str(named))
        assert (code, out, err) == (0, f"Report: {run / 'report.html'}\n", "")
        assert (run / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
        (run / "report.html").unlink()


def test_of_several_here(finetune: Command, run: Path, tmp_path: Path) -> None:
    simulated_run(tmp_path / "other")
    code, out, _ = finetune("report", "run", "other")
    assert (code, out) == (0, "Report: comparison.html\n")
    assert "Comparison of 2 runs" in (tmp_path / "comparison.html").read_text("utf-8")
    assert not (run / "report.html").exists()


def test_where_it_was_asked_for(finetune: Command, run: Path, tmp_path: Path) -> None:
    assert finetune("report", str(run), "--out", "new/page.html")[0] == 0
    assert (tmp_path / "new" / "page.html").is_file()


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], ["run", "nowhere"], ["run", "--out", "run"]])
@pytest.mark.usefixtures("run")
def test_bad_input_is_one_sentence(finetune: Command, arguments: list[str]) -> None:
    code, out, err = finetune("report", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1


def test_no_run_is_named(finetune: Command) -> None:
    code, _, err = finetune("report")
    assert code == 2
    assert "Missing argument 'RUN...'" in err


def test_a_damaged_results_file(finetune: Command, run: Path) -> None:
    (run / "results.json").write_text("{}")
    code, _, err = finetune("report", str(run))
    assert code == 2
    assert err.count("\n") == 1
    (run / "results.json").write_text("\0" * 100)
    assert finetune("report", str(run))[0] == 2


@pytest.mark.parametrize("n_ended", [0, 2])
def test_an_unfinished_run_is_refused_as_by_the_grader(finetune: Command, run: Path, n_ended: int) -> None:
    (run / "state").mkdir()
    (run / "config.toml").write_text("")
    if n_ended:
        edit_results(run, lambda document: document.update(runs=document["runs"][:n_ended]))
    else:
        (run / "results.json").unlink()
    code, out, err = finetune("report", str(run))
    assert (code, out) == (2, "")
    assert "is a run that was interrupted or is still training" in err
    assert err.endswith(f"finish it with `finetune train --resume {run}`.\n")
    assert not (run / "report.html").exists()
    (problem,) = grade(Job(run, "run", load_policy("default"))).problems
    assert err == f"Error: A report needs runs that have ended, but {problem}\n"


def test_damaged_predictions(finetune: Command, run: Path) -> None:
    (run / "predictions" / "A-seed0-test.csv").write_text("nonsense")
    code, _, err = finetune("report", str(run))
    assert code == 2
    assert "A-seed0-test.csv" in err
