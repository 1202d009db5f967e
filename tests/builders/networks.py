"""A ResNet-18 with few channels, so that an experiment takes a fraction of a second."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import sklearn.datasets
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from finetune.config.experiment import Recipe
from finetune.data.sources import WHOLE
from finetune.data.store import StoredImages
from finetune.network import resnet18
from finetune.network.network import Network
from finetune.run import environment, experiment
from finetune.training import requirements
from finetune.training.evaluate import evaluate
from finetune.training.features import FrozenPrefix
from finetune.training.record import Predictions


def narrow_stages(n_classes: int) -> OrderedDict[str, nn.Module]:
    """ResNet-18's stages with a sixteenth of the channels, 60,000 parameters."""

    def layer(n_in: int, n_out: int, stride: int) -> nn.Sequential:
        shortcut = None
        if stride > 1:
            shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        return nn.Sequential(BasicBlock(n_in, n_out, stride, shortcut), BasicBlock(n_out, n_out))

    return OrderedDict(
        conv1=nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(4),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        layer1=layer(4, 4, 1),
        layer2=layer(4, 8, 2),
        layer3=layer(8, 16, 2),
        layer4=layer(16, 32, 2),
        avgpool=nn.AdaptiveAvgPool2d((1, 1)),
        flatten=nn.Flatten(),
        fc=nn.Linear(32, n_classes),
    )


_digits = functools.cache(sklearn.datasets.load_digits)
_saved_bytes = functools.cache(requirements.saved_bytes)  # of narrow networks: called for these alone


def use_narrow_network(monkeypatch: pytest.MonkeyPatch, *, draw: bool = True) -> None:
    """Give ResNet-18 few channels, measure these and read the digits once, ask neither git nor the disk.

    A report is drawn or not.
    """
    if not draw:
        monkeypatch.setattr(experiment, "write_report", lambda _, path: path.write_bytes(b"a page"))
    monkeypatch.setattr(resnet18, "stages", narrow_stages)
    monkeypatch.setattr(environment, "SOURCE_TREE", Path("/nonexistent"))
    monkeypatch.setattr(requirements, "saved_bytes", _saved_bytes)
    monkeypatch.setattr(sklearn.datasets, "load_digits", _digits)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def write_weights(path: Path) -> Path:
    """A weights file with the shapes of ResNet-18 as it is now, narrow or not, for ten classes."""
    torch.manual_seed(3)
    path.write_bytes(safetensors.torch.save(dict(resnet18.resnet18(10).state_dict())))
    return path


def recompute(
    network: Network, images: StoredImages, labels: torch.Tensor, batch_size: int, **options: Any
) -> Predictions:
    """A network's predictions for images of its input size; options of `evaluate` as keywords."""
    prefix = FrozenPrefix(network, Recipe(batch_size=batch_size), options.get("precision", "fp32"))
    return evaluate(network, prefix.held_out("val", images, WHOLE), labels, **options)
