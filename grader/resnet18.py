"""The parameters of ResNet-18 by name and shape, as torchvision names them. No torch needed."""

from functools import cache
from math import prod

GROUPS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
WIDTHS = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}

Shapes = dict[str, tuple[int, ...]]


@cache
def parameter_shapes(n_classes: int) -> Shapes:
    """Names and shapes of all 62 parameters.

    The rule is He et al., *Deep Residual Learning* (2016), table 1, column "18-layer": a 7 by 7 stem, four
    stages of two basic blocks, a 1 by 1 projection where a stage changes the width, a linear head. Names are
    those of `torchvision.models.resnet18().named_parameters()`.

    Args:
        n_classes: Outputs of the head.

    Returns:
        Shape by name, in torchvision's order.
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
    """Those of `parameter_shapes` that belong to the named top-level groups."""
    return {n: s for n, s in parameter_shapes(n_classes).items() if n.partition(".")[0] in groups}


def count(shapes: Shapes) -> int:
    """Elements of all the parameters together."""
    return sum(prod(shape) for shape in shapes.values())


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
