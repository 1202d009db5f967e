"""Fair tuning holds for honest trials, and each forged tuning fails it alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grader.findings import Finding, Status
from grader.grading.grade import Job, grade
from grader.grading.policy import Policy
from tests.grader.forgeries import Forger
from tests.grader.honest import Size, commit, write_run
from tests.grader.tuned import tune, write_tuned

Change = Callable[[Forger], None]
FORGED: list[Change] = []


def forged(change: Change) -> Change:
    FORGED.append(change)
    return change


def trials(f: Forger, variant: str, number: int) -> list[dict[str, Any]]:
    found = [t for t in f.doc["tuning"]["trials"] if (t["variant"], t["round"]) == (variant, number)]
    return sorted(found, key=lambda trial: trial["learning_rate"])


def choice(f: Forger, variant: str) -> dict[str, Any]:
    return next(c for c in f.doc["tuning"]["choices"] if c["variant"] == variant)


def choose(f: Forger, variant: str, trial: dict[str, Any]) -> None:
    """Choose another trial, and train finally at its rate, consistently."""
    index = f.doc["tuning"]["trials"].index(trial)
    choice(f, variant).update(learning_rate=trial["learning_rate"], trial=index)
    for run in f.doc["runs"]:
        if run["variant"] == variant:
            for epoch in run["epochs"]:
                epoch["learning_rate"] *= trial["learning_rate"] / run["learning_rate"]
            run.update(learning_rate=trial["learning_rate"], trial=index)


@forged
def more_trials_for_b(f: Forger) -> None:
    f.doc["tuning"]["trials"].append(trials(f, "B", 1)[0] | {"learning_rate": 0.05})


@forged
def more_trials_for_b_called_extensions(f: Forger) -> None:
    for trial in (trials(f, "B", 1)[0], trials(f, "B", 2)[0]):
        f.doc["tuning"]["trials"].append(trial | {"learning_rate": 0.9, "is_extension": True})
    choice(f, "B")["extensions"] = 1


@forged
def the_choice_by_test(f: Forger) -> None:
    """The rate that does best on test, whatever validation says."""
    won = choice(f, "B")["trial"]
    choose(f, "B", next(t for t in trials(f, "B", 2) if f.doc["tuning"]["trials"].index(t) != won))


@forged
def a_trial_left_out(f: Forger) -> None:
    f.doc["tuning"]["trials"].remove(trials(f, "A", 1)[0])


@forged
def a_trial_run_twice(f: Forger) -> None:
    f.doc["tuning"]["trials"].append(dict(trials(f, "B", 2)[0]))


@forged
def a_winner_at_the_edge(f: Forger) -> None:
    """C's extension is left out, as if its edge had been good enough."""
    f.doc["tuning"]["trials"] = [t for t in f.doc["tuning"]["trials"] if not t["is_extension"]]
    choice(f, "C")["extensions"] = 0
    choose(f, "C", trials(f, "C", 2)[-1])


@forged
def an_extension_without_its_first_round(f: Forger) -> None:
    trial = next(t for t in f.doc["tuning"]["trials"] if t["is_extension"] and t["round"] == 1)
    index = f.doc["tuning"]["trials"].index(trial)
    f.doc["tuning"]["trials"].remove(trial)
    for entry in (*f.doc["tuning"]["choices"], *f.doc["runs"]):
        entry["trial"] -= entry["trial"] > index


@forged
def three_extensions(f: Forger) -> None:
    for factor in (3, 9):
        for number in (1, 2):
            last = max(trials(f, "C", number), key=lambda t: t["learning_rate"])
            f.doc["tuning"]["trials"].append(last | {"learning_rate": 0.9 * factor, "is_extension": True})
    choice(f, "C")["extensions"] = 3


@forged
def another_final_rate(f: Forger) -> None:
    for run in f.doc["runs"]:
        if run["variant"] == "C":
            for epoch in run["epochs"]:
                epoch["learning_rate"] /= 2
            run["learning_rate"] /= 2


@forged
def the_trials_seed_reused(f: Forger) -> None:
    f.doc["tuning"]["seed"] = 0
    for trial in f.doc["tuning"]["trials"]:
        trial["seed"] = 0


@forged
def another_seed_for_bs_trials(f: Forger) -> None:
    for trial in f.doc["tuning"]["trials"]:
        if trial["variant"] == "B":
            trial["seed"] = 100


@forged
def more_epochs_for_bs_trials(f: Forger) -> None:
    for trial in trials(f, "B", 2):
        trial["epochs"] += 1
        trial["validation"].append(trial["validation"][-1])


@forged
def longer_trials_for_all(f: Forger) -> None:
    f.doc["tuning"]["rounds"][1]["epochs"] += 1


@forged
def a_doctored_survivor(f: Forger) -> None:
    """Round 2 has a rate that round 1 did not rank among the best two."""
    trial = next(
        t for t in trials(f, "A", 2) if f.doc["tuning"]["trials"].index(t) != choice(f, "A")["trial"]
    )
    trial["learning_rate"] = 0.3


@forged
def a_trial_index_off_by_one(f: Forger) -> None:
    choice(f, "B")["trial"] -= 1


@forged
def a_run_that_names_another_trial(f: Forger) -> None:
    f.run("A")["trial"] -= 1


@forged
def a_run_that_names_no_trial(f: Forger) -> None:
    f.run("A")["trial"] = None


@forged
def a_failed_trial_chosen(f: Forger) -> None:
    f.doc["tuning"]["trials"][choice(f, "A")["trial"]].update(status="failed", failure="loss became nan")


@forged
def a_failure_hidden(f: Forger) -> None:
    trial = next(t for t in f.doc["tuning"]["trials"] if t["variant"] == "B" and t["round"] == 1)
    trial.update(status="failed")


@forged
def fewer_validation_images(f: Forger) -> None:
    for epoch in trials(f, "B", 1)[0]["validation"]:
        epoch.update(n_samples=100, n_correct=10)


@forged
def an_impossible_loss(f: Forger) -> None:
    trials(f, "B", 1)[0]["validation"][0]["loss_sum"] = 0.5


@forged
def another_start_for_c(f: Forger) -> None:
    for trial in trials(f, "C", 2):
        trial["initial_sha256"] = "0" * 64


@forged
def other_images_for_c(f: Forger) -> None:
    for trial in trials(f, "C", 2):
        trial["stream_sha256"] = "0" * 64


@forged
def the_final_runs_images(f: Forger) -> None:
    for trial in f.doc["tuning"]["trials"]:
        if trial["round"] == 2:
            trial["stream_sha256"] = f.run("A")["budget"]["stream_sha256"]


@forged
def a_choice_left_out(f: Forger) -> None:
    f.doc["tuning"]["choices"].remove(choice(f, "B"))
    f.doc["config"]["variants"][1]["lr"] = f.run("B")["learning_rate"]


@forged
def a_choice_twice(f: Forger) -> None:
    f.doc["tuning"]["choices"].append(dict(choice(f, "B")))


@forged
def another_mode(f: Forger) -> None:
    f.doc["config"]["tune"] = "full"


@forged
def tuning_without_trials(f: Forger) -> None:
    f.doc["tuning"] = None
    for run, variant in zip(f.doc["runs"], f.doc["config"]["variants"], strict=True):
        variant["lr"] = run["learning_rate"]
        run["trial"] = None


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tuned(tmp_path_factory.mktemp("tuned") / "run")


def judged(folder: Path, policy: Policy) -> tuple[Finding, list[str]]:
    found = grade(Job(folder, "run", policy))
    assert not found.problems, found.problems
    failing = [
        name
        for name, finding in found.findings.items()
        if finding.status is Status.FAILS and (found.counts(name) or name in found.refuted)
    ]
    return found.findings["fairly-tuned"], failing


@pytest.mark.parametrize("mode", ["halving", "full"])
@pytest.mark.parametrize("epochs", [1, 2, 4, 5, 10])
def test_honest_tuning_holds(mode: str, epochs: int, policy: Policy, tmp_path: Path) -> None:
    write_tuned(tmp_path / "run", Size(epochs=epochs, seeds=(0, 1)), mode)
    finding, failing = judged(tmp_path / "run", policy)
    assert finding.status is Status.HOLDS, finding.details or finding.summary
    assert failing == []
    assert "diverged" in finding.summary or epochs == 1


def test_there_are_trials_that_fail_and_extensions(tuned: Path) -> None:
    tuning = json.loads((tuned / "results.json").read_text())["tuning"]
    assert {"completed", "failed"} == {trial["status"] for trial in tuning["trials"]}
    assert any(trial["is_extension"] for trial in tuning["trials"])


@pytest.mark.parametrize("change", FORGED, ids=lambda change: change.__name__)
def test_each_forged_tuning_fails_it_alone(
    change: Change, tuned: Path, policy: Policy, tmp_path: Path
) -> None:
    forger = Forger(tuned, tmp_path / "run")
    change(forger)
    forger.save()
    finding, failing = judged(forger.folder, policy)
    assert finding.status is Status.FAILS
    # Rates that nothing is said to have chosen are also rates chosen by hand.
    assert [name for name in failing if name != "comparable-rates"] == ["fairly-tuned"]
    assert grade(Job(forger.folder, "run", policy)).exit_code == 1


def test_an_edge_after_two_extensions_is_inconclusive(policy: Policy, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    document = json.loads((tmp_path / "run" / "results.json").read_text())
    tune(document, best={"A": 0.05, "B": 0.012, "C": 100.0})
    commit(document)
    (tmp_path / "run" / "results.json").write_text(json.dumps(document))
    finding, failing = judged(tmp_path / "run", policy)
    assert (finding.status, failing) == (Status.INCONCLUSIVE, [])
    assert finding.summary.startswith("The best rate of C is at the edge of its grid after two extensions")


def test_untuned_runs_have_one_rate(honest: Path, policy: Policy) -> None:
    found = grade(Job(honest, "run", policy))
    assert found.findings["fairly-tuned"].status is Status.NOT_CHECKED
    assert found.findings["one-rate"].status is Status.FAILS
    assert "peak rate 0.02, which was not tuned" in found.findings["one-rate"].summary
    assert found.exit_code == 0


def test_a_grid_at_which_nothing_learns_is_inconclusive(policy: Policy, tmp_path: Path) -> None:
    """Rates so small that each trial guesses: the order among them is chance."""
    write_run(tmp_path / "run")
    document = json.loads((tmp_path / "run" / "results.json").read_text())
    tune(document, skill=0.1)
    commit(document)
    (tmp_path / "run" / "results.json").write_text(json.dumps(document))
    finding, failing = judged(tmp_path / "run", policy)
    assert (finding.status, failing) == (Status.INCONCLUSIVE, [])
    assert finding.summary.startswith("No trial became better on validation than the most frequent class")
