"""A level of evidence is reached only if its evidence agreed; one that is inconclusive is said to be so."""

import csv
import io
import json
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from grader.cohort.cohort import Cohort
from grader.cohort.grades_csv import to_csv
from grader.cohort.summary import to_html
from grader.evidence.gathered import gather
from grader.findings import Level, Status
from grader.formats import FORMATS
from grader.formats.text import to_table
from grader.grading.grade import graded
from grader.grading.policy import Policy, load_policy
from grader.grading.verdict import NO_NETWORK, Grade
from grader.isolated.replay import Passage, Replay
from grader.isolated.rerun import Rerun
from grader.submission.load import load
from tests.grader.honest import truth_of


def judged(run: Path, policy: Policy, factor: float = 1.0, wrong: int = 0) -> Grade:
    """The grade with stand-ins for levels 3 to 5: B's replayed loss is multiplied, C's answers spoiled."""
    evidence = gather(load(run), policy.thresholds, truth_of(run))
    (b,) = (run for run in evidence.results.runs if run.name == "B-seed0")
    first = b.epochs[0]
    again = {
        "epoch": 1,
        "weights_sha256": first.weights_sha256 if factor == 1 else "",
        "predictions_sha256": first.predictions_sha256,
        **{
            split: {"loss_sum": first.on(split).loss_sum, "n_correct": first.on(split).n_correct}
            for split in ("train", "val", "test")
        },
    }
    again["train"]["loss_sum"] *= factor
    passage = Passage(b.name, None, 1, b.initial_sha256, [again])
    predictions = dict(evidence.predictions)
    rows = predictions["C-seed0", "test"]
    predicted = rows.predicted.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % 10
    predictions["C-seed0", "test"] = replace(rows, predicted=predicted)
    replay = Replay([passage], environment=evidence.results.environment, precision="fp32")
    rerun = Rerun({"x": ()}, predictions)
    evidence = replace(evidence, rerun=rerun, replay=replay)
    return graded(evidence, "run", policy, {Level.TRUTH, Level.CHECKPOINTS, Level.REPLAY})


def counting(name: str, **changes: object) -> Policy:
    return replace(load_policy(name), **changes)  # type: ignore[arg-type]


def test_agreement(honest: Path, policy: Policy) -> None:
    found = judged(honest, policy)
    assert (found.levels, found.unsettled_levels, found.passed) == ((1, 2, 3, 4, 5), (), True)
    assert "inconclusive" not in FORMATS["text"].write(found).splitlines()[1]


@pytest.fixture(scope="module")
def unclear(honest: Path) -> Grade:
    return judged(honest, load_policy("default"), 1.02)


def test_inconclusive_is_not_reached(unclear: Grade) -> None:
    assert unclear.findings["replay-agrees"].status is Status.INCONCLUSIVE
    assert (unclear.levels, unclear.unsettled_levels) == ((1, 2, 3, 4), (5,))
    assert unclear.passed  # under a policy by which inconclusive properties pass


def test_every_format_says_so(unclear: Grade) -> None:
    texts = {name: form.write(unclear) for name, form in FORMATS.items()}
    wanted = "4 (checkpoints); level 5 (replayed training) inconclusive."
    assert texts["text"].splitlines()[1].endswith(wanted)
    assert "Evidence level 5 (replayed training) is inconclusive" in texts["text"]
    document = json.loads(texts["json"])
    assert (document["levels"], document["inconclusive_levels"]) == ([1, 2, 3, 4], [5])
    assert wanted in json.loads(texts["gradescope"])["output"]
    case = ET.fromstring(texts["junit"]).find(".//testcase[@name='levels']/skipped")  # noqa: S314 - our own
    assert case is not None
    assert case.get("message") == "Level 5 (replayed training) is inconclusive."
    cohort = Cohort([unclear])
    (row,) = csv.DictReader(io.StringIO(to_csv(cohort)))
    assert (row["level"], row["inconclusive_levels"]) == ("4", "5")
    assert '<td data-name="Level">4 (5 inconclusive)</td>' in unescape(to_html(cohort))
    assert "1, 2, 3, 4 (5 inconclusive)" in to_table([unclear])


def test_where_inconclusive_does_not_pass_the_level_is_missing(honest: Path) -> None:
    found = judged(honest, counting("default", inconclusive_passes=False), 1.02)
    assert found.missing == [Level.REPLAY]
    (objection,) = found.objections
    assert objection.startswith(
        "Evidence level 5 (replayed training) is required: replay-agrees is inconclusive. 1 epoch trained"
    )
    assert (found.exit_code, found.score) == (1, 0)


@pytest.mark.parametrize(("required", "share"), [(4, 1.0), (5, 0.5)])
def test_points_of_a_policy_that_requires_the_level(honest: Path, required: int, share: float) -> None:
    homework = counting("homework", required_level=required)
    full, half = judged(honest, homework), judged(honest, homework, 1.02)
    assert full.score == 100
    assert half.score == pytest.approx(share * 100, abs=0.2)
    assert half.passed


def test_what_the_evidence_refutes_is_neither_reached_nor_missing(honest: Path, policy: Policy) -> None:
    found = judged(honest, policy, 1.5)
    assert (found.levels, found.unsettled_levels, found.missing) == ((1, 2, 3, 4), (), [])
    assert found.refuted == ["replay-agrees"]
    assert (found.exit_code, found.score, len(found.objections)) == (1, 0, 1)
    found = judged(honest, policy, wrong=100)
    assert (found.levels, found.refuted) == ((1, 2, 3), ["rerun-agrees"])
    assert NO_NETWORK not in found.verdict  # it was asked for level 4, which said no
