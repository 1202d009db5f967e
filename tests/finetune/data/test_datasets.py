"""Where images come from, and what is said when they do not."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import Flowers102

from finetune.data.datasets import IMAGE_SUFFIXES, Dataset, load_dataset
from finetune.data.splits import make_splits
from finetune.errors import BadImagesError, DataError
from finetune.system import download as network
from tests.builders.images import decode_evaluation, decode_training, image_tree, photo
from tests.builders.server import Server
from tests.machine import real_data

NOWHERE = Path("never-made")


def folder(root: Path) -> Dataset:
    return load_dataset(f"imagefolder:{root}", NOWHERE)


class TestDigits:
    def test_all_of_them(self) -> None:
        data = load_dataset("digits", NOWHERE)
        assert (data.name, len(data.samples), data.divided) == ("digits", 1797, False)
        assert data.classes == tuple("0123456789")
        assert [s.id for s in data.samples] == sorted({s.id for s in data.samples})
        assert Counter(s.label for s in data.samples)[3] == 183
        assert not NOWHERE.exists()

    def test_grey_values_span_the_range(self) -> None:
        contents = [s.content for s in load_dataset("digits", NOWHERE).samples]
        assert all(isinstance(c, np.ndarray) and c.shape == (8, 8) for c in contents)
        values = {int(v) for c in contents for v in np.asarray(c).ravel()}
        assert values == {round(step * 255 / 16) for step in range(17)}


class TestUndividedFolder:
    def test_each_folder_is_a_class(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"dog": 2, "cat": 3, "dog/puppies/small": 1})
        data = folder(tmp_path)
        assert (data.name, data.classes, data.divided) == ("imagefolder", ("cat", "dog"), False)
        assert [(s.id, s.label) for s in data.samples] == [
            ("cat/000.png", 0),
            ("cat/001.png", 0),
            ("cat/002.png", 0),
            ("dog/000.png", 1),
            ("dog/001.png", 1),
            ("dog/puppies/small/000.png", 1),
        ]
        assert data.notes == ()

    def test_hidden_folders_are_no_classes(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 1, ".ipynb_checkpoints": 1, "b/.ipynb_checkpoints": 1})
        data = folder(tmp_path)
        assert data.classes == ("a", "b")
        assert len(data.samples) == 2

    def test_files_that_are_no_images_are_counted_and_named(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 1})
        for name in ("README.md", "a/notes.txt", "a/cat.gif", "b/Thumbs.db", "b/._000.png", "b/.DS_Store"):
            (tmp_path / name).write_bytes(b"?")
        data = folder(tmp_path)
        assert len(data.samples) == 2
        reasons = dict(data.excluded)
        assert list(reasons) == sorted(
            ["README.md", "a/cat.gif", "a/notes.txt", "b/.DS_Store", "b/._000.png", "b/Thumbs.db"]
        )
        assert reasons["README.md"] == "outside any class folder"
        assert reasons["a/cat.gif"].startswith("no image: its name")
        assert len(data.notes) == 1
        assert "6" in data.notes[0]

    def test_endings_whatever_their_case(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 0, "b": 1})
        for number, suffix in enumerate(IMAGE_SUFFIXES):
            (tmp_path / "a" / f"{number}{suffix.upper()}").write_bytes(b"x")
        assert len(folder(tmp_path).samples) == len(IMAGE_SUFFIXES) + 1

    @pytest.mark.parametrize("name", ["猫と犬", "кошка", "å ä ö", "x" * 64, "名" * 64, "a'b\"c,d", "train2"])
    def test_names_of_any_script(self, tmp_path: Path, name: str) -> None:
        image_tree(tmp_path, {name: 1, "b": 1})
        assert set(folder(tmp_path).classes) == {name, "b"}

    def test_a_linked_class_folder(self, tmp_path: Path) -> None:
        image_tree(tmp_path / "far", {"dog": 2})
        image_tree(tmp_path / "root", {"cat": 1})
        (tmp_path / "root" / "dog").symlink_to(tmp_path / "far" / "dog")
        data = folder(tmp_path / "root")
        assert data.classes == ("cat", "dog")
        assert [s.id for s in data.samples if s.label == 1] == ["dog/000.png", "dog/001.png"]

    def test_a_loop_of_links_ends(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 1})
        (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
        assert len(folder(tmp_path).samples) == 2

    def test_a_link_to_nothing_is_unreadable(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 3, "b": 3})
        (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        splits = make_splits(folder(tmp_path), None, None, 0, 1)
        assert splits.unreadable == {"a/gone.png": "No such file or directory"}

    def test_a_named_pipe_is_left_out(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 3, "b": 3})
        os.mkfifo(tmp_path / "a" / "pipe.jpg")
        data = folder(tmp_path)
        assert data.excluded == (("a/pipe.jpg", "no regular file"),)
        assert len(data.samples) == 6

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image_tree(tmp_path / "pets", {"a": 1, "b": 1})
        monkeypatch.setenv("HOME", str(tmp_path))
        assert load_dataset("imagefolder:~/pets", NOWHERE).classes == ("a", "b")


class TestDividedFolder:
    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_three_splits(self, tmp_path: Path, val: str) -> None:
        image_tree(tmp_path, {f"{s}/{c}": 2 for s in ("train", val, "test") for c in ("a", "b")})
        data = folder(tmp_path)
        assert data.divided
        assert Counter(s.split for s in data.samples) == {"train": 4, "val": 4, "test": 4}
        assert data.samples[0].id == "test/a/000.png"
        assert all(data.classes[s.label] == s.id.split("/")[1] for s in data.samples)

    def test_only_training(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"train/a": 2, "train/b": 2})
        assert {s.split for s in folder(tmp_path).samples} == {"train"}

    def test_stray_files_in_every_split(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
        (tmp_path / "val" / "b" / "x.gif").write_bytes(b"?")
        (tmp_path / "train" / "list.csv").write_bytes(b"?")
        assert [path for path, _ in folder(tmp_path).excluded] == ["train/list.csv", "val/b/x.gif"]

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ({"val/zebra": 1}, r"val must be those of the training folder, .*only there: zebra"),
            ({"test/zebra": 1, "test/a": 1}, r"test must be .*only there: zebra; missing there: b"),
            ({"val/a": 1}, r"val must be .*\(missing there: b\); make the class folders the same"),
        ],
    )
    def test_other_classes_than_in_training(
        self, tmp_path: Path, counts: dict[str, int], message: str
    ) -> None:
        image_tree(tmp_path, {"train/a": 1, "train/b": 1, **counts})
        if "val/zebra" in counts:
            image_tree(tmp_path, {"val/a": 1, "val/b": 1}, 50)
        with pytest.raises(DataError, match=message):
            folder(tmp_path)

    def test_held_out_splits_alone_are_no_classes(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
        with pytest.raises(DataError, match=r"must hold train/, but .* holds only test, val; add train/"):
            folder(tmp_path)

    def test_a_class_may_be_called_test(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"control": 1, "test": 1})
        assert folder(tmp_path).classes == ("control", "test")


class TestFolderErrors:
    @pytest.mark.parametrize("name", ["missing", "file"])
    def test_no_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=rf"must name a folder, but \S+{name} is none; check the path"):
            folder(tmp_path / name)

    def test_one_class_in_all(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"only": 3})
        with pytest.raises(DataError, match=r"at least two class folders, but \S+ holds 1 \(only\)"):
            folder(tmp_path)

    def test_none(self, tmp_path: Path) -> None:
        photo(tmp_path / "a.png", 1)
        with pytest.raises(DataError, match=r"at least two class folders, but \S+ holds 0 \(none\)"):
            folder(tmp_path)

    @pytest.mark.parametrize("where", ["empty", "train/empty", "val/b"])
    def test_an_empty_class_folder(self, tmp_path: Path, where: str) -> None:
        counts = {"a": 1, "b": 1} if where == "empty" else {"train/a": 1, "train/b": 1, "val/a": 1}
        image_tree(tmp_path, {**counts, where: 0})
        with pytest.raises(DataError, match=rf"at least one image, but \S+/{where} holds none; add images"):
            folder(tmp_path)

    def test_a_class_folder_without_images(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 0})
        (tmp_path / "b" / "notes.txt").write_text("none yet")
        with pytest.raises(DataError, match="/b holds none"):
            folder(tmp_path)

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 1})
        os.rename(os.fsencode(tmp_path / "a" / "000.png"), os.fsencode(tmp_path / "a") + b"/caf\xe9.png")  # noqa: PTH104 - bytes
        with pytest.raises(DataError, match=r"valid UTF-8, but '.*a/caf\\udce9.png' is not; rename"):
            folder(tmp_path)


class TestDamagedImages:
    """Found when the images are decoded, before any training."""

    @pytest.mark.parametrize("decode", [decode_training, decode_evaluation])
    def test_every_one_is_listed(self, tmp_path: Path, decode: type[decode_training]) -> None:
        image_tree(tmp_path, {"a": 2, "b": 2})
        whole = photo(tmp_path / "whole.jpg", 1, 64, 64).read_bytes()
        (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "a" / "zero.jpg").write_bytes(b"")
        (tmp_path / "b" / "text.png").write_text("not a picture")
        with pytest.raises(BadImagesError) as caught:
            decode(folder(tmp_path).samples, 16, 2, lambda _: None)
        assert list(caught.value.reasons) == ["a/cut.jpg", "a/zero.jpg", "b/text.png"]
        assert "truncated" in caught.value.reasons["a/cut.jpg"]
        assert caught.value.reasons["b/text.png"] == "not an image"
        said = str(caught.value)
        assert "3" in said
        assert all(f"{name} ({reason})" in said for name, reason in caught.value.reasons.items())
        assert str(tmp_path) not in said


class TestHymenoptera:
    def test_as_it_lies(self) -> None:
        root = real_data("hymenoptera")
        data = folder(root)
        assert data.classes == ("ants", "bees")
        assert "train/ants/imageNotFound.gif" in [path for path, _ in data.excluded]
        splits = make_splits(data, None, None, 0, 2)
        assert splits.kind == "official"
        assert len(splits.val.samples) + len(splits.test.samples) == 153
        assert any("There is no test/" in note for note in splits.notes)


# Of a chain of redirects urllib leaves all answers but the last to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestFlowers:
    def test_the_official_counts(self) -> None:
        data = load_dataset("flowers102", real_data("flowers-102").parent)
        assert Counter(s.split for s in data.samples) == {"train": 1020, "val": 1020, "test": 6149}
        assert (len(data.classes), data.classes[0]) == (102, "pink primrose")
        assert {s.label for s in data.samples} == set(range(102))
        assert data.samples[0].id == "image_00001"
        assert data.divided

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("404", "the server answered HTTP Error 404"),
            ("500", "the server answered HTTP Error 500"),
            ("loop", "redirect"),
            ("stall", "timed out"),
            ("html", "corrupted"),
            ("cut", "corrupted"),
            ("refused", "no connection"),
        ],
    )
    def test_downloads_that_fail(
        self, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
    ) -> None:
        url = "http://127.0.0.1:9" if fault == "refused" else server.url
        monkeypatch.setattr(network, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(Flowers102, "_download_url_prefix", f"{url}/{fault}/")
        with pytest.raises(DataError) as caught:
            load_dataset("flowers102", tmp_path / "data")
        said = str(caught.value)
        assert reason in said
        assert said.startswith(
            f"Oxford Flowers-102, looked for in {tmp_path / 'data' / 'flowers-102'}, could"
        )
        assert "--data-root, or use --dataset digits" in said
        assert "\n" not in said
