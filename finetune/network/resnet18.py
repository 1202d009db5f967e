"""ResNet-18 (He et al. 2015, "Deep residual learning") as named stages, and what depends on its geometry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from finetune.config.experiment import Variant
from finetune.network.network import Network, State
from grader.submission.resnet18 import GROUPS

HEAD = ("fc.weight", "fc.bias")
"""The parameters of the classifier."""

ONE_PIXEL_BEFORE_LAYER4 = 16
"""The stages before `layer4` divide height and width by 16: up to this size, `layer4` sees one pixel."""

ONE_PIXEL_AT_THE_END = 32
"""`layer4` halves them again: up to this image size, its last convolutions see one pixel."""


def stages(n_classes: int) -> OrderedDict[str, nn.Module]:
    """Torchvision's ResNet-18 as a sequence; names of parameters and buffers are torchvision's.

    Args:
        n_classes: outputs of the classifier, `fc`.
    """
    named = OrderedDict(ResNet(BasicBlock, [2, 2, 2, 2], num_classes=n_classes).named_children())
    classifier = named.pop("fc")
    return OrderedDict(**named, flatten=nn.Flatten(), fc=classifier)


def resnet18(n_classes: int, groups: Collection[str] = GROUPS, adapts: bool = False) -> Network:
    """A randomly initialized ResNet-18 of which only the named groups train; see `Network`."""
    return Network(stages(n_classes), groups, adapts)


def build(variant: Variant, n_classes: int, seed: int, pretrained: State | None) -> Network:
    """A variant's network before training.

    The seed fixes the random initialization, so variants that start from the same weights get the same `fc`.

    Args:
        variant: which groups train, and from which weights.
        n_classes: outputs of `fc`.
        seed: of the random initialization.
        pretrained: the entries to start from; needed when the variant's init is `pretrained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = resnet18(n_classes, variant.groups, variant.adapts)
    if variant.init == "pretrained":
        if pretrained is None:
            raise ValueError(f"Variant {variant.name} starts from pretrained weights, but none were given.")
        network.load_state_dict(pretrained, strict=False)  # load_weights has checked names and shapes
    return network


def state_shapes(n_classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry in the network's state dict; allocates nothing."""
    with torch.device("meta"):
        return {n: tuple(t.shape) for n, t in resnet18(n_classes).state_dict().items()}
