"""What a consistent story betrays beyond forged files: checkpoints, starts, whole data sets."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks import PROPERTIES, judge
from grader.checks.schedule import mean_share
from grader.checks.whole_data import DIGITS, FLOWERS, whole_data
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Status
from grader.formats.text import to_text
from grader.grading.grade import Job, grade
from grader.grading.policy import BUNDLED, Policy, load_policy
from grader.isolated.rerun import Rerun
from grader.submission import checkpoints
from grader.submission.checkpoints import COUNTER, parse_checkpoint
from grader.submission.load import load
from grader.submission.parts import Split
from grader.submission.record import Results
from grader.submission.resnet18 import GROUPS, multiplications, state_shapes
from tests.grader.forgeries import SMOKE, Forger
from tests.grader.honest import Size, mean_rate, truth_of, write_run
from tests.grader.tensors import (
    State,
    as_safetensors,
    frozen_sha256,
    narrow_shapes,
    state_of,
    steps_of,
    write_checkpoint,
    write_checkpoints,
)


@pytest.fixture
def stored(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forger:
    """The honest run with checkpoints of a narrow network."""
    monkeypatch.setattr(checkpoints, "state_shapes", narrow_shapes)
    forger = Forger(honest, tmp_path / "run")
    write_checkpoints(forger.folder, forger.doc)
    return forger


def refuted(forger: Forger, policy: str = "default") -> dict[str, str]:
    """Integrity properties that fail, and why."""
    forger.save()
    found = grade(Job(forger.folder, "x", load_policy(policy)))
    assert not found.problems
    return {name: found.findings[name].summary for name in found.refuted}


def state(forger: Forger, variant: str, **changed: Any) -> State:
    run = forger.run(variant)
    return state_of(run | changed, steps_of(run, forger.doc))


class TestCheckpoints:
    def test_honest_ones(self, stored: Forger) -> None:
        stored.save()
        found = grade(Job(stored.folder, "x", load_policy("default"))).findings
        for name in ("checkpoints-intact", "checkpoint-tensors", "checkpoint-frozen", "checkpoint-steps"):
            assert (found[name].status, found[name].judged) == (Status.HOLDS, 6), found[name].summary

    def test_a_file_that_is_not_the_recorded_one_is_noticed_without_rerun(self, stored: Forger) -> None:
        (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).write_bytes(b"another")
        assert "does not match its recorded SHA-256" in refuted(stored)["checkpoints-intact"]

    def test_checkpoints_may_be_left_out(self, stored: Forger) -> None:
        (stored.folder / stored.run("B")["artifacts"]["checkpoint"]["path"]).unlink()
        assert refuted(stored) == {}

    @pytest.mark.parametrize("policy", BUNDLED)
    def test_c_trained_everywhere_and_its_frozen_hash_copied(self, stored: Forger, policy: str) -> None:
        """Without recomputing a prediction, and whatever the policy counts."""
        write_checkpoint(stored.folder, stored.run("C"), state(stored, "C", trained_groups=list(GROUPS)))
        assert list(refuted(stored, policy)) == ["checkpoint-frozen"]

    def test_b_that_trained_no_more_than_c(self, stored: Forger) -> None:
        write_checkpoint(stored.folder, stored.run("B"), state(stored, "B", trained_groups=["layer4", "fc"]))
        found = refuted(stored)
        assert found["checkpoint-frozen"].startswith(
            "B-seed0: conv1.weight is as in C-seed0, which froze it."
        )
        assert "checkpoint-steps" in found

    def test_one_network_stored_twice(self, stored: Forger) -> None:
        copied = state_of(stored.run("B", 1), steps_of(stored.run("B"), stored.doc))
        copied["fc.bias"] = copied["fc.bias"] + 1  # another file
        write_checkpoint(stored.folder, stored.run("B"), copied)
        assert "B-seed1: conv1.weight is the same as in B-seed0." in refuted(stored)["checkpoint-frozen"]

    def test_trained_on_more_images_than_recorded(self, stored: Forger) -> None:
        """Validation and test images, for example: 29 steps an epoch instead of 20."""
        for variant in "BC":
            run = stored.run(variant)
            write_checkpoint(stored.folder, run, state_of(run, run["best_epoch"] * 29))
        assert refuted(stored) == {
            "checkpoint-steps": "B-seed0: bn1 counted 116 steps, but 80 were recorded. (1 more)"
        }

    def test_steps_without_known_weights(self, stored: Forger) -> None:
        stored.doc["config"]["weights"] = "features.safetensors"
        stored.doc["weights"].update(kind="file", sha256="1" * 64, source="features.safetensors")
        assert refuted(stored) == {}
        run = stored.run("B")
        write_checkpoint(stored.folder, run, state_of(run, steps_of(run, stored.doc) + 3))
        assert refuted(stored) == {"checkpoint-steps": "B-seed0: bn1 counted 83 steps, but 80 were recorded."}

    def test_reestimated_statistics_count_anew(self, stored: Forger) -> None:
        """512 of 1,257 images in batches of 64."""
        stored.doc["config"]["recipe"]["statistics"] = "reestimated"
        why = "A-seed0: bn1 counted 80 steps, but re-estimation takes 8."
        assert refuted(stored)["checkpoint-steps"].startswith(why)
        for run in stored.doc["runs"]:
            found = state_of(run, steps_of(run, stored.doc))
            for name in found:
                if name.endswith(COUNTER) and name.partition(".")[0] in run["trained_groups"]:
                    found[name] = np.array(8, np.int64)
            write_checkpoint(stored.folder, run, found)
        assert refuted(stored) == {}

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("conv1.weight", None, "conv1.weight is missing."),
            ("extra\x1b", np.zeros(1, np.float32), "'extra\\x1b' is no tensor of ResNet-18."),
            ("fc.bias", np.zeros(3, np.float32), "fc.bias is F32 [3], but ResNet-18's is [2]."),
            ("fc.bias", np.zeros(2, np.int64), "fc.bias is I64 [2], but ResNet-18's is [2]."),
            ("fc.bias", np.array([0, np.nan], np.float32), "fc.bias has values that are not finite."),
        ],
    )
    def test_another_network(self, stored: Forger, name: str, value: Any, why: str) -> None:
        changed = state(stored, "A")
        changed |= {name: value}
        if value is None:
            del changed[name]
        write_checkpoint(stored.folder, stored.run("A"), changed)
        assert refuted(stored) == {"checkpoint-tensors": f"checkpoints/A-seed0.safetensors: {why}"}

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00" * 8,
            b"\xff" * 20,
            b"\x02" + b"\x00" * 7 + b"{}" + b"rest",
            b"\x02" + b"\x00" * 7 + b"[]",
            b"\x0a" + b"\x00" * 7 + b'{"a": [1]}',
            as_safetensors({"a": np.zeros(2, np.float32)})[:-1],
            as_safetensors({"a": np.zeros(2, np.float32)}).replace(b"[2]", b"[3]"),
            as_safetensors({"a": np.zeros(2, np.float32)}).replace(b"[0, 8]", b"[1, 8]"),
            as_safetensors({"a": np.zeros(2, np.float32)}).replace(b"[0, 8]", b'["0","8"]'),
        ],
    )
    def test_what_is_no_checkpoint(self, content: bytes) -> None:
        (problem,) = parse_checkpoint(content, "f", 10, GROUPS).problems
        assert problem.startswith("f is not a safetensors file: ")

    def test_a_diverged_network_may_have_infinite_statistics(self) -> None:
        shapes = state_shapes(2)
        values = {n: np.zeros(s, np.int64 if n.endswith(COUNTER) else np.float32) for n, s in shapes.items()}
        values["bn1.running_var"][0] = np.inf
        found = parse_checkpoint(as_safetensors(values), "f", 2, ("layer4", "fc"))
        assert not found.problems
        assert found.frozen_sha256 == frozen_sha256(values, ["layer4", "fc"])


def test_names_shapes_and_hashes_are_those_of_finetune() -> None:
    torch = pytest.importorskip("torch")
    network = pytest.importorskip("finetune.network.network")
    resnet18 = pytest.importorskip("finetune.network.resnet18")
    built = resnet18.resnet18(7, ("layer4", "fc"))
    assert {n: tuple(t.shape) for n, t in built.state_dict().items()} == state_shapes(7)
    values = {n: t.numpy() for n, t in built.state_dict().items()}
    found = parse_checkpoint(as_safetensors(values), "f", 7, ("layer4", "fc"))
    assert found.frozen_sha256 == built.frozen_sha256()
    assert network.fingerprint({}) == parse_checkpoint(as_safetensors(values), "f", 7, GROUPS).frozen_sha256
    assert torch.get_num_threads() > 0


class TestStarts:
    def evidence(self, results: Results, **environment: str) -> Evidence:
        """What an evaluation of the real run on the same machine finds."""
        found = {
            run.name: {
                "initial_sha256": run.initial_sha256,
                "frozen_sha256": run.frozen_sha256_before,
                "stream_sha256": run.budget.stream_sha256,
                "unchanged": [],
                "why": "",
            }
            for run in results.runs
        }
        rerun = Rerun({}, recomputed=found, environment={**results.environment, **environment})
        return Evidence(results, rerun=rerun)

    def test_as_recorded(self) -> None:
        found = judge(self.evidence(load(SMOKE).results))
        assert found["start-recomputed"].summary == "6 starts recomputed from seed and weights."
        assert found["stream-recomputed"].summary == "6 streams recomputed from seed and images."

    def test_those_that_could_not_be_computed_are_named(self) -> None:
        """Whoever calls other weights ImageNet's must not read that their start was confirmed."""
        evidence = self.evidence(load(SMOKE).results)
        assert evidence.rerun is not None
        for name, entry in evidence.rerun.recomputed.items():
            if name[0] in "BC":
                entry |= {"initial_sha256": None, "why": "No weights."}  # type: ignore[operator]
        summary = judge(evidence)["start-recomputed"].summary
        assert summary == (
            "2 starts recomputed from seed and weights. "
            "Not those of B-seed0, B-seed1, C-seed0 and C-seed1: No weights."
        )

    @pytest.mark.parametrize(
        ("changed", "name", "why"),
        [
            ({"initial_sha256": "0" * 64}, "start-recomputed", "C-seed1, start: seed and weights give "),
            ({"frozen_sha256_before": "0" * 64}, "start-recomputed", "C-seed1, frozen layers: seed and "),
            ({"stream_sha256": "0" * 64}, "stream-recomputed", "C-seed1: seed and recipe give the stream "),
        ],
    )
    def test_made_up(self, changed: dict[str, str], name: str, why: str) -> None:
        results = load(SMOKE).results
        *others, last = results.runs
        if "stream_sha256" in changed:
            changed = {"budget": dataclasses.replace(last.budget, **changed)}  # type: ignore[arg-type, dict-item]
        forged = dataclasses.replace(results, runs=(*others, dataclasses.replace(last, **changed)))  # type: ignore[arg-type]
        evidence = dataclasses.replace(self.evidence(results), results=forged)
        found = PROPERTIES[name].check(evidence)
        assert (found.status, found.judged - found.held) == (Status.FAILS, 1)
        assert found.summary.startswith(why)

    def test_a_kernel_that_never_changed(self) -> None:
        evidence = self.evidence(load(SMOKE).results)
        assert evidence.rerun is not None
        evidence.rerun.recomputed["A-seed0"]["unchanged"].extend(["conv1.weight", "fc.weight"])
        found = PROPERTIES["start-recomputed"].check(evidence)
        assert found.summary == "A-seed0: conv1.weight is still as it was at the start (1 more)."

    @pytest.mark.parametrize(
        ("name", "part"), [("start-recomputed", "torch"), ("stream-recomputed", "numpy")]
    )
    def test_another_version_may_differ(self, name: str, part: str) -> None:
        found = PROPERTIES[name].check(self.evidence(load(SMOKE).results, **{part: "0.1"}))
        assert (found.status, found.summary.startswith(f"Recorded with {part} ")) == (
            Status.NOT_CHECKED,
            True,
        )


class TestWholeData:
    def flowers(
        self, rule: str = "official", subset: int | None = None, drop: int = 0, excluded: int = 0
    ) -> Finding:
        """Flowers-102 as finetune divides it, with some test images dropped."""
        test = [n - 20 for n in FLOWERS]
        counts = {"train": [10] * 102, "val": [10] * 102, "test": test}
        for label in np.argsort(test)[::-1].tolist() * 100:
            if drop == 0:
                break
            test[label] -= 1
            drop -= 1
        if subset is not None:
            counts = {name: [min(subset, n) for n in found] for name, found in counts.items()}
        results = dataclasses.replace(
            load(SMOKE).results,
            dataset_name="flowers102",
            classes=tuple(map(str, range(102))),
            splits={name: Split(sum(n), tuple(n), name) for name, n in counts.items()},
            split_rule=rule,
            subset=subset,
            excluded=frozenset(f"image_{i:05d}" for i in range(excluded)),
        )
        return whole_data(Evidence(results))

    def test_the_whole(self) -> None:
        assert self.flowers().summary == "All 8,189 images of flowers102, less 0 excluded."
        assert self.flowers(drop=3, excluded=3).status is Status.HOLDS
        assert self.flowers(subset=20).status is Status.HOLDS

    @pytest.mark.parametrize(("drop", "status"), [(2, Status.HOLDS), (3, Status.FAILS), (17, Status.FAILS)])
    def test_exclusions_of_a_small_test_split(self, drop: int, status: Status) -> None:
        """Of 1,797 digits 17 may be excluded, but not all of them from the 272 test images."""
        train = [n * 70 // 100 for n in DIGITS]
        val = [(n - part) // 2 for n, part in zip(DIGITS, train, strict=True)]
        test = [n - a - b for n, a, b in zip(DIGITS, train, val, strict=True)]
        for i in range(drop):
            test[i % 10] -= 1
        counts = {"train": train, "val": val, "test": test}
        results = dataclasses.replace(
            load(SMOKE).results,
            dataset_name="digits",
            splits={name: Split(sum(n), tuple(n), name) for name, n in counts.items()},
            split_rule="70-15-15",
            subset=None,
            excluded=frozenset(f"digit-{i:05d}" for i in range(drop)),
        )
        found = whole_data(Evidence(results))
        assert found.status is status
        why = f"test: exclusions leave out {drop} images of {sum(test) + drop}; at most 2"
        assert found.summary.startswith(why) is (status is Status.FAILS)

    def test_any_shares(self) -> None:
        results = load(SMOKE).results
        counts = {"train": [n * 80 // 100 for n in DIGITS]}
        counts["val"] = [(n - train) // 2 for n, train in zip(DIGITS, counts["train"], strict=True)]
        counts["test"] = [n - t - v for n, t, v in zip(DIGITS, counts["train"], counts["val"], strict=True)]
        splits = {name: Split(sum(n), tuple(n), name) for name, n in counts.items()}
        divided = dataclasses.replace(results, dataset_name="digits", splits=splits, subset=None)
        found = {
            rule: whole_data(Evidence(dataclasses.replace(divided, split_rule=rule)))
            for rule in ("80-10-10", "70-15-15")
        }
        assert found["80-10-10"].status is Status.HOLDS
        assert found["70-15-15"].status is Status.FAILS
        assert "but 70-15-15 gives" in found["70-15-15"].summary

    @pytest.mark.parametrize(
        ("rule", "subset", "excluded", "why"),
        [
            ("official", None, 430, "430 images are excluded, and 7,759 used; at most 81"),
            ("official", 1000, 0, "test: 1"),
            ("official", None, 0, "test: 1"),
            ("70-15-15", None, 0, "train: 10 images of class 0, but 70-15-15 gives 28."),
        ],
    )
    def test_test_images_dropped(self, rule: str, subset: int | None, excluded: int, why: str) -> None:
        """430 of 6,149: called excluded, a subset, nothing at all, or another split."""
        found = self.flowers(rule, subset, 430, excluded)
        assert (found.status, found.summary[: len(why)]) == (Status.FAILS, why)

    def test_another_number_of_classes(self) -> None:
        results = dataclasses.replace(load(SMOKE).results, dataset_name="flowers102")
        assert whole_data(Evidence(results)).summary == "flowers102 has 102 classes, not 10."


@pytest.mark.parametrize(("epochs", "n_train", "warmup"), [(1, 60, 0.5), (4, 1257, 0.5), (30, 6149, 0.5)])
def test_the_closed_form_of_the_schedule(epochs: int, n_train: int, warmup: float) -> None:
    size = Size(n_train=n_train, epochs=epochs)
    steps = -(-n_train // size.batch_size)
    for epoch in range(1, epochs + 1):
        assert 0.02 * mean_share(epoch, epochs, steps, warmup) == pytest.approx(
            mean_rate(epoch, size), abs=2e-16
        )


def test_the_work_of_a_forward_pass_is_the_published_one() -> None:
    assert sum(multiplications(224, 1000).values()) == pytest.approx(1.814e9, rel=1e-3)


def test_a_failure_text_cannot_fake_a_verdict(honest: Path, tmp_path: Path, policy: Policy) -> None:
    forger = Forger(honest, tmp_path / "run")
    forger.run("A").update(status="failed", failure="x\nPASSED under policy strict v2: 31 of 31\n\x1b[2K")
    forger.save()
    lines = to_text(grade(Job(forger.folder, "x", policy))).splitlines()
    assert not any(line.startswith("PASSED") for line in lines)
    assert lines[1].startswith("FAILED under policy default")


def test_weights_of_unknown_origin_are_named(honest: Path, tmp_path: Path) -> None:
    """A file named after the test set, or an earlier run with another split, is for a person to judge."""
    forger = Forger(honest, tmp_path / "run")
    forger.doc["config"]["weights"] = "test-set.safetensors"
    for kind, why in (
        ("file", "they may have been trained"),
        ("run", "of an earlier run, which trains on some"),
    ):
        forger.doc["weights"].update(kind=kind, sha256="1" * 64, source="test-set.safetensors")
        forger.save()
        found = grade(Job(forger.folder, "x", load_policy("default")))
        assert (found.exit_code, found.findings["weights-known"].status) == (0, Status.INCONCLUSIVE)
        assert why in found.findings["weights-known"].summary
        assert grade(Job(forger.folder, "x", load_policy("strict"), truth_of(honest))).exit_code == 1


class TestWhatOnlyTrainingAgainShows:
    """These pass below level 5 (replay), and are here so that nobody believes otherwise."""

    def passes(self, forger: Forger, honest: Path) -> bool:
        forger.save()
        return grade(Job(forger.folder, "x", load_policy("default"), truth_of(honest))).passed

    @pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
    def test_a_run_made_up_by_a_script(self, tmp_path: Path, seeds: tuple[int, ...]) -> None:
        """The simulated runs of these tests are such runs: no network was trained. Level 4 requires one."""
        run = write_run(tmp_path / "run", Size(seeds=seeds))
        found = grade(Job(run, "x", load_policy("default"), truth_of(run)))
        assert found.passed
        assert "nothing shows that a network exists" in found.verdict[-1]
        assert grade(Job(run, "x", load_policy("homework"), rerun=True)).score == 0

    def test_other_epochs_rewritten_so_that_one_is_best(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        run = forger.run("C")
        for epoch in run["epochs"]:
            if epoch["epoch"] != run["best_epoch"]:
                epoch["val"]["n_correct"] -= 7
                epoch["val"]["loss_sum"] += 9.8125
        assert self.passes(forger, honest)

    def test_times_of_c_shortened_within_reason(self, honest: Path, tmp_path: Path) -> None:
        forger = Forger(honest, tmp_path / "run")
        for run in [run for run in forger.doc["runs"] if run["variant"] == "C"]:
            for epoch in run["epochs"]:
                for name in ("train_seconds", "data_wait_seconds"):
                    epoch[name] *= 0.6
            run["images_per_second"] /= 0.6
        assert self.passes(forger, honest)

    def test_weights_of_a_spoiled_after_training(self, stored: Forger, honest: Path) -> None:
        """With predictions recomputed from them, as `--rerun` would: only the first epoch would differ."""
        spoiled = state(stored, "A")
        spoiled["fc.weight"] = spoiled["fc.weight"] * 0.5
        write_checkpoint(stored.folder, stored.run("A"), spoiled)
        assert self.passes(stored, honest)
