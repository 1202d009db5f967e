"""What the shell's completion function gets from `grader`."""

import subprocess
import sys

import pytest

from grader.checks import PROPERTIES


def python(code: str, shell: str, words: str, place: str) -> subprocess.CompletedProcess[str]:
    """Run code with what a shell's completion function passes."""
    variables = {"_GRADER_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def completed(shell: str, words: str, place: str) -> list[str]:
    code = "import sys; sys.argv = ['grader']; from grader.cli import main; main()"
    done = python(code, shell, words, place)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_all_properties() -> None:
    assert completed("bash", "grader explain ", "2") == [f"plain,{name}" for name in PROPERTIES]


@pytest.mark.parametrize(
    ("shell", "words", "place", "found"),
    [
        ("bash", "grader explain c-f", "2", ["plain,c-faster"]),
        ("bash", "grader verify --pol", "2", ["plain,--policy"]),
        ("bash", "grader ex", "1", ["plain,explain"]),
        ("bash", "grader explain", "1", ["plain,explain"]),
        ("bash", "grader runs/a", "1", ["file,runs/a"]),
        ("bash", "grader runs/a ex", "2", ["file,ex"]),
        ("bash", "grader --forma", "1", ["plain,--format"]),
        ("bash", "grader --format j", "2", ["plain,json", "plain,junit"]),
        ("zsh", "grader explain c-f", "2", ["plain", "c-faster", "_"]),
        ("fish", "grader explain c-f", "c-f", ["plain,c-faster"]),
    ],
)
def test_each_place(shell: str, words: str, place: str, found: list[str]) -> None:
    assert completed(shell, words, place) == found


@pytest.mark.parametrize("place", ["", "x", "-1", "99"])
def test_an_environment_of_no_shell_ends_without_a_traceback_of_ours(place: str) -> None:
    code = "from grader.cli.completion import completed_word; print(completed_word(['explain']))"
    done = python(code, "bash", "grader explain", place)
    assert (done.returncode, done.stderr) == (0, "")
