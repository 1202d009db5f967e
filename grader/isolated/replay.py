"""Train a few epochs again, in the isolated process of `rerun`, to compare them with the recorded ones."""

import copy
import json
import random
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.errors import UnusableError
from grader.isolated.rerun import call
from grader.reading.files import read_bytes
from grader.reading.strict_json import parse
from grader.submission.checkpoints import MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES, network_sha256
from grader.submission.load import RESULTS_NAME, Submission
from grader.submission.parts import State
from grader.submission.record import Results, Run, run_name
from grader.submission.recorded_files import RecordedFiles
from grader.submission.trials import Trial

MAX_SECONDS = 1800
"""To spend on training, as measured here; runs that would take longer are left out, but never all."""

MAX_OUTPUT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """What to replay.

    Attributes:
        epochs: How many epochs of each run, from its start; as many as the recipe has repeat whole runs.
        seed: Of the draws: which kept state is replayed from, and which runs if not all can be; None draws
            one that nobody can foresee.
        weights: File of the pretrained weights; None if they are known by name.
    """

    epochs: int = 1
    seed: int | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class Passage:
    """Consecutive epochs of a run or a trial, trained again.

    Attributes:
        run: Name of the run.
        trial: Index of the trial that it is instead of a run; None if it is a run.
        first: Number of the first epoch.
        initial_sha256: Hash of the start on this machine; matters if `first` is 1.
        epochs: As recorded in a results file.
    """

    run: str
    trial: int | None
    first: int
    initial_sha256: str
    epochs: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Replay:
    """The outcome of training again.

    Attributes:
        passages: What was trained.
        seed: Of the draws.
        failure: Why nothing was; empty if something was.
        omitted: Names of completed runs, and of trials that were drawn, left out for lack of time.
        dependent: Names of completed runs, and of variants' trials, left out because their head comes from
            another run or trial.
        states: Problems of the kept states that were drawn, by path.
        environment: The machine, as in a results file.
        precision: `fp32` or `bf16`.
        repeats: Seconds of further passes over the first epoch, by variant.
        epochs: How many epochs of each run and drawn trial were to be trained from the start.
    """

    passages: Sequence[Passage] = ()
    seed: int = 0
    failure: str = ""
    omitted: Sequence[str] = ()
    dependent: Sequence[str] = ()
    states: Mapping[str, Sequence[str]] | None = None
    environment: Mapping[str, Any] | None = None
    precision: str = ""
    epochs: int = 1
    repeats: Sequence[Mapping[str, Any]] = ()


def replay(
    submission: Submission, request: Request, dataset: str | None = None, data_root: Path | None = None
) -> Replay:
    """Train epochs of the completed runs, and of a trial of each variant, again with `finetune replay`.

    The process has access to the validated results file and to copies of the states that were drawn, and to
    nothing else of the submission.

    Args:
        submission: The run.
        request: What to replay.
        dataset: Value of `--dataset`; None means the recorded data set, which must not be an image folder.
        data_root: Folder that contains downloaded data sets; None means `data`.
    """
    seed = secrets.randbits(32) if request.seed is None else request.seed
    runs = [run for run in submission.results.completed if run.epochs]
    if not runs:
        return Replay(seed=seed, failure="No run was completed.")
    results = submission.results
    dependent = [run.name for run in runs if results.has_head(run)]
    runs = [run for run in runs if run.name not in dependent]
    if not runs:
        return Replay(seed=seed, failure="The head of every run comes from another run.")
    if any(epoch.commitment is None for run in runs for epoch in run.epochs):
        return Replay(seed=seed, failure="The results file commits to no epochs; version 2.0 and later do.")
    rng = random.Random(seed)  # noqa: S311 - seeded on purpose
    trials, headed = drawn_trials(results, rng)
    dependent += headed
    plan, drawn = _plan(runs, request.epochs, rng, trials)
    with tempfile.TemporaryDirectory(prefix="grader-") as name:
        folder = Path(name).resolve()
        problems = _stage(submission, drawn, folder / "run")
        if any(problems.values()):
            return Replay(
                seed=seed,
                failure="A training state is not the recorded one.",
                dependent=dependent,
                states=problems,
            )
        options = ["--seconds", str(MAX_SECONDS)]
        options += ["--data-root", str((data_root or Path("data")).absolute())]
        options += ["--dataset", dataset] if dataset else []
        options += ["--weights", str(request.weights.absolute())] if request.weights else []
        for passage in plan:
            options += ["--trial" if isinstance(passage[0], int) else "--passage", *map(str, passage)]
        failure = call(["replay", "run", "--output", "replay.json", *options], folder)
        if failure:
            return Replay(seed=seed, failure=failure, dependent=dependent, states=problems)
        found: Any = parse(read_bytes(folder / "replay.json", "replay.json", MAX_OUTPUT_BYTES), "replay.json")
    passages = [
        Passage(p["run"], p.get("trial"), p["first"], p["initial_sha256"], p["epochs"])
        for p in found["passages"]
    ]
    omitted = sorted({_name(results, entry) for entry in found["omitted"]})
    machine, precision, again = found["environment"], found["precision"], found["repeats"]
    return Replay(passages, seed, "", omitted, dependent, problems, machine, precision, request.epochs, again)


def _name(results: Results, entry: Mapping[str, Any]) -> str:
    """What a passage that was left out belongs to."""
    trial = entry["trial"]
    return str(entry["run"]) if trial is None or results.tuning is None else results.tuning.trials[trial].name


Plan = list[tuple[str, int, int] | tuple[int, int]]
"""What to train: run, first epoch and how many; or trial and how many epochs from its start."""

Drawn = list[tuple[Run, State]]


def drawn_trials(results: Results, rng: random.Random) -> tuple[list[tuple[int, Trial]], list[str]]:
    """One trial of each variant with its index, each with the same chance, and what cannot be drawn."""
    by_variant: dict[str, list[tuple[int, Trial]]] = {}
    for index, trial in enumerate(results.tuning.trials if results.tuning else ()):
        by_variant.setdefault(trial.variant, []).append((index, trial))
    configured = {name: results.variant(name) for name in by_variant}
    headed = [name for name, variant in configured.items() if variant is None or variant.head is not None]
    found = [rng.choice(trials) for name, trials in by_variant.items() if name not in headed]
    return found, [f"the trials of {name}" for name in headed]


def _plan(
    runs: Sequence[Run], epochs: int, rng: random.Random, trials: Sequence[tuple[int, Trial]] = ()
) -> tuple[Plan, Drawn]:
    """What to train, and the states that it needs.

    In a random order: if time runs out, nobody could know for which. What the results say about times
    decides nothing here.
    """
    plan: Plan = []
    drawn: Drawn = []
    for run in rng.sample(runs, len(runs)):
        count = min(epochs, len(run.epochs))
        plan.append((run.name, 1, count))
        later = [state for state in run.states if count <= state.epoch < len(run.epochs)]
        if later:
            state = rng.choice(later)
            plan.append((run.name, state.epoch + 1, 1))
            drawn.append((run, state))
    plan += [(index, min(epochs, trial.epochs)) for index, trial in rng.sample(trials, len(trials))]
    return plan, drawn


def _stage(submission: Submission, drawn: Drawn, folder: Path) -> dict[str, list[str]]:
    """Copy the results file and the states that were drawn, under new names; the problems of each state."""
    (folder / "states").mkdir(parents=True)
    document = copy.deepcopy(dict(submission.document))
    entries = {run_name(entry["variant"], entry["seed"]): entry for entry in document["runs"]}
    files = RecordedFiles(submission.folder, 2 * MAX_CHECKPOINT_BYTES, MAX_TOTAL_BYTES)
    problems: dict[str, list[str]] = {}
    for run, state in drawn:
        found = problems.setdefault(state.path, [])
        staged = f"states/{run.name}-epoch{state.epoch}.safetensors"
        for row in entries[run.name]["states"]:
            row["path"] = staged if row["epoch"] == state.epoch else row["path"]
        try:
            content = files.read(state, run.name)
            if network_sha256(content, state.path) != run.epochs[state.epoch - 1].weights_sha256:
                found.append(
                    f"{state.path} does not hold the weights that {run.name} committed to after epoch "
                    f"{state.epoch}."
                )
            (folder / staged).write_bytes(content)
        except UnusableError as error:
            found.extend(error.problems)
    (folder / RESULTS_NAME).write_text(json.dumps(document), "utf-8")
    return problems
