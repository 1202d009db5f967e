"""Read true labels and splits from a source independent of the submission."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from grader.errors import GraderError, UnusableError, UsageError
from grader.reading.files import read_bytes
from grader.reading.matlab import read_matrices
from grader.reading.strict_json import short

MAX_BYTES = 256 * 1024 * 1024
MOST_NAMED = 5  # names that a message lists
MOST_DIGITS = 10  # of a class index
FLOWERS_FOLDER = "flowers-102"  # torchvision's layout below the data root


@dataclass(frozen=True)
class Truth:
    """True labels and splits of a data set.

    Attributes:
        labels: Class index by sample id; empty if `names` are known instead.
        splits: Sample ids by split, at least of `val` and `test`; None if unknown.
        source: Where they come from, for messages.
        is_official: Whether the splits are the data set's official ones, which a run need not use.
        names: Class name by sample id.
        option: The option that gave them, for messages.
    """

    labels: Mapping[str, int]
    splits: Mapping[str, frozenset[str]] | None
    source: str
    is_official: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    option: str = "--labels"

    def among(self, classes: Sequence[str]) -> "Truth":
        """The same with class indices instead of names.

        Args:
            classes: Names of the classes of a run.

        Raises:
            UnusableError: A name is none of them, or the run lists a class twice.
        """
        if not self.names:
            return self
        indices = {name: index for index, name in enumerate(classes)}
        if len(indices) < len(classes):
            raise UnusableError(["The results list a class twice, so class names do not tell its labels."])
        unknown = sorted(set(self.names.values()) - indices.keys())
        if unknown:
            more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
            verb = "is" if len(unknown) == 1 else "are"
            raise UnusableError(
                [
                    f"{self.option} {self.source} does not fit this submission: every label must be a class "
                    "of the run, by name or index, but "
                    f"{', '.join(map(short, unknown[:MOST_NAMED]))}{more} {verb} not among its "
                    f"{len(classes):,} classes, such as {', '.join(map(short, classes[:MOST_NAMED]))}."
                ]
            )
        return replace(self, labels={name: indices[of] for name, of in self.names.items()}, names={})


def from_csv(path: Path) -> Truth:
    """Read a CSV file with the columns sample_id (or image), label and, optionally, split.

    Labels are class indices if all of them are whole numbers, else class names. A split is train, val or
    test.

    Raises:
        UsageError: The file is unreadable or malformed.
    """
    try:
        text = read_bytes(path, str(path), MAX_BYTES, follow=True).decode("utf-8-sig")
    except (GraderError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels cannot be read: {error}") from error
    rows = csv.DictReader(text.splitlines())
    header = set(rows.fieldnames or ())
    key = "sample_id" if "sample_id" in header else "image"
    if not {key, "label"} <= header:
        raise UsageError(f"--labels {path}: the header must contain sample_id (or image) and label.")
    labels: dict[str, str] = {}
    splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for row in rows:
        name, label, split = row[key], row["label"] or "", row.get("split")
        if not name or name in labels or not label:
            rule = f"each line must have a unique {key} and a class"
            raise UsageError(
                f"--labels {path}, line {rows.line_num}: {rule}, found {short(name)}, {short(label)}."
            )
        labels[name] = label
        if split is not None and split not in splits:
            rule = "split must be train, val or test"
            raise UsageError(f"--labels {path}, line {rows.line_num}: {rule}, found {short(split)}.")
        if split is not None:
            splits[split].add(name)
    if not labels:
        raise UsageError(f"--labels {path}: no rows after the header.")
    frozen = {name: frozenset(ids) for name, ids in splits.items()} if "split" in header else None
    if all(label.isascii() and label.isdigit() and len(label) < MOST_DIGITS for label in labels.values()):
        return Truth({name: int(label) for name, label in labels.items()}, frozen, path.name)
    return Truth({}, frozen, path.name, names=labels)


def from_flowers102(data_root: Path) -> Truth:
    """Read Oxford Flowers-102's own files, imagelabels.mat and setid.mat.

    Sample ids are file stems, `image_00001` for the first; class indices start at 0. The official splits
    are those of `torchvision.datasets.Flowers102`: trnid trains, valid validates, tstid tests.

    Args:
        data_root: The folder that contains `flowers-102/`.

    Raises:
        UsageError: A file is missing or invalid.
    """
    folder = data_root / FLOWERS_FOLDER
    try:
        contents = [
            read_bytes(folder / name, str(folder / name), MAX_BYTES, follow=True)
            for name in ("imagelabels.mat", "setid.mat")
        ]
    except GraderError as error:
        raise UsageError(f"Flowers-102: {error} Give its parent folder with --data-root.") from error
    try:
        labels, sets = map(read_matrices, contents)
        classes = enumerate(labels["labels"].tolist(), 1)
        splits = {
            name: frozenset(f"image_{number:05d}" for number in sets[key].tolist())
            for name, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
        by_id = {f"image_{number:05d}": label - 1 for number, label in classes}
    except (ValueError, KeyError) as error:
        raise UsageError(f"{folder}: imagelabels.mat or setid.mat is not a file of the data set.") from error
    return Truth(by_id, splits, "Flowers-102", is_official=True, option="--dataset")
