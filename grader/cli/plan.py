"""From the options of the command line to the submissions to grade, and everything that they need."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grader.cli.inputs import dataset_from, reference_runs, require_outside, students_from, truth_from
from grader.cohort.likeness import MOST_NAMED
from grader.cohort.reference import Reference, reference_of
from grader.errors import UsageError
from grader.evidence.seeds import Prescription, require_nonce
from grader.evidence.traces import Traces
from grader.findings import in_words
from grader.formats.clean import clean
from grader.formats.output import Target, names_of, own_name, targets
from grader.grading.grade import Job
from grader.grading.policy import BUNDLED, load_policy
from grader.isolated.replay import Request
from grader.submission.collect import collect, require_elsewhere
from grader.submission.ids import distinct
from grader.submission.load import newest_run

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

RUNS = Path("runs")


@dataclass(frozen=True)
class Options:
    """The options of `grader`, which its help explains."""

    runs: tuple[Path, ...]
    formats: tuple[str, ...]
    outputs: tuple[Path, ...]
    policy_name: str
    labels: Path | None
    dataset: str | None
    data_root: Path | None
    rerun: bool
    verbose: bool
    replay: bool
    replay_epochs: int
    replay_seed: int | None
    weights: Path | None
    jobs: int
    seed_from: str | None
    students: Path | None
    references: tuple[Path, ...]
    attest: Path | None

    @property
    def request(self) -> Request | None:
        """What to replay.

        Raises:
            UsageError: An option of `--replay` was given without it.
        """
        if self.replay:
            return Request(self.replay_epochs, self.replay_seed, self.weights)
        if (self.replay_epochs, self.replay_seed, self.weights) != (1, None, None):
            raise UsageError("--replay-epochs, --replay-seed and --weights require --replay; add it.")
        return None


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        work: The submissions.
        jobs: How many to grade at a time.
        targets: Where grades are written to.
        seeds: The prescribed seed of each submission, by name; None if none is prescribed.
        reference: Traces of the instructor's runs, by name.
        band: The accuracies that these make plausible; None without such runs.
        signer: Signs the grades; None if they are not to be signed.
        shown: How the name of each submission is shown.
        notes: For the instructor.
    """

    work: Sequence[Job]
    jobs: int
    targets: Sequence[Target]
    seeds: Mapping[str, int] | None
    reference: Mapping[str, Traces]
    band: Reference | None
    signer: "CryptoSigner | None"
    shown: Mapping[str, str]
    notes: Sequence[str]


def planned(options: Options) -> Plan:
    """Check all options before anything is graded.

    Raises:
        UsageError: One cannot be used, or does not fit the others.
    """
    collected = collect(list(options.runs) or [newest_run(RUNS)])
    paths = collected.paths
    require_elsewhere(options.outputs, collected)
    request, rerun = options.request, options.rerun or options.replay
    dataset, root = dataset_from(options.dataset, rerun), options.data_root or Path("data")
    inputs = {
        "--labels": options.labels,
        "--dataset": Path(dataset.partition(":")[2]) if dataset and ":" in dataset else None,
        "--data-root": root if (rerun or dataset) and os.path.lexists(root) else None,
        "--weights": options.weights,
        "--policy": None if options.policy_name in BUNDLED else Path(options.policy_name),
        "--students": options.students,
        "--attest": options.attest,
    }
    require_outside(inputs, [*paths, *collected.folders])
    policy, truth = load_policy(options.policy_name), truth_from(options.labels, dataset, root)
    formats = options.formats or ("text",)
    if options.verbose:
        formats = tuple("verbose" if name == "text" else name for name in formats)
    wanted = targets(formats, options.outputs, len(paths))
    names = names_of(paths)
    students = [own_name(path) for path in paths]  # two sections may each have an alice
    if options.students is not None:
        names = students = students_from(options.students, names)
    nonce = None if options.seed_from is None else require_nonce(options.seed_from)
    prescribed = (
        {}
        if nonce is None
        else {name: Prescription(nonce, student) for name, student in zip(names, students, strict=True)}
    )
    reference = reference_runs(options.references)
    signer = _signer(options.attest)
    is_compared = len(paths) > 1 or bool(reference)
    work = [
        Job(
            path, name, policy, truth, rerun, dataset, root, request, prescribed.get(name),
            is_compared, signer is not None,
        )
        for path, name in zip(paths, names, strict=True)
    ]  # fmt: skip
    return Plan(
        work,
        options.jobs,
        wanted,
        {name: found.seed for name, found in prescribed.items()} or None,
        reference,
        reference_of(list(reference.values())) if reference else None,
        signer,
        distinct(names),
        [f"Ignored, since neither folder nor zip file: {clean(in_words(collected.ignored, MOST_NAMED))}."]
        if collected.ignored
        else [],
    )


def _signer(key: Path | None) -> "CryptoSigner | None":
    if key is None:
        return None
    from grader.signing.attest import load_signer

    return load_signer(key)
