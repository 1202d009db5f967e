"""Read the predictions of one run on one split from their CSV file."""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grader.errors import UnusableError
from grader.reading.strict_json import short

HEADER = ("sample_id", "label", "predicted", "nll", "confidence")
HEADER_1 = HEADER[:4]
"""The columns of files that belong to version 1 of the results schema."""

MAX_LINE_CHARACTERS = 8192
MAX_ID_CHARACTERS = 4096

_CLASS = r"\d{1,7}"
_NUMBER = r"-?\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?"
# Spreadsheet formulas. A leading sign alone is allowed, since a class folder may be named "+1".
_FORMULA = re.compile(r"[=@]|[+-].*[(|!]", re.DOTALL)
_ODD = re.compile(r"^(?:[=@+-]|$)|[\x00-\x09\x0b-\x1f\x7f]|^.{4096}", re.MULTILINE)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Predictions:
    """One row per image of a split, in file order; all arrays have shape [n].

    Attributes:
        sample_ids: Sample ids of the images.
        labels: Their class indices.
        predicted: The predicted class indices.
        nll: Negative log-likelihood of the label, in nats.
        confidence: Softmax probability of the predicted class; None in a file of schema version 1.
    """

    sample_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    nll: NDArray[np.float64]
    confidence: NDArray[np.float64] | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each prediction is correct, shape [n]."""
        return np.equal(self.labels, self.predicted)

    def per_class(self, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Correct predictions and images of each class, both of shape [n_classes]."""
        n_correct = np.bincount(self.labels[self.correct], minlength=n_classes)
        return n_correct.astype(np.int64), np.bincount(self.labels, minlength=n_classes).astype(np.int64)


def header_of(schema_version: str) -> tuple[str, ...]:
    """The columns of the prediction files of a results file."""
    return HEADER_1 if schema_version.startswith("1.") else HEADER


def parse_predictions(
    content: bytes, shown: str, counts: Collection[int], n_classes: int, header: Sequence[str] = HEADER
) -> Predictions:
    """Parse a predictions CSV strictly.

    Args:
        content: The file's bytes.
        shown: How messages refer to the file.
        counts: Allowed numbers of rows, not counting the header.
        n_classes: Number of classes; labels and predictions must be below it.
        header: The columns that the file must have: `HEADER` or `HEADER_1`.

    Raises:
        UnusableError: The content is malformed; each problem names its line.
    """
    rows = _rows(content, shown, counts, header)
    ids, labels, predicted, nll, *rest = zip(*rows, strict=True)
    problems = [
        *_malformed(labels, _CLASS, f"{shown}, column label", "a class index"),
        *_malformed(predicted, _CLASS, f"{shown}, column predicted", "a class index"),
        *_malformed(nll, _NUMBER, f"{shown}, column nll", "a decimal number"),
        *(
            p
            for column in rest
            for p in _malformed(column, _NUMBER, f"{shown}, column confidence", "a decimal number")
        ),
        *_bad_ids(ids, shown),
    ]
    if problems:
        raise UnusableError(problems)
    read = Predictions(
        ids,
        np.array(labels, np.int64),
        np.array(predicted, np.int64),
        *(np.array(column, np.float64) for column in (nll, *rest)),
    )
    problems = [
        *_outside(read.labels, n_classes, f"{shown}, column label"),
        *_outside(read.predicted, n_classes, f"{shown}, column predicted"),
        *(
            f"{shown}, line {row + 2}: nll must be at least 0, found {nll[row]}."
            for row in np.flatnonzero(~(read.nll >= 0) | np.isinf(read.nll)).tolist()
        ),
        *_no_probability(read.confidence, shown),
    ]
    if problems:
        raise UnusableError(problems)
    return read


def _no_probability(confidence: NDArray[np.float64] | None, shown: str) -> list[str]:
    if confidence is None:
        return []
    return [
        f"{shown}, line {row + 2}: confidence must be above 0 and at most 1, found {confidence[row]}."
        for row in np.flatnonzero(~((confidence > 0) & (confidence <= 1))).tolist()
    ]


def _rows(content: bytes, shown: str, counts: Collection[int], header: Sequence[str]) -> list[list[str]]:
    """Split into rows of as many cells as the header; raise on the first malformed line."""
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise UnusableError([f"{shown}, line 1: byte order mark; save it as UTF-8 without BOM."])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnusableError([f"{shown}, line {line}: not UTF-8."]) from error
    # str.splitlines would also split at characters that a quoted name may contain.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    long = next((n for n, line in enumerate(lines, 1) if len(line) > MAX_LINE_CHARACTERS), None)
    if long:
        raise UnusableError(
            [
                f"{shown}, line {long}: {len(lines[long - 1]):,} characters; "
                f"the limit is {MAX_LINE_CHARACTERS:,}."
            ]
        )
    if len(lines) - 1 not in counts:
        wanted = " or ".join(f"{count:,}" for count in sorted(counts))
        found = f"expected {wanted} rows according to results.json, found {max(0, len(lines) - 1):,}"
        raise UnusableError([f"{shown}, line {len(lines)}: {found}."])
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise UnusableError([f"{shown}, line {len(rows) + 1}: not CSV: {error}."]) from error
    uneven = next((line for line, row in enumerate(rows, 1) if len(row) != len(header)), None)
    if uneven:
        raise UnusableError(
            [f"{shown}, line {uneven}: expected {len(header)} columns, found {len(rows[uneven - 1])}."]
        )
    if rows[0] != list(header):
        raise UnusableError([f"{shown}, line 1: the header must be {','.join(header)}."])
    if len(rows) != len(lines):
        raise UnusableError([f"{shown}: a quoted cell contains a line break."])
    return rows[1:]


def _malformed(cells: Sequence[str], form: str, shown: str, wanted: str) -> list[str]:
    # Matching the whole column at once is fast and almost always sufficient.
    if re.fullmatch(rf"(?:{form}\n)*", "\n".join((*cells, "")), re.ASCII):
        return []
    cell_form = re.compile(form, re.ASCII)
    return [
        f"{shown}, line {line}: must be {wanted}, found {short(cell)}."
        for line, cell in enumerate(cells, 2)
        if not cell_form.fullmatch(cell)
    ]


def _outside(classes: NDArray[np.int64], n_classes: int, shown: str) -> list[str]:
    return [
        f"{shown}, line {row + 2}: must be below {n_classes} (the number of classes), found {classes[row]}."
        for row in np.flatnonzero(classes >= n_classes).tolist()
    ]


def _bad_ids(ids: Sequence[str], shown: str) -> list[str]:
    # Searching all names at once is fast and almost always sufficient. A quoted cell never spans lines.
    if len(set(ids)) == len(ids) and not _ODD.search("\n".join(ids)):
        return []
    problems, seen = [], dict[str, int]()
    for line, name in enumerate(ids, 2):
        where = f"{shown}, line {line}: sample_id {short(name)}"
        if not name or len(name) > MAX_ID_CHARACTERS:
            problems.append(f"{where} must have 1 to {MAX_ID_CHARACTERS} characters.")
        elif CONTROL.search(name):
            problems.append(f"{where} contains a control character.")
        elif _FORMULA.match(name):
            problems.append(f"{where} would be run as a formula by a spreadsheet.")
        elif name in seen:
            problems.append(f"{where} is a duplicate of line {seen[name]}.")
        seen[name] = line
    return problems
