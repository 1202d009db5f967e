"""Where tests lie and what they import, and how long the files and functions of the product are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in TESTS.rglob("test_*.py"))
OWN_SUBJECT = {
    "tests/finetune/cli/test_garbage.py",  # train.py: what is kept out of garbage collections
    "tests/finetune/cli/test_cache_limit.py",  # one option of several commands
    "tests/finetune/training/test_waiting.py",  # no training step waits for its device
    "tests/finetune/test_honest_runs.py",  # what no check may say of a real run
    "tests/grader/test_claims.py",  # the answers to the questions, in words
    "tests/grader/test_examples.py",  # examples/
    "tests/grader/test_false_alarms.py",  # what no check may say of an honest run
    "tests/grader/test_distinct_weights.py",  # checks/training.py
    "tests/grader/test_forgeries.py",
    "tests/grader/test_levels.py",  # the evidence that a level takes
    "tests/grader/test_fuzz.py",
    "tests/grader/test_hostile.py",
    "tests/grader/test_optimized.py",  # a forger who optimizes
    "tests/grader/test_prediction_checks.py",  # the checks that read predictions
    "tests/grader/test_replayed_times.py",  # checks/replayed_times.py
    "tests/grader/test_rows.py",  # rows beside A, B and C, and splits by seed
    "tests/grader/test_story.py",  # what a consistent story betrays
    "tests/grader/test_story_rows.py",  # the same, of rows beside A, B and C
    "tests/grader/test_temperature.py",  # checks/calibrated.py
    "tests/grader/test_trial_commitments.py",  # checks/trial_commitments.py
    "tests/grader/test_tuning.py",  # checks/tuning.py
    "tests/grader/test_simulation.py",  # what intervals and tests promise
    "tests/grader/test_speed_simulation.py",  # checks/speed.py on machines that others use, too
}
"""Test modules in tests/finetune and tests/grader whose subject is not one module of the product."""
FILE_LINES = 300
FUNCTION_LINES = 60


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, and the names that it imports from them, with dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def names_a_test_module(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "tests" and any(part == "conftest" or part.startswith("test_") for part in parts[1:])


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.relative_to(TESTS).as_posix())
def test_no_test_module_is_imported(path: Path) -> None:
    assert [name for name in imported(path) if names_a_test_module(name)] == []


def test_a_test_module_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.test_layout.ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    path = tmp_path / "tests" / "test_a.py"
    lines = ["import tests.test_b", "from tests.c.conftest import x", "from . import conftest", "import os"]
    path.write_text("\n".join(lines))
    assert [names_a_test_module(name) for name in imported(path)] == [True, True, True, False]


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(("tests/finetune/", "tests/grader/"))])
def test_each_mirrors_a_module(module: str) -> None:
    mirrored = module.removeprefix("tests/").replace("/test_", "/")
    exists = (ROOT / mirrored).is_file() or (ROOT / mirrored).with_suffix("").is_dir()
    assert exists != (module in OWN_SUBJECT), mirrored


def test_the_list_names_modules_that_exist() -> None:
    assert set(MODULES) >= OWN_SUBJECT


def too_long(path: Path) -> Iterator[str]:
    """The file if it has too many lines, and its functions that do."""
    text = path.read_text("utf-8")
    if (n := len(text.splitlines())) > FILE_LINES:
        yield f"{path.name} has {n} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n = (node.end_lineno or node.lineno) - node.lineno + 1
            if n > FUNCTION_LINES:
                yield f"{path.name}: {node.name} has {n} lines"


@pytest.mark.parametrize("package", ["finetune", "grader"])
def test_files_and_functions_are_short(package: str) -> None:
    assert [found for path in sorted((ROOT / package).rglob("*.py")) for found in too_long(path)] == []


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def f():\n" + FUNCTION_LINES * "    x = 1\n" + FILE_LINES * "\n")
    assert list(too_long(path)) == ["a.py has 361 lines", "a.py: f has 61 lines"]
