"""The commands `grader [RUN...]`, `grader explain` and `grader verify`; nothing else prints or exits."""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from grader.checks import PROPERTIES
from grader.choice import Choice
from grader.cli.completion import VARIABLE, completed_word, run_or_word
from grader.cli.plan import Options, planned
from grader.cohort.batch import graded_in_order, stop_on_sigterm
from grader.cohort.class_files import write_class
from grader.cohort.cohort import Cohort, compared
from grader.errors import GraderError, nearest
from grader.formats.clean import clean
from grader.formats.output import Target, write
from grader.grading.policy import BUNDLED
from grader.reading.strict_json import short


class _Unusable(click.ClickException):
    exit_code = 2


def main() -> None:
    """Run `grader explain`, `grader verify` or grade; a folder of such a name is given as `./explain`."""
    # Grading creates many objects but few cycles: collecting garbage less often saves 10% of the time.
    gc.set_threshold(100_000, 50, 50)
    words = sys.argv[1:]
    stop_on_sigterm()
    commands = {"explain": explain, "verify": verify}
    if word := completed_word(commands):
        commands[word].main([], prog_name="grader", complete_var=VARIABLE)
    if words and words[0] in commands:
        commands[words[0]].main(words[1:], prog_name=f"grader {words[0]}")
    if words and (near := nearest(words[0], commands)) and not os.path.lexists(words[0]):
        click.echo(
            f"Error: There is no run and no command {short(words[0])}. Did you mean {near!r}?", err=True
        )
        sys.exit(2)
    grade_runs.main(words, prog_name="grader")


@click.command(
    epilog="`grader explain` says what each property means; `grader explain PROPERTY` prints its rule. "
    "`grader verify` verifies a grade that --attest signed."
)
@click.argument(
    "runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path), shell_complete=run_or_word
)
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
    help="One file per --format, in the same order, or one folder for all.  [default: the terminal, or "
    "./grades if that cannot show it]",
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
    help="CSV file of true labels with the columns sample_id (or image), label (class name or index) and, "
    "optionally, split.",
)
@click.option(
    "--dataset",
    help="Check labels against this data set: flowers102, or with --rerun also digits or a folder of images.",
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
@click.option(
    "--seed-from",
    metavar="NONCE",
    help="Require the seeds that finetune train --seed-from NONCE:STUDENT prescribes to each student.",
)
@click.option(
    "--students",
    type=click.Path(path_type=Path),
    help="CSV file of student ids with the columns submission and student.  [default: names of folders]",
)
@click.option(
    "--reference",
    "references",
    metavar="RUN",
    multiple=True,
    type=click.Path(path_type=Path),
    help="One of your own runs; accuracies implausibly above these are flagged. May be repeated.",
)
@click.option(
    "--attest",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign each grade with this Ed25519 key: NAME.intoto.json beside the other files.",
)
@click.version_option(package_name="finetune")
def grade_runs(**options: Any) -> None:
    """Grade each RUN: a run folder, its results.json or a zip file; or a folder of submissions.

    Default: the newest run in ./runs. A folder without a run of its own is a folder of submissions, each a
    run folder or a zip file. Several submissions are compared with one another.

    Exit code: 0 if every run passes, 1 if one fails, 2 if a submission or an option is unusable.
    """
    try:
        plan = planned(Options(**options))
        grades = []
        for found in graded_in_order(plan.work, plan.jobs):
            grade = replace(found, shown=plan.shown[found.run])
            write(grade, plan.targets)
            grades.append(grade)
        cohort = compared(grades, plan.seeds, plan.band, plan.reference)
        for grade, before in zip(cohort.grades, grades, strict=True):
            if grade is not before:  # the comparison changed it
                write(grade, plan.targets)
        notes = [*plan.notes, *write_class(cohort, plan.targets, plan.signer)]
    except GraderError as error:
        raise _Unusable(str(error)) from error
    try:
        _print(cohort, plan.targets)
        for note in notes:
            click.echo(note, err=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        if not isinstance(error, BrokenPipeError):  # `grader ... | head -1` ends with the grade's exit code
            raise _Unusable(f"Cannot write to standard output: {error.strerror}.") from error
    sys.exit(max(grade.exit_code for grade in cohort.grades))


@click.command()
@click.argument("attestation", type=click.Path(path_type=Path))
@click.argument("submission", required=False, type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="The public key, in PEM format.")
@click.option("--policy", help="Check that this is the policy: a name or a TOML file.")
def verify(attestation: Path, submission: Path | None, key: Path, policy: str | None) -> None:
    """Verify that ATTESTATION is as `grader --attest` signed it, and that SUBMISSION is what was graded.

    Exit code: 0 if everything agrees, 1 if something was changed, 2 if a file is unusable.
    """
    from grader.signing.attest import load_public_key
    from grader.signing.verify import RefutedError, confirmed, read_statement

    try:
        for sentence in confirmed(read_statement(attestation, load_public_key(key)), submission, policy):
            click.echo(clean(sentence))
    except RefutedError as error:
        click.echo(f"NOT VERIFIED: {clean(str(error))}")
        sys.exit(1)
    except GraderError as error:
        raise _Unusable(str(error)) from error
    click.echo(f"Verified: signed with the private key of {key}.")


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


def _print(cohort: Cohort, wanted: Sequence[Target]) -> None:
    """Print what was not written to files: one grade in full, or a table of several; then what to look at."""
    from grader.formats import FORMATS
    from grader.formats.text import print_grade, print_table, to_table

    grades = cohort.grades
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
    if is_text or len(grades) > 1:
        for look in cohort.looks:
            click.echo(f"Look at {clean(look)}.")
