"""From a path on the command line to a validated results file."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

from grader.errors import UnusableError, UsageError
from grader.reading import strict_json
from grader.reading.files import is_there, read_bytes
from grader.reading.schema import schema_problems
from grader.reading.strict_json import short
from grader.submission.record import Results, results_from

RESULTS_NAME = "results.json"
CONFIG_NAME = "config.toml"  # written when a run begins
UNFINISHED = f"is a run that was interrupted or is still training, and has no {RESULTS_NAME} yet"
MAX_PROBLEMS = 1000  # violations found before validation of a file stops
MAX_RUNS = 10_000
"""Variants times seeds that a configuration may ask for; a results file has no room for so many runs."""


@dataclass(frozen=True)
class Submission:
    """A valid results file with the folder that its paths are relative to, the parsed JSON and its name."""

    folder: Path
    results: Results
    document: Mapping[str, Any]
    name: str = RESULTS_NAME

    @property
    def file(self) -> Path:
        """The results file."""
        return self.folder / self.name


def newest_run(runs: Path) -> Path:
    """The run folder in `runs` with the most recently written results file.

    Raises:
        UsageError: There is none.
    """
    # Without any results, load() says of the newest run that it is unfinished.
    names = (RESULTS_NAME, CONFIG_NAME)
    results, configs = ([path for path in runs.glob(f"*/{name}") if path.is_file()] for name in names)
    found = results or configs
    if not found:
        raise UsageError(
            f"No run to grade: {runs}/*/{RESULTS_NAME} not found. Train with `finetune train` first, "
            "or give a run folder or its results file."
        )
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path)).parent


def load(path: Path, shown: str = "") -> Submission:
    """Read and validate the results file of a run.

    Args:
        path: A run folder, or its results file.
        shown: How messages refer to the path, if not as it is.

    Raises:
        UnusableError: The file cannot be read, is not strict JSON, or violates the schema; lists all
            problems.
    """
    shown = shown or short(path, "", 200)
    is_folder = is_there(path, shown) and path.is_dir()
    file = path / RESULTS_NAME if is_folder else path
    if is_folder and not is_there(file, f"{shown}/{RESULTS_NAME}") and (path / CONFIG_NAME).is_file():
        raise UnusableError([f"{shown} {UNFINISHED}; {resume_hint(path)}"])
    shown = f"{shown}/{RESULTS_NAME}" if is_folder else shown
    content = read_bytes(file, shown, strict_json.MAX_BYTES, follow=not is_folder)
    document = check(content, file.name)
    return Submission(file.parent, results_from(document), document, file.name)


def resume_hint(folder: Path | str) -> str:
    """The end of a sentence about an unfinished run: how to finish it."""
    return f"finish it with `finetune train --resume {quote(short(folder, '', 200))}`."


def check(content: bytes, shown: str) -> dict[str, Any]:
    """Parse the content of a results file and check it; finetune holds what it writes to the same.

    Args:
        content: The file's bytes.
        shown: How messages name the file.

    Returns:
        The document.

    Raises:
        UnusableError: The content is too large, not strict JSON, or not as in the schema; with every problem.
    """
    if len(content) > strict_json.MAX_BYTES:
        raise UnusableError(
            [f"{shown} has {len(content):,} bytes; at most {strict_json.MAX_BYTES:,} are read."]
        )
    document = strict_json.parse(content, shown)
    problems = [f"{shown}: {problem}" for problem in islice(schema_problems(document), MAX_PROBLEMS)]
    if problems:
        raise UnusableError(problems)
    n_variants, n_seeds = (len(document["config"][name]) for name in ("variants", "seeds"))
    if n_variants * n_seeds > MAX_RUNS:
        asked = f"{n_variants:,} variants with {n_seeds:,} seeds each"
        raise UnusableError([f"{shown}: config asks for {asked}; at most {MAX_RUNS:,} runs are judged."])
    return dict(document)
