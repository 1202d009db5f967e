"""The trials of a tuned experiment: run, recorded as they end, and divided among processes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.distributed.group import Peers
from finetune.distributed.world import World
from finetune.errors import RunFolderError
from finetune.network.network import State
from finetune.run import records
from finetune.run.folder import RunFolder
from finetune.run.prepare import Prepared
from finetune.run.progress import Progress
from finetune.run.records import Json
from finetune.run.tuning.heads import TrialHeads
from finetune.run.tuning.search import Key, Target, Trial, score
from finetune.system.files import write_atomically
from finetune.training.checkpoint import Checkpoints
from finetune.training.record import Training
from grader.findings import rate_text
from grader.submission.trials import label

COMMITTED = ("weights_sha256", "predictions_sha256", "commitment")

Train = Callable[[Trial, State | None], tuple[Json, float]]
"""Runs one trial, from a head if it is to start from one; returns its entry in the results, and the seconds
spent on it in all processes that it took."""


class TrialLog:
    """The trials of a run folder that have ended, in a file that is rewritten after each.

    Args:
        folder: whose state the file belongs to.
        rates: of the grid.
    """

    def __init__(self, folder: RunFolder, rates: tuple[float, ...]) -> None:
        self.folder = folder
        self.rates = list(rates)
        self.file = folder.state / "tuning.json"
        self.seconds = 0.0
        """Spent on trials so far, by all processes that worked in this folder one after another."""

    def read(self) -> list[Json]:
        """The entries of the trials that have ended.

        Raises:
            RunFolderError: the file is damaged, or belongs to a grid of other rates.
        """

        def build(content: Any) -> tuple[list[float], float, list[Json]]:
            trials = [dict(trial) for trial in content["trials"]]
            for trial in trials:
                key_of(trial)
                score(trial)
                trial["commitments"]
            return list(content["rates"]), float(content["seconds"]), trials

        found = records.read_json(self.file, build)
        if found is None:
            return []
        rates, self.seconds, trials = found
        if rates != self.rates:
            raise RunFolderError(
                "A run must be resumed with the rates to try that it started with, but in "
                f"{self.folder.path} they were {records.short(rates)} and are {records.short(self.rates)}; "
                "restore them or start a new run."
            )
        return trials

    def forget_checkpoints(self, trial: Trial) -> None:
        """Remove the resume points of a trial that has ended."""
        if self.folder.writes:
            Checkpoints(self.folder.state, trial.stem, keeps_best=False).clear()

    def write(self, trials: Iterable[Json]) -> None:
        """Replace the entries.

        Raises:
            RunFolderError: the file cannot be written.
        """
        if self.folder.writes:
            content = {"rates": self.rates, "seconds": self.seconds, "trials": list(trials)}
            write_atomically(self.file, json.dumps(content, allow_nan=False).encode())


def tune(
    prepared: Prepared,
    folder: RunFolder,
    train: Train,
    progress: Progress,
    world: World,
    peers: Peers | None,
) -> tuple[Prepared, float]:
    """Run the trials that have not ended, put them on record, and add the test images to what is prepared.

    Args:
        prepared: without test images.
        folder: the run folder, which remembers the trials that have ended.
        train: as `run_trials` takes it.
        progress: says what happens.
        world: the processes that train each trial together.
        peers: processes among which the trials are divided; None if all are this process's.

    Returns:
        What the final runs need, and the seconds that earlier processes spent on trials.

    Raises:
        FinetuneError: this process or another one failed; the trials that have ended are kept.
        Stopped: a signal came.
    """
    before = folder.read()["tuning"] if folder.has_results() else None
    log = TrialLog(folder, progress.plan.tune.rates)
    own = log.read() if before is None else before["trials"]
    if not world.all_equal([key_of(trial) for trial in own]):
        raise RunFolderError(
            f"All processes must find the same trials, but they differ; put {folder.path} on a volume that "
            "all processes share."
        )
    outcomes, earlier = run_trials(own, log, train, progress, peers)
    tuning = progress.plan.record(outcomes)
    prepared.record["tuning"] = tuning
    for line in choice_lines(tuning, progress.plan.targets):
        progress.reporter.say(line)
    return prepared.with_test(progress.reporter), earlier


def run_trials(
    own: list[Json],
    log: TrialLog,
    train: Train,
    progress: Progress,
    peers: Peers | None,
) -> tuple[dict[Key, Json], float]:
    """Run the trials that have not ended yet.

    Args:
        own: entries of the trials that have ended, as this process remembers them.
        log: where they are remembered.
        train: runs one trial.
        progress: says what happens.
        peers: processes among which the trials are divided; None if all are this process's.

    Returns:
        The entries of all trials, and the seconds spent on them by earlier processes.

    Raises:
        FinetuneError: this process or another one failed; the trials that have ended are kept.
        Stopped: a signal came.
    """
    plan, earlier, first = progress.plan, log.seconds, True
    heads = TrialHeads(log.folder, plan)
    while True:
        # All processes go on from the same trials, whatever each of them remembers.
        told = peers.exchange(own) if peers else [own]
        outcomes: dict[Key, Json] = {}
        for trial in (trial for trials in told for trial in trials):
            outcomes.setdefault(key_of(trial), trial)
        pending = plan.pending(outcomes)
        if not pending:
            break
        if log.folder.shard_file.exists() and peers is None:
            raise RunFolderError(
                f"The trials of a shard are divided among all processes, but {log.folder.path} was resumed "
                "alone; repeat the command that started the run."
            )
        if first:
            progress.begin(outcomes)
            first = False
        if peers:
            heads.share(pending, outcomes, peers)
        for trial in peers.share(pending) if peers else pending:
            started = time.perf_counter()
            progress.trial_begins(trial)
            outcomes[trial.key], seconds = train(trial, heads.start_of(trial, outcomes))
            log.seconds += seconds
            earlier += max(0.0, seconds - (time.perf_counter() - started))
            log.write(outcomes.values())
            log.forget_checkpoints(trial)
            progress.trial_ended(trial, outcomes)
        own = list(outcomes.values())
    log.write(outcomes.values())
    return outcomes, earlier


def trial_record(trial: Trial, start: Json, training: Training) -> Json:
    """The entry of a trial in the results.

    Args:
        trial: that has ended.
        start: of its network, from `start_record`.
        training: what came of it.
    """
    return {
        **dataclasses.asdict(trial),
        "seed": start["seed"],
        "status": "completed" if training.failure is None else "failed",
        "failure": training.failure,
        "initial_sha256": start["initial_sha256"],
        "stream_sha256": training.stream_sha256,
        "validation": [dataclasses.asdict(epoch.val) for epoch in training.epochs],
        "commitments": [
            {"train": dataclasses.asdict(epoch.train), **{name: getattr(epoch, name) for name in COMMITTED}}
            for epoch in training.epochs
        ],
        "train_seconds": sum(epoch.train_seconds for epoch in training.epochs),
        "train_cpu_seconds": sum(epoch.train_cpu_seconds for epoch in training.epochs),
    }


@dataclass(frozen=True)
class Chosen:
    """The peak learning rate of a variant's final runs.

    Args:
        rate: the chosen one; where none could be chosen, the lowest that was tried.
        trial: index of the trial it comes from; None without one.
        failure: why the variant cannot be trained, or None.
    """

    rate: float
    trial: int | None = None
    failure: str | None = None


def chosen(tuning: Json | None, variant: Variant, seed: int, config: ExperimentConfig) -> Chosen:
    """The peak learning rate of a final run: the tuned one, or else the variant's own or the recipe's."""
    if tuning is None:
        return Chosen(variant.lr or config.recipe.lr)
    of = (variant.name, seed if config.resplit else None)
    for choice in tuning["choices"]:
        if (choice["variant"], choice["for_seed"]) == of:
            return Chosen(choice["learning_rate"], choice["trial"])
    tried = [t["learning_rate"] for t in tuning["trials"] if (t["variant"], t["for_seed"]) == of]
    why = (
        f"at every rate tried, from {rate_text(min(tried))} to {rate_text(max(tried))}, the loss was no "
        "longer finite; tune over lower rates."
        if tried
        else f"none could be chosen for {variant.head}, from which it takes its head."
    )
    rate = min(tried, default=tuning["rates"][0])
    return Chosen(rate, failure=f"No learning rate could be chosen for {label(of)}: {why}")


def not_trained(failure: str) -> Training:
    """What is recorded of a run that was not trained, and why: it saw no images."""
    return Training(failure=failure, stream_sha256=hashlib.sha256().hexdigest())


def choice_lines(tuning: Json, targets: Iterable[Target]) -> list[str]:
    """The learning rate chosen for each target, with the validation accuracy of its trial."""
    chosen = {(choice["variant"], choice["for_seed"]): choice for choice in tuning["choices"]}
    lines = []
    for variant, seed in targets:
        choice, name = chosen.get((variant.name, seed)), label((variant.name, seed))
        if choice is None:
            lines.append(f"{name}: no learning rate chosen, because the loss of its trials was not finite.")
            continue
        best = max(e["n_correct"] / e["n_samples"] for e in tuning["trials"][choice["trial"]]["validation"])
        rate = rate_text(choice["learning_rate"])
        lines.append(f"{name}: learning rate {rate} chosen, with {best:.1%} on validation")
    return lines


def key_of(outcome: Json) -> Key:
    """What tells a trial from all others, of its entry in the results."""
    return outcome["variant"], outcome["for_seed"], outcome["round"], outcome["learning_rate"]
