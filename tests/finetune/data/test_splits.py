"""Training, validation and test splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from finetune.data.datasets import Dataset, Sample
from finetune.data.splits import (
    Splits,
    _sizes_85_15,
    _sizes_half,
    content_hashes,
    make_splits,
    sizes_by_shares,
    summary_lines,
)
from finetune.errors import DataError
from tests.builders.images import fingerprints

# fmt: off
FLOWERS = [
    40, 60, 40, 56, 65, 45, 40, 85, 46, 45, 87, 87, 49, 48, 49, 41, 85, 82, 49, 56, 40, 59, 91, 42,
    41, 41, 40, 66, 78, 85, 52, 45, 46, 40, 43, 75, 108, 56, 41, 67, 127, 59, 130, 93, 40, 196, 67,
    71, 49, 92, 258, 85, 93, 61, 71, 109, 67, 114, 67, 109, 50, 55, 54, 52, 102, 61, 42, 54, 54, 62,
    78, 96, 194, 171, 120, 107, 251, 137, 41, 105, 166, 112, 131, 86, 63, 58, 63, 154, 184, 82, 76,
    66, 46, 162, 128, 91, 66, 82, 63, 49, 58, 48,
]
# fmt: on
"""How many photos each of the 102 flowers has in Flowers-102."""


def content(number: int) -> np.ndarray:
    return np.array([[number >> shift & 255 for shift in (0, 8, 16)]], dtype=np.uint8)


def dataset(rows: list[tuple[int, int, str | None]], classes: int | None = None, name: str = "x") -> Dataset:
    """Rows of (label, content, split); ids count up."""
    n = classes or 1 + max(label for label, _, _ in rows)
    samples = (Sample(f"s{i:05d}", label, content(c), split) for i, (label, c, split) in enumerate(rows))
    return Dataset(name=name, classes=tuple(f"class-{i}" for i in range(n)), samples=tuple(samples))


def counted(counts: list[int], split: str | None = None, first: int = 0) -> list[tuple[int, int, str | None]]:
    """Each class with that many different images."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [(label, first + number, split) for number, label in enumerate(labels)]


def parts(splits: Splits) -> dict[str, list[Sample]]:
    return {name: list(getattr(splits, name).samples) for name in ("train", "val", "test")}


def ids(splits: Splits) -> dict[str, list[str]]:
    return {name: [s.id for s in part] for name, part in parts(splits).items()}


def sizes(splits: Splits) -> tuple[int, ...]:
    return tuple(len(part) for part in parts(splits).values())


def assert_disjoint(splits: Splits) -> None:
    contents = {name: {s.read() for s in part} for name, part in parts(splits).items()}
    assert not contents["train"] & contents["val"]
    assert not contents["train"] & contents["test"]
    assert not contents["val"] & contents["test"]
    everything = [s.id for part in parts(splits).values() for s in part]
    assert len(everything) == len(set(everything))


class TestStratified:
    def test_the_sizes_of_the_assignment(self) -> None:
        assert sum(FLOWERS) == 8189
        splits = make_splits(dataset(counted(FLOWERS)), None, None, 0, 1)
        assert sizes(splits) == (5687, 1224, 1278)
        assert splits.kind == "70-15-15"
        assert splits.train.class_counts == tuple(n * 7 // 10 for n in FLOWERS)
        for i, n in enumerate(FLOWERS):
            counts = [s.class_counts[i] for s in (splits.train, splits.val, splits.test)]
            assert sum(counts) == n
            assert 0 <= counts[2] - counts[1] <= 1
        assert splits.notes == ()
        assert splits.excluded == ()

    @given(n=st.integers(3, 5000))
    def test_split_sizes_by_class_size(self, n: int) -> None:
        train, val, test = sizes_by_shares("70-15-15")(n)
        assert train + val + test == n
        assert train >= 1
        assert 1 <= val <= test <= val + 1
        assert n < 7 or 7 * n - 10 < 10 * train <= 7 * n

    @pytest.mark.parametrize(
        ("n", "expected"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (7, (4, 1, 2)), (10, (7, 1, 2))]
    )
    def test_small_classes(self, n: int, expected: tuple[int, int, int]) -> None:
        assert sizes_by_shares("70-15-15")(n) == expected

    @given(n=st.integers(-1, 5000))
    def test_the_default_is_the_split_of_earlier_versions(self, n: int) -> None:
        train = min(n * 7 // 10, n - 2)
        val = (n - train) // 2
        if n > 0:
            assert sizes_by_shares("70-15-15")(n) == (train, val, n - train - val)

    @given(n=st.integers(3, 5000), train=st.integers(1, 98), val=st.integers(1, 98))
    def test_shares_of_any_class(self, n: int, train: int, val: int) -> None:
        test = 100 - train - val
        if test < 1:
            return
        sizes = sizes_by_shares(f"{train}-{val}-{test}")(n)
        assert sum(sizes) == n
        assert min(sizes) >= 1
        if n >= 200:
            for size, share in zip(sizes, (train, val, test), strict=True):
                assert abs(size - n * share / 100) <= 2

    @pytest.mark.parametrize(
        ("kind", "n", "expected"),
        [
            ("80-10-10", 100, (80, 10, 10)),
            ("80-10-10", 15, (12, 1, 2)),
            ("60-20-20", 10, (6, 2, 2)),
            ("50-10-40", 20, (10, 2, 8)),
            ("98-1-1", 10, (8, 1, 1)),
            ("1-1-98", 10, (1, 1, 8)),
        ],
    )
    def test_shares(self, kind: str, n: int, expected: tuple[int, int, int]) -> None:
        splits = make_splits(dataset(counted([n, n])), kind, None, 0, 1)
        assert splits.kind == kind
        assert sizes(splits) == tuple(2 * size for size in expected)

    def test_shares_give_the_same_split_each_time(self) -> None:
        first, again, other = (
            make_splits(dataset(counted([40, 40])), "80-10-10", None, seed, 1) for seed in (0, 0, 1)
        )
        assert fingerprints(first) == fingerprints(again)
        assert set(fingerprints(first)).isdisjoint(fingerprints(other))

    @given(n=st.integers(1, 5000))
    def test_other_cuts(self, n: int) -> None:
        train, val, test = _sizes_85_15(n)
        assert (train + val, test) == (n, 0)
        assert val == max(1, round(0.15 * n))
        train, val, test = _sizes_half(n)
        assert (train, val + test) == (0, n)
        assert 0 <= test - val <= 1

    @pytest.mark.parametrize("n", [1, 2])
    def test_a_class_too_small_to_divide_is_named(self, n: int) -> None:
        with pytest.raises(
            DataError, match=r"the train split has none of: class-1; add images .at least three"
        ):
            make_splits(dataset(counted([5, n])), None, None, 0, 1)

    @given(
        rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=12, max_size=60),
        seed=st.integers(0, 9),
    )
    def test_byte_identical_images_share_a_split_even_across_classes(
        self, rows: list[tuple[int, int]], seed: int
    ) -> None:
        try:
            splits = make_splits(
                dataset([(label, c, None) for label, c in rows], 3), "70-15-15", None, seed, 1
            )
        except DataError:  # so many copies that a split is left empty
            return
        assert_disjoint(splits)
        assert sum(sizes(splits)) == len(rows)
        for part in parts(splits).values():
            assert [s.id for s in part] == sorted(s.id for s in part)

    def test_copies_with_different_labels_are_told(self) -> None:
        rows: list[tuple[int, int, str | None]] = [*counted([9, 9]), (1, 0, None), (1, 1, None), (0, 2, None)]
        (note,) = make_splits(dataset(rows), "70-15-15", None, 0, 1).notes
        assert (
            note
            == "2 images are in several classes, byte for byte; at most one of these labels can be right."
        )
        assert make_splits(dataset(counted([9, 9])), "70-15-15", None, 0, 1).notes == ()

    def test_official_is_refused_where_there_is_none(self) -> None:
        with pytest.raises(
            DataError,
            match="--split official requires a data set with predefined splits, but digits has none",
        ):
            make_splits(dataset(counted([5, 5]), name="digits"), "official", None, 0, 1)

    def test_seed_decides(self) -> None:
        data = dataset(counted([40, 40]))
        first, again, other = (make_splits(data, None, None, seed, 1) for seed in (0, 0, 1))
        assert first == again
        assert ids(first)["test"] != ids(other)["test"]
        assert sizes(first) == sizes(other)

    def test_workers_do_not(self) -> None:
        data = dataset(counted([40, 40]))
        assert make_splits(data, None, 5, 3, 1) == make_splits(data, None, 5, 3, 4)

    def test_neither_order_nor_names_of_files_matter(self) -> None:
        rows = counted([10, 10])
        data = dataset(rows)
        contents = {s.id: s.read() for s in data.samples}
        backwards = dataset(rows[::-1])
        there = {s.id: s.read() for s in backwards.samples}
        one, two = make_splits(data, None, None, 0, 1), make_splits(backwards, None, None, 0, 1)
        for name in ("train", "val", "test"):
            assert {contents[i] for i in ids(one)[name]} == {there[i] for i in ids(two)[name]}


class TestOfficial:
    def test_as_it_comes(self) -> None:
        rows = counted([4, 4], "train") + counted([2, 2], "val", 100) + counted([3, 3], "test", 200)
        splits = make_splits(dataset(rows), "official", None, 0, 1)
        assert sizes(splits) == (8, 4, 6)
        assert all(s.split == name for name, part in parts(splits).items() for s in part)
        assert (splits.kind, splits.notes) == ("official", ())

    def test_default_for_an_image_folder_with_splits_but_not_for_flowers(self) -> None:
        rows = counted([6, 6], "train") + counted([2, 2], "val", 100) + counted([3, 3], "test", 200)
        assert make_splits(dataset(rows, name="imagefolder"), None, None, 0, 1).kind == "official"
        assert make_splits(dataset(rows, name="flowers102"), None, None, 0, 1).kind == "70-15-15"
        assert make_splits(dataset(counted([5, 5]), name="imagefolder"), None, None, 0, 1).kind == "70-15-15"

    def test_predefined_splits_can_be_pooled(self) -> None:
        rows = counted([10, 10], "train") + counted([5, 5], "val", 100) + counted([5, 5], "test", 200)
        splits = make_splits(dataset(rows), "70-15-15", None, 0, 1)
        assert sizes(splits) == (28, 6, 6)

    def test_no_validation(self) -> None:
        rows = counted([20, 20], "train") + counted([3, 3], "test", 200)
        splits = make_splits(dataset(rows), "official", None, 0, 1)
        assert sizes(splits) == (34, 6, 6)
        assert splits.val.class_counts == (3, 3)
        assert all(s.split == "train" for s in parts(splits)["val"])
        assert splits.notes == (
            "No validation folder: using 15% of the training images, stratified by class.",
        )

    def test_no_test(self) -> None:
        rows = counted([6, 6], "train") + counted([4, 5], "val", 100)
        splits = make_splits(dataset(rows), "official", None, 0, 1)
        assert sizes(splits) == (12, 4, 5)
        assert all(s.split == "val" for s in parts(splits)["test"] + parts(splits)["val"])
        assert splits.notes == ("No test folder: using half of the validation images, stratified by class.",)

    def test_neither(self) -> None:
        splits = make_splits(dataset(counted([20, 20], "train")), "official", None, 0, 1)
        assert sizes(splits) == (28, 6, 6)
        assert splits.notes == (
            "No validation or test folder: using 15% of the training images for each, stratified by class.",
        )

    def test_copies_leave_training_first(self) -> None:
        rows = [
            *counted([3, 3], "train"),
            *counted([2, 2], "val", 100),
            *counted([2, 2], "test", 200),
            (0, 100, "train"),  # also in val
            (1, 200, "train"),  # also in test, and of another class
            (0, 201, "val"),  # also in test
        ]
        splits = make_splits(dataset(rows), "official", None, 0, 1)
        assert sizes(splits) == (6, 4, 4)
        assert_disjoint(splits)
        assert sorted(splits.excluded) == [
            ("s00014", "identical to an image in the val split"),
            ("s00015", "identical to an image in the test split"),
            ("s00016", "identical to an image in the test split"),
        ]
        assert splits.notes == (
            "1 image is in several classes, byte for byte; at most one of these labels can be right.",
            "1 image excluded from the val split: identical to held-out images.",
            "2 images excluded from the train split: identical to held-out images.",
        )

    def test_copies_within_a_split_stay(self) -> None:
        rows = [
            (0, 1, "train"),
            (0, 1, "train"),
            (1, 2, "train"),
            (0, 3, "val"),
            (1, 4, "val"),
            (1, 5, "test"),
            (0, 6, "test"),
        ]
        assert sizes(make_splits(dataset(rows), "official", None, 0, 1)) == (3, 2, 2)

    @given(
        rows=st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, 30), st.sampled_from(["train", "val", "test"])),
            min_size=10,
            max_size=50,
        )
    )
    def test_never_a_shared_image(self, rows: list[tuple[int, int, str | None]]) -> None:
        try:
            splits = make_splits(dataset(rows, 2), "official", None, 0, 1)
        except DataError:
            return
        assert_disjoint(splits)
        assert sum(sizes(splits)) + len(splits.excluded) == len(rows)

    def test_a_split_left_empty(self) -> None:
        rows = [*counted([2, 2], "train"), *counted([1, 1], "test", 50), (0, 50, "val"), (1, 51, "val")]
        with pytest.raises(DataError, match="the val split has none of: class-0, class-1"):
            make_splits(dataset(rows), "official", None, 0, 1)


class TestSubset:
    def test_at_most_so_many_of_a_class_in_each_split(self) -> None:
        whole = make_splits(dataset(counted([40, 12, 3])), None, None, 0, 1)
        splits = make_splits(dataset(counted([40, 12, 3])), None, 2, 0, 1)
        assert splits.train.class_counts == (2, 2, 1)
        assert splits.val.class_counts == (2, 2, 1)
        assert splits.test.class_counts == (2, 2, 1)
        for name in ("train", "val", "test"):
            assert set(ids(splits)[name]) <= set(ids(whole)[name])

    def test_the_seed_chooses(self) -> None:
        rows = counted([30, 30], "train") + counted([30, 30], "val", 100) + counted([30, 30], "test", 200)
        chosen = [ids(make_splits(dataset(rows), "official", 3, seed, 1)) for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1]
        assert chosen[0]["train"] != chosen[2]["train"]

    def test_a_larger_subset_holds_the_smaller(self) -> None:
        data = dataset(counted([40, 40]))
        small, large = (ids(make_splits(data, None, n, 0, 1)) for n in (3, 6))
        assert all(set(small[name]) <= set(large[name]) for name in small)


class TestFingerprint:
    def base(self) -> list[tuple[int, int, str | None]]:
        return counted([6, 6], "train") + counted([2, 2], "val", 100) + counted([2, 2], "test", 200)

    def prints(self, data: Dataset) -> tuple[str, str, str]:
        splits = make_splits(data, "official", None, 0, 1)
        return splits.train.fingerprint, splits.val.fingerprint, splits.test.fingerprint

    def test_form(self) -> None:
        prints = self.prints(dataset(self.base()))
        assert len(set(prints)) == 3
        assert all(len(p) == 64 and set(p) <= set("0123456789abcdef") for p in prints)

    def test_a_byte_a_label_and_an_id_change_it_and_only_it(self) -> None:
        before = self.prints(dataset(self.base()))
        byte, label = self.base(), self.base()
        byte[0] = (0, 999, "train")
        label[0] = (1, 0, "train")
        renamed = dataset(self.base())
        first = renamed.samples[0]
        renamed = Dataset(
            name="x",
            classes=renamed.classes,
            samples=(Sample("r00000", first.label, first.content, first.split), *renamed.samples[1:]),
        )
        after = [self.prints(dataset(byte)), self.prints(dataset(label)), self.prints(renamed)]
        assert len({before[0], *(a[0] for a in after)}) == 4
        assert all(a[1:] == before[1:] for a in after)

    def test_the_order_of_samples_does_not(self) -> None:
        data = dataset(self.base())
        shuffled = Dataset(name="x", classes=data.classes, samples=data.samples[::-1])
        assert self.prints(data) == self.prints(shuffled)


class TestContentHashes:
    def test_files_that_cannot_be_read_are_distinguished(self, tmp_path: Path) -> None:
        (tmp_path / "good").write_bytes(b"abc")
        samples = [
            Sample("good", 0, tmp_path / "good"),
            *(Sample(f"bad{i}", 0, tmp_path / f"bad{i}") for i in range(2)),
        ]
        hashes, unreadable = content_hashes(samples, 2)
        assert hashes["good"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert len(set(hashes.values())) == 3
        assert unreadable == dict.fromkeys(["bad0", "bad1"], "No such file or directory")

    def test_they_do_not_stop_the_division(self, tmp_path: Path) -> None:
        data = dataset(counted([5, 5]))
        first = data.samples[0]
        gone = Sample(first.id, first.label, tmp_path / "gone.png")
        data = Dataset(name="x", classes=data.classes, samples=(gone, *data.samples[1:]))
        splits = make_splits(data, None, None, 0, 1)
        assert sum(sizes(splits)) == 10
        assert list(splits.unreadable) == [first.id]


def test_class_counts_of_a_held_out_split_may_hold_a_zero() -> None:
    rows = [*counted([4, 4], "train"), (0, 100, "val"), (1, 200, "test")]
    splits = make_splits(dataset(rows), "official", None, 0, 1)
    assert splits.val.class_counts == (1, 0)
    assert Counter(s.label for s in splits.test.samples) == {1: 1}


class TestSummaryLines:
    def test_classes_and_sizes(self) -> None:
        n_samples = {"test": 1278, "train": 5687, "val": 1224}
        assert summary_lines(["ants", "bees"], n_samples, "70-15-15") == [
            "2 classes: ants, bees",
            "Splits: 5,687 train, 1,224 validation, 1,278 test images (70-15-15)",
        ]

    def test_many_classes_are_shortened(self) -> None:
        line, _ = summary_lines([f"c{i}" for i in range(102)], {"train": 1, "val": 1, "test": 1}, "official")
        assert line == "102 classes: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 92 more"
