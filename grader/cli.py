"""`grader [RUN...]` and `grader explain PROPERTY`: the only place that prints and sets exit codes."""

import sys
from pathlib import Path

import click

from grader.checks import PROPERTIES
from grader.errors import UsageError
from grader.grade import Job, grade, run_name
from grader.load import newest_run
from grader.policy import load_policy

RUNS = Path("runs")


def main() -> None:
    """Run `explain` when the first word says so; grade otherwise. A run folder may be called ./explain."""
    words = sys.argv[1:]
    if words[:1] == ["explain"]:
        explain.main(words[1:], prog_name="grader explain")
    grade_runs.main(words, prog_name="grader")


@click.command(epilog="`grader explain PROPERTY` prints a property's rule, formula and source.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["text", "json", "junit", "gradescope"])
)
@click.option("--policy", "policy_name", default="default", show_default=True)
@click.version_option(package_name="finetune")
def grade_runs(runs: tuple[Path, ...], formats: tuple[str, ...], policy_name: str) -> None:
    """Judge finetune's RUNS: folders, or their results.json; by default the newest below ./runs.

    Exit code: 0 when all that counts passes, 1 when something fails, 2 when the input is unusable.
    """
    try:
        policy = load_policy(policy_name)
        jobs = [Job(path, run_name(path), policy) for path in runs or (newest_run(RUNS),)]
    except UsageError as error:
        raise _Unusable(str(error)) from error
    from grader.formats import FORMATS

    worst = 0
    for job in jobs:
        found = grade(job)
        worst = max(worst, found.exit_code)
        for name in formats or ("text",):
            click.echo(FORMATS[name][0](found), nl=False)
    sys.exit(worst)


@click.command()
@click.argument("name", metavar="PROPERTY", type=click.Choice(list(PROPERTIES)))
def explain(name: str) -> None:
    """Print what a property means: its rule, formula and source."""
    click.echo(f"{name} (evidence level {int(PROPERTIES[name].level)})\n\n{PROPERTIES[name].text}")


class _Unusable(click.ClickException):
    exit_code = 2
