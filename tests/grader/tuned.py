"""An honest tuned run: trials that chose each variant's rate, before an honest run's final trainings."""

import json
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from tests.grader.honest import Size, commit, sha, write_run

SEED = 99
RATES = [0.003, 0.01, 0.03, 0.1, 0.3]
BEST = {"A": 0.05, "B": 0.012, "C": 0.3}  # C's lies at the edge, so that its grid is extended once


def write_tuned(folder: Path, size: Size | None = None, mode: str = "halving") -> Path:
    """Write an honest run whose rates were tuned.

    Returns:
        The folder.
    """
    write_run(folder, size)
    document = json.loads((folder / "results.json").read_text())
    tune(document, mode)
    commit(document)
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def tune(
    document: dict[str, Any],
    mode: str = "halving",
    best: dict[str, float] | None = None,
    skill: float = 0.9,
) -> None:
    """Add the trials and their choices; the final runs take the chosen rates.

    Args:
        document: The results of an honest run.
        mode: halving or full.
        best: The rate at which each variant does best; another two steps away fails if it is above 1.
        skill: Validation accuracy at the best rate.
    """
    config = document["config"]
    plan = _rounds(mode, config["recipe"]["epochs"])
    trials: list[dict[str, Any]] = []
    choices = []
    for for_seed in config["seeds"] if config["resplit"] else (None,):
        for row in config["variants"]:
            search = _Search(document, mode, row, for_seed, (best or BEST)[row["name"]], skill)
            winner, n_extensions = search.run(trials)
            if winner is None:
                continue
            rate, index = winner["learning_rate"], trials.index(winner)
            target = {"variant": row["name"], "for_seed": for_seed}
            choices.append({**target, "learning_rate": rate, "trial": index, "extensions": n_extensions})
            for run in document["runs"]:
                if run["variant"] == row["name"] and for_seed in (None, run["seed"]):
                    for epoch in run["epochs"]:  # the same schedule, from another peak
                        epoch["learning_rate"] *= rate / run["learning_rate"]
                    run.update(learning_rate=rate, trial=index)
    config["tune"] = mode
    document["tuning"] = {
        "mode": mode,
        "seed": SEED,
        "rates": RATES,
        "rounds": [{"epochs": n, "keep": keep} for n, keep in plan],
        "trials": trials,
        "choices": choices,
    }


def _rounds(mode: str, epochs: int) -> list[tuple[int, int]]:
    """Epochs and rates kept, per round."""
    if mode == "full":
        return [(epochs, 1)]
    rounds = [(max(1, (epochs + 2) // 4), 2), ((epochs + 1) // 2, 1)]
    return rounds[-1:] if rounds[0][0] == rounds[1][0] else rounds


@dataclass
class _Search:
    """The trials of one row, for a seed if each has a split of its own."""

    document: dict[str, Any]
    mode: str
    row: dict[str, Any]
    for_seed: int | None
    peak: float
    skill: float

    def run(self, trials: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, int]:
        """Add the trials; the winner, None if all failed, and how often the grid was extended."""
        rounds = _rounds(self.mode, self.row["epochs"] or self.document["config"]["recipe"]["epochs"])

        def trial(number: int, rate: float, extension: bool = False) -> dict[str, Any]:
            found = self.trial(number, rate, rounds[number - 1][0])
            trials.append(found | {"round": number, "is_extension": extension})
            return trials[-1]

        kept = [trial(1, rate) for rate in RATES]
        for number in range(2, len(rounds) + 1):
            kept = sorted((t for t in kept if t["status"] == "completed"), key=_rank)[: rounds[number - 2][1]]
            kept = [trial(number, rate) for rate in sorted(t["learning_rate"] for t in kept)]
        kept = [t for t in kept if t["status"] == "completed"]
        tried, extensions = list(RATES), 0
        while kept and extensions < 2:
            rate = min(kept, key=_rank)["learning_rate"]
            if rate not in (tried[0], tried[-1]):
                break
            new = float(f"{rate * rate / (tried[1] if rate == tried[0] else tried[-2]):.12g}")
            kept.append([trial(number, new, True) for number in range(1, len(rounds) + 1)][-1])
            kept = [t for t in kept if t["status"] == "completed"]
            tried = sorted([*tried, new])
            extensions += 1
        return min(kept, key=_rank, default=None), extensions

    def trial(self, number: int, rate: float, epochs: int) -> dict[str, Any]:
        """A trial that is the better, the nearer its rate is to the peak; far above it, it diverges."""
        n_train, n_val = (self.document["dataset"]["splits"][s]["n_samples"] for s in ("train", "val"))
        diverges = rate > 20 * self.peak
        off = log(rate / self.peak) ** 2
        validation = []
        for epoch in range(1, epochs + (not diverges)):
            n_correct = round(n_val * self.skill * exp(-off / 8) * epoch / epochs)
            loss = 1.1 * (n_val - n_correct) + 0.01 * off
            validation.append({"loss_sum": loss, "n_correct": n_correct, "n_samples": n_val})
        name, init, head = self.row["name"], self.row["init"], self.row["head"]
        start = (init, SEED, head, self.for_seed) if head else (init, SEED)
        own = (name, rate, number) if self.for_seed is None else (name, rate, number, self.for_seed)
        return {
            "variant": name,
            "for_seed": self.for_seed,
            "learning_rate": rate,
            "seed": SEED,
            "epochs": epochs,
            "status": "failed" if diverges else "completed",
            "failure": "loss became nan" if diverges else None,
            "initial_sha256": sha(start),
            "stream_sha256": sha(("trial", epochs, "part" if diverges else "", self.for_seed)),
            "validation": validation,
            "train_seconds": 0.1,
            "train_cpu_seconds": 0.1,
            "commitments": [_commitment((*own, n), n_train) for n in range(len(validation))],
        }


def _commitment(training: tuple[object, ...], n_train: int) -> dict[str, Any]:
    """Of an epoch of a trial; `commit` adds the chain."""
    return {
        "train": {"loss_sum": 1.5 * n_train, "n_correct": n_train // 4, "n_samples": n_train},
        "weights_sha256": sha(("trial's weights", training)),
        "predictions_sha256": sha(("trial's predictions", training)),
        "commitment": "",
    }


def _rank(trial: dict[str, Any]) -> tuple[float, float, float]:
    n_correct, loss = min((-e["n_correct"], e["loss_sum"]) for e in trial["validation"])
    return n_correct, loss, trial["learning_rate"]
