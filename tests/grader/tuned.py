"""An honest tuned run: trials that chose each variant's rate, before an honest run's final trainings."""

import json
from math import exp, log
from pathlib import Path
from typing import Any

from tests.grader.honest import VARIANTS, Size, commit, sha, write_run

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
    epochs, n_val = document["config"]["recipe"]["epochs"], document["dataset"]["splits"]["val"]["n_samples"]
    n_train = document["dataset"]["splits"]["train"]["n_samples"]
    rounds = [(epochs, 1)] if mode == "full" else [(max(1, (epochs + 2) // 4), 2), ((epochs + 1) // 2, 1)]
    rounds = rounds[-1:] if mode == "halving" and rounds[0][0] == rounds[1][0] else rounds
    trials: list[dict[str, Any]] = []
    choices = []
    for variant, (init, _) in VARIANTS.items():
        peak = (best or BEST)[variant]

        def trial(number: int, rate: float, extension: bool = False) -> dict[str, Any]:
            found = _trial(variant, init, peak, n_val, rate, rounds[number - 1][0], skill)  # noqa: B023 - called at once
            training, n_epochs = (found["variant"], rate, number), len(found["validation"])
            found["commitments"] = [_commitment((*training, n), n_train) for n in range(n_epochs)]
            trials.append(found | {"round": number, "is_extension": extension})
            return trials[-1]

        kept = [trial(1, rate) for rate in RATES]
        for number in range(2, len(rounds) + 1):
            kept = sorted((t for t in kept if t["status"] == "completed"), key=_rank)[: rounds[number - 2][1]]
            kept = [trial(number, rate) for rate in sorted(t["learning_rate"] for t in kept)]
        kept = [t for t in kept if t["status"] == "completed"]
        tried = list(RATES)
        extensions = 0
        while extensions < 2:
            rate = min(kept, key=_rank)["learning_rate"]
            if rate not in (tried[0], tried[-1]):
                break
            new = float(f"{rate * rate / (tried[1] if rate == tried[0] else tried[-2]):.12g}")
            kept.append([trial(number, new, True) for number in range(1, len(rounds) + 1)][-1])
            kept = [t for t in kept if t["status"] == "completed"]
            tried = sorted([*tried, new])
            extensions += 1
        winner = min(kept, key=_rank)
        index = trials.index(winner)
        choices.append(
            {
                "variant": variant,
                "for_seed": None,
                "learning_rate": winner["learning_rate"],
                "trial": index,
                "extensions": extensions,
            }
        )
        for run in document["runs"]:
            if run["variant"] == variant:
                for epoch in run["epochs"]:  # the same schedule, from another peak
                    epoch["learning_rate"] *= winner["learning_rate"] / run["learning_rate"]
                run.update(learning_rate=winner["learning_rate"], trial=index)
    document["config"]["tune"] = mode
    document["tuning"] = {
        "mode": mode,
        "seed": SEED,
        "rates": RATES,
        "rounds": [{"epochs": n, "keep": keep} for n, keep in rounds],
        "trials": trials,
        "choices": choices,
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


def _trial(
    variant: str, init: str, peak: float, n_val: int, rate: float, epochs: int, skill: float
) -> dict[str, Any]:
    """A trial the better, the nearer its rate is to the peak; far above it, it diverges in its last epoch."""
    diverges = rate > 20 * peak
    off = log(rate / peak) ** 2
    validation = []
    for epoch in range(1, epochs + (not diverges)):
        n_correct = round(n_val * skill * exp(-off / 8) * epoch / epochs)
        validation.append(
            {"loss_sum": 1.1 * (n_val - n_correct) + 0.01 * off, "n_correct": n_correct, "n_samples": n_val}
        )
    return {
        "variant": variant,
        "for_seed": None,
        "learning_rate": rate,
        "seed": SEED,
        "epochs": epochs,
        "status": "failed" if diverges else "completed",
        "failure": "loss became nan" if diverges else None,
        "initial_sha256": sha((init, SEED)),
        "stream_sha256": sha(("trial", epochs, "part" if diverges else "")),
        "validation": validation,
        "train_seconds": 0.1,
        "train_cpu_seconds": 0.1,
    }
