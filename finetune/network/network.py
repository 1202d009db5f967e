"""A variant's network: a sequence of named stages, some of them frozen."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator

import torch
from torch import nn

from finetune.network.fused import Step, cpu_dtype, in_eval_mode

State = dict[str, torch.Tensor]
"""Parameters and buffers by name."""


class Network(nn.Sequential):
    """Named stages from input to logits, of which only some groups train.

    A group is a stage that has parameters. A frozen group keeps its parameters and its BatchNorm statistics:
    its parameters take no gradient, and it stays in eval mode whatever `.train()` is called on the network.
    The stages before the first trained group are the frozen prefix, which runs without building a graph.

    Args:
        stages: from input to logits; their names begin the names of parameters and buffers.
        groups: names of the groups that train; the rest is frozen.
        adapts: let the BatchNorm statistics of frozen groups follow the images. Their outputs then
            change from step to step, so there is no frozen prefix.
    """

    def __init__(
        self, stages: OrderedDict[str, nn.Module], groups: Collection[str], adapts: bool = False
    ) -> None:
        super().__init__(stages)
        self.adapts = adapts
        self.frozen_groups = tuple(
            n for n, s in stages.items() if n not in groups and next(s.parameters(), None) is not None
        )
        first = next(i for i, name in enumerate(stages) if name in groups)
        self.n_frozen_stages = 0 if adapts else first
        self._fused_prefix: tuple[object, Step] | None = None  # and the state that it was made from
        for group in self.frozen_groups:
            self.get_submodule(group).requires_grad_(False)
        self.train()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def n_classes(self) -> int:
        """Logits per image: as many as the last stage has biases."""
        return len(list(self.parameters())[-1])

    @property
    def prefix(self) -> nn.Sequential:
        """The frozen prefix; empty if the first stage trains."""
        return nn.Sequential(*self)[: self.n_frozen_stages]

    @property
    def suffix(self) -> nn.Sequential:
        """Every stage from the first trained group on: features to logits."""
        return nn.Sequential(*self)[self.n_frozen_stages :]

    def train(self, mode: bool = True) -> Network:
        """Set training mode everywhere but in frozen groups that keep their statistics."""
        super().train(mode)
        for group in () if self.adapts else self.frozen_groups:
            self.get_submodule(group).eval()
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The frozen prefix's outputs, without a graph; the images themselves where nothing is frozen.

        Args:
            images: normalized [b x 3 x height x width].
        """
        with torch.no_grad():
            return self._prefix_in_eval_mode()(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [b x n_classes] of normalized images [b x 3 x height x width]."""
        logits: torch.Tensor = self.suffix(self.features(images))
        return logits

    def _prefix_in_eval_mode(self) -> Step:
        """The prefix, fused again only if its weights were loaded or moved, or the precision has changed."""
        prefix = self.prefix
        key = (self.device, cpu_dtype(), [t._version for t in (*prefix.parameters(), *prefix.buffers())])
        if self._fused_prefix is None or self._fused_prefix[0] != key:
            self._fused_prefix = (key, in_eval_mode(prefix))
        return self._fused_prefix[1]

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that the optimizer gets."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    def frozen_sha256(self) -> str:
        """SHA-256 of all that is frozen: parameters and, unless they adapt, BatchNorm statistics."""
        state = dict(self.named_parameters()) if self.adapts else self.state_dict()
        return fingerprint({n: t for n, t in state.items() if n.partition(".")[0] in self.frozen_groups})


def fingerprint(state: State) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\t{tensor.dtype}\t{list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().reshape(-1).data)
    return digest.hexdigest()
