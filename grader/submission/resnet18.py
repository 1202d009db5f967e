"""Names and shapes of ResNet-18's parameters, as in torchvision but without importing torch."""

from functools import cache
from math import prod

GROUPS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
"""The groups of layers, from input to output: the children of torchvision's ResNet that have parameters."""

WIDTHS = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}

Shapes = dict[str, tuple[int, ...]]


@cache
def parameter_shapes(n_classes: int) -> Shapes:
    """Names and shapes of all 62 parameters, in torchvision's order.

    A 7 by 7 stem, four stages of two basic blocks, a 1 by 1 projection where a stage changes the width, and a
    linear head. The names are those of `torchvision.models.resnet18().named_parameters()`.

    Source: He et al., *Deep Residual Learning for Image Recognition* (2016), table 1, column "18-layer".

    Args:
        n_classes: Outputs of the head.
    """
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | _norm("bn1", 64)
    inputs = 64
    for layer, width in WIDTHS.items():
        for block in range(2):
            name = f"{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3)} | _norm(f"{name}.bn1", width)
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)} | _norm(f"{name}.bn2", width)
            if inputs != width:
                shapes |= {f"{name}.downsample.0.weight": (width, inputs, 1, 1)}
                shapes |= _norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes | {"fc.weight": (n_classes, 512), "fc.bias": (n_classes,)}


def of_groups(n_classes: int, groups: tuple[str, ...]) -> Shapes:
    """The parameters of these top-level layer groups only."""
    return {n: s for n, s in parameter_shapes(n_classes).items() if n.partition(".")[0] in groups}


def count(shapes: Shapes) -> int:
    """Total number of elements."""
    return sum(prod(shape) for shape in shapes.values())


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


@cache
def state_shapes(n_classes: int) -> Shapes:
    """Names and shapes of all 122 entries of the state dict: the parameters, and BatchNorm's buffers."""
    shapes = dict(parameter_shapes(n_classes))
    for name, shape in parameter_shapes(n_classes).items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 1:
            shapes |= {f"{layer}.running_mean": shape, f"{layer}.running_var": shape}
            shapes |= {f"{layer}.num_batches_tracked": ()}
    return shapes


def multiplications(image_size: int, n_classes: int) -> dict[str, float]:
    """Multiply-adds of a forward pass of one image, by layer group; 1.8 billion at 224 pixels.

    Each convolution applies its kernel at every output pixel: the stem and the stages after the first halve
    height and width, and so does the pooling after the stem.
    """
    side = max(1.0, image_size / 2)
    found = dict.fromkeys(GROUPS, 0.0)
    for name, shape in parameter_shapes(n_classes).items():
        group = name.partition(".")[0]
        if name.endswith(".0.conv1.weight"):  # the first of each stage; before layer1, it is the pooling
            side = max(1.0, side / 2)
        pixels = side * side if len(shape) == 4 else 1.0
        found[group] += prod(shape) * pixels if len(shape) > 1 else 0.0
    return found
