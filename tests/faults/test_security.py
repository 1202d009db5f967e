"""Hostile files: nothing is executed, nothing outside the run folder is touched, and no one is named."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch

from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.reading.schema import schema_problems
from tests.builders.config import tiny_command
from tests.builders.images import image_tree
from tests.builders.runs import results_of, run_finetune


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def planted(path: Path, sign: Path, *, legacy: bool = False) -> Path:
    """A pickle that would create the sign, checked to do so when it is unpickled with nothing to stop it."""
    pickle.loads(pickle.dumps(Payload(sign)))  # noqa: S301 - shows that the payload works
    assert sign.exists()
    sign.unlink()
    torch.save(
        {"conv1.weight": Payload(sign)}, path.with_suffix(".tmp"), _use_new_zipfile_serialization=not legacy
    )
    path.with_suffix(".tmp").replace(path)
    return path


@pytest.fixture
def whole(
    tmp_path_factory: pytest.TempPathFactory, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A finished run folder of variant B; made once."""
    out = tmp_path_factory.getbasetemp() / "honest"
    if not out.exists():
        kept = out.with_suffix(".safetensors")
        shutil.copy(narrow_weights, kept)
        assert run_finetune(capsys, *tiny_command(out, kept, "--variants", "b")).code == 0
    return out


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("evil.pth", "contains more than tensors (getattr)"),
        ("evil.safetensors", "is damaged or contains more than tensors"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_pickle_in_a_weights_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str, legacy: bool
) -> None:
    sign = tmp_path / "executed"
    evil = planted(tmp_path / name, sign, legacy=legacy)
    said = run_finetune(capsys, *tiny_command(tmp_path / "run", evil)).refused()
    assert f"{name} {why}" in said
    assert not sign.exists()


def test_pickle_in_a_run_folder(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sign = tmp_path / "executed"
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "results.json").unlink()
    (run / "state").mkdir()
    for name in (
        "B-seed0-0000000099-000009-0123456789abcdef.safetensors",
        "B-seed0-best000001-0123456789abcdef.safetensors",
        "B-seed0-0000000099-000009.pth",
        "trainer.pkl",
        "identity.pickle",
    ):
        planted(run / "state" / name, sign)
    assert run_finetune(capsys, "train", "--resume", run).code == 0
    assert not sign.exists()
    assert not (run / "state").exists()


def test_pickle_in_place_of_a_runs_checkpoint(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign = tmp_path / "executed"
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    planted(run / "checkpoints" / "B-seed0.safetensors", sign)
    said = run_finetune(capsys, "evaluate", run, "--output", tmp_path / "fresh").refused()
    assert "is damaged or contains more than tensors" in said or "does not match its recorded SHA-256" in said
    said = run_finetune(capsys, *tiny_command(tmp_path / "next", run)).refused()
    assert "is damaged or contains more than tensors" in said or "does not match its recorded SHA-256" in said
    assert not sign.exists()


@pytest.mark.parametrize("how", ["climbs", "absolute", "link"])
def test_checkpoint_outside_the_run_folder(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run, other = tmp_path / "run", tmp_path / "elsewhere.safetensors"
    shutil.copytree(whole, run)
    shutil.move(run / "checkpoints" / "B-seed0.safetensors", other)
    text = (run / "results.json").read_text()
    own = '"checkpoints/B-seed0.safetensors"'
    assert own in text
    if how == "link":
        (run / "checkpoints" / "B-seed0.safetensors").symlink_to(other)
    else:
        path = str(other) if how == "absolute" else "checkpoints/../../elsewhere.safetensors"
        (run / "results.json").write_text(text.replace(own, f'"{path}"'))
    for command in (
        ["evaluate", run, "--output", tmp_path / "fresh"],
        tiny_command(tmp_path / "next", run),
    ):
        said = run_finetune(capsys, *command).refused()
        assert (
            any(w in said for w in ("must be inside its folder", "passes through a symbolic link"))
            or "must be a results file that finetune wrote" in said
        )


@pytest.mark.parametrize("name", ["state", "predictions", "checkpoints"])
def test_folder_that_is_a_link_out(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(whole, run)
    shutil.rmtree(run / name, ignore_errors=True)
    precious.mkdir()
    (precious / "diary.txt").write_text("dear diary")
    (run / name).symlink_to(precious)
    said = run_finetune(capsys, "train", "--resume", run).refused()
    assert f"{run / name} is a link" in said
    assert [p.name for p in precious.iterdir()] == ["diary.txt"]


def test_files_that_are_links_out(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(whole, run)
    precious.mkdir()
    names = ["report.html", "report.html.partial", "results.json.partial"]
    names += [
        f"predictions/B-seed0-{split}.csv{end}" for split in ("val", "test") for end in ("", ".partial")
    ]
    (run / "results.json").unlink()
    for name in names:
        target = precious / Path(name).name
        target.write_text("dear diary")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
    assert run_finetune(capsys, "train", "--resume", run).code == 0
    assert {p.read_text() for p in precious.iterdir()} == {"dear diary"}
    assert not (run / "report.html").is_symlink()


def test_lock_that_is_a_link(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "made")
    assert "cannot be written" in run_finetune(capsys, "train", "--resume", run).refused()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "line",
    [
        'command = "touch {sign}"',
        '__class__ = "os.system"',
        "on_epoch = \"import os; os.system('touch {sign}')\"",
        '[recipe]\noptimizer = "os.system"',
        '[variants.B]\n__init__ = "x"',
        '[hooks]\nstart = "touch {sign}"',
        'device = "__import__"',
        "workers = -1",
    ],
)
def test_odd_keys_in_a_runs_configuration(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    run, sign = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(whole, run)
    text = line.format(sign=sign)
    config = (run / "config.toml").read_text()
    top, tables = (text, "") if not text.startswith("[") else ("", text)
    key = top.partition(" ")[0]
    kept = [] if tables else [row for row in config.splitlines() if not row.startswith(f"{key} =")]
    (run / "config.toml").write_text("\n".join([top, *kept, tables]))
    run_finetune(capsys, "train", "--resume", run).refused()
    assert not sign.exists()


@pytest.mark.parametrize("content", [None, b"", b"\xff garbage", b'dataset = "imagefolder:/"\npick = []\n'])
def test_evaluate_takes_nothing_from_config_toml(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    shutil.copytree(whole, run)
    (run / "config.toml").unlink() if content is None else (run / "config.toml").write_bytes(content)
    assert run_finetune(capsys, "evaluate", run, "--output", fresh, "--device", "cpu").code == 0
    for path in fresh.glob("*.csv"):
        assert path.read_bytes() == (run / "predictions" / path.name).read_bytes()


@pytest.mark.parametrize("recorded", ["imagefolder:photos", "imagefolder:/", "photos", "digits "])
def test_evaluate_asks_for_the_path_of_an_image_folder(
    tmp_path: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
) -> None:
    """A folder of the recorded name may have been planted."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    image_tree(run / "photos", {"cat": 8, "dog": 8})
    record = results_of(run)
    record["config"]["dataset"] = recorded
    (run / "results.json").write_text(json.dumps(record))
    monkeypatch.chdir(run)
    message = run_finetune(capsys, "evaluate", run, "--output", tmp_path / "fresh").refused()
    assert "give it with --dataset PATH" in message


def test_evaluate_refuses_readable_images_that_the_results_exclude(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run could otherwise exclude the images that it got wrong."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    record = results_of(run)
    name = (run / "predictions" / "B-seed0-test.csv").read_text().splitlines()[1].partition(",")[0]
    record["dataset"]["excluded"] = [{"sample_id": name, "reason": "not an image"}]
    (run / "results.json").write_text(json.dumps(record))
    message = run_finetune(capsys, "evaluate", run, "--output", tmp_path / "fresh").refused()
    assert f"The results exclude '{name}' as unreadable, but it can be read here" in message


def test_programs_in_a_run_folder_are_not_run(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sign = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(whole, run)
    for name in ("sitecustomize.py", "finetune.py", "git", "conftest.py", "__init__.py", "__main__.py"):
        (run / name).write_text(f"#!/bin/sh\ntouch {sign}\n")
        (run / name).chmod(0o755)
    monkeypatch.chdir(run)
    assert run_finetune(capsys, "train", "--resume", run).code == 0
    assert run_finetune(capsys, "evaluate", run, "--output", tmp_path / "fresh").code == 0
    assert not sign.exists()


def test_raised_predictions_are_recomputed_whatever_config_toml_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way with real networks."""
    run, sign = tmp_path / "run", tmp_path / "executed"
    command = tiny_command(run, "bundled", "--epochs", 1, "--variants", "b,c")
    assert run_finetune(capsys, *command).code == 0
    (run / "config.toml").write_text("garbage")
    for name in ("tomllib", "torch", "sitecustomize"):
        (run / f"{name}.py").write_text(f"open({str(sign)!r}, 'w')")
    monkeypatch.chdir(run)
    path = run / "predictions" / "C-seed0-test.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows[1:]:
        row[2:] = row[1], "0.01", "0.990049834"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    record = results_of(run)
    c = next(entry for entry in record["runs"] if entry["variant"] == "C")
    c["artifacts"]["test_predictions"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    c["calibration"]["ece_test"] = 1 - 0.990049834
    c["epochs"][0]["test"] |= {"n_correct": len(rows) - 1, "loss_sum": 0.01 * (len(rows) - 1)}
    (run / "results.json").write_text(json.dumps(record))
    forged = grade(Job(Path(), "run", load_policy("homework"), rerun=True))
    assert "rerun-agrees" in forged.refuted  # beside what the file itself betrays
    assert (forged.score, forged.exit_code) == (0, 1)
    assert (forged.levels, forged.missing) == ((1, 2, 3), [])
    assert forged.findings["rerun-agrees"].held == 3  # of four files: the honest ones agree
    assert not sign.exists()


def test_small_file_that_claims_a_huge_tensor(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = safetensors.torch.load(narrow_weights.read_bytes())
    state["conv1.weight"] = torch.zeros((), dtype=torch.float16).expand(1 << 22, 3, 1 << 10, 1 << 10)
    torch.save(state, tmp_path / "huge.pth")
    assert (tmp_path / "huge.pth").stat().st_size < 1 << 20
    said = run_finetune(capsys, *tiny_command(tmp_path / "run", tmp_path / "huge.pth")).refused()
    assert "of another shape: conv1.weight" in said


@pytest.mark.parametrize("layout", ["sparse", "complex", "meta"])
def test_tensors_that_are_not_ordinary(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    state = safetensors.torch.load(narrow_weights.read_bytes())
    weight = state["conv1.weight"]
    odd = {"sparse": weight.to_sparse, "complex": weight.cfloat, "meta": lambda: weight.to("meta")}
    state["conv1.weight"] = odd[layout]()
    torch.save(state, tmp_path / "odd.pth")
    run_finetune(capsys, *tiny_command(tmp_path / "run", tmp_path / "odd.pth")).refused()


def test_results_name_no_one(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_tree(tmp_path / "alice" / "photos", {"cat": 8, "dog": 8})
    (folder / "cat" / "bad.jpg").write_bytes(b"")
    (folder / "dog" / "gone.jpg").symlink_to(tmp_path / "alice" / "nowhere")
    weights = tmp_path / "alice" / "own.safetensors"
    shutil.copy(narrow_weights, weights)
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    out = tmp_path / "alice" / "run"
    more = ["--dataset", f"imagefolder:{folder}", "--on-bad-image", "skip", "--data-root", tmp_path / "alice"]
    assert run_finetune(capsys, *tiny_command(out, weights, *more)).code == 0
    text = (out / "results.json").read_text()
    for secret in (str(tmp_path), "alice", "hunter2", str(Path.home()), socket.gethostname()):
        assert len(secret) < 4 or secret not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text
    strings: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            walk([*value.keys(), *value.values()])
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, str):
            strings.append(value)

    walk(results_of(out))
    assert [s for s in strings if os.path.isabs(s)] == []  # noqa: PTH117 - strings of any kind
    assert not list(schema_problems(results_of(out)))
