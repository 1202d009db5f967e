"""A forger who optimises: random search over consistent edits of a real run, against the grader.

All want C a few points better than it was. GRADER_FORGERS sets how many try; the slow variant has 50.
`pytest -rP` shows what fraction passes at each level, for docs/detection.md. At level 5 all epochs are
trained again, and no checkpoints are at hand.
"""

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grader.checks import PROPERTIES, judge
from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.findings import Level, Status
from grader.isolated.replay import Passage, Replay
from grader.isolated.rerun import Rerun
from grader.submission.load import Submission, load
from grader.submission.record import results_from
from tests.grader.forgeries import SMOKE, Forger
from tests.grader.honest import Size, truth_of, write_run

N = int(os.environ.get("GRADER_FORGERS", "4"))
LEVELS = (Level.FILE, Level.PREDICTIONS, Level.TRUTH, Level.CHECKPOINTS, Level.REPLAY)


@dataclasses.dataclass(frozen=True)
class Story:
    """What a forger writes; the fields are varied independently.

    Attributes:
        gain: Test images that C gets right in addition, of 270.
        losses: Of C: its own, B's with some jitter, or dealt out at random within each class.
        jitter: Standard deviation of the logarithm of jittered losses.
        digits: `float32` numbers, or rounded to six digits.
        rates: As recorded, or made up.
        clock: Times as recorded, rounded, or none.
        speed: Factor on C's times.
        dropped: Test images left out, as the excuse says.
        excuse: `excluded` or `subset`.
        weights: Hash of C's weights in the best epoch: as `recorded`, or `another`. Version 1 has none.
    """

    gain: int
    losses: str
    jitter: float
    digits: str
    rates: str
    clock: str
    speed: float
    dropped: int
    excuse: str
    weights: str


def draw(rng: random.Random) -> Story:
    return Story(
        rng.randint(6, 15),
        rng.choice(("own", "jittered", "dealt")),
        10 ** rng.uniform(-3, 0),
        rng.choice(("float32", "rounded")),
        rng.choice(("recorded", "linear")),
        rng.choice(("recorded", "rounded", "zero")),
        rng.choice((1.0, 0.7, 0.4, 1e-4)),
        rng.choice((0, 0, 20)),
        rng.choice(("excluded", "subset")),
        rng.choice(("recorded", "another")),
    )


def tell(story: Story, honest: Path, folder: Path, rng: random.Random) -> Forger:
    """Write the story, consistent in every count, sum and hash."""
    f = Forger(honest, folder)
    for seed in f.doc["config"]["seeds"]:
        for split in ("val", "test"):
            rows = f.rows("C", split, seed)
            if story.losses == "jittered":
                theirs = f.rows("B", split, seed)
                factors = [np.exp(rng.gauss(0, story.jitter)) for _ in theirs]
                rows = [[*r[:3], str(float(r[3]) * x), *r[4:]] for r, x in zip(theirs, factors, strict=True)]
            elif story.losses == "dealt":
                for label in {row[1] for row in rows}:
                    members = [row for row in rows if row[1] == label]
                    cells = rng.sample([row[2:] for row in members], len(members))
                    for row, new in zip(members, cells, strict=True):
                        row[2:] = new
            wrong = [row for row in rows if row[1] != row[2]]
            for row in rng.sample(wrong, min(len(wrong), story.gain)) if split == "test" else ():
                row[2], row[3] = row[1], str(rng.uniform(0.1, 1.2))
            for row in rows:
                loss = float(np.float32(float(row[3])))
                if row[1] != row[2]:
                    loss = max(loss, 0.7)
                row[3] = f"{np.float32(loss):.9g}" if story.digits == "float32" else f"{loss:.6g}"
            f.write_rows("C", split, rows, seed)
            f.record("C", split, seed)
        if story.weights == "another" and "weights_sha256" in f.best("C", seed):
            f.best("C", seed)["weights_sha256"] = f"{rng.getrandbits(256):064x}"
    for run in f.doc["runs"]:
        n = len(run["epochs"])
        for epoch in run["epochs"]:
            if story.rates == "linear":
                epoch["learning_rate"] = run["learning_rate"] * (1 - (epoch["epoch"] - 1) / n)
            factor = story.speed if run["variant"] == "C" else 1.0
            for name in ("train_seconds", "data_wait_seconds"):
                epoch[name] *= factor if story.clock != "zero" else 0.0
                epoch[name] = round(epoch[name], 3) if story.clock == "rounded" else epoch[name]
        seconds = sum(epoch["train_seconds"] for epoch in run["epochs"])
        images = sum(epoch["train"]["n_samples"] for epoch in run["epochs"])
        run["images_per_second"] = images / seconds if seconds else 0.0
    _drop(f, story)
    return f


def _drop(f: Forger, story: Story) -> None:
    """Leave out the test images that C gets wrong."""
    wrong = [row for row in f.rows("C", "test") if row[1] != row[2]][: story.dropped]
    names = {row[0] for row in wrong}
    split = f.doc["dataset"]["splits"]["test"]
    for row in wrong:
        split["class_counts"][int(row[1])] -= 1
    split["n_samples"] -= len(names)
    if story.excuse == "excluded":
        f.doc["dataset"]["excluded"] += [
            {"sample_id": name, "reason": "unreadable"} for name in sorted(names)
        ]
    for run in f.doc["runs"] if names else ():
        kept = [row for row in f.rows(run["variant"], "test", run["seed"]) if row[0] not in names]
        f.write_rows(run["variant"], "test", kept, run["seed"])
        for epoch in run["epochs"]:
            n = epoch["test"]["n_samples"] - len(names)
            epoch["test"].update(n_samples=n, n_correct=min(n, epoch["test"]["n_correct"]))
        f.record(run["variant"], "test", run["seed"])


@dataclasses.dataclass(frozen=True)
class Honest:
    """A run that forgers start from: a real one, or for level 5 a simulated one, whose epochs have hashes.

    Attributes:
        folder: The run folder.
        evidence: What its checkpoints would give: stands in for level 4.
        replay: What training all epochs again would give, on the machine that trained: for level 5.
    """

    folder: Path
    evidence: Evidence
    replay: Replay


@pytest.fixture
def honest(level: Level, tmp_path: Path) -> Honest:
    folder = write_run(tmp_path / "honest", Size(seeds=(0, 1))) if level is Level.REPLAY else SMOKE
    submission = load(folder)
    fields = {field.name: None for field in dataclasses.fields(Passage)}
    passages = [
        Passage(
            **{
                **fields,
                "run": run.name,
                "first": 1,
                "initial_sha256": run.initial_sha256,
                "epochs": entry["epochs"],
            }
        )
        for run, entry in zip(submission.results.runs, submission.document["runs"], strict=True)
    ]
    environment = submission.document["environment"]
    again = Replay(passages, environment=environment, precision=submission.results.precision)
    return Honest(folder, gather(submission, Thresholds()), again)


def caught(forger: Forger, level: Level, honest: Honest) -> int:
    """How many integrity properties fail with evidence up to this level; at level 5 a replay must agree."""
    forger.save()
    results = results_from(forger.doc)
    evidence = Evidence(results)
    if level >= Level.PREDICTIONS:
        truth = truth_of(honest.folder) if level >= Level.TRUTH else None
        evidence = gather(Submission(forger.folder, results, forger.doc), Thresholds(), truth)
    if level is Level.CHECKPOINTS:
        evidence = dataclasses.replace(evidence, rerun=Rerun({}, honest.evidence.predictions))
    if level is Level.REPLAY:
        evidence = dataclasses.replace(evidence, replay=honest.replay)
    found = judge(evidence)
    n = sum(f.status is Status.FAILS and PROPERTIES[name].is_integrity for name, f in found.items())
    return n + (level is Level.REPLAY and found["replay-agrees"].status is Status.INCONCLUSIVE)


def optimize(seed: int, level: Level, honest: Honest, folder: Path, budget: int) -> tuple[bool, bool]:
    """Whether the forger's first story passes, and whether the best one found does."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    best = draw(rng)
    least = caught(tell(best, honest.folder, folder / "0", rng), level, honest)
    first = least == 0
    for number in range(1, budget):
        if least == 0:
            break
        field = rng.choice([field.name for field in dataclasses.fields(Story)])
        changed: dict[str, Any] = {field: getattr(draw(rng), field)}
        story = dataclasses.replace(best, **changed)
        n = caught(tell(story, honest.folder, folder / str(number), rng), level, honest)
        if n <= least:
            best, least = story, n
    return first, least == 0


@pytest.mark.parametrize("forgers", [N, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", LEVELS)
def test_what_fraction_passes(forgers: int, level: Level, honest: Honest, tmp_path: Path) -> None:
    budget = 12 if forgers == N else 60
    found = [optimize(seed, level, honest, tmp_path / str(seed), budget) for seed in range(forgers)]
    first, after = (sum(column) for column in zip(*found, strict=True))
    print(f"level {int(level)}: {first} of {forgers} pass at first, {after} after the search")  # noqa: T201
    assert first <= forgers / 4
    assert after == 0 or level < Level.CHECKPOINTS
