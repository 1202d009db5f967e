"""finetune from Python: the same as on the command line, without a trace in the session that calls it.

    import finetune as ft

    run = ft.train("photos", epochs=5)     # or ft.load_run("runs/photos-20260101-120000")
    print(run.verdict)
    run.results.runs[0].best.test.accuracy
    run.predictions("B")                   # a pandas DataFrame, or a list where pandas is not installed
    run.predict(["new-photo.jpg", "more-photos"])
    run.plot_curves()

Whatever these functions change to do their work, such as threads, environment variables, warning filters and
signal handlers, is as it was when they return. Everything they refuse is a `finetune.errors.FinetuneError`.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from finetune.cli.options import OPTIONS
from finetune.cli.train import default_folder
from finetune.config.overrides import configure
from finetune.config.tune import MODES
from finetune.errors import did_you_mean
from finetune.system.session import undisturbed
from finetune.system.signals import Stopped, StopRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finetune.inference.predict import Prediction
    from grader.grading.verdict import Grade
    from grader.submission.record import Results

Rows = Any
"""A pandas DataFrame, or a list of dictionaries where pandas is not installed."""


class Options(TypedDict, total=False):
    """What `train` takes beside the data set; `finetune train --help` describes each option."""

    preset: str
    data_root: str
    split: str
    subset: int
    weights: str
    variants: str | Sequence[str]
    epochs: int
    batch_size: int
    lr: float | str | Mapping[str, float]
    tune: str | bool
    image_size: int
    split_seed: int
    resplit: bool
    seed: int
    seed_from: str
    seeds: int
    longer_scratch: int
    device: str
    on_bad_image: str
    near_duplicates: str
    deterministic: bool
    threads: int
    workers: int
    store: str
    precision: str
    cache_views: int | str
    keep_states: int
    track: str | Sequence[str]


class Run:
    """A run folder with finished results.

    Args:
        path: of the folder.

    Raises:
        RunFolderError: it has no results, or they are damaged.
    """

    def __init__(self, path: str | Path) -> None:
        from finetune.run.folder import RunFolder

        self.path = Path(path)
        self._folder = RunFolder(self.path)
        self.results: Results = self._folder.results()
        """Everything in results.json as typed records."""

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self.verdict}>"

    @property
    def grade(self) -> Grade:
        """The grader's findings and verdict under its default policy."""
        return self._folder.grade

    @property
    def verdict(self) -> str:
        """Whether pretraining pays and whether every layer must be trained, in sentences."""
        from finetune.report.judged import to_owner

        return " ".join(to_owner(self.grade.sentences))

    def predictions(
        self, variant: str | None = None, *, seed: int | None = None, split: str = "test"
    ) -> Rows:
        """What a variant predicted in its best epoch for each image of `val` or `test`.

        Args:
            variant: such as "B"; None means the one that the verdict favors.
            seed: None means that of the highest validation accuracy.
            split: `val` or `test`.

        Returns:
            A row for each image with sample_id, label, predicted (class names), correct, nll (negative
            log-likelihood of the label, nats) and confidence (probability of the predicted class).

        Raises:
            FinetuneError: no such variant, seed or split, or its file is damaged.
        """
        from finetune.inference.trained import choose_run
        from finetune.run.artifacts import rows_of

        run, _ = choose_run(self._folder, self.results, variant, seed)
        return _table(rows_of(self._folder, self.results, run, split))

    def predict(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        variant: str | None = None,
        seed: int | None = None,
        top: int = 1,
        device: str = "auto",
    ) -> Rows:
        """Predict images, and the images in folders.

        Args:
            paths: images and folders.
            variant: such as "B"; None means the one that the verdict favors.
            seed: None means that of the highest validation accuracy.
            top: most probable classes wanted for each image.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

        Returns:
            Rows with path, rank (from 1), class, probability (calibrated) and problem; a file that cannot be
            read has one row, with rank, class and probability None.

        Raises:
            FinetuneError: no such variant or seed, nothing at a path, or no image.
        """
        from finetune.inference.predict import predict
        from finetune.inference.trained import open_model
        from finetune.system.host import choose_threads

        given = [paths] if isinstance(paths, str | Path) else paths
        with undisturbed():
            model = open_model(self._folder, variant, seed, device, choose_threads(None))
            found = list(predict(model, map(Path, given), top=top))
        return _table([row for prediction in found for row in _rows(prediction)])

    def plot_curves(self) -> Figure:
        """Accuracy and loss by epoch; a notebook shows what a cell ends with."""
        from finetune.run.curves import curves_figure

        figure = curves_figure(self.results)

        def png() -> bytes:
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=100)
            return picture.getvalue()

        # IPython asks for this; it would need pyplot, whose state is the caller's, to show the figure itself.
        figure._repr_png_ = png  # type: ignore[attr-defined]
        return figure


def load_run(path: str | Path) -> Run:
    """A run folder that `train` or `finetune train` has written.

    Raises:
        RunFolderError: it has no results, or they are damaged.
    """
    return Run(path)


def train(
    dataset: str | Path | None = None,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Unpack[Options],
) -> Run:
    """Train the variants and write a run folder, as `finetune train` does.

    Ctrl-C, or interrupting the notebook's kernel, stops after the current step with a checkpoint and raises
    KeyboardInterrupt; `finetune train --resume RUN` continues.

    Args:
        dataset: a folder of images, `flowers102` or `digits`; None means the preset's.
        out: run folder, new or empty; None means runs/DATASET-TIME.
        quiet: print nothing.
        options: those of `finetune train`, such as epochs=5, variants=["a", "c"] or lr={"b": 0.01};
            tune=True is --tune.

    Returns:
        The run. A variant whose training failed says so in its results.

    Raises:
        FinetuneError: something that the caller can put right.
        TypeError: an unknown option.
        KeyboardInterrupt: it was interrupted.
    """
    given: dict[str, Any] = dict(options)
    for name in given:
        if name not in OPTIONS:
            hint = did_you_mean(name, OPTIONS)
            raise TypeError(f"train() got an unexpected keyword argument {name!r}{hint}")
    if dataset is not None:
        given["dataset"] = str(dataset)
    if not isinstance(given.get("variants", ""), str):
        given["variants"] = ",".join(given["variants"])
    if isinstance(given.get("tune"), bool):
        given["tune"] = MODES[0] if given["tune"] else "off"
    if given.get("track") is not None:
        given["track"] = (given["track"],) if isinstance(given["track"], str) else tuple(given["track"])
    config = configure({name: value for name, value in given.items() if value is not None})
    folder = Path(out) if out is not None else default_folder(config)
    stop = _InterruptRequest()
    with undisturbed():
        stop.install()
        from finetune.run.experiment import run_experiment
        from finetune.system.reporters import SilentReporter, reporter_for

        try:
            run_experiment(config, folder, SilentReporter(0) if quiet else reporter_for(), stop)
        except Stopped as stopped:
            number = stopped.number
        else:
            return Run(folder)
    if number != signal.SIGINT:
        signal.raise_signal(number)  # for the handlers of the session, which are in place again
    raise KeyboardInterrupt(f"Interrupted. Resume with: finetune train --resume {quote(str(folder))}")


class _InterruptRequest(StopRequest):
    """A second interrupt also stops at once, but must not end the session that called `train`."""

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        super()._receive(number, frame)


def _rows(prediction: Prediction) -> Iterator[dict[str, Any]]:
    """The rows of one file."""
    file = {"path": str(prediction.path), "rank": None, "class": None, "probability": None}
    if prediction.problem is not None:
        yield {**file, "problem": prediction.problem}
    for rank, (name, probability) in enumerate(prediction.classes, 1):
        yield {**file, "rank": rank, "class": name, "probability": probability, "problem": None}


def _table(rows: list[dict[str, Any]]) -> Rows:
    try:
        import pandas
    except ModuleNotFoundError:
        return rows
    return pandas.DataFrame(rows)
