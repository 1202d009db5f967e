"""Tuned rows whose head comes from another one, and trials on a split of each seed's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.config.tune import Tune
from finetune.errors import RunFolderError
from finetune.network.network import fingerprint
from finetune.network.resnet18 import build
from finetune.run.folder import RunFolder
from finetune.run.tuning.heads import TrialHeads
from finetune.run.tuning.search import Key, Plan, Trial
from finetune.system.signals import Stopped
from finetune.training.trainer import Trainer
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from tests.builders.config import tiny_config
from tests.builders.runs import StopAt
from tests.compare_runs import without_times

A, B, C = STANDARD_VARIANTS
PROBE = Variant(name="probe", init="pretrained", train=("fc",))
AFTER = Variant(name="after", init="pretrained", train="all", head="probe")
RATES = (0.01, 0.02, 0.04)
ROWS = {"variants": (PROBE, AFTER), "tune": Tune(rates=RATES), "epochs": 3}
SPLITS = {"variants": (A, C), "tune": Tune(mode="full", rates=RATES), "seeds": 2, "resplit": True}
Run = Callable[..., dict[str, Any]]


def fairly_tuned(folder: Path) -> Any:
    return grade(Job(folder, "run", load_policy("default"))).findings["fairly-tuned"]


class Plans:
    """The trials of an experiment, in which the middle rate is the best."""

    def __init__(self, **fields: Any) -> None:
        self.plan = Plan(tiny_config(**{**ROWS, **fields}))
        self.outcomes: dict[Key, Any] = {}

    def end(self, trial: Trial, fails: bool = False) -> None:
        epochs = (
            []
            if fails
            else [
                {"n_correct": 5 + (trial.learning_rate == RATES[1]), "loss_sum": 10 - e, "n_samples": 9}
                for e in range(trial.epochs)
            ]
        )
        self.outcomes[trial.key] = {
            "variant": trial.variant,
            "for_seed": trial.for_seed,
            "learning_rate": trial.learning_rate,
            "status": "failed" if fails else "completed",
            "validation": epochs,
        }

    def run(self, fails: Callable[[Trial], bool] = lambda _: False) -> list[Trial]:
        ran = []
        while pending := self.plan.pending(self.outcomes):
            ran.append(pending[0])
            self.end(pending[0], fails(pending[0]))
        return ran


class TestPlan:
    def test_the_row_that_gives_the_head_is_tuned_first(self) -> None:
        plans = Plans()
        names = [t.variant for t in plans.run()]
        assert names == sorted(names, reverse=True)  # probe before after
        own = [
            [(t.round, t.learning_rate) for t in plans.plan.of_target((v, None), plans.outcomes)]
            for v in (PROBE, AFTER)
        ]
        assert own[0] == own[1]
        assert [c["variant"] for c in plans.plan.record(plans.outcomes)["choices"]] == ["probe", "after"]

    def test_epochs_left_count_trials_that_wait(self) -> None:
        plans, left = Plans(), []
        while pending := plans.plan.pending(plans.outcomes):
            left.append(sum(plans.plan.epochs_left(v, plans.outcomes) for v in (PROBE, AFTER)))
            plans.end(pending[0])
        n_grid = 2 * (3 * 1 + 2 * 2)
        assert left[0] == n_grid
        assert left == sorted(left, reverse=True)

    def test_without_a_head_there_is_nothing_to_tune(self) -> None:
        plans = Plans()
        assert {t.variant for t in plans.run(lambda t: t.variant == "probe")} == {"probe"}
        assert plans.plan.record(plans.outcomes)["choices"] == []
        assert plans.plan.epochs_left(AFTER, plans.outcomes) == 0

    def test_each_seed_with_a_split_of_its_own_has_all_trials(self) -> None:
        plans = Plans(seeds=2, resplit=True, split="70-15-15")
        ran = plans.run()
        by_seed = [[(t.variant, t.round, t.learning_rate) for t in ran if t.for_seed == s] for s in (0, 1)]
        assert by_seed[0] == by_seed[1]
        assert [t.for_seed for t in ran] == sorted(t.for_seed or 0 for t in ran)
        assert len({t.stem for t in ran}) == len(ran)


class TestHeads:
    def test_trials_start_from_the_head_of_the_chosen_trial_and_stops_change_nothing(
        self, experiment: Run, narrow_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
        keep = TrialHeads.keep

        def keeping(self: TrialHeads, trial: Trial, epoch: int, network: Any) -> None:
            state = network.state_dict()
            kept[trial.label, trial.round] = {n: state[n].clone() for n in ("fc.weight", "fc.bias")}
            keep(self, trial, epoch, network)

        monkeypatch.setattr(TrialHeads, "keep", keeping)
        record = experiment(tmp_path / "whole", **ROWS)
        tuning = record["tuning"]
        by_name = {c["variant"]: tuning["trials"][c["trial"]] for c in tuning["choices"]}
        expected = build(AFTER, 10, tuning["seed"], safetensors.torch.load_file(narrow_file))
        chosen = by_name["probe"]
        label = f"probe at {chosen['learning_rate']:.3g}"
        expected.load_state_dict(kept[label, chosen["round"]], strict=False)
        starts = {t["initial_sha256"] for t in tuning["trials"] if t["variant"] == "after"}
        assert starts == {fingerprint(expected.state_dict())}
        assert [r["status"] for r in record["runs"]] == ["completed"] * 2
        assert fairly_tuned(tmp_path / "whole").status in (Status.HOLDS, Status.INCONCLUSIVE)

        resume, stops = False, 0
        while True:
            try:
                again = experiment(tmp_path / "run", **ROWS, stop=StopAt(45), resume=resume)
                break
            except Stopped:
                resume, stops = True, stops + 1
        assert stops > 1
        assert without_times(again) == without_times(record)

        found = json.loads((tmp_path / "whole" / "results.json").read_text())
        for change in (plain_start, no_choice):
            forged = copy.deepcopy(found)
            change(forged["tuning"])
            (tmp_path / "whole" / "results.json").write_text(json.dumps(forged))
            assert fairly_tuned(tmp_path / "whole").status is Status.FAILS, change

    def test_a_head_that_is_missing_or_damaged_is_refused(self, tmp_path: Path) -> None:
        plans, heads = started(tmp_path)
        (waiting,) = plans.plan.pending(plans.outcomes)[:1]
        with pytest.raises(RunFolderError, match=r"must hold the head that the trials of after start from"):
            heads.start_of(waiting, plans.outcomes)
        network = build(A, 10, 0, None)
        for rate in RATES:
            heads.keep(Trial("probe", 2, rate, 2), 2, network)
        found = heads.start_of(waiting, plans.outcomes)
        assert found is not None
        assert torch.equal(found["fc.weight"], network.state_dict()["fc.weight"])
        for file in (tmp_path / "state").iterdir():
            file.write_bytes(file.read_bytes()[:-1] + b"?")
        with pytest.raises(RunFolderError, match="missing or damaged"):
            heads.start_of(waiting, plans.outcomes)

    def test_processes_share_the_head_that_one_of_them_trained(self, tmp_path: Path) -> None:
        (plans, mine), (_, theirs) = started(tmp_path / "a"), started(tmp_path / "b")
        network = build(A, 10, 0, None)
        for rate in RATES:
            theirs.keep(Trial("probe", 2, rate, 2), 2, network)
        told: list[Any] = []

        class Exchange:
            """What one process tells, and what it is told of the other."""

            def __init__(self, *others: Any) -> None:
                self.others = others

            def exchange(self, value: Any) -> list[Any]:
                told.append(json.loads(json.dumps(value)))
                return [value, *self.others]

        pending = plans.plan.pending(plans.outcomes)
        theirs.share(pending, plans.outcomes, Exchange({}))  # type: ignore[arg-type]
        mine.share(pending, plans.outcomes, Exchange(told[0]))  # type: ignore[arg-type]
        assert told[1] == {}
        found = mine.start_of(pending[0], plans.outcomes)
        assert found is not None
        assert torch.equal(found["fc.bias"], network.state_dict()["fc.bias"])


def started(path: Path) -> tuple[Plans, TrialHeads]:
    """Trials of which the probe's have ended, in a folder without heads."""
    plans = Plans()
    while (trial := plans.plan.pending(plans.outcomes)[0]).variant == "probe":
        plans.end(trial)
    (path / "state").mkdir(parents=True)
    return plans, TrialHeads(RunFolder(path), plans.plan)


def plain_start(tuning: Any) -> None:
    """The trials of the row with a head start from the pretrained weights alone."""
    start = next(t["initial_sha256"] for t in tuning["trials"] if t["variant"] == "probe")
    for trial in tuning["trials"]:
        trial["initial_sha256"] = start


def no_choice(tuning: Any) -> None:
    """The row with a head has no trials, although the one that gives it has a choice."""
    tuning["trials"] = [t for t in tuning["trials"] if t["variant"] == "probe"]
    tuning["choices"] = tuning["choices"][:1]


class TestSplits:
    def test_trials_see_the_training_and_validation_images_of_their_seed_alone(
        self, experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained: list[tuple[int, list[str], int]] = []
        run = Trainer.run

        def recording(self: Trainer, *arguments: Any) -> Any:
            trained.append((self.seed, list(self.images.held_out), len(self.images.train)))
            return run(self, *arguments)

        monkeypatch.setattr(Trainer, "run", recording)
        record = experiment(tmp_path / "run", **SPLITS)
        tuning = record["tuning"]
        n = len(tuning["trials"])
        assert [held for _, held, _ in trained] == [["val"]] * n + [["val", "test"]] * 4
        assert {seed for seed, _, _ in trained[:n]} == {tuning["seed"]} == {2}
        assert [(c["for_seed"], c["variant"]) for c in tuning["choices"]] == [
            (0, "A"),
            (0, "C"),
            (1, "A"),
            (1, "C"),
        ]
        choices = {(c["variant"], c["for_seed"]): c for c in tuning["choices"]}
        for entry in record["runs"]:
            choice = choices[entry["variant"], entry["seed"]]
            assert (entry["learning_rate"], entry["trial"]) == (choice["learning_rate"], choice["trial"])
        assert fairly_tuned(tmp_path / "run").status in (Status.HOLDS, Status.INCONCLUSIVE)

        found = json.loads((tmp_path / "run" / "results.json").read_text())
        for change in (one_seed_for_all, exchanged_seeds):
            forged = copy.deepcopy(found)
            change(forged)
            (tmp_path / "run" / "results.json").write_text(json.dumps(forged))
            assert fairly_tuned(tmp_path / "run").status is Status.FAILS, change


def one_seed_for_all(document: Any) -> None:
    """Trials on the first seed's split choose for both, although its training images are tested on later."""
    tuning = document["tuning"]
    tuning["trials"] = [t | {"for_seed": None} for t in tuning["trials"] if t["for_seed"] == 0]
    tuning["choices"] = [c | {"for_seed": None} for c in tuning["choices"] if c["for_seed"] == 0]


def exchanged_seeds(document: Any) -> None:
    """The rates of one seed's run are those that the other's trials chose."""
    first, second = (r for r in document["runs"] if r["variant"] == "A")
    first["trial"], second["trial"] = second["trial"], first["trial"]
