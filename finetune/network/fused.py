"""The forward pass in eval mode on a processor: each convolution normalises, adds and rectifies in one go.

In eval mode BatchNorm is an affine map, which a convolution can take into its own weights (as in
`torch.nn.utils.fusion`), and oneDNN's convolutions add a shortcut and rectify before they write, so that no
result passes through memory twice. The operators are those that torch.compile emits on a processor; calling
them directly costs no compilation. Logits differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, ResNet

Step = Callable[[torch.Tensor], torch.Tensor]


def in_eval_mode(network: ResNet, stages: Sequence[str]) -> Step:
    """Some consecutive stages of a ResNet in eval mode, as its weights are now, without a graph.

    Args:
        network: the ResNet, in eval mode.
        stages: names of its top-level children, in the order in which it calls them.

    Returns:
        What computes them in the precision that autocast has now; fused on a processor that oneDNN knows,
        elsewhere the plain modules.
    """
    if next(network.parameters()).is_cpu and _fusible(cpu_dtype()):
        return Fused(network, stages, cpu_dtype())
    return nn.Sequential(*(network.get_submodule(stage) for stage in stages))


def cpu_dtype() -> torch.dtype:
    """What a convolution on a processor is computed in now."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _fusible(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and knows this processor's instructions for the type."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Fused:
    """Stages whose convolutions do all that is done to each value before the next convolution.

    Args:
        network: the ResNet.
        stages: names of its top-level children, in the order in which it calls them.
        dtype: float32 or bfloat16, in which convolutions are computed.
    """

    def __init__(self, network: ResNet, stages: Sequence[str], dtype: torch.dtype) -> None:
        self.steps: list[Step] = []
        if tuple(stages[:3]) == ("conv1", "bn1", "relu"):
            self.steps.append(_Convolution(network.conv1, network.bn1, dtype, "relu"))
            stages = stages[3:]
        for module in (network.get_submodule(name) for name in stages):
            blocks = module if isinstance(module, nn.Sequential) else [module]
            self.steps += [_Block(b, dtype) if isinstance(b, BasicBlock) else b for b in blocks]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the stages make of [b x channels x height x width], in channels_last."""
        for step in self.steps:
            inputs = step(inputs)
        return inputs


class _Convolution:
    """A convolution with the BatchNorm that follows it.

    Args:
        convolution, norm: both in eval mode.
        dtype: what to compute in.
        then: `relu` or `none`.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, then: str) -> None:
        both = fuse_conv_bn_eval(convolution, norm).requires_grad_(False).to(dtype)
        self.weight, self.bias = both.to(memory_format=torch.channels_last).parameters()
        self.shape = (both.padding, both.stride, both.dilation, both.groups)
        self.then = then

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The convolution, and what comes then."""
        made: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs.to(self.weight.dtype), self.weight, self.bias, *self.shape, self.then, [], ""
        )
        return made

    def plus(self, inputs: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """The convolution, then the sum with the shortcut, rectified."""
        made: torch.Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            inputs, shortcut, self.weight, self.bias, *self.shape, "add", 1.0, "relu", [], ""
        )
        return made


class _Block:
    """torchvision's BasicBlock."""

    def __init__(self, block: BasicBlock, dtype: torch.dtype) -> None:
        self.first = _Convolution(block.conv1, block.bn1, dtype, "relu")
        self.second = _Convolution(block.conv2, block.bn2, dtype, "none")
        self.shortcut: _Convolution | None = None
        if block.downsample:
            convolution, norm = block.downsample
            self.shortcut = _Convolution(convolution, norm, dtype, "none")

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.to(self.first.weight.dtype)
        shortcut = self.shortcut(inputs) if self.shortcut else inputs
        return self.second.plus(self.first(inputs), shortcut)
