"""Labels that do not fit are called so; the submission is not accused of what the labels did."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grader.cli import app
from grader.errors import UnusableError
from grader.findings import Status
from grader.formats.text import to_text
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.reading.truth import Truth
from tests.grader.forgeries import FORGERIES, Forger
from tests.grader.honest import truth_of

ADVICE = "To do: give labels that fit; they, not the submission, are in question."


def problem(run: Path, policy: Policy, truth: Truth) -> str:
    found = grade(Job(run, "x", policy, truth))
    assert found.exit_code == 2
    (said,) = found.problems
    assert said.startswith("--labels labels.csv does not fit this submission: ")
    text = to_text(found)
    assert ADVICE in text
    assert "exactly as finetune train wrote it" not in text
    return said


@pytest.fixture
def known(honest: Path) -> Truth:
    return replace(truth_of(honest), source="labels.csv", splits=None)


def test_of_another_data_set(honest: Path, policy: Policy, known: Truth) -> None:
    other = replace(known, labels={f"image_{i:05d}": i % 10 for i in range(5000)})
    said = problem(honest, policy, other)
    assert "it lacks 540 of 540 images, such as 'digit-01257' (it has 'image_00000')" in said


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_cut_off(honest: Path, policy: Policy, known: Truth, share: float) -> None:
    some = dict(list(known.labels.items())[: int(share * len(known.labels))])
    assert "; is it complete, and of the data set" in problem(honest, policy, replace(known, labels=some))


def test_rows_in_another_order(honest: Path, policy: Policy, known: Truth) -> None:
    values = list(known.labels.values())
    mixed = dict(zip(known.labels, values[::-1], strict=True))
    said = problem(honest, policy, replace(known, labels=mixed))
    assert "of 540 labels differ; are its rows, or its classes, in another order" in said


@pytest.mark.parametrize("by", [1, -1, 2])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_rows_shifted(honest: Path, policy: Policy, known: Truth, by: int, is_sorted: bool) -> None:
    """Sorted by class, a shift changes few labels, and looks like a lie about these few."""
    rows = [(name, label) for name, label in known.labels.items() if name.startswith("digit")]
    rows = sorted(rows, key=lambda row: row[1]) if is_sorted else rows
    values = [label for _, label in rows]
    shifted = {name: values[(i - by) % len(values)] for i, (name, _) in enumerate(rows)}
    said = problem(honest, policy, replace(known, labels=shifted))
    wanted = f"its labels stand {abs(by)} row{'s' * (abs(by) > 1)} too far {'down' if by > 0 else 'up'}"
    assert wanted in said


@pytest.mark.parametrize(("share", "code"), [(0.45, 1), (0.55, 2)])
def test_half_of_the_labels_decide_whose_mistake_it_is(
    honest: Path, policy: Policy, known: Truth, share: float, code: int
) -> None:
    changed = list(known.labels)[: int(share * 540)]
    others = known.labels | {name: (known.labels[name] + 5) % 10 for name in changed}
    assert grade(Job(honest, "x", policy, replace(known, labels=others))).exit_code == code


def test_classes_numbered_from_1(honest: Path, policy: Policy, known: Truth) -> None:
    from_1 = {name: label + 1 for name, label in known.labels.items()}
    assert "its classes are numbered from 1" in problem(honest, policy, replace(known, labels=from_1))


def test_classes_of_other_names(honest: Path, policy: Policy) -> None:
    names = {f"digit-{i:05d}": f"flower {i % 10}" for i in range(1257, 1797)}
    assert "every label must be a class of the run" in problem(
        honest, policy, Truth({}, None, "labels.csv", names=names)
    )


def test_a_data_set_that_was_named(honest: Path, policy: Policy) -> None:
    other = Truth({"image_00001": 1}, None, "Flowers-102", is_official=True, option="--dataset")
    (said,) = grade(Job(honest, "x", policy, other)).problems
    assert said.startswith("--dataset Flowers-102 does not fit this submission: it lacks 540 of 540 images")


@pytest.mark.parametrize("entry", [e for e in FORGERIES if e.truth], ids=lambda entry: entry.name)
def test_a_lie_stays_a_lie(entry: object, honest: Path, policy: Policy, known: Truth, tmp_path: Path) -> None:
    forger = Forger(honest, tmp_path / "run")
    entry.change(forger)  # type: ignore[attr-defined]
    forger.save()
    truth = replace(known, splits=truth_of(honest).splits)
    found = grade(Job(forger.folder, "x", policy, truth))
    assert (found.exit_code, found.refuted) == (1, [entry.caught_by])  # type: ignore[attr-defined]


@pytest.mark.parametrize("n", [5, 40, 100])
def test_labels_swapped_by_the_submission(
    n: int, honest: Path, policy: Policy, known: Truth, tmp_path: Path
) -> None:
    """Wrong answers called right in every file: a lie as long as most of the labels are true."""
    forger = Forger(honest, tmp_path / "run")
    for run in forger.doc["runs"]:
        for split in ("val", "test"):
            rows = forger.rows(run["variant"], split, run["seed"])
            for row in rows[:n]:
                row[1] = str((int(row[1]) + 3) % 10)
            forger.write_rows(run["variant"], split, rows, run["seed"])
    forger.save()
    assert "true-labels" in grade(Job(forger.folder, "x", policy, known)).refuted


def test_one_run_of_other_images_is_the_submissions_lie(
    honest: Path, policy: Policy, known: Truth, tmp_path: Path
) -> None:
    forger = Forger(honest, tmp_path / "run")
    rows = forger.rows("C", "test")
    forger.write_rows("C", "test", [[f"other-{i}", *row[1:]] for i, row in enumerate(rows)])
    forger.save()
    found = grade(Job(forger.folder, "x", policy, known))
    assert (found.exit_code, found.refuted) == (1, ["same-samples"])


def test_from_the_command_line(honest: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("sample_id,label\n" + "".join(f"x{i},{i % 10}\n" for i in range(50)))
    found: Result = CliRunner().invoke(app.grade_runs, [str(honest), "--labels", str(path)])
    assert found.exit_code == 2
    assert ADVICE in found.output


def test_a_class_listed_twice_is_the_submissions_fault() -> None:
    with pytest.raises(UnusableError, match="The results list a class twice"):
        Truth({}, None, "labels.csv", names={"a": "x"}).among(["x", "x"])


class TestExclusionsInASplit:
    """At level 3, for images of which nobody knows how many there are."""

    def found(self, honest: Path, tmp_path: Path, policy: Policy, n: int) -> tuple[Status, tuple[int, ...]]:
        forger = Forger(honest, tmp_path / f"run{n}")
        known = truth_of(honest)
        assert known.splits is not None
        hidden = {f"hidden-{i}": i % 10 for i in range(n)}  # of the truth, which the submission leaves out
        forger.doc["dataset"]["excluded"] = [{"sample_id": name, "reason": "unreadable"} for name in hidden]
        forger.save()
        splits = {**known.splits, "test": known.splits["test"] | frozenset(hidden)}
        truth = replace(known, labels={**known.labels, **hidden}, splits=splits)
        grade_ = grade(Job(forger.folder, "x", policy, truth))
        return grade_.findings["true-splits"].status, tuple(map(int, grade_.unsettled_levels))

    def test_a_few(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        assert self.found(honest, tmp_path, policy, 2) == (Status.HOLDS, ())

    def test_more_than_one_percent(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        assert self.found(honest, tmp_path, policy, 5) == (Status.INCONCLUSIVE, (3,))

    def test_a_subset_that_leaves_out_more_than_it_says(
        self, honest: Path, tmp_path: Path, policy: Policy
    ) -> None:
        """Called a subset of as many images as the largest class has, of which there are more."""
        forger = Forger(honest, tmp_path / "run")
        forger.doc["config"]["subset"] = 200
        forger.save()
        known = truth_of(honest)
        assert known.splits is not None
        dropped = {f"dropped-{i}": 3 for i in range(4)}
        splits = {**known.splits, "test": known.splits["test"] | frozenset(dropped)}
        truth = replace(known, labels={**known.labels, **dropped}, splits=splits)
        found = grade(Job(forger.folder, "x", policy, truth)).findings["true-splits"]
        assert found.status is Status.FAILS
        assert found.summary.startswith("A-seed0, test: 27 images of class 3, but a subset of 200 has 31.")
