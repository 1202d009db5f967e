"""Predictions for images that nobody has labelled, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.data.inputs import decoded, image_files, require_paths
from finetune.errors import DataError
from finetune.inference.trained import TrainedModel
from finetune.network.fused import in_eval_mode
from finetune.training.evaluate import normalized
from finetune.training.precision import mixed


@dataclass(frozen=True)
class Prediction:
    """What a network says of one file.

    Args:
        path: of the file.
        classes: names and probabilities (0 to 1), the most probable first; empty if it cannot be read.
        problem: why the file cannot be read, or None.
    """

    path: Path
    classes: tuple[tuple[str, float], ...]
    problem: str | None = None


def predict(model: TrainedModel, paths: Iterable[Path], *, top: int) -> Iterator[Prediction]:
    """Predict every image at and below the paths, in order, as they are asked for.

    Probabilities are softmax(logits / temperature), with the temperature that was fitted on validation.

    Args:
        model: whose predictions.
        paths: images and folders of images.
        top: classes wanted for each image.

    Yields:
        A prediction for each file, readable or not.

    Raises:
        DataError: there is nothing at a path, a folder cannot be listed, or there is no image at all.
    """
    paths = list(paths)
    require_paths(paths)
    n_files, names = 0, model.results.classes
    probabilities = calibrated(model)
    for batch in decoded(image_files(paths), model.image_size, torch.get_num_threads()):
        n_files += len(batch.paths)
        best = probabilities(batch.pixels).topk(min(top, len(names))) if len(batch.pixels) else None
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best else iter(())
        for index, path in enumerate(batch.paths):
            if index in batch.problems:
                yield Prediction(path, (), batch.problems[index])
            else:
                indices, values = next(rows)
                yield Prediction(path, tuple((names[i], p) for i, p in zip(indices, values, strict=True)))
    if n_files == 0:
        raise DataError(
            "At least one path must name an image or a folder with images, but none was found; check the "
            "paths and the files' suffixes."
        )


def calibrated(model: TrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from pixels [b x height x width x 3] uint8 to calibrated probabilities [b x n_classes]."""
    device, precision = model.network.device, model.precision
    with torch.inference_mode(), mixed(precision, device):
        step = in_eval_mode(model.network.suffix)

    def probabilities(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), mixed(precision, device):
            logits = step(normalized(pixels, device)).float()
            return (logits / model.temperature).softmax(dim=1)

    return probabilities
