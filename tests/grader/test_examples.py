"""The examples for Gradescope and GitHub Classroom, run as those two would."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grader.grading.policy import load_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a `grader` on the PATH, as an installation puts it there."""
    command = tmp_path / "bin" / "grader"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m grader "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}


def autograde(root: Path, environment: dict[str, str]) -> dict[str, object]:
    """Run the autograder as Gradescope does; what it wrote."""
    (root / "results").mkdir()
    script = ROOT / "examples" / "gradescope" / "run_autograder"
    done = subprocess.run(
        [str(script)],
        cwd=root,
        env={**environment, "AUTOGRADER_ROOT": str(root)},
        capture_output=True,
        check=True,
    )
    assert b"Traceback" not in done.stderr
    document = json.loads((root / "results" / "results.json").read_text())
    assert isinstance(document, dict)
    return document


class TestGradescope:
    @pytest.mark.parametrize("where", [".", "run", "my homework/run"])
    def test_an_honest_run_wherever_it_lies(
        self, where: str, smoke: Path, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        shutil.copytree(smoke, tmp_path / "autograder" / "submission" / where, dirs_exist_ok=True)
        assert autograde(tmp_path / "autograder", environment)["score"] == 100

    def test_a_zip_file_inside(self, smoke: Path, tmp_path: Path, environment: dict[str, str]) -> None:
        (tmp_path / "autograder/submission/mine").mkdir(parents=True)
        shutil.make_archive(str(tmp_path / "autograder/submission/mine/run"), "zip", smoke.parent, smoke.name)
        assert autograde(tmp_path / "autograder", environment)["score"] == 100

    def test_folders_without_a_run_are_one_submission(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        for name in ("a", "b"):
            (tmp_path / "autograder/submission" / name).mkdir(parents=True)
        found = autograde(tmp_path / "autograder", environment)
        assert (found["score"], str(found["output"])[:10]) == (0, "Unusable: ")

    @pytest.mark.parametrize("content", [None, b"", b'{"runs": []}', b"\xff"])
    def test_an_unusable_submission_gets_its_results_too(
        self, content: bytes | None, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        submission = tmp_path / "autograder" / "submission"
        submission.mkdir(parents=True)
        if content is not None:
            (submission / "results.json").write_bytes(content)
        found = autograde(tmp_path / "autograder", environment)
        assert found["score"] == 0
        assert str(found["output"]).startswith("Unusable: ")
        assert len(found["tests"]) == len(load_policy("homework-no-checkpoints").weights)  # type: ignore[arg-type]

    def test_setup_is_a_valid_script(self) -> None:
        subprocess.run(["bash", "-n", str(ROOT / "examples" / "gradescope" / "setup.sh")], check=True)


class TestGithubClassroom:
    def command(self) -> str:
        text = (ROOT / "examples" / "github-classroom" / "grade.yml").read_text()
        found = re.search(r"^ +command: (.+)$", text, re.MULTILINE)
        assert found is not None
        return found.group(1)

    def test_passes_an_honest_run(self, smoke: Path, tmp_path: Path, environment: dict[str, str]) -> None:
        shutil.copytree(smoke, tmp_path / "run")
        done = subprocess.run(
            ["bash", "-c", self.command()], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0
        assert b"PASSED under policy homework-no-checkpoints" in done.stdout

    def test_fails_without_a_run(self, tmp_path: Path, environment: dict[str, str]) -> None:
        done = subprocess.run(
            ["bash", "-c", self.command()], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 2
