"""Trials commit to their epochs, and --replay trains one of each variant again; finetune has a stand-in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grader.checks.trial_commitments import trials_committed
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.grading.verdict import Grade
from grader.isolated.replay import Request
from grader.submission.load import load
from tests.builders.stand_in import use_stand_in
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, commit
from tests.grader.tuned import write_tuned

Change = Callable[[Forger], None]
FORGED: list[Change] = []

STAND_IN = """
import json, pathlib, sys
folder, arguments = pathlib.Path('run'), sys.argv[2:]
document = json.loads((folder / 'results.json').read_text())
runs = {f"{r['variant']}-seed{r['seed']}": r for r in document['runs']}
trials = document['tuning']['trials']
passages = []
for i, word in enumerate(arguments):
    if word == '--passage':
        name, first, count = arguments[i + 1], int(arguments[i + 2]), int(arguments[i + 3])
        epochs = runs[name]['epochs'][first - 1 : first - 1 + count]
        found = dict(run=name, trial=None, initial_sha256=runs[name]['initial_sha256'])
        passages.append(found | dict(first=first, epochs=epochs))
    elif word == '--trial':
        index, count = int(arguments[i + 1]), int(arguments[i + 2])
        trial = trials[index]
        pairs = list(zip(trial['commitments'], trial['validation']))[:count]
        epochs = [dict(own, epoch=n, val=val, test=None) for n, (own, val) in enumerate(pairs, 1)]
        found = dict(run='', trial=index, initial_sha256=trial['initial_sha256'])
        passages.append(found | dict(first=1, epochs=epochs))
tried = [p for p in passages if p['trial'] is not None]
CHANGE
found = {'environment': document['environment'], 'precision': 'fp32', 'passages': passages}
found |= {'omitted': [], 'repeats': []}
pathlib.Path('replay.json').write_text(json.dumps(found))
"""
"""Finds what was recorded, unless CHANGE changes `passages`; `tried` are those of trials."""


def forged(change: Change) -> Change:
    FORGED.append(change)
    return change


def trials(f: Forger, variant: str = "B") -> list[dict[str, Any]]:
    found = [t for t in f.doc["tuning"]["trials"] if t["variant"] == variant and t["commitments"]]
    return sorted(found, key=lambda t: (t["round"], t["learning_rate"]))


@forged
def no_commitments_at_all(f: Forger) -> None:
    for trial in f.doc["tuning"]["trials"]:
        trial["commitments"] = []


@forged
def one_epoch_uncommitted(f: Forger) -> None:
    trials(f)[-1]["commitments"].pop()


@forged
def one_training_for_two_rates(f: Forger) -> None:
    first, second = trials(f)[:2]
    for own, other in zip(first["commitments"], second["commitments"], strict=True):
        other["weights_sha256"] = own["weights_sha256"]


@forged
def one_training_for_two_variants(f: Forger) -> None:
    trials(f, "C")[0]["commitments"][0]["weights_sha256"] = trials(f)[0]["commitments"][0]["weights_sha256"]


@forged
def weights_of_a_final_run(f: Forger) -> None:
    trials(f)[0]["commitments"][0]["weights_sha256"] = f.run("B")["epochs"][0]["weights_sha256"]


@forged
def weights_that_never_change(f: Forger) -> None:
    trial = next(t for t in trials(f) if len(t["commitments"]) > 1)
    for own in trial["commitments"]:
        own["weights_sha256"] = "a" * 64


@forged
def weights_of_the_start(f: Forger) -> None:
    trials(f)[0]["commitments"][0]["weights_sha256"] = trials(f)[0]["initial_sha256"]


@forged
def fewer_training_images(f: Forger) -> None:
    trials(f)[0]["commitments"][0]["train"].update(n_samples=1000, n_correct=200)


@forged
def more_correct_than_there_are(f: Forger) -> None:
    trials(f)[0]["commitments"][0]["train"]["n_correct"] = 10**6


@forged
def a_training_loss_too_good_for_its_errors(f: Forger) -> None:
    trials(f)[0]["commitments"][0]["train"].update(loss_sum=1.0, n_correct=10)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tuned(tmp_path_factory.mktemp("tuned") / "run", Size(epochs=8))


@pytest.mark.parametrize("change", FORGED, ids=lambda change: change.__name__)
def test_each_is_caught_alone(change: Change, tuned: Path, policy: Policy, tmp_path: Path) -> None:
    forger = Forger(tuned, tmp_path / "run")
    change(forger)
    if change is not no_commitments_at_all and change is not one_epoch_uncommitted:
        commit(forger.doc)  # a careful forger chains what was made up
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    found = grade(Job(forger.folder, "run", policy))
    assert not found.problems, found.problems
    assert found.refuted == ["trials-committed"]
    assert found.exit_code == 1


@pytest.mark.parametrize("part", ["val", "train", "rate"])
def test_figures_rewritten_after_the_commitment(
    tuned: Path, policy: Policy, tmp_path: Path, part: str
) -> None:
    """The chain stays as it was: a trial's score is raised or lowered where it changes no choice."""
    forger = Forger(tuned, tmp_path / "run")
    trial = next(t for t in trials(forger, "A") if t["validation"][0]["n_correct"] > 5)
    if part == "val":
        trial["validation"][0]["loss_sum"] += 0.5
    elif part == "train":
        trial["commitments"][0]["train"]["loss_sum"] += 0.5
    else:
        forger.doc["config"]["recipe"]["momentum"] = 0.8
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    finding = grade(Job(forger.folder, "run", policy)).findings["trials-committed"]
    assert finding.status is Status.FAILS
    assert "the commitment does not follow" in finding.summary


def test_untuned(honest: Path, policy: Policy) -> None:
    assert grade(Job(honest, "x", policy)).findings["trials-committed"].status is Status.NOT_CHECKED


def test_rates_too_small_to_matter_may_give_one_result(tuned: Path, tmp_path: Path) -> None:
    forger = Forger(tuned, tmp_path / "run")
    for number, trial in enumerate(forger.doc["tuning"]["trials"]):
        trial["learning_rate"] *= 1e-8
        for own in trial["commitments"][: number < 2]:
            own["weights_sha256"] = "b" * 64
    commit(forger.doc)
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    finding = trials_committed(Evidence(load(forger.folder).results))
    assert finding.status is Status.HOLDS, finding.summary


def test_a_longer_row_is_the_same_network_until_the_warm_up_ends(tuned: Path, tmp_path: Path) -> None:
    """A3 is A for more epochs: the same start, images and rates."""
    forger = Forger(tuned, tmp_path / "run")
    a = next(row for row in forger.doc["config"]["variants"] if row["name"] == "A")
    forger.doc["config"]["variants"].append({**a, "name": "A3", "epochs": 3 * 8})
    longer = json.loads(json.dumps([trial | {"variant": "A3"} for trial in trials(forger, "A")]))
    forger.doc["tuning"]["trials"] += longer
    commit(forger.doc)
    (forger.folder / "results.json").write_text(json.dumps(forger.doc))
    assert trials_committed(Evidence(load(forger.folder).results)).status is Status.HOLDS


class TestReplay:
    @pytest.fixture
    def forger(self, tuned: Path, tmp_path: Path) -> Forger:
        return Forger(tuned, tmp_path / "run")

    @pytest.fixture
    def replayed(
        self, forger: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., Grade]:
        def run(change: str = "", **request: Any) -> Grade:
            use_stand_in(monkeypatch, STAND_IN.replace("CHANGE", change))
            return grade(Job(forger.folder, "x", policy, replay=Request(**request)))

        return run

    def test_a_trial_of_each_variant(self, replayed: Callable[..., Grade]) -> None:
        check = "assert sorted(trials[p['trial']]['variant'] for p in tried) == ['A', 'B', 'C'], tried"
        found = replayed(check, seed=1).findings["replay-agrees"]
        assert found.status is Status.HOLDS, found.summary
        assert found.numbers["identical"] == found.numbers["identical"] >= 5

    def test_every_trial_can_be_drawn(self, forger: Forger, replayed: Callable[..., Grade]) -> None:
        seen = forger.folder.parent / "seen"
        note = f"open({str(seen)!r}, 'a').write(''.join(f\"{{p['trial']}} \" for p in tried))"
        for seed in range(40):
            replayed(note, seed=seed)
        wanted = {str(n) for n in range(len(forger.doc["tuning"]["trials"]))}
        assert (
            len(wanted - set(seen.read_text().split())) <= 2
        )  # of some twenty, in forty draws of each variant

    def test_as_many_epochs_as_asked_for(self, replayed: Callable[..., Grade]) -> None:
        check = "assert all(len(p['epochs']) <= trials[p['trial']]['epochs'] for p in tried); "
        check += "assert max(len(p['epochs']) for p in tried) > 1"
        assert replayed(check, seed=2, epochs=99).findings["replay-agrees"].status is Status.HOLDS

    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_a_made_up_trial(self, replayed: Callable[..., Grade], elsewhere: bool) -> None:
        """Its figures follow from its commitments, but training gives others."""
        change = "for p in tried:\n    for e in p['epochs']: e['weights_sha256'] = ''; "
        change += "e['train'] = e['train'] | {'loss_sum': e['train']['loss_sum'] * 1.4}"
        if elsewhere:
            change += "\ndocument['environment'] |= {'device_name': 'another'}"
        # Seeds of which the first draws trials at low rates, and the second at high ones.
        found = {seed: replayed(change, seed=seed) for seed in (1, 5)}
        statuses = {grade.findings["replay-agrees"].status for grade in found.values()}
        assert statuses <= ({Status.FAILS, Status.INCONCLUSIVE} if elsewhere else {Status.FAILS})
        for grade_ in found.values():
            if not elsewhere:
                assert "trial at" in grade_.findings["replay-agrees"].summary
                assert grade_.is_void

    @pytest.mark.parametrize(("mean", "status"), [(1.0, Status.FAILS), (3.0, Status.INCONCLUSIVE)])
    def test_a_divergence_made_up(
        self, forger: Forger, replayed: Callable[..., Grade], mean: float, status: Status
    ) -> None:
        for trial in forger.doc["tuning"]["trials"]:
            if trial["status"] == "failed":
                trial.update(validation=[], commitments=[], train_seconds=0.0, train_cpu_seconds=0.0)
        forger.save()
        n = forger.doc["dataset"]["splits"]["train"]["n_samples"]
        train = {"loss_sum": mean * n, "n_correct": n // 3, "n_samples": n}
        change = (
            f"for p in tried:\n    if not p['epochs']: p['epochs'] = [dict(epoch=1, train={train}, "
            "val=dict(loss_sum=1, n_correct=1, n_samples=2), test=None, weights_sha256='', "
            "predictions_sha256='')]"
        )
        seeds = (replayed(change, seed=seed).findings["replay-agrees"] for seed in range(30))
        first = next(found for found in seeds if found.status is not Status.HOLDS)
        assert first.status is status
        assert ("is recorded as diverged" in first.summary) is (status is Status.FAILS)

    def test_a_trial_that_diverges_when_trained_again(self, replayed: Callable[..., Grade]) -> None:
        found = replayed("tried[0]['epochs'] = []; assert trials[tried[0]['trial']]['commitments']", seed=1)
        assert "again gave no finite loss" in found.findings["replay-agrees"].summary

    def test_a_start_that_seed_and_weights_do_not_give(self, replayed: Callable[..., Grade]) -> None:
        found = replayed("for p in tried: p['initial_sha256'] = '0' * 64", seed=1)
        assert "trial at" in found.findings["replay-agrees"].summary
        assert "another start" in found.findings["replay-agrees"].summary
