"""Read true labels and splits from a source independent of the submission."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grader.errors import GraderError, UsageError
from grader.files import read_bytes
from grader.strict_json import short

MAX_BYTES = 256 * 1024 * 1024
FLOWERS_FOLDER = "flowers-102"  # torchvision's layout below the data root


@dataclass(frozen=True)
class Truth:
    """True labels and splits of a data set.

    Attributes:
        labels: Class index by sample id.
        splits: Sample ids by split, at least of `val` and `test`; None if unknown.
        source: Where they come from, for messages.
        is_official: Whether the splits are the data set's official ones, which a run need not use.
    """

    labels: Mapping[str, int]
    splits: Mapping[str, frozenset[str]] | None
    source: str
    is_official: bool = False


def from_csv(path: Path) -> Truth:
    """Read a CSV file with the columns sample_id, label and, optionally, split (train, val or test).

    Raises:
        UsageError: The file is unreadable or malformed.
    """
    try:
        text = read_bytes(path, str(path), MAX_BYTES, follow=True).decode("utf-8-sig")
    except (GraderError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels cannot be read: {error}") from error
    rows = csv.DictReader(text.splitlines())
    if not {"sample_id", "label"} <= set(rows.fieldnames or ()):
        raise UsageError(f"--labels {path}: the header must contain sample_id and label.")
    labels: dict[str, int] = {}
    splits: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for row in rows:
        name, label, split = row["sample_id"], row["label"] or "", row.get("split")
        if not name or name in labels or not (label.isascii() and label.isdigit()):
            rule = "each line must have a unique sample_id and a class index"
            raise UsageError(
                f"--labels {path}, line {rows.line_num}: {rule}, found {short(name)}, {short(label)}."
            )
        labels[name] = int(label)
        if split is not None and split not in splits:
            rule = "split must be train, val or test"
            raise UsageError(f"--labels {path}, line {rows.line_num}: {rule}, found {short(split)}.")
        if split is not None:
            splits[split].add(name)
    if not labels:
        raise UsageError(f"--labels {path}: no rows after the header.")
    divided = "split" in (rows.fieldnames or ())
    frozen = {name: frozenset(ids) for name, ids in splits.items()}
    return Truth(labels, frozen if divided else None, path.name)


def from_flowers102(data_root: Path) -> Truth:
    """Read Oxford Flowers-102's own files, imagelabels.mat and setid.mat.

    Sample ids are file stems, `image_00001` for the first; class indices start at 0. The official splits
    are those of `torchvision.datasets.Flowers102`: trnid trains, valid validates, tstid tests.

    Args:
        data_root: The folder that contains `flowers-102/`.

    Raises:
        UsageError: A file is missing or invalid.
    """
    from scipy.io import loadmat  # 0.3 s, so only here

    folder = data_root / FLOWERS_FOLDER
    try:
        contents = [
            read_bytes(folder / name, str(folder / name), MAX_BYTES, follow=True)
            for name in ("imagelabels.mat", "setid.mat")
        ]
    except GraderError as error:
        raise UsageError(f"Flowers-102: {error} Give its parent folder with --data-root.") from error
    try:
        labels, sets = (loadmat(io.BytesIO(content)) for content in contents)
        classes = enumerate(labels["labels"].ravel().tolist(), 1)
        splits = {
            name: frozenset(f"image_{number:05d}" for number in sets[key].ravel().tolist())
            for name, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
        by_id = {f"image_{number:05d}": label - 1 for number, label in classes}
    except Exception as error:  # scipy raises many kinds for an invalid MATLAB file
        raise UsageError(f"{folder}: imagelabels.mat or setid.mat is not a file of the data set.") from error
    return Truth(by_id, splits, "Flowers-102", is_official=True)
