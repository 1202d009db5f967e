"""Whether labels that were given are of a submission's images at all, before they are held against it."""

from collections.abc import Mapping

from grader.errors import UnusableError
from grader.evidence.gathered import Evidence
from grader.findings import counted
from grader.reading.strict_json import short
from grader.reading.truth import Truth
from grader.submission.record import SPLITS

MOST_UNKNOWN = 0.1
"""Share of a submission's images from which on, if the labels lack them, the labels are of other images or
incomplete. A made-up image or two is the submission's lie."""

MOST_DIFFERENT = 0.5
"""Share of labels that differ from which on the labels are in another order: nobody swaps half of them,
since a label that is not the prediction gains nothing."""

MAX_SHIFT = 2  # rows


def require_fit(evidence: Evidence, truth: Truth) -> None:
    """Refuse to judge a submission by labels that do not fit it.

    Raises:
        UnusableError: In every run, more than a tenth of the images have no label, or half of the labels are
            others, or all are those of a neighboring row.
    """
    recorded: dict[str, dict[str, int]] = {}  # by run, of all its images
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            recorded.setdefault(run.name, {}).update(zip(rows.sample_ids, rows.labels.tolist(), strict=True))
    whys = [_misfit(labels, truth) for labels in recorded.values()]
    if whys and all(whys):
        raise UnusableError([f"{truth.option} {truth.source} does not fit this submission: {whys[0]}"])


def _misfit(recorded: Mapping[str, int], truth: Truth) -> str:
    """Why the labels are not of these images, in a sentence; empty if they may be.

    Args:
        recorded: The label of each image according to the submission.
        truth: The true labels.
    """
    labels = truth.labels
    n, unknown = len(recorded), [name for name in recorded if name not in labels]
    if len(unknown) > max(1, MOST_UNKNOWN * n):
        images = f"it lacks {len(unknown):,} of {counted(n, 'image')}, such as {short(unknown[0])}"
        return (
            f"{images} (it has {short(next(iter(labels)))}); is it complete, and of the data set of this run?"
        )
    known = {name: label for name, label in recorded.items() if name in labels}
    n_differ = sum(labels[name] != label for name, label in known.items())
    if n_differ and {labels[name] - label for name, label in known.items()} == {1}:
        return "its classes are numbered from 1, but from 0 in the results; subtract 1, or give class names."
    for shift in range(-MAX_SHIFT, MAX_SHIFT + 1) if n_differ > 1 else ():
        if shift and not truth.is_official and _agrees(known, _shifted(labels, shift)):
            where = f"{counted(abs(shift), 'row')} too far {'down' if shift > 0 else 'up'}"
            return f"its labels stand {where} beside the names; restore their order."
    if n_differ > MOST_DIFFERENT * n:
        return (
            f"{n_differ:,} of {counted(n, 'label')} differ; are its rows, or its classes, in another order "
            "than those of this run?"
        )
    return ""


def _shifted(labels: Mapping[str, int], shift: int) -> dict[str, int]:
    """The labels moved up by so many rows, which undoes a mistake that moved them down."""
    names, values = list(labels), list(labels.values())
    if shift < 0:
        return dict(zip(names[-shift:], values, strict=False))
    return dict(zip(names, values[shift:], strict=False))


def _agrees(recorded: Mapping[str, int], labels: Mapping[str, int]) -> bool:
    return all(labels.get(name, label) == label for name, label in recorded.items())
