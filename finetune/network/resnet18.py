"""A variant's network: ResNet-18 with its frozen groups really frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from finetune.config.experiment import GROUPS, Variant
from finetune.network.fused import Step, cpu_dtype, in_eval_mode
from finetune.network.weights import State

STAGES = (
    "conv1",
    "bn1",
    "relu",
    "maxpool",
    "layer1",
    "layer2",
    "layer3",
    "layer4",
    "avgpool",
    "flatten",
    "fc",
)
"""ResNet's forward pass as a sequence of its top-level children."""

ONE_PIXEL = 16
"""ResNet-18 divides height and width by 16 before layer4: of images no larger that sees one pixel."""

SINGLE_VALUE_PIXELS = 32
"""ResNet-18 divides height and width by 32: of images no larger its last layers see one pixel."""


class Network(ResNet):  # type: ignore[misc]  # torchvision publishes no types
    """torchvision's ResNet-18 of which only some top-level groups train.

    A frozen group keeps its parameters and its BatchNorm statistics: its parameters take no gradient, and it
    stays in eval mode whatever `.train()` is called on the network. The frozen groups before the first
    trained one form the frozen prefix, which runs without building a graph.

    Args:
        n_classes: outputs of the head.
        groups: names out of `finetune.config.experiment.GROUPS` that train; the rest is frozen.
    """

    def __init__(self, n_classes: int, groups: tuple[str, ...] = GROUPS) -> None:
        self.frozen_groups = tuple(g for g in GROUPS if g not in groups)
        self.first_trained = next(i for i, stage in enumerate(STAGES) if stage in groups)
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=n_classes)
        self.flatten = nn.Flatten()
        self._made: tuple[object, Step] | None = None  # the frozen prefix, and what it was made from
        for group in self.frozen_groups:
            self.get_submodule(group).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Network:
        """Set training mode everywhere but in the frozen groups."""
        super().train(mode)
        for group in self.frozen_groups:
            self.get_submodule(group).eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [b x n_classes] of normalised images [b x 3 x height x width]."""
        return self.forward_trained(self.forward_frozen(images))

    def forward_frozen(self, images: torch.Tensor) -> torch.Tensor:
        """The frozen prefix alone, without a graph: images [b x 3 x height x width] to features."""
        with torch.no_grad():
            return self._prefix()(images)

    def _prefix(self) -> Step:
        """The frozen prefix, made anew where weights were loaded or moved, or the precision changed."""
        stages = STAGES[: self.first_trained]
        modules = [self.get_submodule(stage) for stage in stages]
        state = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        key = (next(self.parameters()).device, cpu_dtype(), [t._version for t in state])
        if self._made is None or self._made[0] != key:
            self._made = (key, in_eval_mode(self, stages))
        return self._made[1]

    def trained_in_eval_mode(self) -> Step:
        """What computes `forward_trained` without a graph, in eval mode, with the weights as they are now."""
        return in_eval_mode(self, STAGES[self.first_trained :])

    def forward_trained(self, features: torch.Tensor) -> torch.Tensor:
        """Everything after the frozen prefix: features to logits [b x n_classes]."""
        for stage in STAGES[self.first_trained :]:
            features = self.get_submodule(stage)(features)
        return features

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimizer gets."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    def frozen_sha256(self) -> str:
        """SHA-256 of all frozen parameters and buffers."""
        state = self.state_dict()
        return fingerprint({n: t for n, t in state.items() if n.partition(".")[0] in self.frozen_groups})


def build(variant: Variant, n_classes: int, seed: int, pretrained: State | None) -> Network:
    """A variant's network at its start.

    The seed fixes the random initialisation, so variants that start from the same weights get the same head.

    Args:
        variant: which groups train and where they start.
        n_classes: outputs of the head.
        seed: of the random initialisation.
        pretrained: the entries to start from; needed when the variant's init is `pretrained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(n_classes, variant.groups)
    if variant.init == "pretrained":
        if pretrained is None:
            raise ValueError(f"Variant {variant.name} starts from pretrained weights, but none were given.")
        network.load_state_dict(pretrained, strict=False)  # load_weights has checked names and shapes
    return network


def state_shapes(n_classes: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry in the network's state dict; allocates nothing."""
    with torch.device("meta"):
        return {n: tuple(t.shape) for n, t in Network(n_classes).state_dict().items()}


def fingerprint(state: State) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\t{tensor.dtype}\t{list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
