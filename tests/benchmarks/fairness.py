"""Does the answer depend on the learning rate? The evidence of docs/fairness.md.

    python -m tests.benchmarks.fairness OUT [--data DATA] [--only NAME,...] [--jobs NAME,...] [--defaults]

Trains A, B and C with three seeds on each data set: at each rate of the grid, with `--tune` and with
`--tune full`. Complete run folders are not trained again, so it can be stopped and continued. Then it prints
what each job says of B - A and C - B, how often a fixed rate says otherwise than the tuned job, what halving
loses against the full grid on test (in the mean over the data sets, too), how often the two choose different
rates, and what tuning costs in wall-clock and CPU time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from grader.submission.load import load
from tests.benchmarks.measure import DATA

RATES = ("0.00316", "0.01", "0.0316", "0.1", "0.316")
TUNED = ("halving", "full")
RECIPE = ("--preset", "tests/benchmarks/fairness.toml")
DEFAULTS = ("--weights", "bundled", "--image-size", "64", "--epochs", "5")
"""The recipe of those who set nothing else: it re-estimates BatchNorm statistics where steps are few."""
DATASETS = {
    "ants-and-bees": ("--dataset", "imagefolder:{data}/hymenoptera"),
    "flowers-official": ("--dataset", "flowers102", "--data-root", "{data}", "--split", "official"),
    "digits": ("--dataset", "digits", "--subset", "60"),
    "clothing": ("--dataset", "imagefolder:{data}/clothing", "--subset", "100"),
    "flowers-70-15-15": ("--dataset", "flowers102", "--data-root", "{data}", "--subset", "20"),
}
"""The options of each data set; subsets keep the whole within an evening on two cores."""


@dataclass(frozen=True)
class Answer:
    """What one job says: accuracies on test, and the findings on B - A and C - B.

    Args:
        name: a rate, `halving` or `full`.
        test: mean accuracy over seeds by variant, 0 to 1.
        rates: peak learning rate by variant.
        gaps: by property: the status, the difference, and its confidence limits.
        seconds: of the whole job, wall-clock, trials included.
        cpu_seconds: CPU time of all training steps, trials included. Other programs lengthen the time
            on the clock, but hardly this.
    """

    name: str
    test: dict[str, float]
    rates: dict[str, float]
    gaps: dict[str, tuple[str, float, float, float]]
    seconds: float
    cpu_seconds: float


def cpu_seconds(folder: Path) -> float:
    """Processor time of the training steps of runs and trials.

    Trials of files written before these recorded it have their seconds on the clock instead, times what a
    second of their variant's final runs took.
    """
    document = json.loads((folder / "results.json").read_text("utf-8"))
    took: dict[str, tuple[float, float]] = {}
    for run in document["runs"]:
        before = took.get(run["variant"], (0.0, 0.0))
        sums = (sum(e[name] for e in run["epochs"]) for name in ("train_cpu_seconds", "train_seconds"))
        took[run["variant"]] = tuple(map(sum, zip(before, sums, strict=True)))  # type: ignore[assignment]
    trials = document["tuning"]["trials"] if document["tuning"] else ()
    share = {variant: cpu / clock for variant, (cpu, clock) in took.items()}
    return sum(cpu for cpu, _ in took.values()) + sum(
        t.get("train_cpu_seconds", t["train_seconds"] * share[t["variant"]]) for t in trials
    )


def train(out: Path, dataset: str, name: str, data: Path, recipe: tuple[str, ...]) -> Path:
    """Train one job unless its folder is complete; returns the folder."""
    folder = out / dataset / (name if name in TUNED else f"lr-{name}")
    if (folder / "results.json").is_file() and not (folder / "state").exists():
        return folder
    options = [option.format(data=data) for option in DATASETS[dataset]]
    how = ["--tune", name] if name in TUNED else ["--lr", name]
    command = [sys.executable, "-m", "finetune", "train"]
    if (folder / "config.toml").is_file():
        command += ["--resume", str(folder)]
    else:
        command += [*recipe, *options, *how, "--seeds", "3", "--out", str(folder)]
    subprocess.run(command, check=True)
    return folder


def answer(folder: Path, name: str) -> Answer:
    """What the grader finds in a run folder."""
    found = grade(Job(folder, name, load_policy("default"))).findings
    results = load(folder).results
    runs = {v.name: list(results.of(v.name)) for v in results.variants}
    gaps = {}
    for claim in ("b-beats-a", "c-against-b"):
        n = found[claim].numbers
        gaps[claim] = (str(found[claim].status), n["difference"], n["low"], n["high"])
    return Answer(
        name,
        {v: fmean(r.best.test.accuracy for r in rs if r.best) for v, rs in runs.items() if rs},
        {v: rs[0].learning_rate for v, rs in runs.items() if rs},
        gaps,
        results.timings["total_seconds"],
        cpu_seconds(folder),
    )


def says(gap: tuple[str, float, float, float]) -> str:
    """The sign that a difference is sure of: above, below or undecided at the confidence of the interval."""
    _, _, low, high = gap
    return "above" if low > 0 else "below" if high < 0 else "undecided"


def table(answers: list[Answer]) -> Iterator[str]:
    """The rows of one data set."""
    yield "| learning rate | A | B | C | B − A | C − B | C − B is |"
    yield "|---|---|---|---|---|---|---|"
    for a in answers:
        tests = " | ".join(f"{100 * a.test[v]:.1f}%" for v in "ABC")
        gaps = " | ".join(
            f"{100 * d:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})".replace("-", "−")
            for _, d, low, high in a.gaps.values()
        )
        rates = (
            "" if a.name not in TUNED else " (" + ", ".join(f"{v} {r:g}" for v, r in a.rates.items()) + ")"
        )
        yield f"| {a.name}{rates} | {tests} | {gaps} | {says(a.gaps['c-against-b'])} |"


def summary(found: dict[str, list[Answer]]) -> Iterator[str]:
    """How often fixed rates disagree with the tuned job; halving's regret, its other choices, its cost."""
    heads = (
        "data set",
        "fixed rates that disagree",
        "regret of halving in points (A, B, C)",
        "other rates than full (A, B, C)",
        "same verdict",
        "wall-clock cost",
        "CPU cost",
        "of full",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    regrets: list[list[float]] = []
    others: list[list[bool]] = []
    for dataset, answers in found.items():
        by_name = {a.name: a for a in answers}
        if not set(TUNED) <= by_name.keys():
            continue
        halving, full = by_name["halving"], by_name["full"]
        fixed = [a for a in answers if a.name not in TUNED]
        tuned = says(halving.gaps["c-against-b"])
        disagree = sum(says(a.gaps["c-against-b"]) != tuned for a in fixed)
        regrets.append([100 * (full.test[v] - halving.test[v]) for v in "ABC"])
        others.append([halving.rates[v] != full.rates[v] for v in "ABC"])
        cells = (
            dataset,
            f"{disagree} of {len(fixed)}",
            signed(regrets[-1]),
            ", ".join("yes" if other else "no" for other in others[-1]),
            "yes" if says(full.gaps["c-against-b"]) == tuned else "no",
            multiple(halving.seconds, [a.seconds for a in fixed]),
            multiple(halving.cpu_seconds, [a.cpu_seconds for a in fixed]),
            multiple(full.cpu_seconds, [a.cpu_seconds for a in fixed]),
        )
        yield f"| {' | '.join(cells)} |"
    if regrets:
        flat = [value for values in regrets for value in values]
        n_other = sum(map(sum, others))
        yield ""
        yield (
            f"Regret of halving in the mean over {len(regrets)} data sets: {signed([fmean(flat)])} points "
            f"(A, B, C: {signed(fmean(of_one) for of_one in zip(*regrets, strict=True))}). Halving chose "
            f"another rate than the full grid in {n_other} of {len(flat)} searches."
        )


def multiple(seconds: float, plain: list[float]) -> str:
    """Seconds as a multiple of those of the jobs at fixed rates, if there are any."""
    return f"{seconds / fmean(plain):.2f}" if plain else "not measured"


def signed(values: Iterable[float]) -> str:
    """Points with their sign, separated by commas."""
    return ", ".join(f"{value:+.1f}" for value in values).replace("-", "−")


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default=",".join(DATASETS), help="data sets, separated by commas")
    parser.add_argument("--jobs", default=",".join(RATES + TUNED), help="rates, halving and full")
    parser.add_argument("--defaults", action="store_true", help="the default recipe instead of fairness.toml")
    parser.add_argument("--table", action="store_true", help="only the tables of what has been trained")
    options = parser.parse_args()
    found: dict[str, list[Answer]] = {}
    for dataset in options.only.split(","):
        for name in options.jobs.split(","):
            folder = options.out / dataset / (name if name in TUNED else f"lr-{name}")
            if not options.table:
                train(options.out, dataset, name, options.data, DEFAULTS if options.defaults else RECIPE)
            if (folder / "results.json").is_file():
                found.setdefault(dataset, []).append(answer(folder, name))
    for dataset, answers in found.items():
        print("\n".join([f"\n{dataset}\n", *table(answers)]))  # noqa: T201
    print("\n".join(["", *summary(found)]))  # noqa: T201


if __name__ == "__main__":
    main()
