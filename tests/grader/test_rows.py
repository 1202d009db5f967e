"""Rows beside A, B and C, splits by seed, and what the verdict says of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy, load_policy
from grader.grading.verdict import Grade
from tests.grader import honest as simulated
from tests.grader.honest import Size, commit, sha, write_run
from tests.grader.tuned import tune

Change = Callable[[dict[str, Any]], None]

LADDER: dict[str, tuple[str, Any]] = {
    "fc": ("pretrained", ["fc"]),
    "C": ("pretrained", ["layer4", "fc"]),
    "L3": ("pretrained", ["layer3", "layer4", "fc"]),
    "B": ("pretrained", "all"),
}


def graded(folder: Path, policy: Policy, change: Change | None = None) -> Grade:
    document = json.loads((folder / "results.json").read_text())
    if change is not None:
        change(document)
    commit(document)
    (folder / "results.json").write_text(json.dumps(document))
    found = grade(Job(folder, "run", policy))
    assert not found.problems, found.problems
    return found


def failing(found: Grade) -> list[str]:
    return [n for n, f in found.findings.items() if f.status is Status.FAILS and found.counts(n)] + [
        name for name in found.refuted if not found.counts(name)
    ]


def with_rows(
    monkeypatch: pytest.MonkeyPatch, folder: Path, rows: dict[str, Any], skill: dict[str, float], size: Size
) -> Path:
    monkeypatch.setattr(simulated, "VARIANTS", rows)
    monkeypatch.setattr(simulated, "SKILL", skill)
    monkeypatch.setattr(simulated, "EPOCH_SECONDS", dict.fromkeys(rows, 2.0) | {"C": 1.2})
    return write_run(folder, size)


def configured(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(v for v in document["config"]["variants"] if v["name"] == name)


class TestLongerScratch:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """A3 is an A of twelve epochs beside variants of four."""
        write_run(tmp_path / "long", Size(epochs=12))
        write_run(tmp_path / "run", Size())
        document, long = (
            json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "long")
        )
        row = next(r for r in long["runs"] if r["variant"] == "A")
        row = json.loads(json.dumps(row).replace("A-seed0", "A3-seed0"))
        row.update(variant="A3")
        row["budget"]["stream_sha256"] = sha("a longer stream")
        for path in (tmp_path / "long" / "predictions").glob("A-*"):
            path.rename(tmp_path / "run" / "predictions" / path.name.replace("A-", "A3-"))
        document["runs"].append(row)
        document["timings"]["total_seconds"] += row["total_seconds"]
        document["config"]["variants"].append(configured(document, "A") | {"name": "A3", "epochs": 12})
        row["artifacts"]["checkpoint"]["sha256"] = sha("another checkpoint")
        (tmp_path / "run" / "results.json").write_text(json.dumps(document))
        return tmp_path / "run"

    def test_gives_two_answers(self, run: Path, policy: Policy) -> None:
        found = graded(run, policy)
        # The simulation draws an A of the same seed in the same order, so that single figures may coincide.
        assert [name for name in failing(found) if name != "distinct-runs"] == []
        assert found.findings["b-beats-longer-a"].numbers
        answers = [sentence for sentence in found.verdict if "pretrained weights" in sentence]
        assert "at equal budget" in answers[0]
        assert "gets more epochs" in answers[1]
        assert "A3: 12 epochs" in found.findings["equal-budget"].summary

    def test_a_longer_row_that_was_not_configured_so(self, run: Path, policy: Policy) -> None:
        found = graded(run, policy, lambda document: configured(document, "A3").update(epochs=None))
        assert found.findings["epochs-in-order"].status is Status.FAILS


class TestLadder:
    @pytest.mark.parametrize(
        ("skill", "status", "words"),
        [
            ({"fc": 2.0, "C": 6.5, "L3": 6.5, "B": 6.5}, Status.HOLDS, "C suffices"),
            (
                {"fc": 2.0, "C": 3.0, "L3": 4.0, "B": 8.5},
                Status.INCONCLUSIVE,
                "only B, which trains the most layers, is shown",
            ),
        ],
    )
    def test_names_the_smallest(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        policy: Policy,
        skill: dict[str, float],
        status: Status,
        words: str,
    ) -> None:
        size = Size(n_test=6000, seeds=(0,))
        run = with_rows(monkeypatch, tmp_path / "run", LADDER, skill, size)

        def distinct(document: dict[str, Any]) -> None:
            for row in document["runs"]:
                if row["variant"] in ("fc", "L3"):
                    row["frozen_sha256_before"] = row["frozen_sha256_after"] = sha(row["variant"])

        found = graded(run, policy, distinct)
        finding = found.findings["smallest-sufficient"]
        assert finding.status is status, finding.details
        assert words in finding.summary
        assert finding.summary in found.verdict
        assert failing(found) == []
        # A is missing: not judged, and no failure.
        assert found.findings["roles"].status is Status.HOLDS
        assert "Not judged: A" in found.findings["roles"].summary
        assert found.findings["b-beats-a"].status is Status.NOT_CHECKED

    def test_three_rows_of_the_homework_are_no_ladder(self, honest: Path, policy: Policy) -> None:
        found = grade(Job(honest, "run", policy))
        assert found.findings["smallest-sufficient"].status is Status.NOT_CHECKED


def test_variants_under_other_names_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, policy: Policy
) -> None:
    rows: dict[str, Any] = {"scratch": ("random", "all"), "full": ("pretrained", "all")}
    run = with_rows(monkeypatch, tmp_path / "run", rows, {"scratch": 2.2, "full": 6.5}, Size())
    found = graded(run, policy)
    assert found.findings["roles"].status is Status.NOT_CHECKED
    assert found.findings["roles"].summary == "No variant is named A, B or C; found 'scratch', 'full'."
    assert failing(found) == []


class TestResplits:
    def resplit(self, document: dict[str, Any]) -> None:
        document["config"]["resplit"] = True
        entries = []
        for seed in document["config"]["seeds"]:
            splits = json.loads(json.dumps(document["dataset"]["splits"]))
            for name, split in splits.items():
                split["fingerprint"] = sha((seed, name))
            entries.append({"seed": seed, "splits": splits, "near_duplicates": None})
        document["dataset"].update(resplits=entries, splits=entries[0]["splits"])

    def test_each_seed_is_one_value(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run", Size(seeds=(0, 1, 2)))
        found = graded(tmp_path / "run", policy, self.resplit)
        assert failing(found) == []
        assert "3 splits, corrected resampled t" in found.findings["b-beats-a"].summary
        assert found.findings["b-beats-a"].status is Status.HOLDS
        assert any("over 3 splits" in sentence for sentence in found.verdict)

    @pytest.mark.parametrize("part", ["entry", "flag", "first"])
    def test_resplits_that_contradict_themselves(self, policy: Policy, tmp_path: Path, part: str) -> None:
        write_run(tmp_path / "run", Size(seeds=(0, 1)))

        def change(document: dict[str, Any]) -> None:
            self.resplit(document)
            if part == "entry":
                del document["dataset"]["resplits"][1]
            elif part == "flag":
                document["config"]["resplit"] = False
            else:
                document["dataset"]["splits"] = document["dataset"]["resplits"][1]["splits"]

        assert failing(graded(tmp_path / "run", policy, change)) == ["split-counts"]


class TestHead:
    def test_starts_elsewhere(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")

        def change(document: dict[str, Any]) -> None:
            configured(document, "B").update(head="C")
            next(r for r in document["runs"] if r["variant"] == "B")["initial_sha256"] = sha("with C's head")

        found = graded(tmp_path / "run", policy, change)
        assert found.findings["same-start"].status is Status.HOLDS
        assert found.findings["roles"].status is Status.FAILS  # such a B is no B

    def test_must_not_start_like_the_others(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        found = graded(tmp_path / "run", policy, lambda document: configured(document, "B").update(head="C"))
        assert found.findings["same-start"].status is Status.FAILS

    def test_comes_from_another_variant(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        found = graded(tmp_path / "run", policy, lambda document: configured(document, "B").update(head="Z"))
        assert found.findings["as-configured"].status is Status.FAILS


class TestVerdict:
    def test_an_artefact_is_said_first(self, smoke: Path, policy: Policy) -> None:
        found = grade(Job(smoke, "smoke", policy))
        assert found.verdict[0].startswith("Caution, an artefact: A-seed0")
        assert any("cannot be told from this A" in sentence for sentence in found.verdict)
        assert not any("pays:" in sentence for sentence in found.verdict)

    def test_reestimated_statistics_cannot_lag(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        found = graded(
            tmp_path / "run",
            policy,
            lambda document: document["config"]["recipe"].update(statistics="reestimated"),
        )
        assert found.findings["statistics-settled"].status is Status.HOLDS

    def test_no_choice_from_one_untuned_seed(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        text = " ".join(graded(tmp_path / "run", policy).sentences)
        assert "choose" not in text
        assert "--tune --seeds 3" in text
        assert "for these networks alone" in text

    def test_what_could_be_chance_is_no_choice_even_from_tuned_seeds(
        self, policy: Policy, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "run", Size(seeds=(0, 1, 2)))
        found = graded(tmp_path / "run", policy, tune)
        assert any("do not settle which is better" in sentence for sentence in found.verdict)
        assert found.advised is None
        assert any("the learning rate that its trials chose" in sentence for sentence in found.verdict)
        assert found.scope.is_settled

    def test_nothing_trained_earns_nothing(self, policy: Policy, tmp_path: Path) -> None:
        write_run(tmp_path / "run")

        def diverge(document: dict[str, Any]) -> None:
            for row in document["runs"]:
                row.update(status="failed", failure="loss became nan in epoch 1", epochs=[], best_epoch=None)
                row.update(artifacts=None, images_per_second=0)
                row["budget"].update(epochs=0, steps=1, images=64)

        found = graded(tmp_path / "run", policy, diverge)
        assert (found.passed, found.score) == (False, 0)
        assert found.sentences[0].startswith("No training completed")
        assert "lower --lr" in found.sentences[-1]
        assert found.findings["commitments-chain"].summary.startswith("No run completed an epoch")

    def test_a_variant_at_chance_is_named(
        self, monkeypatch: pytest.MonkeyPatch, policy: Policy, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(simulated, "SKILL", simulated.SKILL | {"A": -5.0})
        write_run(tmp_path / "run")
        assert (
            graded(tmp_path / "run", policy).verdict[0].startswith("Caution: A never became clearly better")
        )


class TestRequire:
    @pytest.mark.parametrize(
        ("required", "status"),
        [
            ({}, Status.NOT_CHECKED),
            ({"dataset": "imagefolder", "epochs": 4, "seeds": 2, "image_size": 32}, Status.HOLDS),
            ({"dataset": "flowers102"}, Status.FAILS),
            ({"epochs": 5}, Status.FAILS),
            ({"seeds": 3}, Status.FAILS),
            ({"image_size": 64}, Status.FAILS),
            ({"split": "official"}, Status.FAILS),
            ({"tuned": True}, Status.FAILS),
            ({"tuned": False}, Status.HOLDS),
            ({"whole": True}, Status.HOLDS),
        ],
    )
    def test_judges(self, honest: Path, policy: Policy, required: dict[str, Any], status: Status) -> None:
        demanding = replace(policy, thresholds=replace(policy.thresholds, require=required))
        assert grade(Job(honest, "run", demanding)).findings["as-required"].status is status

    def test_strict_requires_tuning(self, honest: Path) -> None:
        assert "as-required" in grade(Job(honest, "run", load_policy("strict"))).failing


class TestOfficialSplit:
    def shifted(self, document: dict[str, Any], variants: str, points: float) -> None:
        document["config"]["split"] = "official"
        for row in document["runs"]:
            if row["variant"] in variants:
                for epoch in row["epochs"]:
                    lost = round(points / 100 * epoch["test"]["n_samples"])
                    epoch["test"]["n_correct"] = max(0, epoch["test"]["n_correct"] - lost)
                    epoch["test"]["loss_sum"] += lost

    @pytest.mark.parametrize(("variants", "status"), [("ABC", Status.HOLDS), ("C", Status.FAILS)])
    def test_a_shift_of_all_runs_is_the_data_sets(
        self, policy: Policy, tmp_path: Path, variants: str, status: Status
    ) -> None:
        write_run(tmp_path / "run", Size(n_test=4000, n_val=4000))
        for path in (tmp_path / "run").glob("predictions/*"):
            path.unlink()
        found = graded(tmp_path / "run", policy, lambda document: self.shifted(document, variants, 15))
        assert found.findings["test-close-to-validation"].status is status
