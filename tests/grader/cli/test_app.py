"""The command as one types it."""

import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grader.checks import PROPERTIES
from grader.cli import app
from grader.grading.grade import Job
from grader.grading.verdict import Grade
from tests.grader.forgeries import FORGERIES, Forger


def run(*words: object) -> Result:
    return CliRunner().invoke(app.grade_runs, [str(word) for word in words])


@pytest.fixture(scope="session")
def forged(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    forger = Forger(honest, tmp_path_factory.mktemp("forged") / "run")
    next(entry for entry in FORGERIES if entry.name == "a_layer_thawed").change(forger)
    forger.save()
    return forger.folder


class TestOneRun:
    def test_passes(self, honest: Path) -> None:
        found = run(honest)
        assert found.exit_code == 0
        assert "PASSED under policy default" in found.output

    def test_by_its_file(self, honest: Path) -> None:
        assert run(honest / "results.json").output == run(honest).output

    def test_lists_every_property_on_demand(self, honest: Path, tmp_path: Path) -> None:
        assert "recomputed " not in run(honest).output
        assert "recomputed " in run(honest, "--verbose").output
        file = tmp_path / "grade.txt"
        run(honest, "--verbose", "--format", "text", "--output", str(file))
        assert file.read_text() == run(honest, "--verbose").output

    def test_fails(self, forged: Path) -> None:
        found = run(forged)
        assert found.exit_code == 1
        assert "C-seed0: frozen layers changed in training" in found.output

    def test_is_not_there(self, tmp_path: Path) -> None:
        found = run(tmp_path / "nothing")
        assert found.exit_code == 2
        assert "nothing: No such file or directory." in found.output

    def test_is_a_mistyped_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["grader", "verfy", "alice.intoto.json", "--key", "public.pem"])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 2
        error = "Error: There is no run and no command 'verfy'. Did you mean 'verify'?\n"
        assert capsys.readouterr() == ("", error)

    def test_is_a_folder_named_almost_like_a_command(
        self, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "explained").symlink_to(honest)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["grader", "explained/results.json"])
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert ended.value.code == 0

    def test_as_json(self, honest: Path) -> None:
        assert json.loads(run(honest, "--format", "json").output)["passed"] is True

    def test_under_another_policy(self, honest: Path) -> None:
        found = run(honest, "--policy", "strict")
        assert found.exit_code == 1
        assert "Evidence level 3 (ground truth) is required: true-labels was not checked." in found.output
        counts = (
            "of 46 counted properties, 34 hold, 1 fails, 11 not checked; 0 of 46 points because evidence is "
            "missing."
        )
        assert f"FAILED under policy strict v3: {counts}" in found.output


class TestNewest:
    def test_the_run_written_last(
        self, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, age in (("old", 100), ("new", 0), ("older", 200)):
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            (folder / "results.json").write_bytes((honest / "results.json").read_bytes())
            os.utime(folder / "results.json", (time.time() - age,) * 2)
        monkeypatch.chdir(tmp_path)
        found = run()
        assert found.exit_code == 0
        assert found.output.startswith("new\n")

    def test_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = run()
        assert found.exit_code == 2
        assert "No run to grade: runs/*/results.json not found." in found.output


class TestOutput:
    def test_a_file_for_each_format(self, honest: Path, tmp_path: Path) -> None:
        words = [
            "--format",
            "json",
            "--output",
            tmp_path / "a",
            "--format",
            "junit",
            "--output",
            tmp_path / "b",
        ]
        assert run(honest, *words).output == ""
        assert json.loads((tmp_path / "a").read_text())["passed"]
        assert (tmp_path / "b").read_text().startswith("<?xml")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # nothing left beside them

    def test_a_folder_for_all_formats_and_runs(self, honest: Path, forged: Path, tmp_path: Path) -> None:
        formats = [word for name in ("text", "json", "junit", "gradescope") for word in ("--format", name)]
        found = run(honest, forged, *formats, "--output", tmp_path / "grades")
        assert found.exit_code == 1
        assert "1 of 2 runs passed" in found.output
        names = {path.name.partition(".")[0] for path in (tmp_path / "grades").iterdir()}
        assert len(names) == 4
        assert {"grades", "summary"} < names
        assert len(list((tmp_path / "grades").iterdir())) == 8 + 2

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--format", "json", "--format", "json"], "--format lists a format twice"),
            (
                ["--output", "a", "--output", "b"],
                "2 --output for 1 --format; give one --output per --format.",
            ),
            (["--output", "no/such/folder/a"], "no/such/folder/a: No such file or directory."),
            (["--policy", "none"], "Policy not found: 'none'"),
            (["--labels", "a", "--dataset", "flowers102"], "are mutually exclusive; give one of them."),
            (["--labels", "no.csv"], "--labels cannot be read: Cannot read no.csv: No such file"),
            (["--dataset", "flowers102", "--data-root", "no"], "No such file or directory. Give its"),
            (["--dataset", "digits"], "--dataset 'digits' requires --rerun; without it, use --labels."),
            (["--dataset", "imagefolder:a"], "--dataset 'imagefolder:a' requires --rerun"),
            (
                ["--dataset", "x:a", "--rerun"],
                "must be flowers102, digits or an existing folder of images, not",
            ),
            (["--dataset", "imagefolder:", "--rerun"], "folder of images, not 'imagefolder:'."),
            (["--format", "pdf"], "is not one of"),
            (["--jobs", "0"], "0 is not in the range"),
        ],
    )
    def test_misuse(self, honest: Path, words: list[str], message: str) -> None:
        found = run(honest, *words)
        assert found.exit_code == 2
        assert message in found.output

    @pytest.mark.parametrize(
        "words",
        [
            ["--labels", "labels.csv"],
            ["--dataset", "flowers102"],
            ["--data-root", "data", "--rerun"],
            ["--rerun"],  # with --data-root's default
            ["--dataset", "imagefolder:data", "--rerun"],
            ["--dataset", "data", "--rerun"],
            ["--policy", "mine.toml"],
        ],
    )
    def test_inputs_must_be_outside_the_submission(
        self, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        """In the submission's folder, a relative path names something that its author wrote."""
        shutil.copytree(honest, tmp_path / "run")
        (tmp_path / "data").mkdir()
        (tmp_path / "run" / "data").symlink_to(tmp_path / "data")
        monkeypatch.chdir(tmp_path / "run")
        for submission in (".", "results.json", tmp_path / "run"):
            found = run(submission, *words)
            assert found.exit_code == 2
            assert "is inside the submission" in found.output

    def test_several_runs_need_a_folder(self, honest: Path) -> None:
        found = run(honest, honest, "--format", "json", "--format", "text", "--output", "a", "--output", "b")
        assert found.exit_code == 2
        assert "need a single --output" in found.output

    @pytest.mark.parametrize("several", [True, False])
    def test_what_no_terminal_can_show_goes_to_a_folder(
        self, honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
    ) -> None:
        monkeypatch.chdir(tmp_path)
        words = [honest, honest] if several else [honest, "--format", "text"]
        found = run(*words, "--format", "json")
        assert found.exit_code == 0
        assert "Written to grades/." in found.output
        suffixes = sorted(path.suffix for path in (tmp_path / "grades").iterdir())
        assert suffixes == ([".csv", ".html", ".json", ".json"] if several else [".json", ".txt"])


class TestSeveralRuns:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_bad_one_stops_no_other(self, honest: Path, forged: Path, tmp_path: Path, jobs: int) -> None:
        found = run(honest, tmp_path / "nothing", forged, "--jobs", jobs)
        assert found.exit_code == 2
        lines = found.output.splitlines()
        assert [line.split()[1] for line in lines[1:4]] == ["passed", "unusable", "failed"]
        assert lines[4] == "1 of 3 runs passed under policy default."

    def test_a_defect_of_the_grader_costs_one_grade(
        self, honest: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stumble(job: Job) -> Grade:
            if job.path == Path("bad"):
                raise ZeroDivisionError
            return real(job)

        from grader.grading import grade as module

        real = module.grade
        monkeypatch.setattr(module, "grade", stumble)
        found = run("bad", honest)
        assert found.exit_code == 2
        assert "internal error (ZeroDivisionError) while grading bad" in found.output
        assert "1 of 2 runs passed" in found.output

    @pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the defect reaches forks only")
    def test_a_killed_process_costs_one_grade(self, honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from grader.grading import grade as module

        real = module.grade
        monkeypatch.setattr(
            module, "grade", lambda job: os._exit(9) if job.path == Path("bad") else real(job)
        )
        found = run("bad", honest, "worse", "--jobs", 2)
        assert found.exit_code == 2
        assert [line.split()[1] for line in found.output.splitlines()[1:4]] == [
            "unusable",
            "passed",
            "unusable",
        ]
        assert "internal error (BrokenProcessPool) while grading bad" in found.output

    def test_names_distinguish_them(self, honest: Path, tmp_path: Path) -> None:
        content = (honest / "results.json").read_bytes()
        for name in ("alice", "bob"):
            (tmp_path / name / "run").mkdir(parents=True)
            (tmp_path / name / "run" / "results.json").write_bytes(content)
        found = run(tmp_path / "alice" / "run", tmp_path / "bob" / "run" / "results.json")
        assert [line.split()[0] for line in found.output.splitlines()[1:3]] == ["alice-run", "bob-run"]


class TestExplain:
    def test_all_in_plain_words(self) -> None:
        found = CliRunner().invoke(app.explain, [])
        assert found.exit_code == 0
        lines = found.output.splitlines()
        assert all(any(line.startswith(f"{name} ") for line in lines) for name in PROPERTIES)

    def test_prints_rule_and_source(self) -> None:
        found = CliRunner().invoke(app.explain, ["best-epoch"])
        assert found.exit_code == 0
        assert "Rule: highest validation n_correct" in found.output

    def test_lists_the_properties_when_there_is_none_of_that_name(self) -> None:
        found = CliRunner().invoke(app.explain, ["best"])
        assert found.exit_code == 2
        assert "'test-close-to-validation'" in found.output


class TestProcess:
    """What only a process of its own shows."""

    def test_python_m_grader(self, honest: Path, forged: Path) -> None:
        for folder, code in ((honest, 0), (forged, 1), ("/nothing", 2)):
            done = subprocess.run(
                [sys.executable, "-m", "grader", str(folder)], capture_output=True, check=False
            )
            assert done.returncode == code
            assert b"Traceback" not in done.stdout + done.stderr

    @pytest.mark.parametrize("redirection", ["| true", ">&-"])
    @pytest.mark.parametrize("options", [[], ["--format", "json"]])
    def test_the_exit_code_does_not_depend_on_who_reads(
        self, honest: Path, forged: Path, redirection: str, options: list[str]
    ) -> None:
        for folder, code in ((honest, 0), (forged, 1), ("/nothing", 2)):
            command = shlex.join([sys.executable, "-m", "grader", str(folder), *options])
            script = f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"
            done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (code, b"")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
    def test_output_that_cannot_be_written(self, honest: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "grader", str(honest)],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert done.returncode == 2
        assert done.stderr == b"Error: Cannot write to standard output: No space left on device.\n"

    def test_explain_is_a_word_of_its_own(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "grader", "explain", "c-faster"], capture_output=True, check=False
        )
        assert done.returncode == 0
        assert b"C trains faster than B" in done.stdout

    def test_imports_neither_torch_nor_finetune(self, honest: Path) -> None:
        code = (
            "import sys\nsys.argv = ['grader', sys.argv[1]]\nfrom grader.cli import main\n"
            "try:\n    main()\nfinally:\n    print({'torch', 'finetune', 'scipy.stats'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code, str(honest)], capture_output=True, check=False)
        assert done.stdout.decode().endswith("set()\n")


def test_a_long_folder_name_does_not_end_the_batch(honest: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a" * 245, "a" * 244 + "b", "\u00e9" * 120)]
    for path in (*paths, tmp_path / "z"):
        shutil.copytree(honest, path)
    found = run(*paths, tmp_path / "z", "--format", "json", "--output", tmp_path / "grades")
    assert found.exit_code == 0, found.output
    names = [path.name for path in (tmp_path / "grades").glob("*.json")]
    assert len(names) == 4
    assert "z.json" in names
    assert max(len(os.fsencode(name)) for name in names) <= 210
