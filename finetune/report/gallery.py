"""Photos worth looking at: the most confident mistakes, and those on which two variants disagree."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset
from finetune.data.datasets import Sample, load_dataset
from finetune.data.decode import UNREADABLE, open_image
from finetune.errors import ConfigError
from finetune.report.judged import JudgedRun
from grader.reading.truth import FLOWERS_FOLDER
from grader.submission.predictions import Predictions

MOST_PHOTOS = 12
"""In each of the two galleries."""

SIDE = 144
"""Longest side of a thumbnail, pixels: sharp at twice the density of the 104 pixels at which it is shown."""

QUALITY = 70
"""Of the WebP files; 144 pixels take some 4 kB."""


@dataclass(frozen=True)
class Answer:
    """What a variant says of a photo.

    Args:
        variant: its name.
        predicted: class index.
        is_correct: whether that is the label.
        confidence: softmax probability of the predicted class, if it is known.
        label_probability: softmax probability of the label.
    """

    variant: str
    predicted: int
    is_correct: bool
    confidence: float | None
    label_probability: float


@dataclass(frozen=True)
class Photo:
    """A test image with its label and what one or two variants say of it.

    Args:
        sample_id: as in the predictions.
        label: class index.
        answers: of the variants.
        source: the thumbnail as a data URI; empty if the image is not at hand.
    """

    sample_id: str
    label: int
    answers: tuple[Answer, ...]
    source: str = ""


def confident_mistakes(name: str, found: Predictions) -> list[Photo]:
    """The mistakes with the most confident predictions; of results without them, the least likely labels.

    Args:
        name: of the variant.
        found: its predictions.
    """
    rank = found.nll if found.confidence is None else found.confidence
    wrong = np.flatnonzero(~found.correct)
    best = wrong[np.argsort(-rank[wrong], kind="stable")][:MOST_PHOTOS]
    return [Photo(found.sample_ids[i], int(found.labels[i]), (_answer(name, found, i),)) for i in best]


def disagreements(names: tuple[str, str], first: Predictions, second: Predictions) -> list[Photo]:
    """Photos of one split that two variants predict differently, the widest apart on the label first."""
    differ = np.flatnonzero(first.predicted != second.predicted)
    gap = np.abs(np.exp(-first.nll) - np.exp(-second.nll))
    best = differ[np.argsort(-gap[differ], kind="stable")][:MOST_PHOTOS]
    return [
        Photo(
            first.sample_ids[i],
            int(first.labels[i]),
            (_answer(names[0], first, i), _answer(names[1], second, i)),
        )
        for i in best
    ]


def _answer(name: str, found: Predictions, row: np.int64) -> Answer:
    correct, of_label = bool(found.correct[row]), float(np.exp(-found.nll[row]))
    if found.confidence is not None:
        confidence: float | None = float(found.confidence[row])
    else:
        confidence = of_label if correct else None
    return Answer(name, int(found.predicted[row]), correct, confidence, of_label)


class Thumbnails:
    """Small copies of a run's images, where these are at hand; nothing is downloaded.

    Args:
        run: whose config.toml says where they are.
    """

    def __init__(self, run: JudgedRun) -> None:
        self.problem = ""
        self.config: ExperimentConfig | None = None
        try:
            self.config = load_preset(str(run.folder / "config.toml"))
        except ConfigError:
            self.problem = "config.toml, which says where the images are, is missing or damaged"

    def of(self, photos: Iterable[Photo]) -> list[Photo]:
        """The same photos with thumbnails; `problem` says why some have none."""
        return [dataclasses.replace(photo, source=self._source(photo.sample_id)) for photo in photos]

    def _source(self, sample_id: str) -> str:
        if self.config is None:
            return ""
        content = self._content(self.config, sample_id)
        if content is None or (isinstance(content, Path) and not content.is_file()):
            self.problem = "they are no longer where the run found them"
            return ""
        try:
            return _data_uri(open_image(Sample(sample_id, 0, content)))
        except UNREADABLE:
            self.problem = "they can no longer be read"
            return ""

    def _content(self, config: ExperimentConfig, sample_id: str) -> Path | npt.NDArray[np.uint8] | None:
        """The image with this id, sought only inside the data set's folder; None if it cannot be there."""
        kind, _, path = config.dataset.partition(":")
        if kind == "digits":
            return self._digits.get(sample_id)
        root = Path(path)
        if kind == "flowers102":
            root, sample_id = Path(config.data_root) / FLOWERS_FOLDER / "jpg", f"{sample_id}.jpg"
        below = PurePosixPath(sample_id)
        return None if below.is_absolute() or ".." in below.parts else root / below

    @cached_property
    def _digits(self) -> dict[str, Path | npt.NDArray[np.uint8]]:
        return {sample.id: sample.content for sample in load_dataset("digits", Path()).samples}


def _data_uri(image: Image.Image) -> str:
    """At most `SIDE` pixels; tiny images, such as the digits, as they are."""
    small = ImageOps.contain(image, (SIDE, SIDE)) if max(image.size) > SIDE else image
    content = io.BytesIO()
    kind = "png" if max(small.size) <= 32 else "webp"
    small.save(content, kind, **({"optimize": True} if kind == "png" else {"quality": QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
