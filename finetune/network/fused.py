"""The forward pass in eval mode on a CPU, with each convolution, BatchNorm, shortcut and ReLU in one kernel.

In eval mode BatchNorm is an affine map that a convolution can absorb into its own weights (as in
`torch.nn.utils.fusion`), and oneDNN's convolutions can add a shortcut and apply ReLU before they write, so no
intermediate result goes through memory. These are the operators that torch.compile emits on a CPU; calling
them directly costs no compilation. Logits differ by rounding only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock

Step = Callable[[torch.Tensor], torch.Tensor]


def in_eval_mode(stages: nn.Sequential) -> Step:
    """A function that computes the stages in eval mode, with their present weights, without a graph.

    It computes in autocast's present precision: fused on a CPU that oneDNN supports, else by the plain
    modules.

    Args:
        stages: in eval mode.
    """
    first = next(stages.parameters(), None)
    if first is not None and first.is_cpu and _fusible(cpu_dtype()):
        return Fused(stages, cpu_dtype())
    return stages


def cpu_dtype() -> torch.dtype:
    """The type that convolutions on a CPU compute in under the present autocast setting."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _fusible(dtype: torch.dtype) -> bool:
    """Whether oneDNN is available and this CPU has instructions for the type."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and (dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def _adds_to_one_pixel() -> bool:
    """Whether oneDNN adds a shortcut where images have shrunk to one pixel; with torch 2.11 it does not."""
    pixel, bias = torch.zeros(2, 16, 1, 1), torch.zeros(16)
    weight = torch.zeros(16, 16, 3, 3).to(memory_format=torch.channels_last)
    shape = ((1, 1), (1, 1), (1, 1), 1)
    try:
        torch.ops.mkldnn._convolution_pointwise.binary(
            pixel, pixel, weight, bias, *shape, "add", 1.0, "relu", [], ""
        )
    except RuntimeError:
        return False
    return True


class Fused:
    """Stages with every convolution fused with what follows it.

    A stage is fused if it is a residual block, a sequence of them, or a convolution that BatchNorm and ReLU
    follow; any other stage runs as it is.

    Args:
        stages: in eval mode.
        dtype: float32 or bfloat16, in which convolutions are computed.
    """

    def __init__(self, stages: nn.Sequential, dtype: torch.dtype) -> None:
        self.steps: list[Step] = []
        modules = [m for stage in stages for m in (stage if isinstance(stage, nn.Sequential) else [stage])]
        while modules:
            match modules:
                case [nn.Conv2d() as convolution, nn.BatchNorm2d() as norm, nn.ReLU(), *modules]:
                    self.steps.append(_Convolution(convolution, norm, dtype, "relu"))
                case [BasicBlock() as block, *modules]:
                    self.steps.append(_Block(block, dtype))
                case [other, *modules]:
                    self.steps.append(other)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """The stages' output for [b x channels x height x width] in channels_last."""
        for step in self.steps:
            inputs = step(inputs)
        return inputs


class _Convolution:
    """A convolution fused with the BatchNorm that follows it.

    Args:
        convolution, norm: both in eval mode.
        dtype: to compute in.
        activation: `relu` or `none`.
    """

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, activation: str
    ) -> None:
        both = fuse_conv_bn_eval(convolution, norm).requires_grad_(False).to(dtype)
        self.weight, self.bias = both.to(memory_format=torch.channels_last).parameters()
        self.shape = (both.padding, both.stride, both.dilation, both.groups)
        self.activation = activation

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convolution, BatchNorm and activation."""
        output: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            inputs.to(self.weight.dtype), self.weight, self.bias, *self.shape, self.activation, [], ""
        )
        return output

    def plus(self, inputs: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """Convolution and BatchNorm, the sum with the shortcut, then ReLU; for activation `none`."""
        if shortcut.shape[2:] == (1, 1) and not _adds_to_one_pixel():
            return self(inputs).add_(shortcut).relu_()
        output: torch.Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            inputs, shortcut, self.weight, self.bias, *self.shape, "add", 1.0, "relu", [], ""
        )
        return output


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
