"""Level 5, with a stand-in for `finetune replay`, and the chain of commitments."""

import hashlib
import json
import random
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.findings import Finding, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from grader.grading.verdict import Grade
from grader.isolated import replay
from grader.isolated.replay import Request
from grader.submission.checkpoints import network_sha256
from grader.submission.commitments import drawn_epochs
from grader.submission.load import load
from tests.builders.stand_in import use_stand_in
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, commit, write_run
from tests.grader.tuned import write_tuned

STAND_IN = """
import json, pathlib, sys
folder, arguments = pathlib.Path('run'), sys.argv[2:]
assert arguments[:2] == ['replay', 'run'], arguments
document = json.loads((folder / 'results.json').read_text())
runs = {f"{r['variant']}-seed{r['seed']}": r for r in document['runs']}
passages, left = [], []
for i, word in enumerate(arguments):
    if word == '--passage':
        name, first, count = arguments[i + 1], int(arguments[i + 2]), int(arguments[i + 3])
        epochs = runs[name]['epochs'][first - 1 : first - 1 + count]
        start = runs[name]['initial_sha256']
        passages.append(dict(run=name, first=first, initial_sha256=start, epochs=epochs))
CHANGE
found = {'environment': document['environment'], 'precision': 'fp32', 'passages': passages}
found |= {'omitted': left, 'repeats': []}
pathlib.Path('replay.json').write_text(json.dumps(found))
"""
"""Finds what was recorded, unless CHANGE changes `passages`."""

Replayed = Callable[..., Grade]


@pytest.fixture
def forger(tmp_path: Path) -> Forger:
    write_run(tmp_path / "honest", Size(epochs=3))
    return Forger(tmp_path / "honest", tmp_path / "run")


@pytest.fixture
def replayed(forger: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Replayed:
    """Grade the forger's run with a stand-in whose passages a line of code changes."""

    def run(change: str = "", **request: Any) -> Grade:
        use_stand_in(monkeypatch, STAND_IN.replace("CHANGE", change))
        return grade(Job(forger.folder, "x", policy, replay=Request(**request)))

    return run


def agrees(found: Grade) -> Finding:
    return found.findings["replay-agrees"]


EACH = "for p in passages:\n    for e in p['epochs']: "
ROUNDED = EACH + "e['weights_sha256'] = '0' * 64; e['train']['loss_sum'] *= {}"


ELSEWHERE = "\ndocument['environment'] |= {'torch': '9.0'}"


def of_pretrained(change: str) -> str:
    """The same for passages of runs that start pretrained."""
    return change.replace("in passages", "in [p for p in passages if runs[p['run']]['init'] == 'pretrained']")


def test_the_same_epochs(replayed: Replayed) -> None:
    found = replayed(seed=7)
    assert agrees(found).status is Status.HOLDS
    assert agrees(found).summary.startswith("3 epochs trained again: 3 bit for bit")
    assert agrees(found).details == ("--replay-seed 7 repeats the draws.",)
    assert 5 in found.levels


def test_whole_runs(replayed: Replayed) -> None:
    assert agrees(replayed(epochs=99)).summary.startswith("9 epochs trained again: 9 bit for bit")


@pytest.mark.parametrize(
    ("factor", "status"),
    [(1.002, Status.HOLDS), (0.998, Status.HOLDS), (1.01, Status.INCONCLUSIVE), (1.06, Status.FAILS)],
)
def test_rounding_from_pretrained_weights(replayed: Replayed, factor: float, status: Status) -> None:
    found = replayed(of_pretrained(ROUNDED.format(factor)) + ELSEWHERE)
    assert agrees(found).status is status
    assert ("the training loss was recorded as" in agrees(found).summary) == (status is Status.FAILS)


@pytest.mark.parametrize(
    ("factor", "status"),
    [(0.7, Status.INCONCLUSIVE), (1.4, Status.INCONCLUSIVE), (0.45, Status.FAILS), (2.1, Status.FAILS)],
)
def test_differences_grow_from_epoch_to_epoch(replayed: Replayed, factor: float, status: Status) -> None:
    """An honest run, trained again in other arithmetic, differed by 29% in its sixth epoch."""
    change = ROUNDED.format(f"({factor} if e['epoch'] > 1 else 1)")
    assert agrees(replayed(of_pretrained(change), epochs=3)).status is status


def test_no_difference_grows_from_an_identical_epoch(replayed: Replayed) -> None:
    """Whoever trains all epochs but the last one honestly is refuted."""
    last = "e = p['epochs'][2]; e['weights_sha256'] = '0' * 64; e['train']['loss_sum'] *= 1.06"
    change = of_pretrained(f"for p in passages:\n    {last}")
    found = agrees(replayed(change, epochs=3))
    assert found.status is Status.FAILS
    assert "B-seed0, epoch 3: the training loss was recorded as" in str((found.summary, found.details))


@pytest.mark.parametrize(("factor", "status"), [(1.0, Status.INCONCLUSIVE), (1.5, Status.FAILS)])
def test_from_random_weights_only_equal_hashes_agree(
    replayed: Replayed, factor: float, status: Status
) -> None:
    found = replayed(
        ROUNDED.format(factor).replace("in passages", "in [p for p in passages if p['run'][0] == 'A']")
    )
    assert agrees(found).status is status
    assert agrees(found).numbers["unclear"] == (status is Status.INCONCLUSIVE)


@pytest.mark.parametrize(
    "elsewhere", [{}, {"threads": 999}, {"torch": "9.0"}, {"vector_instructions": "AVX2"}]
)
def test_a_replay_that_should_have_been_identical_says_so(
    replayed: Replayed, elsewhere: dict[str, int | str]
) -> None:
    change = f"{of_pretrained(ROUNDED.format(1.01))}\ndocument['environment'] |= {elsewhere!r}"
    found = agrees(replayed(change))
    assert found.status is Status.INCONCLUSIVE
    assert ("ask where it was trained" in found.summary) is (not elsewhere)
    assert ("would settle it" in found.summary) is bool(elsewhere)


def test_a_file_without_instructions_may_come_from_others(forger: Forger, replayed: Replayed) -> None:
    del forger.doc["environment"]["vector_instructions"]
    forger.save()
    change = f"{of_pretrained(ROUNDED.format(1.01))}\ndocument['environment']['vector_instructions'] = 'AVX2'"
    summary = agrees(replayed(change)).summary
    assert "bit-identical unless the vector instructions differ: ask where it was trained." in summary


def test_predictions_that_training_does_not_give(replayed: Replayed) -> None:
    found = replayed(of_pretrained(EACH + "e['weights_sha256'] = ''; e['test']['n_correct'] -= 60"))
    assert agrees(found).status is Status.FAILS
    assert "correct predictions on test were recorded, but training again gives" in agrees(found).summary
    assert "replay-agrees" in found.refuted
    assert found.is_void


@pytest.mark.parametrize(
    ("n", "status"),
    [(2, Status.HOLDS), (14, Status.INCONCLUSIVE), (60, Status.FAILS)],
)
def test_a_close_training_loss_leaves_little_room_for_predictions(
    replayed: Replayed, n: int, status: Status
) -> None:
    change = EACH + "e['weights_sha256'] = ''; e['test']['n_correct'] -= {}"
    assert agrees(replayed(of_pretrained(change.format(n)) + ELSEWHERE)).status is status


@pytest.mark.parametrize("factor", [1.03, 1.07])
def test_a_close_training_loss_leaves_little_room_for_other_losses(replayed: Replayed, factor: float) -> None:
    change = EACH + f"e['weights_sha256'] = ''; e['val']['loss_sum'] *= {factor}"
    wanted = Status.HOLDS if factor < 1.05 else Status.INCONCLUSIVE
    assert agrees(replayed(of_pretrained(change) + ELSEWHERE)).status is wanted


@pytest.mark.parametrize("what", ["['test']['n_correct'] -= 3", "['val']['loss_sum'] *= 1.002"])
@pytest.mark.parametrize("variant", ["A", "C"])
def test_the_recorded_weights_must_give_the_recorded_figures(
    replayed: Replayed, what: str, variant: str
) -> None:
    """Whoever trains honestly and then improves the predictions is caught, for random starts too."""
    change = f"{EACH}e['predictions_sha256'] = ''; e{what}"
    found = agrees(
        replayed(change.replace("in passages", f"in [p for p in passages if p['run'][0] == '{variant}']"))
    )
    assert found.status is Status.FAILS
    assert f"{variant}-seed0, epoch 1: the weights are the recorded ones, but" in found.summary


def test_rounding_in_evaluation_alone(replayed: Replayed) -> None:
    change = EACH + "e['predictions_sha256'] = ''; e['test']['loss_sum'] *= 1.00001"
    found = agrees(replayed(change + ELSEWHERE))
    assert (found.status, found.numbers["close"]) == (Status.HOLDS, 3)
    here = agrees(replayed(change))
    assert (here.status, here.numbers["unclear"]) == (Status.INCONCLUSIVE, 3)
    assert "ask where it was trained" in here.summary


@pytest.mark.parametrize(
    ("elsewhere", "status"),
    [
        ({}, Status.FAILS),
        ({"platform": "Darwin-arm64"}, Status.HOLDS),
        ({"device_name": "another CPU"}, Status.HOLDS),
        ({"vector_instructions": "DEFAULT"}, Status.HOLDS),
        ({"torch": "9.0"}, Status.HOLDS),
    ],
)
def test_a_random_start_counts_on_the_same_kind_of_machine(
    replayed: Replayed, elsewhere: dict[str, str], status: Status
) -> None:
    change = "for p in passages:\n    if p['run'][0] == 'A': p['initial_sha256'] = '0' * 64"
    change += f"\ndocument['environment'] |= {elsewhere!r}"
    assert agrees(replayed(change)).status is status


def test_so_does_a_pretrained_one_whose_fc_is_random(replayed: Replayed) -> None:
    change = "for p in passages: p['initial_sha256'] = '0' * 64"
    found = agrees(replayed(change))
    assert (found.status, found.held, found.judged) == (Status.FAILS, 0, 3)
    elsewhere = "\ndocument['environment']['vector_instructions'] = 'DEFAULT'"
    assert agrees(replayed(change + elsewhere)).status is Status.HOLDS


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_what_one_kind_of_device_gives_bit_for_bit_was_not_trained_on_another(
    forger: Forger, replayed: Replayed, device: str
) -> None:
    forger.doc["environment"]["device"] = device
    forger.save()
    found = agrees(replayed("document['environment'] |= {'device': 'cpu'}"))
    assert found.status is Status.FAILS
    assert f"the results name the device {device}, but training again on cpu" in str(found)


@pytest.mark.parametrize("what", ["e['predictions_sha256'] = ''", "e['train']['loss_sum'] *= 1.0000001"])
def test_one_figure_rewritten_hides_no_device(forger: Forger, replayed: Replayed, what: str) -> None:
    forger.doc["environment"]["device"] = "cuda"
    forger.save()
    found = agrees(replayed(f"{EACH}{what}\ndocument['environment'] |= {{'device': 'cpu'}}"))
    assert found.status is Status.FAILS
    assert "the results name the device cuda" in str(found)


def test_weights_that_never_moved_are_the_same_on_every_device(forger: Forger, replayed: Replayed) -> None:
    forger.doc["environment"]["device"] = "cuda"
    for run in forger.doc["runs"]:
        for epoch in run["epochs"]:
            epoch["weights_sha256"] = run["initial_sha256"]
    forger.save()
    assert agrees(replayed("document['environment'] |= {'device': 'cpu'}")).status is Status.HOLDS


def test_training_that_diverges(replayed: Replayed) -> None:
    assert "gave no finite loss" in agrees(replayed("passages[0]['epochs'] = []")).summary


def test_a_replay_that_fails_is_required_all_the_same(replayed: Replayed) -> None:
    found = replayed("sys.exit('Error: no images')")
    assert agrees(found).status is Status.NOT_CHECKED
    assert agrees(found).summary == "finetune replay exited with code 1: Error: no images"
    assert any(
        text.startswith("Evidence level 5 (replayed training) is required") for text in found.objections
    )
    assert found.exit_code == 1


def test_version_1_commits_to_nothing(smoke: Path, policy: Policy) -> None:
    found = grade(Job(smoke, "x", policy, replay=Request()))
    assert found.findings["commitments-chain"].status is Status.NOT_CHECKED
    assert not grade(Job(smoke, "x", policy)).failing


def state_of(weight: float) -> bytes:
    """A training state whose network has one weight, as a safetensors file."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"network.fc.bias": entry}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", weight)


class TestStates:
    @pytest.fixture
    def kept(self, forger: Forger) -> Forger:
        """A run that kept one state, with a single weight that stands for all."""
        forger.doc["config"]["keep_states"] = 1
        (forger.folder / "states").mkdir()
        for run in forger.doc["runs"]:
            states = [state_of(ord(run["variant"]) + epoch["epoch"]) for epoch in run["epochs"]]
            for epoch, content in zip(run["epochs"], states, strict=True):
                epoch["weights_sha256"] = network_sha256(content, "")
        commit(forger.doc)
        for run in forger.doc["runs"]:
            (epoch,) = drawn_epochs(1, 3, [e["commitment"] for e in run["epochs"]])
            path, content = f"states/{run['variant']}.safetensors", state_of(ord(run["variant"]) + epoch)
            (forger.folder / path).write_bytes(content)
            run["states"] = [{"epoch": epoch, "path": path, "sha256": hashlib.sha256(content).hexdigest()}]
        forger.save()
        return forger

    def test_the_epoch_after_a_state_is_trained_too(self, kept: Forger, replayed: Replayed) -> None:  # noqa: ARG002
        staged = "assert len(list(folder.glob('states/*.safetensors'))) == 3"
        assert agrees(replayed(staged)).summary.startswith("6 epochs trained again: 6 bit for bit")

    def test_a_state_that_was_changed(self, kept: Forger, replayed: Replayed) -> None:
        (kept.folder / "states/B.safetensors").write_bytes(b"another")
        found = agrees(replayed())
        assert found.status is Status.FAILS
        assert found.summary == "states/B.safetensors does not match its recorded SHA-256."

    @pytest.mark.parametrize("content", ["another weight", "no tensors"])
    def test_a_state_of_other_weights_than_committed_to(
        self, kept: Forger, replayed: Replayed, content: str
    ) -> None:
        state = kept.run("B")["states"][0]
        forged = state_of(7) if content == "another weight" else b"none"
        (kept.folder / state["path"]).write_bytes(forged)
        state["sha256"] = hashlib.sha256(forged).hexdigest()
        kept.save()
        found = agrees(replayed("raise AssertionError"))
        assert found.status is Status.FAILS
        why = "does not hold the weights that B-seed0 committed to" if forged != b"none" else "malformed"
        assert f"{state['path']} " in str(found)
        assert why in str(found)

    def test_a_state_that_is_missing(self, kept: Forger, replayed: Replayed) -> None:
        (kept.folder / "states/B.safetensors").unlink()
        assert agrees(replayed()).status is Status.FAILS

    def test_states_that_were_not_drawn(self, kept: Forger, policy: Policy) -> None:
        state = kept.run("B")["states"][0]
        state["epoch"] = 3 - state["epoch"]
        kept.save()
        found = grade(Job(kept.folder, "x", policy)).findings["commitments-chain"]
        assert found.status is Status.FAILS
        assert "B-seed0: the commitments draw the states after epochs" in found.summary


class TestChain:
    def test_an_honest_chain(self, forger: Forger, policy: Policy) -> None:
        found = grade(Job(forger.folder, "x", policy)).findings["commitments-chain"]
        assert (found.status, found.level) == (Status.HOLDS, 2)

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_figures_of_another_epoch_rewritten(self, forger: Forger, policy: Policy, split: str) -> None:
        epoch = next(e for e in forger.run("B")["epochs"] if e["epoch"] != forger.run("B")["best_epoch"])
        epoch[split]["loss_sum"] += 0.25
        (forger.folder / "results.json").write_text(json.dumps(forger.doc))  # the chain as it was
        found = grade(Job(forger.folder, "x", policy))
        assert found.refuted == ["commitments-chain"]
        wanted = f"B-seed0, epoch {epoch['epoch']}: the commitment does not follow from the epoch's figures."
        assert found.findings["commitments-chain"].summary == wanted

    def test_a_broken_chain_does_not_silence_the_replay(
        self, forger: Forger, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Points for a history that training again refutes would otherwise cost one bad commitment."""
        forger.run("B")["epochs"][0]["commitment"] = "0" * 64
        (forger.folder / "results.json").write_text(json.dumps(forger.doc))
        use_stand_in(monkeypatch, STAND_IN.replace("CHANGE", of_pretrained(ROUNDED.format(1.3))))
        found = grade(Job(forger.folder, "x", policy, replay=Request()))
        assert found.refuted == ["commitments-chain", "replay-agrees"]
        assert 5 not in found.levels

    def test_predictions_not_committed_to(self, forger: Forger, policy: Policy) -> None:
        forger.best("C")["predictions_sha256"] = "0" * 64
        commit(forger.doc)
        (forger.folder / "results.json").write_text(json.dumps(forger.doc))
        found = grade(Job(forger.folder, "x", policy)).findings["commitments-chain"]
        assert found.summary.startswith("C-seed0: the prediction files are not those that epoch")

    def test_a_confidence_rewritten(self, forger: Forger, policy: Policy) -> None:
        """By so little that calibration stays the same, with the file's hash adapted."""
        path = forger.path("C", "test")
        lines = path.read_text().splitlines()
        row = next(i for i, line in enumerate(lines[1:], 1) if len(set(line.split(",")[1:3])) == 2)
        *cells, confidence = lines[row].split(",")
        lines[row] = ",".join([*cells, f"{np.nextafter(np.float32(confidence), np.float32(0)):.9g}"])
        path.write_text("\n".join([*lines, ""]))
        artifact = forger.run("C")["artifacts"]["test_predictions"]
        artifact["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (forger.folder / "results.json").write_text(json.dumps(forger.doc))
        found = grade(Job(forger.folder, "x", policy))
        assert found.refuted == ["commitments-chain"]
        wanted = "C-seed0: the prediction files are not those that epoch"
        assert found.findings["commitments-chain"].summary.startswith(wanted)

    def test_more_states_than_there_can_be(self, forger: Forger, policy: Policy) -> None:
        forger.doc["config"]["keep_states"] = forger.doc["config"]["recipe"]["epochs"] = 2**62
        for run in forger.doc["runs"]:
            run |= {"status": "failed", "failure": "an epoch of 2^62"}
        forger.save()
        start = time.process_time()
        found = grade(Job(forger.folder, "x", policy))
        assert time.process_time() - start < 2
        assert not found.problems
        assert found.nothing_trained

    def test_another_recipe(self, forger: Forger, policy: Policy) -> None:
        forger.doc["config"]["recipe"]["momentum"] = 0.8
        (forger.folder / "results.json").write_text(json.dumps(forger.doc))
        found = grade(Job(forger.folder, "x", policy)).findings["commitments-chain"]
        assert (found.status, found.held, found.judged) == (Status.FAILS, 0, 3)


def test_claims_about_times_leave_nothing_out(forger: Forger, replayed: Replayed) -> None:
    for run in forger.doc["runs"]:
        for epoch in run["epochs"]:
            epoch["train_seconds"] *= 1e6
    forger.save()
    found = agrees(replayed("assert '--seconds' in arguments"))
    assert found.summary.startswith("3 epochs trained again: 3 bit for bit")


def test_claims_about_trials_leave_nothing_out(tmp_path: Path) -> None:
    results = load(write_tuned(tmp_path / "run")).results
    assert results.tuning is not None
    long = [
        (index, replace(trial, train_seconds=1e9))
        for index, trial in enumerate(results.tuning.trials)
        if trial.round == 1
    ]
    plan, _ = replay._plan(results.runs, 1, random.Random(1), long)  # noqa: S311 - no secret
    assert len(plan) == len(results.runs) + len(long)


def test_what_did_not_fit_into_the_time_is_named(replayed: Replayed) -> None:
    found = agrees(
        replayed("left = [dict(run=p['run'], trial=None) for p in passages[1:]]; del passages[1:]")
    )
    assert (found.status, found.judged) == (Status.HOLDS, 1)
    assert any(text.startswith("Left out for lack of time: ") for text in found.details)


def test_any_run_can_be_the_one_left_out(forger: Forger) -> None:
    runs = load(forger.folder).results.runs
    draws = [random.Random(seed) for seed in range(30)]  # noqa: S311 - no secret
    assert {replay._plan(runs, 1, draw)[0][0][0] for draw in draws} == {"A-seed0", "B-seed0", "C-seed0"}
