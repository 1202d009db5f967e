"""The model card of an exported network, in the format of Hugging Face, from the results of its run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from finetune import __version__
from finetune.inference.trained import TrainedModel
from finetune.run.artifacts import read_predictions
from grader.grading.verdict import NO_NETWORK
from grader.statistics.proportions import wilson

CONFIDENCE = 0.95
N_WEAKEST = 5

_LOADING = {
    "model.onnx": """import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
about = session.get_modelmeta().custom_metadata_map
logits = lambda images: session.run(None, {"images": images})[0]""",
    "model.pt": """import torch

extra = {"metadata.json": ""}
model = torch.jit.load("model.pt", _extra_files=extra).eval()
about = json.loads(extra["metadata.json"])
logits = lambda images: model(torch.from_numpy(images)).detach().numpy()""",
    "model.safetensors": """import torch
from safetensors import safe_open
from torchvision.models import resnet18

with safe_open("model.safetensors", "pt") as file:
    about, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
model = resnet18(num_classes=len(json.loads(about["classes"]))).eval()
model.load_state_dict(state)
logits = lambda images: model(torch.from_numpy(images)).detach().numpy()""",
}
"""For each file: Python that defines `about`, its metadata, and `logits`, a function of images."""


def model_card(model: TrainedModel, file: str, library: str) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        model: whose card.
        file: name of the exported file.
        library: that reads it.

    Raises:
        RunFolderError: the results cannot be read.
    """
    document, run, results = model.folder.read(), model.run, model.results
    if run.best is None:
        raise ValueError("the run of a trained model has a best epoch")
    test = run.best.test
    interval = wilson(test.n_correct, test.n_samples, CONFIDENCE)
    dataset = document["config"]["dataset"].removeprefix("imagefolder:")
    weakest, smallest = _classes(model)
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - Markdown, which the filter `text` escapes
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": _text,
        "quoted": json.dumps,
        "percent": lambda share: f"{share:.1%}",
        "thousands": lambda n: f"{n:,}",
    }
    template = resources.files("finetune.inference").joinpath("model_card.md.jinja").read_text("utf-8")
    return environment.from_string(template, {}).render(
        title=f"ResNet-18 on {dataset}, variant {run.variant}",
        version=__version__,
        dataset=dataset,
        library=library,
        file=file,
        loading=_LOADING[file],
        size=model.image_size,
        run=run,
        best=run.best,
        results=results,
        recipe=document["config"]["recipe"],
        calibration=run.calibration,
        weights=document["weights"] if run.init == "pretrained" else None,
        start="from pretrained weights" if run.init == "pretrained" else "from random weights",
        test_low=interval.low,
        test_high=interval.high,
        weakest=weakest,
        smallest=smallest,
        verdict=_comparison(model.folder.grade.verdict) if len({r.variant for r in results.runs}) > 1 else [],
    )


def _comparison(verdict: Sequence[str]) -> list[str]:
    """What the grader says of the variants, without what it says of the files."""
    of_files = ("Failed: ", NO_NETWORK)
    return [s.replace("your margin", "a margin") for s in verdict if not s.startswith(of_files)]


def _classes(model: TrainedModel) -> tuple[list[tuple[str, int, int]], int]:
    """The classes with the lowest accuracy on test (name, correct, images), and the size of the smallest."""
    run, results = model.run, model.results
    n_correct, n = read_predictions(model.folder, results, run, "test").per_class(len(results.classes))
    present = np.flatnonzero(n)
    if len(present) <= N_WEAKEST:
        return [], int(n[present].min())
    worst = sorted(present, key=lambda i: (n_correct[i] / n[i], i))[:N_WEAKEST]
    return [(results.classes[i], int(n_correct[i]), int(n[i])) for i in worst], int(n[present].min())


def _text(value: Any) -> str:
    """A name or sentence in Markdown: one line, with no markup of its own."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", line)
