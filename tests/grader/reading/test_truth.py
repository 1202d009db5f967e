"""Level 3: the truth, from a CSV and from Flowers-102's own files."""

import json
import re
from pathlib import Path

import pytest

from grader.errors import UnusableError, UsageError
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy, load_policy
from grader.reading.truth import Truth, from_csv, from_flowers102
from grader.submission.record import results_from
from tests.grader.honest import truth_of

DATA = Path(__file__).parents[4] / "shared" / "data"
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
            ("id,label\na,0\n", "the header must contain sample_id (or image) and label."),
            ("sample_id,label\n", "no rows after the header."),
            ("sample_id,label\na,0\na,1\n", "line 3: each line must have a unique sample_id"),
            ("image,label\na,rose\na,rose\n", "line 3: each line must have a unique image and a class"),
            ("sample_id,label\na\n", "line 2: each line must have a unique sample_id and a class, found"),
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

    def test_class_names(self, tmp_path: Path) -> None:
        path = tmp_path / "truth.csv"
        path.write_text("image,label\na,rose\nb,1\nc,oak\n")
        found = from_csv(path)
        assert (found.labels, found.splits) == ({}, None)
        assert found.among(["1", "oak", "rose"]).labels == {"a": 2, "b": 0, "c": 1}

    def test_whole_numbers_are_indices_whatever_the_classes_are_called(self, tmp_path: Path) -> None:
        path = tmp_path / "truth.csv"
        path.write_text("image,label\na,1\nb,0\n")
        assert from_csv(path).among(["1", "0"]).labels == {"a": 1, "b": 0}

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
    def test_names_are_those_of_the_runs_classes(self, honest: Path, policy: Policy) -> None:
        classes = results_from(json.loads((honest / "results.json").read_bytes())).classes
        known = truth_of(honest)
        names = {name: classes[label] for name, label in known.labels.items()}
        names["train-0"] = "x"  # a name, so that digits' classes 0 to 9 are not taken for indices
        with pytest.raises(UnusableError, match=r"but 'x' is not among its 10 classes, such as '0', '1', "):
            Truth({}, None, "truth.csv", names=names).among(classes)
        del names["train-0"]
        found = grade(Job(honest, "x", policy, Truth({}, None, "truth.csv", names=names))).findings
        assert found["true-labels"].status is Status.HOLDS
        swapped = {name: {"0": "1", "1": "0"}.get(of, of) for name, of in names.items()}
        found = grade(Job(honest, "x", policy, Truth({}, None, "truth.csv", names=swapped))).findings
        assert found["true-labels"].status is Status.FAILS

    def test_an_unknown_name_makes_one_run_unusable(self, honest: Path, policy: Policy) -> None:
        names = {str(i): f"plant {i}" for i in range(8)}
        found = grade(Job(honest, "x", policy, Truth({}, None, "truth.csv", names=names)))
        assert found.exit_code == 2
        assert found.problems == (
            "--labels truth.csv does not fit this submission: every label must be a class of the run, by "
            "name or index, but "
            "'plant 0', 'plant 1', 'plant 2', 'plant 3', 'plant 4' and 3 more are not among its 10 "
            "classes, such as '0', '1', '2', '3', '4'.",
        )

    def test_a_class_that_is_listed_twice(self) -> None:
        with pytest.raises(UnusableError, match="list a class twice"):
            Truth({}, None, "truth.csv", names={"a": "x"}).among(["x", "x"])

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
