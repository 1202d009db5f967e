"""Files that change, vanish or lose bits between two processes: noticed, named, and never trained on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.data import split_dataset
from finetune.run import experiment as job
from finetune.system.signals import Stopped, StopRequest
from tests.builders.config import tiny_command
from tests.builders.images import image_tree, photo
from tests.builders.runs import CommandResult, results_of, run_finetune
from tests.compare_runs import assert_same_run

Damage = Callable[[Path], None]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[object], saves: int
) -> CommandResult:
    """A training that a signal ends after a number of checkpoints."""
    save, count = job.Checkpoints.save, [0]
    request: list[StopRequest] = []
    begin = StopRequest.__init__

    def counted(*given: object) -> None:
        save(*given)
        count[0] += 1
        if count[0] == saves:
            request[-1].number = 15

    with monkeypatch.context() as patch:
        patch.setattr(job.Checkpoints, "save", counted)
        patch.setattr(StopRequest, "__init__", lambda self: (begin(self), request.append(self))[0])
        done = run_finetune(capsys, *arguments)
    assert done.code == 143
    assert "Resume with: finetune train --resume" in done.err
    return done


@pytest.fixture
def whole(
    tmp_path_factory: pytest.TempPathFactory, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The run folder of a training of variant B that nothing disturbed; made once."""
    out = tmp_path_factory.getbasetemp() / "undamaged"
    if not out.exists():
        done = run_finetune(capsys, *tiny_command(out, narrow_weights, "--variants", "b", "--epochs", "3"))
        assert done.code == 0
    return out


@pytest.mark.parametrize(
    ("damage", "files", "steps"),
    [
        (flip_a_bit, "newest", "resumed after 3 steps"),
        (truncate, "newest", "resumed after 3 steps"),
        (empty, "all", None),
        (flip_a_bit, "best", None),
    ],
)
def test_damaged_checkpoint(
    tmp_path: Path,
    whole: Path,
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    files: str,
    steps: str | None,
) -> None:
    out = tmp_path / "run"
    interrupted(
        capsys, monkeypatch, tiny_command(out, narrow_weights, "--variants", "b", "--epochs", "3"), saves=2
    )
    positions = sorted((out / "state").glob("B-seed0-0*.safetensors"))
    bests = sorted((out / "state").glob("B-seed0-best*.safetensors"))
    assert len(positions) == 2
    for path in {"newest": positions[-1:], "all": positions, "best": bests}[files]:
        damage(path)
    done = run_finetune(capsys, "train", "--resume", out)
    assert done.code == 0
    assert (steps or "") in done.out
    assert steps is not None or "resumed after" not in done.out
    assert_same_run(out, whole)


def test_best_network_damaged_while_training(
    tmp_path: Path,
    whole: Path,
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    best = job.Checkpoints.best

    def damaged(checkpoints: job.Checkpoints, epoch: int) -> bytes:
        for path in checkpoints.folder.glob("*-best*"):
            flip_a_bit(path)
        return best(checkpoints, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(job.Checkpoints, "best", damaged)
        arguments = tiny_command(out, narrow_weights, "--variants", "b", "--epochs", "3")
        said = run_finetune(capsys, *arguments).refused()
    assert "missing or damaged; use --resume" in said
    assert run_finetune(capsys, "train", "--resume", out).code == 0
    assert_same_run(out, whole)


def test_undamaged_file_that_is_no_checkpoint(
    tmp_path: Path, narrow_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    interrupted(capsys, monkeypatch, tiny_command(out, narrow_weights, "--variants", "a"), saves=1)
    content = narrow_weights.read_bytes()
    name = f"A-seed0-0000000099-000009-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    planted = out / "state" / name
    planted.write_bytes(content)
    said = run_finetune(capsys, "train", "--resume", out).refused()
    assert f"{planted} must be a checkpoint of this run, but it is not" in said
    planted.unlink()
    assert run_finetune(capsys, "train", "--resume", out).code == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"runs": [', "Expecting value"),
        (b"[]", "must be an object, found []"),
        (b"{}", "is missing"),
        (b"\xff\xfe", "byte order mark"),
        (b"[" * 100_000, "nested deeper than 32 levels"),
    ],
)
def test_damaged_results(
    tmp_path: Path,
    whole: Path,
    narrow_weights: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    reason: str,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    config = (out / "config.toml").read_text().splitlines()
    line = next(n for n, text in enumerate(config) if text.startswith("weights"))
    config[line] = f'weights = "{narrow_weights}"'
    (out / "config.toml").write_text("\n".join(config))
    (out / "results.json").write_bytes(content)
    said = run_finetune(capsys, "train", "--resume", out).refused()
    assert reason in said
    assert "restore it, or name another run" in said
    assert (out / "results.json").read_bytes() == content
    (out / "results.json").unlink()
    assert run_finetune(capsys, "train", "--resume", out).code == 0
    assert_same_run(out, whole)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"config": 1, "dataset": 2, "weights": 3}', b"7"])
def test_damaged_identity(
    tmp_path: Path,
    narrow_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
) -> None:
    out = tmp_path / "run"
    interrupted(capsys, monkeypatch, tiny_command(out, narrow_weights, "--variants", "a"), saves=1)
    (out / "state" / "identity.json").write_bytes(content)
    run_finetune(capsys, "train", "--resume", out).refused()


def test_best_epoch_that_does_not_exist(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    record = results_of(out)
    record["runs"][0]["best_epoch"] = 9
    (out / "results.json").write_text(json.dumps(record))
    assert "B-seed0 has no epoch 9" in run_finetune(capsys, "train", "--resume", out).refused()


class TestImages:
    """An image folder whose files change while a run waits to be resumed."""

    @pytest.fixture
    def run(
        self,
        tmp_path: Path,
        narrow_weights: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Path:
        out = tmp_path / "run"
        folder = image_tree(tmp_path / "images", {"cat": 8, "dog": 8})
        more = [
            "--dataset",
            f"imagefolder:{folder}",
            "--subset",
            "99",
            "--variants",
            "a,b",
            "--batch-size",
            "5",
        ]
        interrupted(capsys, monkeypatch, tiny_command(out, narrow_weights, *more), saves=3)
        assert [r["variant"] for r in results_of(out)["runs"]] == ["A"]
        return out

    def test_one_vanishes(self, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lost = tmp_path / "images" / "cat" / "003.png"
        content = lost.read_bytes()
        lost.unlink()
        said = run_finetune(capsys, "train", "--resume", run).refused()
        assert "A run must be resumed with the same images, weights and settings, but in" in said
        assert "dataset.splits." in said
        assert " was " in said
        assert " and is " in said
        lost.write_bytes(content)
        assert run_finetune(capsys, "train", "--resume", run).code == 0
        assert [r["variant"] for r in results_of(run)["runs"]] == ["A", "B"]

    def test_one_changes(self, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        photo(tmp_path / "images" / "dog" / "000.png", 999)
        said = run_finetune(capsys, "train", "--resume", run).refused()
        assert "dataset.splits.train.fingerprint was" in said

    def test_weights_change(
        self, run: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = bytearray(narrow_weights.read_bytes())
        content[-1] ^= 1  # in the last tensor's values: still weights, but others
        narrow_weights.write_bytes(content)
        assert "weights.sha256 was" in run_finetune(capsys, "train", "--resume", run).refused()

    def test_one_vanishes_between_hashing_and_decoding(
        self,
        tmp_path: Path,
        narrow_weights: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        folder = image_tree(tmp_path / "images", {"cat": 8, "dog": 8})
        split = split_dataset.make_splits

        def then_vanish(*given: object) -> object:
            found = split(*given)
            for path in folder.glob("dog/00[12].png"):
                path.unlink()
            return found

        monkeypatch.setattr(split_dataset, "make_splits", then_vanish)
        out = tmp_path / "run"
        more = [
            "--dataset",
            f"imagefolder:{folder}",
            "--subset",
            "99",
            "--variants",
            "a",
            "--batch-size",
            "5",
        ]
        said = run_finetune(capsys, *tiny_command(out, narrow_weights, *more)).refused()
        assert "dog/001.png (No such file or directory), dog/002.png (No such file or directory)" in said


def test_bit_flipped_cached_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"these bytes have another hash")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    said = run_finetune(capsys, *tiny_command(tmp_path / "run", "imagenet")).refused()
    assert "must have a SHA-256 that begins with f37072fd, but it does not; it is damaged" in said


def test_a_stopped_job_can_be_stopped_again(
    tmp_path: Path, narrow_weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(15)

    monkeypatch.setattr(job, "prepare", stopped)
    done = run_finetune(capsys, *tiny_command(tmp_path / "run", narrow_weights))
    assert done.code == 143
    assert done.err.strip() == "Interrupted. Nothing was trained yet."
    assert not (tmp_path / "run").exists()
