"""Level 4, with a stand-in for `finetune evaluate`."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grader.findings import Status
from grader.formats.junit import to_junit
from grader.formats.text import to_text
from grader.grading.grade import Job, grade
from grader.grading.policy import BUNDLED, Policy, Weight, load_policy
from grader.grading.verdict import Grade
from grader.isolated import rerun
from grader.submission import checkpoints
from grader.submission.load import Submission
from grader.submission.record import results_from
from tests.builders.stand_in import use_stand_in
from tests.grader.forgeries import FORGERIES, Forger
from tests.grader.honest import truth_of
from tests.grader.tensors import narrow_shapes, write_checkpoints


@pytest.fixture
def stored(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forger:
    """The honest run with checkpoints of a narrow network."""
    monkeypatch.setattr(checkpoints, "state_shapes", narrow_shapes)
    forger = Forger(honest, tmp_path / "run")
    write_checkpoints(forger.folder, forger.doc)
    forger.save()
    return forger


def evaluate_with(monkeypatch: pytest.MonkeyPatch, code: str, source: Path) -> None:
    """Let the grader run this code in place of finetune, in its isolated process; SOURCE is a run folder."""
    use_stand_in(monkeypatch, code.replace("SOURCE", repr(str(source))))


COPY = (
    "import pathlib, shutil, sys\n"
    "assert sys.argv[2:] == ['evaluate', 'run', '--output', 'fresh', *sys.argv[6:]], sys.argv\n"
    "out = pathlib.Path('fresh'); out.mkdir()\n"
    "for p in pathlib.Path(SOURCE).glob('predictions/*'): shutil.copy(p, out)"
)


def graded(forger: Forger, policy: Policy) -> Grade:
    return grade(Job(forger.folder, "x", policy, rerun=True))


def test_agreement_reaches_level_four(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_with(monkeypatch, COPY, stored.folder)
    found = graded(stored, policy)
    assert (
        found.findings["rerun-agrees"].summary == "All 12 prediction files match the recomputed predictions."
    )
    assert found.levels == (1, 2, 3, 4)  # the evaluated images provide the true labels, too
    assert found.exit_code == 0


def test_checkpoints_are_a_way_to_the_true_labels(stored: Forger) -> None:
    found = grade(Job(stored.folder, "x", load_policy("strict"))).sentences[-1]
    assert found.endswith(
        "(--labels or --dataset), or grade with --rerun and, for an image folder, --dataset PATH."
    )


def test_predictions_that_the_weights_do_not_produce(
    stored: Forger, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The careful forger: better predictions for C, consistent in every figure and hash."""
    honest = tmp_path / "honest"
    shutil.copytree(stored.folder, honest)
    rows = stored.rows("C", "test")
    for row in [row for row in rows if row[1] != row[2]][:5]:
        row[2], row[3] = row[1], "0.25"
    stored.write_rows("C", "test", rows)
    stored.record("C", "test")
    stored.save()
    assert grade(Job(stored.folder, "x", policy)).exit_code == 0  # nothing shows on lower levels
    evaluate_with(monkeypatch, COPY, honest)
    found = graded(stored, policy)
    assert found.exit_code == 1
    failing = [name for name, finding in found.findings.items() if finding.status is Status.FAILS]
    assert [name for name in failing if found.counts(name)] == ["rerun-agrees"]
    assert found.findings["rerun-agrees"].summary == "C-seed0, test: 5 of 270 images have other predictions."


def test_rounding_of_another_machine_is_tolerated(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = COPY + (
        "\nfor p in out.iterdir():\n"
        "    rows = [line.split(',') for line in p.read_text().splitlines()]\n"
        "    for row in rows[1:]: row[3] = str(float(row[3]) * 1.004 + 0.003)\n"
        "    p.write_text('\\n'.join(map(','.join, rows)) + '\\n')"
    )
    evaluate_with(monkeypatch, noise, stored.folder)
    assert graded(stored, policy).findings["rerun-agrees"].status is Status.HOLDS


ROUND = COPY + (
    "\nfor p in out.glob('*-test.csv'):\n"
    "    rows = [line.split(',') for line in p.read_text().splitlines()]\n"
    "    for i, row in enumerate(row for row in rows[1:] if float(row[3]) > 0.2):\n"
    "        side = -1 if i % 2 and TWO_SIDED else 1\n"
    "        row[3] = str(float(row[3]) + (1 + float(row[3])) * SIZE * side)\n"
    "    p.write_text('\\n'.join(map(','.join, rows)) + '\\n')"
)
"""Changes test losses above 0.2 by a share of one more than themselves, in turn up and down, or all up."""


@pytest.mark.parametrize(
    ("precision", "size", "two_sided", "why"),
    [
        ("bf16", 0.09, True, ""),
        ("bf16", 0.11, True, "images have other predictions."),
        ("bf16", 0.019, False, ""),
        ("bf16", 0.09, False, "of the stored predictions."),
        ("fp32", 0.03, True, "images have other predictions."),
    ],
)
def test_a_cpu_without_bf16_rounds_the_losses_coarsely_but_to_both_sides(
    stored: Forger,
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    size: float,
    two_sided: bool,
    why: str,
) -> None:
    stored.doc["config"]["precision"] = precision
    stored.save()
    noise = ROUND.replace("SIZE", str(size)).replace("TWO_SIDED", str(two_sided))
    evaluate_with(monkeypatch, noise, stored.folder)
    found = graded(stored, policy).findings["rerun-agrees"]
    assert found.status is (Status.FAILS if why else Status.HOLDS), found.summary
    assert why in found.summary


TIP = COPY + (
    "\nwanted, correct_only = N, KIND == 'correct'\n"
    "for p in out.glob('*-test.csv'):\n"
    "    rows = [line.split(',') for line in p.read_text().splitlines()]\n"
    "    classes = sorted({row[1] for row in rows[1:]})\n"
    "    for row in [r for r in rows[1:] if (r[1] == r[2]) == correct_only][:wanted]:\n"
    "        row[2] = next(c for c in classes if c not in (row[1], row[2]))\n"
    "    p.write_text('\\n'.join(map(','.join, rows)) + '\\n')"
)
"""Predicts another, wrong class for N images that were predicted wrongly, or correctly."""


@pytest.mark.parametrize(
    ("precision", "kind", "n", "why"),
    [
        (None, "wrong", 2, ""),
        (None, "wrong", 3, "3 of 270 images have other predictions."),
        ("fp32", "wrong", 3, "3 of 270 images have other predictions."),
        ("bf16", "wrong", 13, ""),
        ("bf16", "wrong", 14, "14 of 270 images have other predictions."),
        ("bf16", "correct", 2, ""),
        ("bf16", "correct", 3, "of 270 predictions are correct, but"),
    ],
)
def test_near_ties_tip_more_often_in_bf16_but_not_all_to_one_side(
    stored: Forger,
    policy: Policy,
    monkeypatch: pytest.MonkeyPatch,
    precision: str | None,
    kind: str,
    n: int,
    why: str,
) -> None:
    stored.doc["config"].pop("precision", None)
    if precision:
        stored.doc["config"]["precision"] = precision
    stored.save()
    evaluate_with(monkeypatch, TIP.replace("N,", f"{n},").replace("KIND", repr(kind)), stored.folder)
    found = graded(stored, policy).findings["rerun-agrees"]
    assert found.status is (Status.FAILS if why else Status.HOLDS)
    assert why in found.summary


def test_another_checkpoint(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_with(monkeypatch, COPY, stored.folder)
    (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).write_bytes(b"another")
    found = graded(stored, policy).findings
    assert found["checkpoints-intact"].status is Status.FAILS
    assert found["rerun-agrees"].status is Status.NOT_CHECKED


def test_without_torch_it_says_so(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    found = graded(stored, policy)
    why = "torch is not installed; install this package with its extra `train`."
    assert found.findings["rerun-agrees"].summary == why
    assert found.findings["rerun-agrees"].status is Status.NOT_CHECKED
    assert found.levels == (1, 2)


def test_an_evaluation_that_fails_is_reported(
    stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_with(monkeypatch, "import sys; sys.exit('Error: no images in data/')", stored.folder)
    found = graded(stored, policy).findings["rerun-agrees"]
    assert found.summary.endswith("evaluate exited with code 1: Error: no images in data/")


def test_other_images_are_reported(stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = COPY + ("\nfor p in out.iterdir(): p.write_text(p.read_text().replace('digit', 'other'))")
    evaluate_with(monkeypatch, rename, stored.folder)
    found = graded(stored, policy).findings["rerun-agrees"]
    assert "the local data set has other images or labels" in found.summary
    assert json.loads((stored.folder / "results.json").read_text())["runs"]  # the submission is as it was


@pytest.mark.parametrize("error", [OSError("no more processes"), subprocess.TimeoutExpired("finetune", 3600)])
def test_an_evaluation_that_does_not_finish_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    rerun._offline()
    monkeypatch.setattr(subprocess, "run", fail)
    name = type(error).__name__
    assert rerun.call(["evaluate"], tmp_path) == f"finetune evaluate did not finish ({name})."


def test_checkpoints_of_failed_and_of_hostile_runs(stored: Forger, tmp_path: Path) -> None:
    failed, hostile = stored.doc["runs"][:2]
    failed["artifacts"] = None
    hostile["artifacts"]["checkpoint"]["path"] = "../outside.safetensors"
    submission = Submission(stored.folder, results_from(stored.doc), stored.doc)
    found = rerun._stage(submission, tmp_path / "staged")
    assert len(found) == len(stored.doc["runs"]) - 1
    assert [path for path, problems in found.items() if problems] == ["../outside.safetensors"]


class TestRequestedEvidenceIsRequired:
    """Evidence that was requested but is unavailable fails the submission by name under every policy."""

    @pytest.mark.parametrize("name", BUNDLED)
    def test_a_submission_without_checkpoints(self, honest: Path, name: str) -> None:
        found = grade(Job(honest, "x", load_policy(name), rerun=True))
        assert found.exit_code == 1
        assert not found.refuted  # they are missing, not false
        why = "rerun-agrees was not checked. The submission contains no checkpoints."
        wanted = f"Evidence level 4 (checkpoints) is required: {why}"
        assert wanted in found.objections
        assert found.score == 0
        assert wanted in to_text(found).splitlines()

    @pytest.mark.parametrize("name", BUNDLED)
    def test_an_evaluation_that_fails(
        self, stored: Forger, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluate_with(monkeypatch, "import sys; sys.exit('Error: out of luck')", stored.folder)
        found = grade(Job(stored.folder, "x", load_policy(name), rerun=True))
        assert (found.exit_code, found.score) == (1, 0)
        assert any(text.endswith("exited with code 1: Error: out of luck") for text in found.objections)

    def test_one_missing_checkpoint(self, stored: Forger, policy: Policy) -> None:
        (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).unlink()
        found = grade(Job(stored.folder, "x", policy, rerun=True))
        assert found.refuted == ["checkpoints-intact"]
        assert "No such file" in found.objections[0]

    def test_a_run_whose_checkpoint_makes_no_predictions(
        self, stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluate_with(monkeypatch, COPY.replace("predictions/*", "predictions/[AB]*"), stored.folder)
        found = grade(Job(stored.folder, "x", policy, rerun=True))
        assert 4 in found.missing
        assert found.exit_code == 1

    def test_homework_requires_it_by_itself(self, stored: Forger, monkeypatch: pytest.MonkeyPatch) -> None:
        homework = load_policy("homework")
        assert (grade(Job(stored.folder, "x", homework)).score, homework.required_level) == (0, 4)
        evaluate_with(monkeypatch, COPY, stored.folder)
        found = grade(Job(stored.folder, "x", homework, rerun=True))
        assert (found.exit_code, found.score) == (0, 100)


class TestAFalseClaimFailsEveryPolicy:
    @pytest.mark.parametrize("name", BUNDLED)
    def test_labels_swapped(self, honest: Path, tmp_path: Path, name: str) -> None:
        """Consistently in every file; only the truth tells."""
        forger = Forger(honest, tmp_path / "run")
        next(entry for entry in FORGERIES if entry.caught_by == "true-labels").change(forger)
        forger.save()
        found = grade(Job(forger.folder, "x", load_policy(name), truth_of(honest)))
        assert found.exit_code == 1
        assert found.refuted == ["true-labels"]
        assert found.score == 0
        assert to_text(found).splitlines()[2].startswith("true-labels fails under every policy: ")

    @pytest.mark.parametrize("name", BUNDLED)
    def test_labels_swapped_without_the_truth_but_recomputed(
        self, honest: Path, stored: Forger, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        next(entry for entry in FORGERIES if entry.caught_by == "true-labels").change(stored)
        stored.save()
        evaluate_with(monkeypatch, COPY, honest)
        found = grade(Job(stored.folder, "x", load_policy(name), rerun=True))
        assert found.refuted == ["true-labels", "rerun-agrees"]
        assert (found.exit_code, found.score) == (1, 0)

    def test_a_policy_that_counts_one_property_of_another_kind(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        next(entry for entry in FORGERIES if entry.caught_by == "recomputed").change(forger)
        forger.save()
        lenient = replace(load_policy("default"), weights={"roles": Weight()})
        found = grade(Job(forger.folder, "x", lenient))
        assert (found.exit_code, found.refuted) == (1, ["recomputed"])
        assert "not counted" not in to_text(found).partition("recomputed  ")[2].partition("\n")[0]
        assert "<failure message=" in to_junit(found).partition('name="recomputed"')[2][:60]


class TestIsolation:
    """What the evaluation has access to."""

    LOOK = COPY + (
        "\nimport json, os, socket\n"
        "files = sorted(str(p) for p in pathlib.Path().rglob('*') if p.is_file())\n"
        "try: socket.create_connection(('192.0.2.1', 9), 0.2); network = 'reached'\n"
        "except OSError as error: network = error.strerror or 'timed out'\n"
        "seen = [sys.path, dict(os.environ), files, network, oct(os.stat('.').st_mode)[-3:], os.getcwd()]\n"
        "pathlib.Path(SEEN).write_text(json.dumps(seen))"
    )

    def test_what_it_sees(
        self, stored: Forger, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(stored.folder))
        monkeypatch.setenv("PYTHONSTARTUP", "x.py")
        monkeypatch.setenv("API_TOKEN", "hunter2")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.chdir(stored.folder)
        evaluate_with(monkeypatch, self.LOOK.replace("SEEN", repr(str(tmp_path / "seen"))), stored.folder)
        found = grade(Job(Path(), "x", policy, rerun=True))
        assert found.exit_code == 0, found.objections
        path, variables, files, network, mode, folder = json.loads((tmp_path / "seen").read_text())
        assert not {"", ".", str(stored.folder)} & set(path)
        assert "OMP_NUM_THREADS" in variables
        assert not [name for name in variables if name.startswith("PYTHON") or name == "API_TOKEN"]
        staged = [
            f"run/checkpoints/{run['variant']}-seed{run['seed']}.safetensors" for run in stored.doc["runs"]
        ]
        assert [name for name in files if not name.startswith("fresh/")] == [
            *sorted(staged),
            "run/results.json",
        ]
        assert (mode, not Path(folder).is_relative_to(stored.folder)) == ("700", True)
        if rerun._offline():
            assert network == "Network is unreachable"

    def test_network_access_is_reported(
        self, stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rerun, "_offline", lambda: ())
        evaluate_with(monkeypatch, COPY, stored.folder)
        found = graded(stored, policy).findings["rerun-agrees"]
        assert found.status is Status.HOLDS
        assert found.details[0].startswith("The evaluation had network access")

    def test_staged_checkpoints_get_new_names(
        self, stored: Forger, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file called .pth would be read as a pickle, however carefully."""
        artifact = stored.run("B")["artifacts"]["checkpoint"]
        (stored.folder / artifact["path"]).rename(stored.folder / "checkpoints" / "evil.pth")
        artifact["path"] = "checkpoints/evil.pth"
        stored.save()
        evaluate_with(monkeypatch, self.LOOK.replace("SEEN", repr(str(tmp_path / "seen"))), stored.folder)
        assert graded(stored, policy).exit_code == 0
        assert "pth" not in str(json.loads((tmp_path / "seen").read_text())[2])

    def test_a_huge_checkpoint_is_not_copied(self, stored: Forger, policy: Policy) -> None:
        with (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).open("wb") as file:
            file.truncate(50 * 1024**3)  # sparse
        found = graded(stored, policy)
        assert "the limit is 268,435,456" in found.findings["checkpoints-intact"].summary

    def test_checkpoints_that_would_fill_the_disk_are_not_copied(
        self, stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rerun, "MAX_TOTAL_BYTES", 25_000)  # of six of 14 kB each
        found = graded(stored, policy).findings["checkpoints-intact"]
        assert (found.status, found.held, found.judged) == (Status.FAILS, 1, 6)

    def test_the_data_set_is_passed_on(
        self, stored: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check = (
            "\nassert sys.argv[6:] == ['--data-root', '/data', '--dataset', 'imagefolder:/photos'], sys.argv"
        )
        evaluate_with(monkeypatch, COPY + check, stored.folder)
        images = {"dataset": "imagefolder:/photos", "data_root": Path("/data")}
        assert grade(Job(stored.folder, "x", policy, rerun=True, **images)).exit_code == 0  # type: ignore[arg-type]


PLANTED = ("sitecustomize", "usercustomize", "tomllib", "torch", "click", "numpy", "json", "safetensors")


@pytest.fixture
def trap(tmp_path: Path, honest: Path) -> Path:
    """A submission full of programs, each of which would leave a file `executed` beside it."""
    folder = tmp_path / "trap"
    shutil.copytree(honest, folder)
    bait = f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n"
    for name in PLANTED:
        (folder / f"{name}.py").write_text(bait)
    for package in ("finetune", "jinja2"):
        (folder / package / "cli").mkdir(parents=True)
        for name in ("__init__.py", "__main__.py", "cli/__init__.py"):
            (folder / package / name).write_text(bait)
    (folder / "evil.pth").write_text(
        f"import pathlib; pathlib.Path({str(tmp_path / 'executed')!r}).touch()\n"
    )
    (folder / "config.toml").write_text("garbage")
    (folder / "pyvenv.cfg").write_text("home = .\n")
    return folder


def test_nothing_of_a_submission_runs(trap: Path, tmp_path: Path) -> None:
    """Neither in the grader nor in the evaluation."""
    document = json.loads((trap / "results.json").read_text())
    (trap / "checkpoints").mkdir()
    for run in document["runs"]:
        artifact = run["artifacts"]["checkpoint"]
        (trap / artifact["path"]).write_bytes(artifact["path"].encode())
        artifact["sha256"] = hashlib.sha256(artifact["path"].encode()).hexdigest()
    (trap / "results.json").write_text(json.dumps(document))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    packages = str(Path(rerun.__file__).parents[2])
    entry_point = f"import sys; sys.path[:0] = [{packages!r}]; from grader.cli import main; main()"
    for command, code in ((["-P", "-c", entry_point], "-c"), (["-m", "grader"], "-m")):
        done = subprocess.run(
            [sys.executable, *command, ".", "--rerun", "--dataset", "digits"],
            cwd=trap,
            env={**variables, "PYTHONPATH": packages} if code == "-m" else variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "fingerprint" in done.stdout  # finetune itself ran, and found that these are no real digits
        assert not (tmp_path / "executed").exists()
