"""Images a second of `finetune predict` and of evaluation, on the same photos and in the same process.

    python -m tests.benchmarks.predict RUN PHOTOS [--rounds 3] [--threads 1]

Evaluation is that of `finetune train --store off`: photos are decoded, resized and cropped by threads, and go
through the network in batches of the run's size. With stored images, evaluation decodes nothing after the
first epoch, so there is nothing in prediction to compare that with. Prediction lists folders, computes
calibrated probabilities and writes its CSV rows besides. The two alternate, and
so does which goes first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from finetune.config.experiment import Recipe
from finetune.data.datasets import Sample
from finetune.data.inputs import image_files
from finetune.data.sources import WHOLE
from finetune.data.stream import evaluation_stream
from finetune.inference.listing import lines
from finetune.inference.predict import predict
from finetune.inference.trained import TrainedModel, open_model
from finetune.run.folder import RunFolder
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix


def predicting(model: TrainedModel, photos: Path, _threads: int) -> Callable[[], int]:
    """Predict all photos below a folder and make the lines of a CSV file; returns how many there were."""
    return lambda: sum(1 for _ in lines(predict(model, [photos], top=1), "csv")) - 1


def evaluating(model: TrainedModel, photos: Path, threads: int) -> Callable[[], int]:
    """Evaluate the same photos, all called the first class; returns how many there were."""
    batch_size = model.results.batch_size

    def work() -> int:
        samples = [Sample(str(path), 0, path) for path in image_files([photos])]
        stream = evaluation_stream(samples, model.image_size, threads)
        recipe = Recipe(image_size=model.image_size, batch_size=batch_size)
        features = FrozenPrefix(model.network, recipe, model.precision).held_out("test", stream, WHOLE)
        labels = torch.zeros(len(samples), dtype=torch.int64)
        return len(evaluate(model.network, features, labels, model.precision).predicted)

    return work


def main() -> None:
    """Print a JSON object for each round, then the medians of the ratios of wall-clock and of CPU time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    model = open_model(RunFolder(options.run), "b", None, "cpu", options.threads)
    make = {"predict": predicting, "evaluate": evaluating}
    works = {name: of(model, options.photos, options.threads) for name, of in make.items()}
    ratios: list[tuple[float, float]] = []
    for number in range(options.rounds):
        seconds: dict[str, tuple[float, float]] = {}
        for name in sorted(works, reverse=number % 2 == 0):
            wall, cpu = time.perf_counter(), time.process_time()
            n_photos = works[name]()
            seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
        ratios.append(
            (seconds["evaluate"][0] / seconds["predict"][0], seconds["evaluate"][1] / seconds["predict"][1])
        )
        rates = {name: round(n_photos / wall, 1) for name, (wall, _) in seconds.items()}
        shown = dict(zip(("ratio", "cpu ratio"), (round(r, 3) for r in ratios[-1]), strict=True))
        click.echo(json.dumps({"photos": n_photos, "precision": model.precision, **rates, **shown}))
    wall_ratio, cpu_ratio = (round(statistics.median(found), 3) for found in zip(*ratios, strict=True))
    click.echo(json.dumps({"median ratio": wall_ratio, "median cpu ratio": cpu_ratio}))


if __name__ == "__main__":
    main()
