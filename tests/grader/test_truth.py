"""Level 3: the truth, from a CSV and from Flowers-102's own files."""

import re
from pathlib import Path

import pytest

from grader.errors import UsageError
from grader.findings import Status
from grader.grade import Job, grade
from grader.policy import Policy, load_policy
from grader.truth import Truth, from_csv, from_flowers102
from tests.grader.honest import truth_of

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_flowers = pytest.mark.skipif(
    not (DATA / "flowers-102" / "setid.mat").exists(), reason=f"{DATA}/flowers-102/setid.mat is not there"
)


class TestCsv:
    def test_with_splits(self, tmp_path: Path) -> None:
        path = tmp_path / "truth.csv"
        path.write_text("sample_id,label,split\na,0,val\nb,1,test\nc,1,train\n")
        found = from_csv(path)
        assert found.labels == {"a": 0, "b": 1, "c": 1}
        assert found.splits == {"val": {"a"}, "test": {"b"}, "train": {"c"}}

    def test_without_splits(self, tmp_path: Path) -> None:
        path = tmp_path / "truth.csv"
        path.write_text("label,sample_id\n0,a\n")
        assert from_csv(path).splits is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id,label\na,0\n", "the header must contain sample_id and label."),
            ("sample_id,label\n", "no rows after the header."),
            ("sample_id,label\na,0\na,1\n", "line 3: each line must have a unique sample_id"),
            ("sample_id,label\na,rose\n", "line 2: each line must have a unique sample_id and a class index"),
            ("sample_id,label\na\n", "line 2: each line must have a unique sample_id and a class index"),
            (
                "sample_id,label,split\na,0,valid\n",
                "line 2: split must be train, val or test, found 'valid'.",
            ),
        ],
    )
    def test_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "truth.csv"
        path.write_text(text)
        with pytest.raises(UsageError, match=re.escape(message)):
            from_csv(path)

    def test_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "truth.csv"
        path.write_bytes(b"\xff\xff")
        with pytest.raises(UsageError, match="--labels cannot be read"):
            from_csv(path)


class TestFlowers:
    @needs_flowers
    def test_the_files_of_the_data_set(self) -> None:
        found = from_flowers102(DATA)
        assert len(found.labels) == 8189
        assert set(found.labels.values()) == set(range(102))
        assert found.splits is not None
        assert {name: len(ids) for name, ids in found.splits.items()} == {
            "train": 1020, "val": 1020, "test": 6149
        }  # fmt: skip
        # Image 1 is of class 77 in the data set's counting from 1, and a test image.
        assert found.labels["image_00001"] == 76
        assert "image_00001" in found.splits["test"]

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "flowers-102").mkdir()
        for name in ("imagelabels.mat", "setid.mat"):
            (tmp_path / "flowers-102" / name).write_bytes(b"no MATLAB file")
        with pytest.raises(UsageError, match="not a file of the data set"):
            from_flowers102(tmp_path)


class TestJudging:
    def test_level_three_is_reached_and_strict_is_content(self, honest: Path) -> None:
        found = grade(Job(honest, "x", load_policy("strict"), truth_of(honest)))
        assert found.levels == (1, 2, 3)
        assert not found.missing

    def test_labels_alone_say_nothing_about_splits(self, honest: Path, policy: Policy) -> None:
        truth = Truth(truth_of(honest).labels, None, "labels.csv")
        found = grade(Job(honest, "x", policy, truth)).findings
        assert found["true-labels"].status is Status.HOLDS
        assert found["true-splits"].status is Status.NOT_CHECKED

    def test_official_splits_bind_only_runs_that_use_them(self, honest: Path, policy: Policy) -> None:
        known = truth_of(honest)
        truth = Truth(known.labels, known.splits, "Flowers-102", is_official=True)
        found = grade(Job(honest, "x", policy, truth)).findings["true-splits"]
        assert found.status is Status.NOT_CHECKED
        assert "70-15-15" in found.summary

    def test_a_missing_sample_is_reported(self, honest: Path, policy: Policy) -> None:
        known = truth_of(honest)
        assert known.splits is not None
        splits = {**known.splits, "test": known.splits["test"] | {"another"}}
        found = grade(Job(honest, "x", policy, Truth(known.labels, splits, "truth.csv"))).findings
        assert found["true-splits"].status is Status.FAILS
        assert found["true-splits"].summary.startswith("A-seed0, test: 'another' is missing.")
