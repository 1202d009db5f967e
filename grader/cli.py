"""`grader [RUN...]` and `grader explain PROPERTY`: the only place that prints and sets exit codes."""

import gc
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from grader.checks import PROPERTIES
from grader.errors import GraderError, UsageError
from grader.grade import Job, crashed, grade_safely
from grader.load import newest_run
from grader.output import Target, names_of, targets, write
from grader.policy import BUNDLED, load_policy
from grader.truth import Truth, from_csv, from_flowers102
from grader.verdict import Grade

RUNS = Path("runs")


class _Unusable(click.ClickException):
    exit_code = 2


def main() -> None:
    """Run `explain` when the first word says so; grade otherwise. A run folder may be called ./explain."""
    # Grading makes many small objects and hardly a cycle: looking for cycles less often saves a tenth.
    gc.set_threshold(100_000, 50, 50)
    words = sys.argv[1:]
    if words[:1] == ["explain"]:
        explain.main(words[1:], prog_name="grader explain")
    grade_runs.main(words, prog_name="grader")


@click.command(epilog="`grader explain PROPERTY` prints a property's rule, formula and source.")
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["text", "json", "junit", "gradescope"]),
    help="How to write the grade; may be repeated.  [default: text]",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Where to: a file for each --format, in order, or one folder for all. Several runs need a folder.",
)
@click.option(
    "--policy",
    "policy_name",
    default="default",
    show_default=True,
    help=f"What counts and how much: {', '.join(BUNDLED)}, or a TOML file.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="True labels: a CSV with sample_id, label and, if wanted, split.",
)
@click.option("--dataset", type=click.Choice(["flowers102"]), help="Take the true labels from a data set.")
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder that holds the data set.  [default: data]"
)
@click.option("--rerun", is_flag=True, help="Make the predictions afresh from the checkpoints (needs torch).")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Runs graded at the same time."
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
    jobs: int,
) -> None:
    """Judge each RUN: a folder that finetune wrote, or its results.json. Default: the newest below ./runs.

    Exit code: 0 when all that counts passes, 1 when something fails, 2 when the input is unusable. Of
    several runs, the highest.
    """
    try:
        policy = load_policy(policy_name)
        truth = _truth(labels, dataset, data_root)
        paths = list(runs) or [newest_run(RUNS)]
        wanted = targets(formats or ("text",), outputs, len(paths))
        work = [
            Job(path, name, policy, truth, rerun, data_root)
            for path, name in zip(paths, names_of(paths), strict=True)
        ]
        grades = []
        for grade in _graded(work, jobs):
            write(grade, wanted)
            grades.append(grade)
    except GraderError as error:
        raise _Unusable(str(error)) from error
    _print(grades, wanted)
    sys.exit(max(grade.exit_code for grade in grades))


@click.command()
@click.argument("name", metavar="PROPERTY", type=click.Choice(list(PROPERTIES)))
def explain(name: str) -> None:
    """Print what a property means: its rule, formula and source."""
    wanted = PROPERTIES[name]
    click.echo(f"{name}: evidence level {int(wanted.level)}, {wanted.level.noun}\n\n{wanted.text}")
    if wanted.after:
        click.echo(
            f"\nNot judged when one of these fails, which would explain it: {', '.join(wanted.after)}."
        )


def _truth(labels: Path | None, dataset: str | None, data_root: Path | None) -> Truth | None:
    if labels is not None and dataset is not None:
        raise UsageError("--labels and --dataset both name the truth; give one of them.")
    if labels is not None:
        return from_csv(labels)
    return from_flowers102(data_root or Path("data")) if dataset else None


def _graded(work: Sequence[Job], jobs: int) -> Iterator[Grade]:
    """Grade in the order given, `jobs` at a time; a run that kills its process costs only its own grade."""
    if jobs == 1 or len(work) == 1:
        yield from map(grade_safely, work)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(min(jobs, len(work))) as pool:
        for job, future in [(job, pool.submit(grade_safely, job)) for job in work]:
            try:
                yield future.result()
            except BrokenProcessPool:
                yield _alone(job)


def _alone(job: Job) -> Grade:
    """Once more in a process of its own: a pool that broke does not tell which run broke it."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(grade_safely, job).result()
        except BrokenProcessPool as error:
            return crashed(job, error)


def _print(grades: Sequence[Grade], wanted: Sequence[Target]) -> None:
    """What was not written to files: a grade in full, or a table of several."""
    from grader.formats import FORMATS
    from grader.formats.text import print_grade, print_table, to_table

    to_terminal = [target for target in wanted if target.path is None]
    if to_terminal and to_terminal[0].format == "text" and sys.stdout.isatty():
        from rich.console import Console

        print_grade(grades[0], Console()) if len(grades) == 1 else print_table(grades, Console())
    elif len(grades) > 1:
        click.echo(to_table(grades), nl=False)
    elif to_terminal:
        click.echo(FORMATS[to_terminal[0].format].write(grades[0]), nl=False)
