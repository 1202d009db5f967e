"""Near-duplicates in whole data sets: found across splits, kept together, cached."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.config.experiment import ExperimentConfig
from finetune.data import cache, stream
from finetune.data.cache import entries
from finetune.data.prepare import prepare_images
from finetune.data.split_dataset import SplitDataset, split_dataset
from finetune.errors import BadImagesError, ConfigError
from tests.builders.config import tiny_config
from tests.builders.images import fingerprints
from tests.builders.runs import Command, RecordingReporter


def scene(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)).resize(
        (64, 64), Image.Resampling.BICUBIC
    )


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with twelve pictures each, every one also mirrored and as a small JPEG."""
    for seed in range(24):
        folder = tmp_path / "photos" / ("cat" if seed % 2 else "dog")
        write(folder / f"{seed:02}.png", scene(seed))
        write(folder / f"{seed:02}-mirrored.png", ImageOps.mirror(scene(seed)))
        write(folder / f"{seed:02}-small.jpg", scene(seed).resize((40, 40)))
    return tmp_path / "photos"


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """Divided by its owner, with two copies across the splits."""
    root = tmp_path / "divided"
    for number, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            for i in range(4):
                write(root / split / name / f"{i}.png", scene(100 * number + 10 * label + i))
    write(root / "test" / "cat" / "copy.png", ImageOps.mirror(scene(0)))  # of train/cat/0.png
    write(root / "test" / "dog" / "copy.jpg", scene(111))  # of val/dog/1.png
    return root


def prepared(root: Path, **fields: Any) -> tuple[SplitDataset, list[str]]:
    config = config_of(root, **fields)
    reporter = RecordingReporter()
    return prepare_images(config, split_dataset(config), reporter)[0], reporter.said


def config_of(root: Path, **fields: Any) -> ExperimentConfig:
    return tiny_config(**{"dataset": f"imagefolder:{root}", "subset": None, "image_size": 32, **fields})


def pictures_by_split(split: SplitDataset) -> list[set[str]]:
    return [{Path(s.id).name[:2] for s in part.samples} for part in split.splits.by_name.values()]


@pytest.mark.parametrize("store", ["memory", "disk", "off"])
def test_pairs_across_the_splits_of_the_owner(divided: Path, store: str) -> None:
    for _ in range(2):  # decoded, then from the cache
        found, said = prepared(divided, store=store)
        near = found.splits.near
        assert near is not None
        assert (near.n_compared, near.n_not_compared, near.n_test, near.n_val) == (26, 0, 2, 0)
        pairs = {
            (p.sample_id, p.split, p.other_id, p.other_split, p.mirrored): p.distance for p in near.pairs
        }
        assert set(pairs) == {
            ("test/cat/copy.png", "test", "train/cat/0.png", "train", True),
            ("test/dog/copy.jpg", "test", "val/dog/1.png", "val", False),
        }
        assert max(pairs.values()) <= 20
        assert any(line.startswith("Near-duplicates: 2 test images and 0 validation images") for line in said)


def test_a_second_run_hashes_nothing(divided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = prepared(divided)
    monkeypatch.setattr(stream, "perceptual_hash", lambda _: pytest.fail("hashed again"))
    second, _ = prepared(divided)
    assert second.splits.near == first.splits.near


def test_none_found(divided: Path) -> None:
    for copy in ("cat/copy.png", "dog/copy.jpg"):
        (divided / "test" / copy).unlink()
    _, said = prepared(divided)
    assert "Near-duplicates: none across the splits among 24 images." in said


def test_only_those_that_were_found_are_a_warning(divided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(RecordingReporter, "warn", lambda _, text: warned.append(text))
    prepared(divided)
    assert [line.split(":")[0] for line in warned] == ["Near-duplicates"]
    for copy in ("cat/copy.png", "dog/copy.jpg"):
        (divided / "test" / copy).unlink()
    warned.clear()
    prepared(divided)
    assert warned == []


def test_too_small_to_tell() -> None:
    config = tiny_config()
    reporter = RecordingReporter()
    split, _, _ = prepare_images(config, split_dataset(config), reporter)
    assert split.splits.near is None
    assert any("Near-duplicates: not looked for" in line for line in reporter.said)


def test_reported_by_default(photos: Path) -> None:
    split, _ = prepared(photos)
    train, val, _ = pictures_by_split(split)
    near = split.splits.near
    assert near is not None
    assert near.n_test == sum(Path(s.id).name[:2] in train | val for s in split.splits.test.samples) > 0
    assert near.n_val == sum(Path(s.id).name[:2] in train for s in split.splits.val.samples) > 0
    assert [(p.split == "val", p.distance) for p in near.pairs] == sorted(
        (p.split == "val", p.distance) for p in near.pairs
    )


def test_kept_together(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, said = prepared(photos, near_duplicates="together")
    train, val, test = pictures_by_split(split)
    assert not train & val | train & test | val & test
    assert len(train | val | test) == 24
    assert split.splits.near is not None
    assert not split.splits.near.pairs
    assert any("none across the splits among 72 images" in line for line in said)
    # Their hashes are cached too.
    monkeypatch.setattr(stream, "perceptual_hash", lambda _: pytest.fail("hashed again"))
    assert fingerprints(split_dataset(config_of(photos, near_duplicates="together")).splits) == (
        fingerprints(split.splits)
    )


def test_a_set_without_near_duplicates_is_split_as_ever(tmp_path: Path) -> None:
    for seed in range(24):
        write(tmp_path / "photos" / ("cat" if seed % 2 else "dog") / f"{seed:02}.png", scene(seed))
    plain, together = (
        prepared(tmp_path / "photos", near_duplicates=mode)[0] for mode in ("report", "together")
    )
    assert plain.splits == together.splits


def test_each_seed_has_its_own(photos: Path) -> None:
    split, _ = prepared(photos, resplit=True, seeds=2)
    assert len({own.near.pairs for own in split.by_seed.values() if own.near}) == 2
    assert split.splits.near == split.by_seed[0].near
    for own in split.by_seed.values():
        assert own.near is not None
        ids = {name: {s.id for s in part.samples} for name, part in own.by_name.items()}
        assert all(p.sample_id in ids[p.split] and p.other_id in ids[p.other_split] for p in own.near.pairs)
    kept, _ = prepared(photos, resplit=True, seeds=2, near_duplicates="together")
    assert all(own.near is not None and not own.near.pairs for own in kept.by_seed.values())


def test_an_official_split_is_left_alone(divided: Path) -> None:
    with pytest.raises(ConfigError, match="add --split 70-15-15"):
        split_dataset(config_of(divided, near_duplicates="together"))
    assert split_dataset(config_of(divided, near_duplicates="together", split="70-15-15"))


def test_unreadable_images(photos: Path) -> None:
    (photos / "cat" / "01.png").write_bytes(b"bad")
    with pytest.raises(BadImagesError):
        prepared(photos, near_duplicates="together")
    split, _ = prepared(photos, near_duplicates="together", on_bad_image="skip")
    assert split.splits.near is not None
    assert not split.splits.near.pairs
    for path in photos.rglob("*.*"):
        path.write_bytes(path.name.encode())
    with pytest.raises(BadImagesError):
        prepared(photos, near_duplicates="together")


def test_a_bounded_list(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = prepared(photos)
    monkeypatch.setattr("finetune.data.near_duplicates.MOST_PAIRS", 3)
    split, _ = prepared(photos)
    assert split.splits.near is not None
    assert whole.splits.near is not None
    assert split.splits.near == dataclasses.replace(whole.splits.near, pairs=whole.splits.near.pairs[:3])


def test_entries_of_an_earlier_format_are_not_used(divided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FORMAT", 1)
    prepared(divided)
    before = {entry.name for entry in entries()}
    monkeypatch.undo()
    prepared(divided)
    assert not before & {entry.name for entry in entries()} - before


def test_a_whole_job(finetune: Command, photos: Path, narrow_weights: Path) -> None:
    options = "--image-size 32 --epochs 1 --batch-size 8 --lr 0.01 --device cpu --variants b --workers 1"
    command = ["train", "--dataset", str(photos), "--weights", str(narrow_weights), *options.split()]
    code, out, err = finetune(*command, "--out", "run")
    assert code == 0, err
    assert "Near-duplicates: " in out
    assert "near-duplicates: " in " ".join(out.split())  # of the grade, after the table
    code, out, _ = finetune(*command, "--out", "kept", "--near-duplicates", "together")
    assert code == 0
    assert "near-duplicates: " not in " ".join(out.split())
    code, _, err = finetune("evaluate", "kept", "--output", "again")
    assert code == 0, err
