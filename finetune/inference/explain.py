"""Where in an image a network finds the evidence for a class: Grad-CAM, as a picture."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from finetune.data.datasets import Sample
from finetune.data.decode import UNREADABLE, open_image, reason
from finetune.data.inputs import require_paths
from finetune.data.stream import as_evaluated
from finetune.errors import ConfigError, DataError, did_you_mean, listed
from finetune.inference.predict import calibrated
from finetune.inference.trained import TrainedModel
from finetune.network.network import Network
from finetune.system.console import printable
from finetune.training.evaluate import normalized

STAGES = ("layer4", "layer3", "layer2", "layer1")
FINEST = 4
"""A map of fewer rows shows nothing: for small images an earlier stage than the last is explained."""

SHOWN_PIXELS = 448
"""Height and width of each picture."""


@dataclass(frozen=True)
class Explanation:
    """Why a network says what it says of an image.

    Args:
        picture: PNG: the part of the image that the network sees, and the same with the heat map.
        name: the class that is explained.
        probability: of that class, calibrated.
        stage: whose output is weighted; `layer4` is the network's last.
        rows: height and width of the map before it is enlarged.
    """

    picture: bytes
    name: str
    probability: float
    stage: str
    rows: int


def explain(model: TrainedModel, image: Path, class_name: str | None = None) -> Explanation:
    """Draw the Grad-CAM of one class: R. R. Selvaraju et al., "Grad-CAM" (ICCV 2017), by captum.

    The map weights each channel of a stage's output by the mean gradient of the class's logit, and keeps what
    speaks for the class.

    Args:
        model: whose network.
        image: file.
        class_name: that is explained; None means the most probable.

    Raises:
        FinetuneError: no such class, or the image cannot be read.
        ModuleNotFoundError: the extra `explain` is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from captum.attr import LayerGradCam  # takes seconds to import, and is an extra

    require_paths([image])
    classes = model.results.classes
    if class_name is not None and class_name not in classes:
        raise ConfigError(
            f"class must be one of {listed(list(classes), 20)}, but {class_name!r} was given"
            f"{did_you_mean(class_name, classes) or '.'}"
        )
    try:
        original = open_image(Sample(image.name, 0, image))
    except UNREADABLE as error:
        raise DataError(
            f"IMAGE must be a picture that can be read, but {printable(str(image))} cannot be "
            f"({reason(error)}); name another one."
        ) from error
    network = model.network.eval()
    pixels = torch.from_numpy(np.array(as_evaluated(original, model.image_size)))[None]
    inputs = normalized(pixels, network.device).contiguous()
    probabilities = calibrated(model)(pixels)[0]  # in the run's precision, so that predict says the same
    index = classes.index(class_name) if class_name is not None else int(probabilities.argmax())
    stage = _stage(network, inputs)
    cam = LayerGradCam(network, network.get_submodule(stage))
    heat = cam.attribute(inputs, target=index, relu_attributions=True)[0, 0].detach().cpu().numpy()
    shown = as_evaluated(original, max(SHOWN_PIXELS, model.image_size))
    title = f"{printable(classes[index])} {float(probabilities[index]):.1%}"
    label = f"{model.run.variant}, seed {model.run.seed}: {stage}, {len(heat)} by {len(heat)}"
    picture = _picture(shown, heat, title, label)
    return Explanation(picture, classes[index], float(probabilities[index]), stage, len(heat))


def _stage(network: Network, inputs: torch.Tensor) -> str:
    """The last stage whose output has at least `FINEST` rows, or the first of `STAGES`."""
    rows = {}
    with torch.no_grad():
        outputs = inputs
        for name, module in network.named_children():
            outputs = module(outputs)
            if name in STAGES:
                rows[name] = outputs.shape[2]
    return next((name for name in STAGES if rows[name] >= FINEST), STAGES[-1])


def _picture(shown: Image.Image, heat: npt.NDArray[np.float32], title: str, label: str) -> bytes:
    """PNG of the image beside the same image with the map over it.

    Args:
        shown: the part that the network sees, at a size for people.
        heat: [rows x columns], at least 0.
        title: class and probability.
        label: network and stage.
    """
    from matplotlib import colormaps  # slow to import, needed once
    from matplotlib.figure import Figure

    strength = heat / heat.max() if heat.max() > 0 else heat
    large = Image.fromarray(strength.astype(np.float32)).resize(shown.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(large), 0, 1)[..., None]
    colors = colormaps["inferno"](strength[..., 0])[..., :3]
    # The map's colors must not be taken for the photo's, which is gray below them.
    gray = np.asarray(shown.convert("L"))[..., None] / 255
    overlay = gray * (0.75 - 0.35 * strength) + colors * (0.65 * strength)
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, content, text in (
        (axes[0], np.asarray(shown), "the part that the network sees"),
        (axes[1], np.clip(overlay, 0, 1), f"evidence for {title}"),
    ):
        axis.imshow(content)
        axis.set_title(text.replace("$", r"\$"), fontsize=11)
        axis.set_axis_off()
    figure.supxlabel(f"Grad-CAM of {label}; the brighter, the more evidence", fontsize=9)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class name may have letters that the font has not
        figure.savefig(picture, format="png")
    return picture.getvalue()
