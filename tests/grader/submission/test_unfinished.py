"""Runs that were interrupted: the grader says so, and how to finish them."""

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from grader.cli import app
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.grading.verdict import Grade
from grader.submission.load import resume_hint


def graded(folder: Path) -> Grade:
    return grade(Job(folder, folder.name, load_policy("default")))


@pytest.fixture
def interrupted(honest: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Makes a run of which so many trainings have ended, as `finetune train` leaves it when it is stopped."""

    def make(n_ended: int) -> Path:
        folder = tmp_path / "runs" / "it"
        shutil.copytree(honest, folder)
        (folder / "config.toml").touch()
        (folder / "state").mkdir()
        results = folder / "results.json"
        document = json.loads(results.read_text())
        document["runs"] = document["runs"][:n_ended]
        if n_ended:
            results.write_text(json.dumps(document))
        else:
            results.unlink()
        return folder

    return make


def test_before_the_first_results(interrupted: Callable[[int], Path]) -> None:
    folder = interrupted(0)
    found = graded(folder)
    assert found.exit_code == 2
    assert found.problems == (
        f"{folder} is a run that was interrupted or is still training, and has no results.json yet; "
        f"finish it with `finetune train --resume {folder}`.",
    )
    assert not any(sentence.startswith("To do") for sentence in found.sentences)


def test_with_some_results(interrupted: Callable[[int], Path]) -> None:
    folder = interrupted(1)
    (problem,) = graded(folder).problems
    assert "was interrupted or is still training: 1 of " in problem
    assert problem.endswith(f"trainings have ended; finish it with `finetune train --resume {folder}`.")


def test_a_path_with_spaces_can_be_pasted() -> None:
    assert resume_hint("my runs/x") == "finish it with `finetune train --resume 'my runs/x'`."


def test_by_its_results_file(interrupted: Callable[[int], Path]) -> None:
    assert "--resume" in graded(interrupted(1) / "results.json").problems[0]


def test_one_that_cannot_go_on_is_judged(interrupted: Callable[[int], Path]) -> None:
    """What somebody submits without the resume points gets a grade for what is there."""
    folder = interrupted(1)
    shutil.rmtree(folder / "state")
    found = graded(folder)
    assert found.problems == ()
    assert "complete" in found.failing


def test_leftovers_of_a_finished_run_do_not_matter(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(honest, folder)
    (folder / "config.toml").touch()
    (folder / "state").mkdir()
    assert graded(folder).exit_code == 0


def test_the_newest_run_is_the_interrupted_one_if_there_is_no_other(
    interrupted: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(0)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app.grade_runs, [])
    assert found.exit_code == 2
    assert "finish it with `finetune train --resume runs/it`." in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("command", "words", "near"),
    [
        (app.explain, "b-beat-a", "Did you mean 'b-beats-a'?"),
        (app.grade_runs, "run --policy homwork", "Did you mean 'homework'?"),
        (app.grade_runs, "run --dataset flower102", "Did you mean 'flowers102'?"),
        (app.grade_runs, "run --format jason", "Did you mean 'json'?"),
        (app.grade_runs, "run --polcy strict", "Did you mean one of: '--policy', '--replay'?"),
    ],
)
def test_what_was_mistyped_is_suggested(command: object, words: str, near: str) -> None:
    found = CliRunner().invoke(command, words.split())  # type: ignore[arg-type]
    assert found.exit_code == 2
    assert near in " ".join(found.output.split())


def test_a_mistyped_property_of_a_policy(tmp_path: Path) -> None:
    text = resources.files("grader").joinpath("policies/default.toml").read_text()
    (tmp_path / "own.toml").write_text(text.replace("b-beats-a", "b-beat-a"))
    found = CliRunner().invoke(app.grade_runs, ["run", "--policy", str(tmp_path / "own.toml")])
    assert "unknown key 'b-beat-a' (did you mean 'b-beats-a'?)" in " ".join(found.output.split())
