"""What `replay-agrees` says of honest and forged epochs: tables from what `tests.benchmarks.replays` wrote.

    python -m tests.benchmarks.replay_rates FOLDER [RUN...]

Each RUN is the run folder of an honest job: the first epochs of its runs stand for one another's forgeries.
A pair is an epoch as recorded and as trained again; a forger's epoch stands for the recorded one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from grader.checks.replay import replay_agrees
from grader.evidence.gathered import Evidence
from grader.findings import Status
from grader.isolated.replay import Passage, Replay
from grader.isolated.replayed import CLOSE, FAR
from grader.submission.record import SPLITS, Results, Run, results_from
from tests.benchmarks.replays import HONEST, WAYS

OUTCOMES = {"identical": "identical", "close": "agrees", "unclear": "unclear", "other": "refuted"}


@dataclass(frozen=True)
class Compared:
    """An epoch as recorded and as trained again.

    Attributes:
        setting: Data and recipe.
        way: Name of the condition or forger.
        variant: A, B or C.
        stage: `1`, `2` or `3 and later` from the start; `state` for the first after a kept state.
        outcome: What `replay-agrees` says.
        loss: Relative difference of the training loss.
        held_out: The largest relative difference of the validation and test losses.
        flips: The largest difference in correct predictions on validation or test, over the square root of
            the mean number of incorrect ones.
        same_weights: Whether the weights are identical.
        same_start: Whether the start is; None unless the passage begins with the first epoch.
    """

    setting: str
    way: str
    variant: str
    stage: str
    outcome: str
    loss: float
    held_out: float
    flips: float
    same_weights: bool
    same_start: bool | None

    @property
    def is_honest(self) -> bool:
        return self.way in HONEST


def compared(setting: Path) -> Iterator[Compared]:
    """All pairs of a setting, epoch by epoch."""
    document = json.loads((setting / "run/results.json").read_text())
    results = results_from(document)
    for way in WAYS:
        path = setting / f"{way}.json"
        found = json.loads(path.read_text()) if path.exists() else {"passages": []}
        for passage in found["passages"]:
            run = next(run for run in results.runs if run.name == passage["run"])
            for i, again in enumerate(passage["epochs"]):
                epoch = run.epochs[again["epoch"] - 1]
                stage = "state" if passage["first"] > 1 else ("1", "2", "3 and later")[min(i, 2)]
                yield Compared(
                    setting.name,
                    way,
                    run.variant,
                    stage,
                    outcome_of(results, run, {**passage, "epochs": [again]}),
                    _relative(epoch.train.loss_sum, again["train"]["loss_sum"]),
                    max(_relative(epoch.on(s).loss_sum, again[s]["loss_sum"]) for s in SPLITS),
                    max(_flips(epoch.on(s), again[s]) for s in SPLITS),
                    epoch.weights_sha256 == again["weights_sha256"],
                    passage["initial_sha256"] == run.initial_sha256 if stage == "1" else None,
                )


def outcome_of(results: Results, run: Run, passage: dict[str, Any]) -> str:
    """What the grader says of one replayed epoch; the start is taken for the recorded one."""
    fields = {field.name: passage.get(field.name) for field in dataclasses.fields(Passage)}
    again = Passage(**{**fields, "initial_sha256": run.initial_sha256})
    found = replay_agrees(Evidence(results, replay=Replay([again])))
    if found.status is Status.FAILS:
        return "refuted"
    return next(OUTCOMES[name] for name, n in found.numbers.items() if n)


def _relative(recorded: float, again: float) -> float:
    return abs(recorded - again) / again


def _loss(pair: Compared) -> float:
    return pair.loss


def _held_out(pair: Compared) -> float:
    return pair.held_out


def _flips(recorded: Any, again: Any) -> float:
    n, n_again = recorded.n_correct, again["n_correct"]
    return float(abs(n - n_again) / max(1.0, recorded.n_samples - (n + n_again) / 2) ** 0.5)


def made_up(setting: Path, n: int = 300) -> Iterator[Compared]:
    """First epochs that a script makes up: knowing only the classes, or how other seeds went."""
    document = json.loads((setting / "run/results.json").read_text())
    results = results_from(document)
    rng = np.random.default_rng(0)
    for run, entry in zip(results.runs, document["runs"], strict=True):
        again, kin = run.epochs[0], [r for r in results.runs if r.variant == run.variant and r is not run]
        others = [other.epochs[0].train.loss_sum for other in kin]
        drawn = {"made up": again.train.n_samples * np.log(len(results.classes)) * rng.uniform(0.3, 1.1, n)}
        if len(others) > 1:
            drawn["made up from other seeds"] = rng.normal(np.mean(others), np.std(others, ddof=1), n)
        for way, losses in drawn.items():
            for loss in np.maximum(losses, 1e-3):
                train = dataclasses.replace(again.train, loss_sum=float(loss))
                epoch = dataclasses.replace(again, train=train, weights_sha256="", predictions_sha256="")
                forged = dataclasses.replace(run, epochs=(epoch, *run.epochs[1:]))
                passage = {"run": run.name, "first": 1, "epochs": entry["epochs"][:1]}
                outcome = outcome_of(dataclasses.replace(results, runs=(forged,)), forged, passage)
                loss_difference = _relative(float(loss), again.train.loss_sum)
                yield Compared(
                    setting.name, way, run.variant, "1", outcome, loss_difference, 0.0, 0.0, False, None
                )


def of_other_jobs(folders: Sequence[Path]) -> Iterator[Compared]:
    """First epochs of honest runs as if each were another one's: with another seed, rate, or neither."""
    runs = []
    for folder in folders:
        document = json.loads((folder / "results.json").read_text())
        results, config = results_from(document), document["config"]
        recipe = {name: value for name, value in config["recipe"].items() if name != "lr"}
        for run, entry in zip(results.runs, document["runs"], strict=True):
            split = results.splits_of(run.seed)["train"].fingerprint
            kind = json.dumps([split, recipe, run.variant, run.init, config["precision"], len(run.epochs)])
            if run.epochs and run.epochs[0].weights_sha256 and not results.has_head(run):
                name = f"{results.dataset_name}, {recipe['image_size']} px"
                runs.append((kind, name, results, run, entry["epochs"][:1]))
    for kind, name, results, run, _ in runs:
        for other_kind, _, _, other, again in runs:
            if kind != other_kind or run is other:
                continue
            same_seed, same_rate = run.seed == other.seed, run.learning_rate == other.learning_rate
            if not (same_seed or same_rate):
                continue
            way = (
                "the same"
                if same_seed and same_rate
                else "a real run's rate"
                if same_seed
                else "a real run's seed"
            )
            passage = {"run": run.name, "first": 1, "epochs": again}
            outcome = outcome_of(results, run, passage)
            (epoch,), recorded = again, run.epochs[0]
            yield Compared(
                name,
                way,
                run.variant if run.variant in "ABC" else "others",
                "1",
                outcome,
                _relative(recorded.train.loss_sum, epoch["train"]["loss_sum"]),
                max(_relative(recorded.on(s).loss_sum, epoch[s]["loss_sum"]) for s in SPLITS),
                max(_flips(recorded.on(s), epoch[s]) for s in SPLITS),
                recorded.weights_sha256 == epoch["weights_sha256"],
                run.initial_sha256 == other.initial_sha256 if way == "the same" else None,
            )


def area(honest: Sequence[float], forged: Sequence[float]) -> float:
    """Area under the ROC curve: the chance that a forged pair differs more than an honest one."""
    if not honest or not forged:
        return float("nan")
    x, y = np.array(honest)[:, None], np.array(forged)[None]
    return float(((x < y) + 0.5 * (x == y)).mean())


def table(pairs: Iterable[Compared], key: Callable[[Compared], tuple[str, ...]], names: Sequence[str]) -> str:
    """Outcomes and the largest and smallest differences of pairs, grouped."""
    head = [*names, "n", *OUTCOMES.values(), "loss: median", "least", "most"]
    head += ["held-out: median", "least", "most", "flips: most"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for group, members in groupby(sorted(pairs, key=key), key=key):
        found = list(members)
        counts = [sum(p.outcome == outcome for p in found) for outcome in OUTCOMES.values()]
        numbers = [
            f(values)
            for values in ([p.loss for p in found], [p.held_out for p in found])
            for f in (lambda v: float(np.median(v)), min, max)
        ]
        cells = [*group, str(len(found)), *map(str, counts), *(f"{v:.3%}" for v in numbers)]
        lines.append(" | ".join([*cells, f"{max(p.flips for p in found):.2f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", type=Path)
    options = parser.parse_args()
    folder = options.folder
    settings = sorted(path.parent.parent for path in folder.glob("*/run/results.json"))
    pairs = [pair for setting in settings for pair in (*compared(setting), *made_up(setting))]
    pairs += of_other_jobs(options.runs)
    honest = [pair for pair in pairs if pair.is_honest]
    forged = [pair for pair in pairs if not pair.is_honest]
    print(f"Thresholds: agrees up to {CLOSE:.1%}, refuted above {FAR}.")  # noqa: T201
    for title, chosen in (("Honest", honest), ("Forged", forged)):
        for names, key in (
            (("variant", "stage"), lambda p: (p.variant, p.stage)),
            (("way", "variant"), lambda p: (p.way, p.variant)),
            (("setting", "variant", "stage"), lambda p: (p.setting, p.variant, p.stage)),
        ):
            print(f"\n## {title} by {names}\n\n{table(chosen, key, names)}")  # noqa: T201
    print("\n## Area under the ROC curve in the first epoch, without identical pairs\n")  # noqa: T201
    for variant in "ABC":
        mine, others = (
            [p for p in chosen if (p.variant, p.stage) == (variant, "1") and p.outcome != "identical"]
            for chosen in (honest, [p for p in forged if not p.way.startswith("made up")])
        )
        areas = [area([f(p) for p in mine], [f(p) for p in others]) for f in (_loss, _held_out)]
        print(  # noqa: T201
            f"{variant}: training loss {areas[0]:.3f}, losses on held-out images {areas[1]:.3f}; {len(mine)} "
            f"honest, {len(others)} forged by training"
        )
    odd = [p for p in pairs if p.same_weights and p.outcome != "identical"]
    print(f"\nIdentical weights, other figures: {[(p.way, p.variant, p.held_out) for p in odd][:20]}")  # noqa: T201
    starts = {(p.way, p.variant, p.same_start) for p in honest if p.same_start is not None}
    print(f"Starts: {sorted(starts)}")  # noqa: T201


if __name__ == "__main__":
    main()
