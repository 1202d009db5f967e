"""The seed that a course prescribes, and the property that holds a run to it."""

import hashlib
import json
from pathlib import Path

import pytest

from grader.errors import UsageError
from grader.evidence.seeds import Prescription, require_nonce
from grader.findings import Finding, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from tests.grader.honest import Size, write_run


class TestFormula:
    def test_as_documented(self) -> None:
        digest = hashlib.sha256(b"spring:alice").digest()
        assert Prescription("spring", "alice").seed == int.from_bytes(digest[:8], "big") % (2**32 - 2**16)

    def test_every_student_has_another_one(self) -> None:
        seeds = {Prescription("spring", f"student-{i}").seed for i in range(1000)}
        assert len(seeds) == 1000
        assert max(seeds) < 2**32 - 2**16

    def test_one_name_however_it_is_written(self) -> None:
        assert Prescription("n", "Zoe\u0308 ") == Prescription("n", "Zo\u00eb")

    def test_an_id_may_contain_a_colon(self) -> None:
        assert Prescription.parse("n:a:b") == Prescription("n", "a:b")

    @pytest.mark.parametrize("text", ["", "alice", ":alice", "n:", "n: ", "n:\udcff", "n:a\nb"])
    def test_misuse(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"NONCE:STUDENT|must be a nonce"):
            Prescription.parse(text)

    @pytest.mark.parametrize("nonce", ["", " ", "a:b", "\udcff"])
    def test_a_nonce_is_a_word(self, nonce: str) -> None:
        with pytest.raises(UsageError, match="must be a nonce, a word without a colon"):
            require_nonce(nonce)


class TestProperty:
    def of(self, run: Path, policy: Policy, student: str = "alice") -> Finding:
        return grade(Job(run, "x", policy, prescription=Prescription("n", student))).findings[
            "seed-prescribed"
        ]

    def test_the_prescribed_seeds(self, tmp_path: Path, policy: Policy) -> None:
        first = Prescription("n", "alice").seed
        run = write_run(tmp_path / "run", Size(seeds=(first, first + 1), epochs=2, n_test=60))
        assert self.of(run, policy).status is Status.HOLDS
        found = grade(Job(run, "x", policy, prescription=Prescription("n", "bob")))
        assert found.refuted == ["seed-prescribed"]
        assert not found.passed
        assert found.sentences[-1].endswith("finetune train --seed-from NONCE:STUDENT.")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"split_seed": 7}, "prescribes split seed 0, but the run has 7."),
            ({"seed_from": "m:alice", "seeds": [3]}, "It was trained with --seed-from 'm:alice'."),
        ],
    )
    def test_another_seed(
        self, tmp_path: Path, policy: Policy, change: dict[str, object], words: str
    ) -> None:
        run = write_run(tmp_path / "run", Size(seeds=(Prescription("n", "alice").seed,), epochs=2, n_test=60))
        document = json.loads((run / "results.json").read_text())
        document["config"] |= change
        (run / "results.json").write_text(json.dumps(document))
        found = self.of(run, policy)
        assert found.status is Status.FAILS
        assert words in found.summary

    def test_nothing_was_prescribed(self, honest: Path, policy: Policy) -> None:
        assert grade(Job(honest, "x", policy)).findings["seed-prescribed"].status is Status.NOT_CHECKED
