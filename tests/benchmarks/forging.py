"""What a forgery costs that passes with evidence up to each level, next to an honest run of the same recipe.

    python -m tests.benchmarks.forging FOLDER

The forger has finetune itself write the run folder, but trains few of the epochs and makes the others up. The
last one it trains on validation and test images too, so that the weights have the accuracy that is claimed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.options import configure
from finetune.data.augment import plan_epoch
from finetune.run import fit
from finetune.run.experiment import run_experiment
from finetune.system.signals import StopRequest
from finetune.training.optimizer import learning_rate
from finetune.training.record import Predictions
from finetune.training.trainer import Trainer
from grader.checks import PROPERTIES
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.isolated.replay import Request
from tests.benchmarks.replays import with_held_out
from tests.builders.runs import RecordingReporter

HONEST = 0


class Shortcut(Trainer):
    """Trains the first `HONEST` epochs honestly and the last one on the wrong images; invents the rest."""

    def _pass(self, number: int, step_ended: Callable[[int], None] = lambda _: None) -> None:
        if number <= HONEST:
            super()._pass(number, step_ended)
            return
        training, current = self.training, self.training.current
        stream, steps, images = training.stream_sha256, training.steps, training.images
        plan = plan_epoch(self.seed, number, self.images.train.sizes, self.recipe, self.prefix.views)
        if number == self.recipe.epochs:
            own, self.images = self.images, with_held_out(self.images, self.seed)
            training.steps = self.steps_per_epoch if HONEST else 0  # where the rate is still high
            super()._pass(number, step_ended)
            self.images = own
        else:
            self._invent(number)
        training.stream_sha256 = plan.digest(stream)
        training.steps, training.images = steps + self.steps_per_epoch, images + len(self.images.train)
        current.rate_sum = 0.0
        for step in range(steps, training.steps):
            current.rate_sum += learning_rate(step, self.steps_per_epoch, self.recipe, self.peak)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([int(self.commitment[:8], 16), number])

    def _invent(self, number: int) -> None:
        """Sums and times of a pass that never was."""
        current, n = self.training.current, len(self.images.train)
        rng = self._rng(number)
        current.batches, current.samples = self.steps_per_epoch, n
        current.n_correct = round(n * (0.2 + 0.1 * number + rng.uniform(0, 0.05)))
        current.loss_sum = float(n * rng.uniform(1.2, 1.3) / number)
        before = self.training.epochs[-1] if self.training.epochs else None
        current.seconds = rng.uniform(0.9, 1.1) * (before.train_seconds if before else 1.5)
        current.cpu_seconds = rng.uniform(0.9, 1.0) * current.seconds
        current.wait_seconds = rng.uniform(0.001, 0.01) * current.seconds

    def _reestimate(self, number: int) -> None:
        if number <= HONEST or number == self.recipe.epochs:
            super()._reestimate(number)

    def _evaluate(self) -> dict[str, Predictions]:
        number = len(self.training.epochs) + 1
        if number <= HONEST or number == self.recipe.epochs:
            return super()._evaluate()
        rng, found = self._rng(number), {}
        for split, (_, labels) in self.images.held_out.items():
            truth = labels.numpy()
            wrong = rng.random(len(truth)) > 0.1 + 0.02 * number  # the last epoch is to be the best
            predicted = np.where(wrong, (truth + 1) % (int(truth.max()) + 1), truth)
            confidence = rng.uniform(0.5, 0.9, len(truth)).astype(np.float32)
            nll = np.where(wrong, -np.log(1 - confidence) + 0.1, -np.log(confidence)).astype(np.float32)
            found[split] = Predictions(predicted, nll, confidence)
        return found


def seconds() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write(folder: Path, trainer: type[Trainer], n_honest: int = 0) -> float:
    """Write a run folder; the processor seconds that it took."""
    global HONEST
    HONEST, fit.Trainer = n_honest, trainer  # type: ignore[misc]
    shutil.rmtree(folder, ignore_errors=True)
    config = configure({"preset": "smoke", "threads": 1})
    began = seconds()
    run_experiment(dataclasses.replace(config, workers=1), folder, RecordingReporter(), StopRequest())
    fit.Trainer = Trainer  # type: ignore[misc]
    took = seconds() - began
    if trainer is Shortcut:
        _make_times_add_up(folder / "results.json")
    return took


def _make_times_add_up(file: Path) -> None:
    document = json.loads(file.read_text())
    for run in document["runs"]:
        last = run["epochs"][-1]["evaluation_seconds"]
        for epoch in run["epochs"][:-1]:
            if epoch["evaluation_seconds"] < 0.1 * last:
                epoch["evaluation_seconds"] = last * (1 + 0.0137 * epoch["epoch"])
        times = [epoch["train_seconds"] + epoch["evaluation_seconds"] for epoch in run["epochs"]]
        run["total_seconds"] = sum(times) + 0.7371
    total = sum(run["total_seconds"] for run in document["runs"])
    document["timings"]["total_seconds"] = total + sum(document["timings"].values())
    file.write_text(json.dumps(document))


def refuted(folder: Path, **evidence: Any) -> list[str]:
    """The integrity properties that fail, with the grade's own words; empty if the forgery passes."""
    found = grade(Job(folder, "run", load_policy("default"), **evidence))
    return [
        f"{name}: {finding.summary}"
        for name, finding in found.findings.items()
        if finding.status is Status.FAILS and PROPERTIES[name].is_integrity
    ] + [
        f"{name}: {f.status}"
        for name, f in found.findings.items()
        if name in ("rerun-agrees", "replay-agrees")
    ]


WAYS: dict[str, tuple[type[Trainer], int]] = {
    "honest": (Trainer, 0),
    "no honest epoch": (Shortcut, 0),
    "first epoch honest": (Shortcut, 1),
    "all but the last honest": (Shortcut, 5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=WAYS)
    options = parser.parse_args()
    folder, made = options.folder, dict[str, Any]()
    for name in options.names:
        trainer, n_honest = WAYS[name]
        made[name] = {"seconds": write(folder / name, trainer, n_honest)}
        tried = {"4": {"rerun": True}, "5, first epoch": {"replay": Request(1)}}
        if n_honest:
            tried["5, all epochs"] = {"replay": Request(6)}
        for level, evidence in tried.items():
            made[name][level] = refuted(folder / name, **evidence)
        print(name, json.dumps(made[name], indent=1), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
