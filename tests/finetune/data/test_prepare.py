"""Prepared images: cached between runs, stored as asked, and the same results wherever they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.config.experiment import STANDARD_VARIANTS, ExperimentConfig
from finetune.data import cache, store
from finetune.data import prepare as load
from finetune.data.cache import entries
from finetune.data.prepare import Images, labeled, prepare_images
from finetune.data.split_dataset import split_dataset
from finetune.data.store import StoredImages
from finetune.data.stream import StreamedImages
from finetune.errors import BadImagesError, ConfigError, sized
from finetune.network import weights
from tests.builders.config import tiny_config
from tests.builders.images import fingerprints, image_tree, photo
from tests.builders.runs import Command, RecordingReporter
from tests.compare_runs import file_digests, without_times

Run = Callable[..., dict[str, Any]]

_, _, C = STANDARD_VARIANTS
N_IMAGES = 60  # ten digits, two of each in each split
OPTIONS = ["--dataset", "digits", "--subset", "2", "--workers", "1", "--image-size", "16"]
BUNDLED = ["--weights", "bundled"]


@pytest.fixture(autouse=True)
def folder(narrow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:  # noqa: ARG001 - for its effect
    """A cache that is not there yet, and digits that are read once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "finetune" / "images"


def never(*_: object) -> StreamedImages:
    raise AssertionError("the images were decoded again")


def ready(config: ExperimentConfig) -> tuple[Images, list[str]]:
    """Images and what was said."""
    reporter = RecordingReporter()
    split, sources, seconds = prepare_images(config, split_dataset(config), reporter)
    images = labeled(split.splits, sources)
    assert seconds > 0
    return images, reporter.said


def pets(tmp_path: Path) -> Path:
    """A divided folder: ten images of each of two classes in each split."""
    return image_tree(tmp_path / "pets", {f"{s}/{c}": 10 for s in ("train", "val", "test") for c in "ab"})


class TestStores:
    @pytest.mark.parametrize(
        ("mode", "where"),
        [
            ("auto", "decoded: 34.6 kB in memory"),
            ("memory", "decoded: 34.6 kB in memory"),
            ("disk", "decoded: 34.6 kB in files"),
            ("off", "checked; they are decoded each time they are needed"),
        ],
    )
    def test_reports_where_the_images_are(self, mode: str, where: str) -> None:
        for _ in ("decoded", "opened"):
            images, said = ready(tiny_config(store=mode))
            assert said[-1] == f"{N_IMAGES} images {where}."
            assert len(images.train) == 20
        assert len(entries()) == (0 if mode == "off" else 3)
        if mode == "off":
            assert isinstance(images.train, StreamedImages)
            assert all(isinstance(held, StreamedImages) for held, _ in images.held_out.values())
        else:
            assert isinstance(images.train, StoredImages)
            assert images.train.in_memory == (mode != "disk")

    def test_labels_and_pixels_are_those_of_the_split_wherever_they_are(self) -> None:
        reference, _ = ready(tiny_config(store="memory"))
        assert isinstance(reference.train, StoredImages)
        for mode in ("disk", "off"):
            images, _ = ready(tiny_config(store=mode))
            assert not isinstance(images.train, load.DeviceImages)
            assert torch.equal(images.train_labels, reference.train_labels)
            for i in range(20):
                np.testing.assert_array_equal(images.train.image(i), reference.train.image(i))
            for name, (held, labels) in images.held_out.items():
                pixels = torch.cat(list(held.batches(7)))
                assert torch.equal(pixels, torch.cat(list(reference.held_out[name][0].batches(7))))
                assert torch.equal(labels, reference.held_out[name][1])

    @pytest.mark.parametrize("mode", ["off", "disk"])
    def test_training_comes_to_the_same(self, experiment: Run, tmp_path: Path, mode: str) -> None:
        data = {"variants": (C,), "flip_probability": 0.5, "epochs": 1}
        memory = experiment(tmp_path / "memory", store="memory", **data)
        other = experiment(tmp_path / "other", store=mode, **data)
        assert other["config"].pop("store", mode) == mode
        memory["config"].pop("store", None)
        assert without_times(other) == without_times(memory)
        skip = ("results.json", ".lock", "report.html", "config.toml")
        assert file_digests(tmp_path / "other", skip) == file_digests(tmp_path / "memory", skip)

    def test_a_second_run_decodes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tiny_config()
        ready(config)
        monkeypatch.setattr(load, "training_stream", never)
        monkeypatch.setattr(load, "evaluation_stream", never)
        ready(config)

    def test_another_size_is_another_entry(self) -> None:
        ready(tiny_config())
        ready(tiny_config(image_size=17))
        assert len(entries()) == 6

    def test_the_device_must_be_a_gpu(self) -> None:
        with pytest.raises(ConfigError) as caught:
            ready(tiny_config(store="device"))
        assert str(caught.value) == (
            "--store device holds the images in GPU memory, but this job runs on the CPU; use --store memory "
            "or auto."
        )
        assert entries() == []

    def test_reports_once_why_they_are_not_cached(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        _, said = ready(tiny_config())
        assert [line for line in said if "not cached" in line] == [
            f"Decoded images not cached: {tmp_path / 'file' / 'finetune' / 'images'} "
            "cannot be written (Not a directory)."
        ]
        assert said[-1].endswith("in memory.")

    def test_neither_memory_nor_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The temporary folder takes over, as without a cache."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        for module in (cache, store):
            monkeypatch.setattr(module, "available_memory_bytes", lambda: 0)
        images, said = ready(tiny_config())
        assert said[-1].endswith("in files.")
        assert isinstance(images.train, StoredImages)
        assert not images.train.in_memory


class TestBadImages:
    @pytest.mark.parametrize("mode", ["memory", "disk", "off"])
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_skipped_in_one_split(self, tmp_path: Path, mode: str, split: str) -> None:
        root = pets(tmp_path)
        bad = root / split / "a" / "003.png"
        bad.write_bytes(bad.read_bytes()[:300])  # its header is whole
        config = tiny_config(dataset=f"imagefolder:{root}", store=mode, subset=None, on_bad_image="skip")
        for _ in ("decoded", "opened"):
            found, sources, _ = prepare_images(config, split_dataset(config), reporter := RecordingReporter())
            assert [name for name, _ in found.dataset.excluded] == [f"{split}/a/003.png"]
            assert "1 unreadable image excluded." in reporter.said
            counts = {name: len(source) for name, source in sources.items()}
            assert counts == {"train": 20, "val": 20, "test": 20} | {split: 19}
            assert len(labeled(found.splits, sources).train_labels) == counts["train"]

    @pytest.mark.parametrize("mode", ["memory", "disk", "off"])
    def test_those_of_all_splits_are_reported_and_nothing_is_cached(
        self, tmp_path: Path, folder: Path, mode: str
    ) -> None:
        root = pets(tmp_path)
        for split in ("train", "test"):
            (root / split / "a" / "003.png").write_bytes(split.encode())
        config = tiny_config(dataset=f"imagefolder:{root}", store=mode, subset=None)
        with pytest.raises(BadImagesError) as caught:
            ready(config)
        assert list(caught.value.reasons) == ["test/a/003.png", "train/a/003.png"]
        assert [e.name.split("-")[1] for e in entries()] == ([] if mode == "off" else ["val"])
        assert not list(folder.glob("*.partial"))

    @pytest.mark.parametrize("kind", ["official", "70-15-15"])
    @pytest.mark.parametrize("mode", ["memory", "disk"])
    def test_skipping_caches_only_the_splits_that_are_used(
        self, tmp_path: Path, folder: Path, kind: str, mode: str
    ) -> None:
        root = pets(tmp_path)
        (root / "train" / "a" / "003.png").write_bytes(b"bad")
        config = tiny_config(
            dataset=f"imagefolder:{root}", store=mode, subset=None, on_bad_image="skip", split=kind
        )
        found, _, _ = prepare_images(config, split_dataset(config), RecordingReporter())
        used = {
            cache.entry_name("imagefolder", name, 16, split.fingerprint)
            for name, split in found.splits.by_name.items()
        }
        assert {e.name for e in entries()} == used
        assert {p.name for p in folder.iterdir() if p.suffix != ".lock"} == used

    def test_skipping_leaves_what_was_cached_before(self, tmp_path: Path) -> None:
        root = pets(tmp_path)
        config = tiny_config(
            dataset=f"imagefolder:{root}", subset=None, on_bad_image="skip", split="70-15-15"
        )
        ready(config)
        before = {e.name for e in entries()}
        (root / "train" / "a" / "003.png").write_bytes(b"bad")
        ready(config)
        assert before <= {e.name for e in entries()}

    def test_other_content_under_the_same_name_is_decoded(self, tmp_path: Path) -> None:
        root = pets(tmp_path)
        config = tiny_config(dataset=f"imagefolder:{root}", subset=None)
        before, _ = ready(config)
        photo(root / "train" / "a" / "003.png", 4321)
        after, _ = ready(config)
        assert isinstance(before.train, StoredImages)
        assert isinstance(after.train, StoredImages)
        changed = [i for i in range(20) if (before.train.image(i) != after.train.image(i)).any()]
        assert changed == [3]


class TestCacheLimit:
    def test_other_images_go_and_those_of_the_job_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ready(tiny_config())
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "0MB")
        ready(tiny_config(image_size=17))
        assert sorted(e.name.split("-")[2] for e in entries()) == ["17px"] * 3

    def test_all_stay_within_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "1MB")
        ready(tiny_config())
        ready(tiny_config(image_size=17))
        assert len(entries()) == 6

    def test_a_wrong_size_is_refused_before_anything_is_decoded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "much")
        with pytest.raises(
            ConfigError,
            match=r"^FINETUNE_CACHE_LIMIT must be a number with MB, GB or TB, .* 'much' was given",
        ):
            ready(tiny_config())
        assert entries() == []


TOO_SMALL = (
    "Near-duplicates: not looked for, because the images are smaller than 32 pixels or uniform; "
    "byte-identical images are never in two splits."
)


class TestSummary:
    def test_reports_classes_and_split_sizes(self, tmp_path: Path) -> None:
        _, said = ready(tiny_config(dataset=f"imagefolder:{pets(tmp_path)}", subset=4))
        assert said[:-1] == [
            "2 classes: a, b",
            "Splits: 8 train, 8 validation, 8 test images (official)",
            TOO_SMALL,
        ]

    def test_after_what_was_excluded(self, tmp_path: Path) -> None:
        root = pets(tmp_path)
        (root / "train" / "a" / "003.png").write_bytes(b"bad")
        _, said = ready(tiny_config(dataset=f"imagefolder:{root}", subset=None, on_bad_image="skip"))
        assert said[:-1] == [
            "1 unreadable image excluded.",
            "2 classes: a, b",
            "Splits: 19 train, 20 validation, 20 test images (official)",
            TOO_SMALL,
        ]


class TestDataCommands:
    def test_prepare_list_clear(self, finetune: Command, folder: Path) -> None:
        code, out, err = finetune("data", "prepare", *OPTIONS, *BUNDLED)
        assert (code, err) == (0, "")
        assert f"{N_IMAGES} images decoded: 34.6 kB in files." in out
        code, out, err = finetune("data", "list")
        assert (code, err) == (0, "")
        found = entries()
        names, sizes = [e.name for e in found], [e.n_bytes for e in found]
        *lines, total = out.splitlines()
        assert [" ".join(line.split()[:4]) for line in lines] == [
            f"{e.name} 20 {sized(e.n_bytes)}" for e in found
        ]
        assert {n.rpartition("-")[0] for n in names} == {f"digits-{s}-16px" for s in ("train", "val", "test")}
        assert total == f"{sized(sum(sizes))} in {folder}"
        assert finetune("data", "clear", names[0]) == (0, f"{sized(sizes[0])} freed\n", "")
        assert [e.name for e in entries()] == names[1:]
        assert finetune("data", "clear") == (0, f"{sized(sum(sizes[1:]))} freed\n", "")
        assert finetune("data", "list") == (0, f"0 B in {folder}\n", "")

    def test_a_run_finds_what_was_prepared(
        self, finetune: Command, narrow_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert finetune("data", "prepare", *OPTIONS, *BUNDLED)[0] == 0
        monkeypatch.setattr(load, "training_stream", never)
        monkeypatch.setattr(load, "evaluation_stream", never)
        options = ["--device", "cpu", "--epochs", "1", "--batch-size", "8", "--variants", "a", "--out", "run"]
        code, out, _ = finetune("train", *OPTIONS, *options, "--weights", str(narrow_weights))
        assert code == 0
        assert f"{N_IMAGES} images decoded: 34.6 kB in memory." in out

    def test_prepare_downloads_the_weights_first(
        self, finetune: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(weights, "fetch", lambda url: asked.append(url) or Path("weights.pth"))
        code, out, _ = finetune("data", "prepare", *OPTIONS)
        assert (code, asked) == (0, [weights.IMAGENET_URL])
        assert out.startswith("Pretrained weights: weights.pth\n")

    @pytest.mark.parametrize("given", [BUNDLED, ["--preset", "smoke"]], ids=["option", "preset"])
    def test_prepare_downloads_no_other_weights(
        self, finetune: Command, given: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "fetch", never)
        assert finetune("data", "prepare", *OPTIONS, *given)[0] == 0

    def test_prepare_refuses_weights_that_are_missing(self, finetune: Command, folder: Path) -> None:
        code, _, err = finetune("data", "prepare", *OPTIONS, "--weights", "nowhere.pth")
        assert (code, err.count("\n")) == (2, 1)
        assert "The weights file nowhere.pth cannot be read" in err
        assert not folder.exists()

    def test_megabytes_are_counted(self, finetune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        shown = cache.Entry("big", 1234567, 1_234_567_890, cache.datetime(2026, 2, 3, 4, 5))
        monkeypatch.setattr(cache, "entries", lambda: [shown])
        out = finetune("data", "list")[1].splitlines()
        assert out[0].split() == ["big", "1,234,567", "1.23", "GB", "2026-02-03", "04:05"]
        assert out[1].startswith("1.23 GB in ")

    def test_refused(self, finetune: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert finetune("data", "clear", "nope") == (
            2,
            "",
            "Error: Cache entry not found: 'nope'; finetune data list shows all names.\n",
        )
        folder.parents[1].write_text("a file")
        code, out, err = finetune("data", "prepare", *OPTIONS, *BUNDLED)
        assert (code, out) == (2, "")
        assert err.startswith("Error: --store disk needs the image cache, but ")
        assert err.count("\n") == 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        code, _, err = finetune("train", *OPTIONS, "--variants", "a", "--store", "device", "--out", "run")
        assert code == 2
        assert "--store device holds the images in GPU memory" in err
        assert not Path("run").exists()


class TestResplit:
    """Each seed with a split of its own, of images that are decoded once."""

    config = tiny_config(seeds=3, seed=4, split_seed=10, resplit=True)

    def test_a_seeds_split_is_that_of_the_split_seed_plus_the_seed(self) -> None:
        split = split_dataset(self.config)
        assert list(split.by_seed) == [4, 5, 6]
        for seed, splits in split.by_seed.items():
            alone = split_dataset(tiny_config(split_seed=10 + seed))
            assert fingerprints(splits) == fingerprints(alone.splits)
        assert len({splits.test.fingerprint for splits in split.by_seed.values()}) == 3
        assert split.splits == split.by_seed[4]

    def test_its_images_are_those_that_it_would_have_alone(self) -> None:
        split, sources, _ = prepare_images(self.config, split_dataset(self.config), RecordingReporter())
        assert sorted(sources) == ["heldout", "train"]
        for seed in (4, 6):
            splits, selected = split.of_seed(seed, sources, workers=2)
            images = labeled(splits, selected)
            alone, _ = ready(tiny_config(split_seed=10 + seed))
            assert images.train_labels.tolist() == alone.train_labels.tolist()
            assert images.train.sizes.tolist() == alone.train.sizes.tolist()
            for name, (pixels, labels) in images.held_out.items():
                expected, truths = alone.held_out[name]
                assert labels.tolist() == truths.tolist()
                ours, theirs = (torch.cat(list(s.batches(7))) for s in (pixels, expected))
                assert torch.equal(ours, theirs)

    def test_each_image_is_decoded_once_for_training_and_once_for_evaluation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = tiny_config(subset=None, seeds=3, resplit=True)
        split = split_dataset(whole)
        prepare_images(whole, split, RecordingReporter())
        assert len(entries()) == 2
        assert sum(entry.n_images for entry in entries()) < 2 * len(split.dataset.samples)
        monkeypatch.setattr(load, "training_stream", never)
        monkeypatch.setattr(load, "evaluation_stream", never)
        prepare_images(whole, split_dataset(whole), RecordingReporter())

    def test_an_unreadable_image_is_found_whatever_split_it_is_in(self, tmp_path: Path) -> None:
        root = image_tree(tmp_path / "pets", {"a": 12, "b": 12})
        (root / "a" / "bad.png").write_bytes(b"bad")
        config = tiny_config(dataset=f"imagefolder:{root}", subset=None, seeds=3, resplit=True)
        with pytest.raises(BadImagesError, match=r"a/bad\.png"):
            prepare_images(config, split_dataset(config), RecordingReporter())
        skipping = tiny_config(
            dataset=f"imagefolder:{root}", subset=None, seeds=3, resplit=True, on_bad_image="skip"
        )
        split, _, _ = prepare_images(skipping, split_dataset(skipping), RecordingReporter())
        assert list(split.by_seed) == [0, 1, 2]
        assert all("a/bad.png" in dict(splits.excluded) for splits in split.by_seed.values())

    def test_an_official_split_is_refused(self, tmp_path: Path) -> None:
        config = tiny_config(dataset=f"imagefolder:{pets(tmp_path)}", subset=None, seeds=2, resplit=True)
        with pytest.raises(ConfigError, match=r"--resplit draws a new split for each seed.* add --split 70"):
            split_dataset(config)
