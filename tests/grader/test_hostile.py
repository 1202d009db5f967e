"""What a stranger may put into a run folder: each gets a sentence and exit code 2."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grader.errors import UnusableError
from grader.evidence import gathered
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.reading.files import below
from grader.reading.strict_json import MAX_BYTES, parse
from grader.submission import predictions
from grader.submission.load import load
from grader.submission.predictions import HEADER_1, Predictions, parse_predictions
from tests.grader.forgeries import Forger

HEADER = b"sample_id,label,predicted,nll\n"
GOOD = HEADER + b'a,0,0,0.5\n"b,c",1,0,1.5\n'


def parse_four(content: bytes, shown: str, counts: list[int], n_classes: int) -> Predictions:
    """Parse a file with the four columns of schema version 1."""
    return parse_predictions(content, shown, counts, n_classes, HEADER_1)


def problems_of(call: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(UnusableError) as raised:
        call()
    return raised.value.problems


class TestJson:
    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "f is not JSON: Expecting value at line 1, column 1."),
            (b"\xef\xbb\xbf{}", "f starts with a byte order mark; save it as UTF-8 without BOM."),
            (b"\xff\xfe{\x00", "f starts with a byte order mark; save it as UTF-8 without BOM."),
            (b'{"a": "\xe9"}', "f is not UTF-8: cannot decode byte 7."),
            (b'{\n"a": 1,\n}', "at line 3, column 1."),
            (b'{"a": {"b": NaN}}', "f: $.a.b: NaN is not a JSON number."),
            (b"[0, -Infinity]", "f: $[1]: -Infinity is not a JSON number."),
            (b'{"a": 1e999}', "f: $.a: number too large for a 64-bit float."),
            (b'{"a": 9223372036854775808}', "19 characters; the maximum is 2^63 − 1."),
            (b"1" * 5000, "f: $: integer of 5000 characters; the maximum is 2^63 − 1."),
            (b'{"x": {"a": 1, "a": 2}}', "f: $.x: duplicate key 'a'."),
            (b'{"a": "\\ud800"}', "f: $.a: string contains a lone surrogate, which is not valid Unicode."),
            (b'{"\\ud800": 1}', "f: $: key contains a lone surrogate, which is not valid Unicode."),
            (b"[" * 100_000, "f is nested deeper than 32 levels."),
            (b"[" * 40 + b"]" * 40, "nested deeper than 32 levels."),
            (b"[" + b"0," * 200_000 + b"0]", "f has more than 100,000 values."),
        ],
    )  # fmt: skip
    def test_is_refused(self, content: bytes, problem: str) -> None:
        (found,) = problems_of(lambda: parse(content, "f"))
        assert found.endswith(problem)

    def test_all_problems_are_reported_together(self) -> None:
        assert len(problems_of(lambda: parse(b"[NaN, 1e999, Infinity]", "f"))) == 3

    def test_many_keys_with_a_duplicate_take_no_time(self) -> None:
        keys = ",".join(f'"{number}":0' for number in [*range(99_000), 98_999])
        start = time.process_time()
        (found,) = problems_of(lambda: parse(f"{{{keys}}}".encode(), "f"))
        assert found == "f: $: duplicate key '98999'."
        assert time.process_time() - start < 2

    def test_a_path_that_names_hostile_keys_stays_printable(self) -> None:
        (found,) = problems_of(lambda: parse(b'{"\\u001b[31m": NaN}', "f"))
        assert found.isprintable()


class TestFiles:
    def test_a_fifo(self, tmp_path: Path, policy: Policy) -> None:
        os.mkfifo(tmp_path / "results.json")
        start = time.monotonic()
        found = grade(Job(tmp_path, "x", policy))
        assert found.problems[0].endswith("results.json is not a regular file.")
        assert time.monotonic() - start < 1

    def test_a_fifo_in_place_of_predictions(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        path = forger.path("A", "val")
        path.unlink()
        os.mkfifo(path)
        found = grade(Job(forger.folder, "x", policy))
        assert found.problems == ("predictions/A-seed0-val.csv is not a regular file.",)

    def test_a_folder_in_place_of_predictions(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        forger.path("A", "val").unlink()
        forger.path("A", "val").mkdir()
        assert grade(Job(forger.folder, "x", policy)).exit_code == 2

    def test_a_link_to_results_elsewhere(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        (tmp_path / "results.json").symlink_to(honest / "results.json")
        assert "is a symbolic link" in grade(Job(tmp_path, "x", policy)).problems[0]

    def test_a_link_in_place_of_the_folder(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        (forger.folder / "predictions").rename(tmp_path / "elsewhere")
        (forger.folder / "predictions").symlink_to(tmp_path / "elsewhere")
        found = grade(Job(forger.folder, "x", policy))
        assert found.exit_code == 2
        assert all("passes through a symbolic link" in problem for problem in found.problems)

    def test_a_large_file_is_not_read(self, tmp_path: Path, policy: Policy) -> None:
        with (tmp_path / "results.json").open("wb") as file:
            file.truncate(50 * 1024**3)  # sparse: 50 GiB that take no room
        start = time.monotonic()
        found = grade(Job(tmp_path, "x", policy))
        assert f"the limit is {MAX_BYTES:,}" in found.problems[0]
        assert time.monotonic() - start < 1

    def test_gigabyte_predictions_are_not_read(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        with forger.path("B", "test").open("wb") as file:
            file.truncate(2 * 1024**3)
        found = grade(Job(forger.folder, "x", policy))
        assert found.problems[0].startswith("predictions/B-seed0-test.csv has 2,147,483,648 bytes;")

    @pytest.mark.parametrize("path", ["/etc/passwd", "../a", "a/../../b", "C:/a", "\\\\host\\a", "", "a\0b"])
    def test_paths_that_leave_the_folder(self, tmp_path: Path, path: str) -> None:
        (found,) = problems_of(lambda: below(tmp_path, path, "here"))
        assert "must be a path inside the run folder" in found

    def test_a_name_that_is_too_long(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        forger.run("A")["artifacts"]["val_predictions"]["path"] = f"predictions/{'a' * 300}.csv"
        forger.save()
        (found,) = grade(Job(forger.folder, "x", policy)).problems
        assert found.endswith("File name too long.")
        (found,) = grade(Job(tmp_path / ("b" * 300), "x", policy)).problems
        assert found.endswith("File name too long.")

    def test_a_folder_that_may_not_be_entered(
        self, honest: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = Path.lstat

        def lstat(path: Path) -> os.stat_result:
            if path.parent.name == "predictions":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(Path, "lstat", lstat)
        found = grade(Job(honest, "x", policy)).problems
        assert len(found) == 12
        assert found[0] == "Cannot read predictions/A-seed0-val.csv: Permission denied."

    def test_one_file_named_by_many_runs_is_parsed_once(
        self, honest: Path, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forger = Forger(honest, tmp_path / "run")
        for run in forger.doc["runs"]:
            for split in ("val", "test"):
                artifact = run["artifacts"][f"{split}_predictions"]
                artifact.update(forger.run("A")["artifacts"]["test_predictions"])
        forger.save()
        parsed: list[str] = []
        real = predictions.parse_predictions

        def parse_one(content: bytes, shown: str, *rest: Any) -> predictions.Predictions:
            parsed.append(shown)
            return real(content, shown, *rest)

        monkeypatch.setattr(predictions, "parse_predictions", parse_one)
        found = grade(Job(forger.folder, "x", policy))
        assert parsed == ["predictions/A-seed0-test.csv"]
        assert "distinct-runs" in found.refuted

    def test_predictions_are_limited_in_total(
        self, honest: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gathered, "MAX_TOTAL_CSV_BYTES", 20_000)
        (found,) = grade(Job(honest, "x", policy)).problems
        assert found.endswith("the prediction files have more than 20,000 bytes in total.")

    def test_an_unreadable_name(self, policy: Policy) -> None:
        assert grade(Job(Path("a\0b"), "x", policy)).exit_code == 2


class TestSchema:
    def test_every_problem_is_reported(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        for run in forger.doc["runs"]:
            run["seed"] = -1
            run["bonus"] = 1
            del run["init"]
        forger.save()
        found = problems_of(lambda: load(forger.folder))
        assert len(found) == 3 * len(forger.doc["runs"])
        assert "results.json: $.runs[0].seed: must be an integer (at least 0), found -1." in found
        assert "results.json: $.runs[0]: 'init' is missing." in found
        unknown = "results.json: $.runs[0]: unknown key 'bonus'; valid keys are variant, seed, "
        assert any(problem.startswith(unknown) for problem in found)

    def test_a_long_list_of_mixed_types_takes_no_time(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        forger.doc["config"]["seeds"] = [x for i in range(20_000) for x in (i, str(i), [i])]
        forger.save()
        start = time.process_time()
        found = problems_of(lambda: load(forger.folder))
        assert time.process_time() - start < 2
        assert len(found) == 1000  # where counting stops

    def test_variants_times_seeds_without_end(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        config = forger.doc["config"]
        config["variants"] += [config["variants"][0] | {"name": f"V{i}"} for i in range(1997)]
        config["seeds"] = list(range(40_000))
        forger.save()
        (found,) = problems_of(lambda: load(forger.folder))
        words = "config asks for 2,000 variants with 40,000 seeds each; at most 10,000 runs are judged."
        assert found == f"results.json: {words}"

    @pytest.mark.parametrize("value", [5.0, True, "5", None, [5]])
    def test_what_is_no_integer(self, honest: Path, tmp_path: Path, value: object) -> None:
        forger = Forger(honest, tmp_path / "run")
        forger.best("A")["test"]["n_correct"] = value
        forger.save()
        (found,) = problems_of(lambda: load(forger.folder))
        assert "n_correct: must be an integer" in found

    @pytest.mark.parametrize(
        ("field", "value"),
        [("created_at", "2026-11-23T10:00:00Z\n"), ("created_at", "\u0662026-11-23T10:00:00Z")],
    )
    def test_a_pattern_holds_for_the_whole_text_in_ascii(
        self, honest: Path, tmp_path: Path, field: str, value: str
    ) -> None:
        forger = Forger(honest, tmp_path / "run")
        forger.doc[field] = value
        forger.save()
        (found,) = problems_of(lambda: load(forger.folder))
        assert f"$.{field}: must match " in found

    def test_the_smallest_times_there_are(self, honest: Path, tmp_path: Path, policy: Policy) -> None:
        forger = Forger(honest, tmp_path / "run")
        for run in forger.doc["runs"]:
            for epoch in run["epochs"]:
                epoch.update(train_seconds=5e-324, data_wait_seconds=0.0)
        forger.save()
        found = grade(Job(forger.folder, "x", policy))
        assert (found.problems, found.exit_code) == ((), 1)

    def test_a_results_file_that_is_a_list(self, tmp_path: Path) -> None:
        (tmp_path / "results.json").write_text(json.dumps([1, 2]))
        assert problems_of(lambda: load(tmp_path)) == ("results.json: $: must be an object, found [1, 2].",)


class TestCsv:
    def test_quoted_names_are_read(self) -> None:
        found = parse_four(GOOD, "f", [2], 10)
        assert found.sample_ids == ("a", "b,c")
        assert found.nll.tolist() == [0.5, 1.5]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "f, line 0: expected 2 rows according to results.json, found 0."),
            (b"\xef\xbb\xbf" + GOOD, "f, line 1: byte order mark; save it as UTF-8 without BOM."),
            (GOOD.replace(b"a,", b"\xff,"), "f, line 2: not UTF-8."),
            (GOOD.replace(b"sample_id", b"id"), "line 1: the header must be sample_id,label,predicted,nll."),
            (HEADER + b"a,0,0,1\n", "f, line 2: expected 2 rows according to results.json, found 1."),
            (GOOD + b"d,0,0,1\n", "f, line 4: expected 2 rows according to results.json, found 3."),
            (HEADER + b"a,0,0\nb,0,0,1\n", "f, line 2: expected 4 columns, found 3."),
            (HEADER + b"a" + b"," * 8000 + b"\nb,0,0,1\n", "f, line 2: expected 4 columns, found 8001."),
            (HEADER + b"a" + b"," * 10**6 + b"\nb,0,0,1\n", "2: 1,000,001 characters; the limit is"),
            (HEADER + b'"a,0,0,1\nb",0,0,1\n', "f: a quoted cell contains a line break."),
            (HEADER + b'"a"x,0,0,1\nb,0,0,1\n', "f, line 2: not CSV: ',' expected after '\"'."),
            (HEADER + b"a,0,0,1\na,0,0,1\n", "f, line 3: sample_id 'a' is a duplicate of line 2."),
            (HEADER + b",0,0,1\na,0,0,1\n", "f, line 2: sample_id '' must have 1 to 4096 characters."),
            (HEADER + b"a\x00,0,0,1\nb,0,0,1\n", "sample_id 'a\\x00' contains a control character."),
            (HEADER + b"=1+1,0,0,1\nb,0,0,1\n", "'=1+1' would be run as a formula by a spreadsheet."),
            (HEADER + b"@SUM(A1),0,0,1\nb,0,0,1\n", "would be run as a formula by a spreadsheet."),
            (HEADER + b"-2+3+cmd|x,0,0,1\nb,0,0,1\n", "would be run as a formula by a spreadsheet."),
            (HEADER + b"a,10,0,1\nb,0,0,1\n", "line 2: must be below 10 (the number of classes), found 10."),
            (HEADER + b"a,0,-1,1\nb,0,0,1\n", "column predicted, line 2: must be a class index, found '-1'."),
            (HEADER + b"a,0,1_0,1\nb,0,0,1\n", "predicted, line 2: must be a class index, found '1_0'."),
            (HEADER + "a,0,\u0661,1\nb,0,0,1\n".encode(), "must be a class index, found '\u0661'."),
            (HEADER + b"a,0,0,nan\nb,0,0,1\n", "nll, line 2: must be a decimal number, found 'nan'."),
            (HEADER + b"a,0,0,-0.5\nb,0,0,1\n", "f, line 2: nll must be at least 0, found -0.5."),
            (HEADER + b"a,0,0,1e999\nb,0,0,1\n", "f, line 2: nll must be at least 0, found 1e999."),
        ],
    )  # fmt: skip
    def test_is_refused(self, content: bytes, problem: str) -> None:
        (found,) = problems_of(lambda: parse_four(content, "f", [2], 10))
        assert found.endswith(problem) or problem in found

    def test_line_ends_of_windows_are_read(self) -> None:
        # The hash has noticed; the rows are still the rows.
        content = HEADER.replace(b"\n", b"\r\n") + b"a,0,0,1\r\n"
        assert parse_four(content, "f", [1], 2).nll.tolist() == [1.0]

    def test_class_folders_may_start_with_a_sign(self) -> None:
        content = HEADER + b"+1/a.jpg,0,0,1\n-1/a.jpg,1,0,1\n"
        assert parse_four(content, "f", [2], 2).sample_ids == ("+1/a.jpg", "-1/a.jpg")

    def test_every_bad_cell_is_reported(self) -> None:
        content = HEADER + b"a,x,0,1\nb,0,y,1\n"
        assert len(problems_of(lambda: parse_four(content, "f", [2], 10))) == 2

    @pytest.mark.parametrize("cell", ["0", "-0.1", "1.01", "nan", "", "1e999"])
    def test_a_confidence_that_is_no_probability(self, cell: str) -> None:
        content = f"sample_id,label,predicted,nll,confidence\na,0,0,1,{cell}\n".encode()
        (found,) = problems_of(lambda: parse_predictions(content, "f", [1], 10))
        assert "confidence" in found
        assert "line 2" in found


def test_problems_of_all_files_are_reported_together(honest: Path, tmp_path: Path, policy: Policy) -> None:
    forger = Forger(honest, tmp_path / "run")
    for variant in "ABC":
        forger.write(variant, "test", b"nothing")
    forger.save()
    found = grade(Job(forger.folder, "x", policy))
    assert len(found.problems) == 3
    assert [problem.partition(",")[0] for problem in found.problems] == [
        f"predictions/{variant}-seed0-test.csv" for variant in "ABC"
    ]
