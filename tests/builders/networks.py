"""A ResNet-18 with few channels, so that an experiment takes a fraction of a second."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import safetensors.torch
import sklearn.datasets
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from finetune.network.resnet18 import Network
from finetune.run import environment, experiment


def narrow_init(self: ResNet, block: type[BasicBlock], layers: list[int], num_classes: int) -> None:
    """In place of `ResNet.__init__`: the same names with a sixteenth of the channels, 60,000 parameters."""
    nn.Module.__init__(self)
    self.conv1 = nn.Conv2d(3, 4, kernel_size=7, stride=2, padding=3, bias=False)
    self.bn1 = nn.BatchNorm2d(4)
    self.relu = nn.ReLU(inplace=True)
    self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    self._norm_layer = nn.BatchNorm2d
    self.inplanes, self.dilation, self.groups, self.base_width = 4, 1, 1, 64
    for number, blocks in enumerate(layers):
        setattr(
            self, f"layer{number + 1}", self._make_layer(block, 4 << number, blocks, 1 if number == 0 else 2)
        )
    self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
    self.fc = nn.Linear(32, num_classes)


_digits = functools.cache(sklearn.datasets.load_digits)


def use_narrow_network(monkeypatch: pytest.MonkeyPatch, *, draw: bool = True) -> None:
    """Give ResNet-18 few channels, read the digits once, ask neither git nor the disk; draw curves or not."""
    if not draw:
        monkeypatch.setattr(experiment, "curves", lambda _, path: path.write_bytes(b"a picture"))
    monkeypatch.setattr(ResNet, "__init__", narrow_init)
    monkeypatch.setattr(environment, "_git", lambda *_: None)
    monkeypatch.setattr(sklearn.datasets, "load_digits", _digits)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def write_weights(path: Path) -> Path:
    """A weights file with the shapes of ResNet-18 as it is now, narrow or not, for ten classes."""
    torch.manual_seed(3)
    path.write_bytes(safetensors.torch.save(dict(Network(10).state_dict())))
    return path
