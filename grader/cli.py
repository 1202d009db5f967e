"""`grader [RUN...]` and `grader explain PROPERTY`; nothing else prints or sets exit codes."""

import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from grader.checks import PROPERTIES
from grader.choice import Choice
from grader.errors import GraderError, UsageError, did_you_mean
from grader.files import is_inside
from grader.grade import Job, crashed, grade_safely
from grader.load import RESULTS_NAME, newest_run
from grader.output import Target, names_of, targets, write
from grader.policy import BUNDLED, load_policy
from grader.replay import Request
from grader.strict_json import short
from grader.truth import Truth, from_csv, from_flowers102
from grader.verdict import Grade

RUNS = Path("runs")


class _Unusable(click.ClickException):
    exit_code = 2


def main() -> None:
    """Run `grader explain` or grade; to grade a run folder named `explain`, write `./explain`."""
    # Grading creates many objects but few cycles: collecting garbage less often saves 10% of the time.
    gc.set_threshold(100_000, 50, 50)
    words = sys.argv[1:]
    if words[:1] == ["explain"]:
        explain.main(words[1:], prog_name="grader explain")
    grade_runs.main(words, prog_name="grader")


@click.command(
    epilog="`grader explain` says what each property means; `grader explain PROPERTY` prints its rule."
)
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=Choice(["text", "json", "junit", "gradescope"]),
    help="Output format; may be repeated.  [default: text]",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="One file per --format, in the same order, or one folder for all; required for several runs.",
)
@click.option(
    "--policy",
    "policy_name",
    default="default",
    show_default=True,
    help=f"Which properties count, and for how many points: {', '.join(BUNDLED)} or a TOML file.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV file of true labels with the columns sample_id, label and, optionally, split.",
)
@click.option(
    "--dataset",
    help="Check labels against this data set: flowers102, or with --rerun also digits or imagefolder:PATH.",
)
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder that contains the data set.  [default: data]"
)
@click.option(
    "--rerun", is_flag=True, help="Recompute the predictions from the checkpoints (requires torch)."
)
@click.option("--verbose", is_flag=True, help="List every property in text, not only those that do not hold.")
@click.option(
    "--replay", is_flag=True, help="Also train the first epoch of each run again (implies --rerun)."
)
@click.option(
    "--replay-epochs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Epochs of each run to train again; as many as were trained repeat the whole training.",
)
@click.option(
    "--replay-seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Repeat the draws of an earlier --replay.  [default: unforeseeable]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="With --replay: the pretrained weights, if the run started from a file or another run.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Runs graded in parallel."
)
@click.version_option(package_name="finetune")
def grade_runs(
    runs: tuple[Path, ...],
    formats: tuple[str, ...],
    outputs: tuple[Path, ...],
    policy_name: str,
    labels: Path | None,
    dataset: str | None,
    data_root: Path | None,
    rerun: bool,
    verbose: bool,
    replay: bool,
    replay_epochs: int,
    replay_seed: int | None,
    weights: Path | None,
    jobs: int,
) -> None:
    """Grade each RUN: a run folder or its results.json. Default: the newest run in ./runs.

    Exit code: 0 if every run passes, 1 if one fails, 2 if a submission or an option is unusable.
    """
    try:
        paths = list(runs) or [newest_run(RUNS)]
        rerun = rerun or replay
        request = Request(replay_epochs, replay_seed, weights) if replay else None
        if request is None and (replay_epochs, replay_seed, weights) != (1, None, None):
            raise UsageError("--replay-epochs, --replay-seed and --weights require --replay; add it.")
        dataset, root = _dataset(dataset, rerun), data_root or Path("data")
        inputs = {
            "--labels": labels,
            "--dataset": Path(dataset.partition(":")[2]) if dataset and ":" in dataset else None,
            "--data-root": root if (rerun or dataset) and os.path.lexists(root) else None,
            "--weights": weights,
            "--policy": None if policy_name in BUNDLED else Path(policy_name),
        }
        _require_outside(inputs, paths)
        policy, truth = load_policy(policy_name), _truth(labels, dataset, root)
        formats = formats or ("text",)
        if verbose:
            formats = tuple("verbose" if name == "text" else name for name in formats)
        wanted = targets(formats, outputs, len(paths))
        work = [
            Job(path, name, policy, truth, rerun, dataset, root, request)
            for path, name in zip(paths, names_of(paths), strict=True)
        ]
        grades = []
        for grade in _graded(work, jobs):
            write(grade, wanted)
            grades.append(grade)
    except GraderError as error:
        raise _Unusable(str(error)) from error
    try:
        _print(grades, wanted)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        if not isinstance(error, BrokenPipeError):  # `grader ... | head -1` ends with the grade's exit code
            raise _Unusable(f"Cannot write to standard output: {error.strerror}.") from error
    sys.exit(max(grade.exit_code for grade in grades))


@click.command()
@click.argument("name", metavar="[PROPERTY]", required=False, type=Choice(list(PROPERTIES)))
def explain(name: str | None) -> None:
    """Print the rule, formula and source of a property; without one, what each property means."""
    if name is None:
        width = max(map(len, PROPERTIES))
        for wanted in PROPERTIES.values():
            click.echo(f"{wanted.name:{width}}  {int(wanted.level)}  {wanted.title}.")
        click.echo("\nThe number is the level of evidence needed. `grader explain PROPERTY` prints the rule.")
        return
    wanted = PROPERTIES[name]
    click.echo(f"{name} (evidence level {int(wanted.level)}: {wanted.level.description})\n\n{wanted.text}")
    if wanted.depends_on:
        click.echo(f"\nSkipped if one of these fails: {', '.join(wanted.depends_on)}.")


def _truth(labels: Path | None, dataset: str | None, data_root: Path) -> Truth | None:
    if labels is not None and dataset is not None:
        raise UsageError("--labels and --dataset are mutually exclusive; give one of them.")
    if labels is not None:
        return from_csv(labels)
    return from_flowers102(data_root) if dataset == "flowers102" else None


def _dataset(dataset: str | None, rerun: bool) -> str | None:
    """Validate --dataset and make an image folder's path absolute: the evaluation runs in another folder."""
    if dataset in (None, "flowers102"):
        return dataset
    kind, _, path = dataset.partition(":")
    if dataset != "digits" and (kind != "imagefolder" or not path):
        raise UsageError(
            f"--dataset must be flowers102, digits or imagefolder:PATH, not {short(dataset)}."
            + did_you_mean(str(dataset), ("flowers102", "digits"))
        )
    if not rerun:
        raise UsageError(f"--dataset {short(dataset)} requires --rerun; without it, use --labels.")
    return f"imagefolder:{os.path.abspath(os.path.expanduser(path))}" if path else dataset  # noqa: PTH100, PTH111


def _require_outside(inputs: Mapping[str, Path | None], submissions: Sequence[Path]) -> None:
    """Refuse to grade a submission by files that are part of it.

    Raises:
        UsageError: An input is inside a submission.
    """
    for submission in submissions:
        folder = submission.parent if submission.name == RESULTS_NAME else submission
        for option, path in inputs.items():
            if path is not None and is_inside(path, folder):
                raise UsageError(
                    f"{option} {short(path)} is inside the submission {short(folder)}, "
                    "whose author may have changed it; use your own copy."
                )


def _graded(work: Sequence[Job], jobs: int) -> Iterator[Grade]:
    """Grade `jobs` runs at a time, in order; a run that crashes its process loses only its own grade."""
    if jobs == 1 or len(work) == 1:
        yield from map(grade_safely, work)
        return
    from concurrent import futures

    with futures.ProcessPoolExecutor(min(jobs, len(work))) as pool:
        for job, future in [(job, pool.submit(grade_safely, job)) for job in work]:
            try:
                yield future.result()
            except futures.BrokenExecutor:
                yield _in_own_process(job)


def _in_own_process(job: Job) -> Grade:
    """Retry in a separate process: a broken pool does not say which run broke it."""
    from concurrent import futures

    with futures.ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(grade_safely, job).result()
        except futures.BrokenExecutor as error:
            return crashed(job, error)


def _print(grades: Sequence[Grade], wanted: Sequence[Target]) -> None:
    """Print what was not written to files: one grade in full, or a table of several."""
    from grader.formats import FORMATS
    from grader.formats.text import print_grade, print_table, to_table

    to_terminal = [target for target in wanted if target.path is None]
    is_text = bool(to_terminal) and to_terminal[0].format in ("text", "verbose")
    if is_text and sys.stdout and sys.stdout.isatty():
        from rich.console import Console

        if len(grades) == 1:
            print_grade(grades[0], Console(), to_terminal[0].format == "verbose")
        else:
            print_table(grades, Console())
    elif len(grades) > 1:
        click.echo(to_table(grades), nl=False)
    elif to_terminal:
        click.echo(FORMATS[to_terminal[0].format].write(grades[0]), nl=False)
