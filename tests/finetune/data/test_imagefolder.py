"""Image folders: which subfolders are classes, which are splits, and which layouts are refused."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from finetune.data.datasets import Dataset, load_dataset
from finetune.data.formats import READ
from finetune.data.splits import make_splits
from finetune.errors import DataError
from tests.builders.images import image_tree, photo
from tests.machine import real_data

NOWHERE = Path("never-made")
TWO_CLASSES = ("a", "b")


def folder(root: Path) -> Dataset:
    return load_dataset(f"imagefolder:{root}", NOWHERE)


def in_each(*splits: str) -> dict[str, int]:
    """Two images of each of two classes in each of these folders."""
    return {f"{split}/{name}": 2 for split in splits for name in TWO_CLASSES}


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        folder(root)
    return str(caught.value).replace(str(root), "ROOT")


class TestClassFolders:
    def test_each_folder_is_a_class(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"dog": 2, "cat": 3, "dog/puppies/small": 1})
        data = folder(tmp_path)
        assert (data.name, data.classes, data.has_splits) == ("imagefolder", ("cat", "dog"), False)
        assert [(s.id, s.label) for s in data.samples] == [
            ("cat/000.png", 0),
            ("cat/001.png", 0),
            ("cat/002.png", 0),
            ("dog/000.png", 1),
            ("dog/001.png", 1),
            ("dog/puppies/small/000.png", 1),
        ]
        assert data.notes == ()

    def test_hidden_folders_are_not_classes(self, tmp_path: Path) -> None:
        image_tree(
            tmp_path, {"a": 1, "b": 1, ".ipynb_checkpoints": 1, "b/.ipynb_checkpoints": 1, "__MACOSX": 1}
        )
        data = folder(tmp_path)
        assert data.classes == ("a", "b")
        assert len(data.samples) == 2

    def test_other_files_are_counted_and_named(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 1})
        for name in ("README.md", "a/notes.txt", "a/cat.mp4", "b/Thumbs.db", "b/._000.png", "b/.DS_Store"):
            (tmp_path / name).write_bytes(b"?")
        data = folder(tmp_path)
        assert len(data.samples) == 2
        reasons = dict(data.excluded)
        assert list(reasons) == sorted(
            ["README.md", "a/cat.mp4", "a/notes.txt", "b/.DS_Store", "b/._000.png", "b/Thumbs.db"]
        )
        assert reasons["README.md"] == "not in a class folder"
        assert reasons["a/cat.mp4"].startswith("not an image: its suffix is none of .jpg")
        assert reasons["b/._000.png"] == "hidden"
        assert data.notes == (
            "6 files excluded: not an image of a class (2 hidden, 1 .md, 1 .mp4, 1 .txt, 1 .db).",
        )

    def test_suffixes_in_upper_case(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 0, "b": 1})
        for number, suffix in enumerate(READ):
            (tmp_path / "a" / f"{number}{suffix.upper()}").write_bytes(b"x")
        assert len(folder(tmp_path).samples) == len(READ) + 1

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

    def test_a_named_pipe_is_excluded(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 3, "b": 3})
        os.mkfifo(tmp_path / "a" / "pipe.jpg")
        data = folder(tmp_path)
        assert data.excluded == (("a/pipe.jpg", "not a regular file"),)
        assert len(data.samples) == 6

    def test_home_is_expanded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image_tree(tmp_path / "pets", {"a": 1, "b": 1})
        monkeypatch.setenv("HOME", str(tmp_path))
        assert load_dataset("imagefolder:~/pets", NOWHERE).classes == ("a", "b")


class TestSplitFolders:
    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_three_splits(self, tmp_path: Path, val: str) -> None:
        image_tree(tmp_path, {f"{s}/{c}": 2 for s in ("train", val, "test") for c in ("a", "b")})
        data = folder(tmp_path)
        assert data.has_splits
        assert Counter(s.split for s in data.samples) == {"train": 4, "val": 4, "test": 4}
        assert data.samples[0].id == "test/a/000.png"
        assert all(data.classes[s.label] == s.id.split("/")[1] for s in data.samples)

    def test_only_training(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"train/a": 2, "train/b": 2})
        assert {s.split for s in folder(tmp_path).samples} == {"train"}

    def test_stray_files_in_every_split(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1})
        (tmp_path / "val" / "b" / "x.txt").write_bytes(b"?")
        (tmp_path / "train" / "list.csv").write_bytes(b"?")
        assert [path for path, _ in folder(tmp_path).excluded] == ["train/list.csv", "val/b/x.txt"]

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            (
                {"val/zebra": 1},
                r"val differs from the training folder \(extra: zebra\); add or remove class folders",
            ),
            ({"test/zebra": 1, "test/a": 1}, r"test differs .*\(extra: zebra; missing: b\)"),
            ({"val/a": 1}, r"^All splits must have the same .*val differs .*\(missing: b\)"),
        ],
    )
    def test_different_classes_than_in_training(
        self, tmp_path: Path, counts: dict[str, int], message: str
    ) -> None:
        image_tree(tmp_path, {"train/a": 1, "train/b": 1, **counts})
        if "val/zebra" in counts:
            image_tree(tmp_path, {"val/a": 1, "val/b": 1}, 50)
        with pytest.raises(DataError, match=message):
            folder(tmp_path)

    @pytest.mark.parametrize(
        ("train", "val", "test"),
        [
            ("Train", "Val", "Test"),
            ("TRAINING", "VALIDATION", "TESTING"),
            ("training", "valid", "testing"),
            ("tRaIn", "Dev", "test"),
        ],
    )
    def test_other_names_and_capitals(self, tmp_path: Path, train: str, val: str, test: str) -> None:
        image_tree(tmp_path, in_each(train, val, test))
        data = folder(tmp_path)
        assert data.classes == TWO_CLASSES
        assert {(s.id.split("/")[0], s.split) for s in data.samples} == {
            (train, "train"),
            (val, "val"),
            (test, "test"),
        }

    def test_folders_without_images_beside_the_splits(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {**in_each("train", "test"), "empty": 0})
        (tmp_path / "annotations" / "deep").mkdir(parents=True)
        (tmp_path / "annotations" / "deep" / "boxes.csv").write_text("x")
        image_tree(tmp_path, {".cache/a": 1})
        assert folder(tmp_path).classes == TWO_CLASSES

    @pytest.mark.parametrize("train", ["train", "Training"])
    def test_a_single_file_among_them_changes_nothing(self, tmp_path: Path, train: str) -> None:
        image_tree(tmp_path, in_each(train, "test"))
        photo(tmp_path / "preview.png", 1000)
        photo(tmp_path / train / "preview.png", 1001)
        assert {s.split for s in folder(tmp_path).samples} == {"train", "test"}


class TestClassesNamedLikeSplits:
    @pytest.mark.parametrize(
        "classes", [("bus", "car", "train"), ("Train", "bus"), ("control", "test"), ("dev", "prod")]
    )
    def test_a_class_beside_others(self, tmp_path: Path, classes: tuple[str, ...]) -> None:
        image_tree(tmp_path, dict.fromkeys(classes, 2))
        data = folder(tmp_path)
        assert data.classes == classes
        assert not data.has_splits

    def test_hidden_folders_inside_do_not_make_it_a_split(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"train": 1, "bus": 1, "train/.ipynb_checkpoints": 1})
        assert folder(tmp_path).classes == ("bus", "train")

    def test_a_class_in_every_split(self, tmp_path: Path) -> None:
        image_tree(
            tmp_path, {f"{split}/{name}": 1 for split in ("train", "val") for name in ("bus", "train")}
        )
        assert folder(tmp_path).classes == ("bus", "train")


class TestAmbiguousFolders:
    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ({"train/a": 1, "train/b": 1, "test/a": 1, "cats": 1}, "test, train (split) and cats (class)"),
            ({"train": 1, "test": 1, "cats": 1}, "test, train (split) and cats (class)"),
            ({"train/steam": 1, "bus": 1, "car": 1}, "train (split) and bus, car (class)"),
            ({"Train/a": 1, "Train/b": 1, "eval/a": 1, "eval/b": 1}, "Train (split) and eval (class)"),
            ({"train": 1, "Training": 1, "bus": 1}, "Training, train (split) and bus (class)"),
        ],
    )
    def test_splits_beside_classes(self, tmp_path: Path, counts: dict[str, int], said: str) -> None:
        assert refusal(image_tree(tmp_path, counts)) == (
            "An image folder must contain either split folders or class folders, but ROOT contains both: "
            f"{said}; move the class folders into the split folders, or rename the folders that are not "
            "splits."
        )

    @pytest.mark.parametrize(
        ("split", "names"),
        [
            ("train", ("Training", "train")),
            ("val", ("dev", "val", "validation")),
            ("test", ("Testing", "test")),
        ],
    )
    def test_several_folders_for_one_split(self, tmp_path: Path, split: str, names: tuple[str, ...]) -> None:
        image_tree(tmp_path, in_each("train", *names))
        assert refusal(tmp_path) == (
            f"An image folder must contain one {split} folder, but ROOT contains {len(names)}: "
            f"{', '.join(names)}; merge them or rename all but one."
        )

    @pytest.mark.parametrize("names", [("test", "val"), ("TEST",), ("Testing", "dev")])
    def test_no_training_folder(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        assert refusal(image_tree(tmp_path, in_each(*names))) == (
            "An image folder with split folders must contain train/, but ROOT contains only "
            f"{', '.join(names)}; add train/, or give the folder whose subfolders are the classes."
        )

    def test_splits_without_class_folders(self, tmp_path: Path) -> None:
        said = refusal(image_tree(tmp_path, {"train": 3, "test": 3}))
        assert "at least two class folders, but ROOT/train contains 0 (none)" in said


class TestFolderErrors:
    @pytest.mark.parametrize("name", ["missing", "file"])
    def test_not_a_folder(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(
            DataError, match=rf"existing folder, but \S+{name} is none; .* put the folder back"
        ):
            folder(tmp_path / name)

    def test_a_single_class(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"only": 3})
        with pytest.raises(DataError, match=r"at least two class folders, but \S+ contains 1 \(only\)"):
            folder(tmp_path)

    def test_no_class(self, tmp_path: Path) -> None:
        photo(tmp_path / "a.png", 1)
        with pytest.raises(DataError, match=r"at least two class folders, but \S+ contains 0 \(none\)"):
            folder(tmp_path)

    @pytest.mark.parametrize("where", ["empty", "train/empty", "val/b"])
    def test_an_empty_class_folder(self, tmp_path: Path, where: str) -> None:
        counts = {"a": 1, "b": 1} if where == "empty" else {"train/a": 1, "train/b": 1, "val/a": 1}
        image_tree(tmp_path, {**counts, where: 0})
        with pytest.raises(
            DataError, match=rf"must contain an image, but \S+/{where} contains none; add images"
        ):
            folder(tmp_path)

    def test_a_class_folder_without_images(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"a": 1, "b": 0})
        (tmp_path / "b" / "notes.txt").write_text("none yet")
        with pytest.raises(DataError, match="/b contains none"):
            folder(tmp_path)

    @pytest.mark.parametrize("name", ["evil\x1b[31m.png", "line\nbreak.png", "tab\t.png"])
    def test_a_name_with_control_characters(self, tmp_path: Path, name: str) -> None:
        """Whichever split it would be in, and without showing the characters themselves."""
        image_tree(tmp_path, {"a": 1, "b": 1})
        (tmp_path / "a" / "000.png").rename(tmp_path / "a" / name)
        assert refusal(tmp_path) == (
            "Names of images and their folders must not contain line breaks or control characters, but "
            f"{f'a/{name}'!a} does; rename the file or its folder."
        )

    def test_a_name_that_is_not_utf8(self, tmp_path: Path) -> None:
        image_tree(tmp_path, {"ä": 1, "b": 1})
        os.rename(os.fsencode(tmp_path / "ä" / "000.png"), os.fsencode(tmp_path / "ä") + b"/caf\xe9.png")  # noqa: PTH104 - bytes
        with pytest.raises(DataError, match=r"valid UTF-8, but '.*ä/caf\\udce9.png' is not; rename"):
            folder(tmp_path)


class TestHymenoptera:
    def test_of_the_pytorch_tutorial(self) -> None:
        root = real_data("hymenoptera")
        data = folder(root)
        assert data.classes == ("ants", "bees")
        assert "train/ants/imageNotFound.gif" in [sample.id for sample in data.samples]
        splits = make_splits(data, None, None, 0, 2)
        assert splits.kind == "official"
        assert len(splits.val.samples) + len(splits.test.samples) == 153
        assert any(note.startswith("No test folder") for note in splits.notes)


class TestClothing:
    def test_a_folder_called_validation(self) -> None:
        data = folder(real_data("clothing"))
        assert Counter(s.split for s in data.samples) == {"train": 3068, "val": 341, "test": 372}
        assert len(data.classes) == 10
