"""TensorBoard event files in the run folder, one folder for each variant and seed."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from finetune.data.datasets import SPLIT_NAMES
from finetune.report.gallery import Thumbnails, confident_mistakes
from finetune.report.judged import JudgedRun
from finetune.report.page import plain
from finetune.report.settings import flat, shown
from finetune.run.records import Document, Json
from finetune.run.tracking.trackers import best_accuracies
from grader.submission.record import run_name

FOLDER = "tensorboard"
FINAL = ".final"
"""Suffix of the files written when a run or a job has ended, which replace earlier ones."""

MOST_MISTAKES = 8
"""Images of each variant."""


class TensorBoard:
    """Writes event files; see `Tracker`.

    Args:
        out: run folder.
        config: the `config` object of the results.
    """

    def __init__(self, out: Path, config: Json) -> None:
        self.folder = out / FOLDER
        # TensorBoard shows the first few by name: what sets runs apart comes before what the recipe fixes.
        self._recipe = {f"recipe/{key}": shown(value) for key, value in flat(config["recipe"]).items()}
        self._written: dict[str, int] = {}
        self._writers: dict[str, SummaryWriter] = {}

    def __str__(self) -> str:
        return f"tensorboard --logdir {self.folder}"

    def epochs(self, run: Json, epochs: Sequence[Json]) -> None:
        """Curves and learning rate; what an earlier process wrote of an unfinished run is replaced."""
        stem = run_name(run["variant"], run["seed"])
        folder = self.folder / stem
        if stem not in self._written:
            if _has_events(folder) and "epochs" in run and run["status"]:
                self._written[stem] = len(epochs)  # it had ended before
            else:
                shutil.rmtree(folder, ignore_errors=True)
        new = epochs[self._written.get(stem, 0) :]
        if not new:
            return
        if stem not in self._writers:
            self._writers[stem] = SummaryWriter(str(folder))
        writer = self._writers[stem]
        for epoch in new:
            for split in SPLIT_NAMES:
                values = epoch[split]
                n = values["n_samples"]
                writer.add_scalar(f"accuracy/{split}", values["n_correct"] / n, epoch["epoch"])
                writer.add_scalar(f"loss/{split}", values["loss_sum"] / n, epoch["epoch"])
            writer.add_scalar("learning_rate", epoch["learning_rate"], epoch["epoch"])
        writer.flush()
        self._written[stem] = len(epochs)

    def ended(self, run: Json) -> None:
        """Hyperparameters with the accuracies of the chosen epoch."""
        writer = self._writers.pop(run_name(run["variant"], run["seed"]), None)
        if writer is not None:
            writer.close()
        chosen = {f"hparam/{split}_accuracy": share for split, share in best_accuracies(run).items()}
        if not chosen:
            return
        values: dict[str, Any] = {
            **self._recipe,
            "lr": run["learning_rate"],
            "variant": run["variant"],
            "seed": run["seed"],
            "init": run["init"],
            "trains": ", ".join(run["trained_groups"]),
        }
        with self._final(run, ".hparams") as writer:
            file = cast("FileWriter", writer.file_writer)
            for part in hparams(values, chosen):  # type: ignore[no-untyped-call]
                file.add_summary(part)
            for name, value in chosen.items():
                writer.add_scalar(name, value, run["best_epoch"])

    def finished(self, document: Document, judged: JudgedRun) -> None:
        """The most confident mistakes of each variant's first run, where the images are at hand."""
        runs = {run_name(run["variant"], run["seed"]): run for run in document["runs"]}
        thumbnails, classes = Thumbnails(judged), judged.results.classes
        for row in judged.rows:
            found = judged.evidence.predictions.get((row.first.name, "test"))
            if found is None:
                continue
            photos = thumbnails.of(confident_mistakes(row.name, found)[:MOST_MISTAKES])
            with self._final(runs[row.first.name], ".images") as writer:
                for number, photo in enumerate(photos, 1):
                    if photo.source:
                        (answer,) = photo.answers
                        label, predicted = (plain(classes[i]) for i in (photo.label, answer.predicted))
                        tag = f"mistakes/{number}: {label} taken for {predicted}"
                        writer.add_image(tag, _pixels(photo.source), row.first.best_epoch, dataformats="HWC")

    def _final(self, run: Json, kind: str) -> SummaryWriter:
        """A writer whose file replaces the one that an earlier call has written."""
        folder = self.folder / run_name(run["variant"], run["seed"])
        for path in folder.glob(f"events.*{FINAL}{kind}"):
            path.unlink()
        return SummaryWriter(str(folder), filename_suffix=f"{FINAL}{kind}")


def _has_events(folder: Path) -> bool:
    return any(folder.glob("events.*"))


def _pixels(source: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels [height x width x 3] of a data URI."""
    content = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
