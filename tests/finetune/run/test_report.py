"""What people see: lines and a table."""

from __future__ import annotations

import copy
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig
from finetune.run.experiment import report
from finetune.run.folder import RunFolder
from finetune.run.report import doubt_summary, epoch_line, start_line, summary
from finetune.run.tuning.search import Trial
from finetune.system.console import Reporter
from finetune.training.record import Epoch, Metrics
from grader.checks.learning import one_rate
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.grading.grade import graded
from grader.grading.policy import load_policy
from grader.submission.record import results_from
from tests.builders.runs import RecordingReporter

Finished = tuple[Path, ExperimentConfig, dict[str, Any], RecordingReporter]


def shown(table: Any) -> str:
    text = io.StringIO()
    Reporter(Console(file=text, width=80)).table(table)
    return text.getvalue()


def failed(record: dict[str, Any]) -> dict[str, Any]:
    """The same results, had the first variant failed in its first epoch."""
    record = copy.deepcopy(record)
    for run in record["runs"][:1]:
        run |= {"status": "failed", "failure": "It did.", "best_epoch": None, "artifacts": None, "epochs": []}
    return record


class TestSaid:
    def test_each_variants_trainable_part_before_it(self, finished: Finished) -> None:
        starts = [i for i, line in enumerate(finished[3].said) if "parameters" in line and "seed 0" in line]
        assert len(starts) == 3
        c = finished[3].said[starts[2]]
        assert all(part in c for part in ("C", "layer4", "fc", "8,398,858", "11,181,642", "0.02"))

    def test_a_line_for_each_epoch(self, finished: Finished) -> None:
        for name in "ABC":
            assert len([line for line in finished[3].said if line.startswith(f"  {name} ")]) == 2

    def test_weights_and_files(self, finished: Finished) -> None:
        text = "\n".join(finished[3].said)
        assert "resnet18-tinyimagenet.safetensors" in text
        assert str(finished[0] / "results.json") in text
        assert str(finished[0] / "report.html") in text


def test_the_screen_and_the_page_share_one_judgment(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    judged: list[str] = []

    def counting(evidence: Any, name: str, policy: Any) -> Any:
        judged.append(name)
        return graded(evidence, name, policy)

    monkeypatch.setattr("finetune.report.judged.graded", counting)
    (tmp_path / "run" / "report.html").unlink()
    reporter = RecordingReporter()
    report(copy.deepcopy(finished[2]), RunFolder(tmp_path / "run"), reporter)
    assert judged == ["run"]
    assert any(line.startswith("Scope: ") for line in reporter.said)
    assert (tmp_path / "run" / "report.html").is_file()


def test_what_does_not_hold_in_one_line(finished: Finished) -> None:
    found = graded(Evidence(results_from(finished[2])), "run", load_policy("default"))
    line = doubt_summary(found, finished[0])
    assert line.endswith(f" (grader {finished[0]} says why).")
    assert doubt_summary(found, Path("my runs/x")).endswith(" (grader 'my runs/x' says why).")
    for finding in found.unsettled:
        assert finding.name in line
    assert line.startswith("Fails: ")
    assert line.index("one-rate") < line.index("; inconclusive: ") < line.index("c-against-b")
    holding = {name: replace(f, status=Status.HOLDS) for name, f in found.findings.items()}
    assert doubt_summary(replace(found, findings=holding), finished[0]) == ""


def test_a_rate_is_shown_alike_everywhere(finished: Finished) -> None:
    """Tuned rates are powers of the square root of ten."""
    run = {**finished[2]["runs"][0], "learning_rate": 10**-1.5}
    assert start_line(run, STANDARD_VARIANTS[0]).endswith("learning rate 0.0316")
    assert Trial("A", 1, 10**-1.5, 1).label == "A at 0.0316"
    document = copy.deepcopy(finished[2])
    for entry in document["runs"]:
        entry["learning_rate"] = 10**-1.5
    assert "at the peak rate 0.0316," in one_rate(Evidence(results_from(document))).summary


def test_epoch_line() -> None:
    metrics = Metrics(5.0, 1, 4)
    epoch = Epoch(3, 0.1, metrics, metrics, Metrics(4.0, 3, 4), 1.23, 0.1, 0.56)
    line = epoch_line("C", epoch, 20)
    assert " C  3/20 " in line
    assert line.count("1.250  25.0%") == 2
    assert "test 1.000  75.0%" in line
    assert line.endswith("1.2 s + 0.6 s")


class TestSummary:
    def test_a_row_for_each_run(self, finished: Finished) -> None:
        lines = shown(summary(results_from(finished[2]))).splitlines()
        for run in finished[2]["runs"]:
            best = run["epochs"][run["best_epoch"] - 1]
            (line,) = [text for text in lines if f" {run['variant']} " in text]
            assert f"{run['n_trained']:,}" in line
            assert f"{best['val']['n_correct'] / 20:.1%}" in line
            assert f"{best['test']['n_correct'] / 20:.1%}" in line

    def test_failed_runs(self, finished: Finished) -> None:
        lines = shown(summary(results_from(failed(finished[2])))).splitlines()
        assert len([line for line in lines if "failed" in line]) == 1
        late = copy.deepcopy(finished[2])
        late["runs"][1]["status"] = "failed"
        assert "(failed)" in shown(summary(results_from(late)))


class TestReporter:
    def test_plain_lines_where_there_is_no_terminal(self) -> None:
        text = io.StringIO()
        reporter = Reporter(Console(file=text, width=40, highlight=False))
        reporter.say("[bold]as it is[/bold] " + "x" * 100)
        with reporter.bar("training", 10) as advance:
            advance(10)
        assert text.getvalue() == "[bold]as it is[/bold] " + "x" * 100 + "\n"

    def test_a_bar_in_a_terminal(self) -> None:
        text = io.StringIO()
        reporter = Reporter(Console(file=text, width=80, force_terminal=True))
        with reporter.bar("training", 10) as advance:
            advance(10)
        assert "training" in text.getvalue()
        assert "10/10" in text.getvalue()
