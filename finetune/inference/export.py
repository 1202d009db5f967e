"""A trained network as a file that other programs load: ONNX, TorchScript or safetensors, with a model card.

Input is `images`, float32 [b x 3 x height x width], normalized as the metadata say, for any b >= 1; output is
`logits` [b x n_classes]. The metadata hold classes, preprocessing and calibration.
"""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from finetune import __version__
from finetune.errors import FinetuneError
from finetune.inference.model_card import model_card
from finetune.inference.trained import TrainedModel
from finetune.network.network import Network
from finetune.run.metadata import model_metadata, with_metadata
from finetune.system.files import write_atomically

Floats = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""By which logits of an exported network may differ from PyTorch's, absolute and relative."""

CHECKED = (1, 3)
"""Batch sizes with which an exported network is compared."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Args:
        file: name of the file.
        library: that reads it, as the model card names it.
        write: from a network on the CPU, its input size and metadata to the file's content.
        read: from the content to a function from images to logits.
    """

    file: str
    library: str
    write: Callable[[Network, int, dict[str, str]], bytes]
    read: Callable[[bytes, Network], Callable[[Floats], Floats]]


def export(model: TrainedModel, form: str, out: Path) -> list[Path]:
    """Write a network and its model card, after checking that the file computes what PyTorch computes.

    Args:
        model: on the CPU.
        form: a key of `EXPORTS`.
        out: folder for the two files; existing ones are replaced.

    Returns:
        Their paths.

    Raises:
        FinetuneError: the files cannot be written, or the exported network computes something else.
        ModuleNotFoundError: the extra `export` is not installed.
    """
    exporter = EXPORTS[form]
    network = model.network.eval()
    content = exporter.write(network, model.image_size, metadata_of(model))
    _require_same(exporter.read(content, network), network, model.image_size)
    card = model_card(model, exporter.file, exporter.library)
    files = {out / exporter.file: content, out / "README.md": card.encode()}
    for path, written in files.items():
        write_atomically(path, written)
    return list(files)


def metadata_of(model: TrainedModel) -> dict[str, str]:
    """What an exported file says about itself."""
    run = model.run
    calibration = dataclasses.asdict(run.calibration) if run.calibration else None
    return {
        **model_metadata(
            model.results.classes,
            model.image_size,
            schema_version=model.results.schema_version,
            variant=run.variant,
            seed=run.seed,
            epoch=run.best_epoch or 0,
        ),
        "temperature": str(model.temperature),
        "calibration": json.dumps(calibration),
        "producer": f"finetune {__version__}",
    }


def _require_same(exported: Callable[[Floats], Floats], network: Network, size: int) -> None:
    """Compare logits on random images.

    Raises:
        FinetuneError: they differ.
    """
    generator = torch.Generator().manual_seed(0)
    for n in CHECKED:
        images = torch.randn(n, 3, size, size, generator=generator).numpy()
        wanted, found = _by_torch(network)(images), exported(images)
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE):
            raise FinetuneError(
                f"The exported network must give PyTorch's logits within {TOLERANCE:g}, but for {n} images "
                "it does not; nothing was written. Please report this with the versions of torch and onnx."
            )


def _to_onnx(network: Network, size: int, metadata: dict[str, str]) -> bytes:
    import onnx
    import onnxruntime  # noqa: F401 - missing modules are found out before anything is computed
    import onnxscript  # noqa: F401

    # An example of two images: torch.export would take a size of one for a constant.
    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on torch's own use of what it is about to remove
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise FinetuneError("PyTorch's ONNX exporter returned nothing; nothing was written.")
    proto = program.model_proto
    # Values and nodes say which line of which file of this machine they come from.
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        del item.metadata_props[:]
    del proto.graph.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    proto.producer_name, proto.producer_version = "finetune", __version__
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _from_onnx(content: bytes, _network: Network) -> Callable[[Floats], Floats]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


def _to_torchscript(network: Network, size: int, metadata: dict[str, str]) -> bytes:
    traced, file = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but whoever asks for it needs it
        module = torch.jit.trace(network, torch.zeros(2, 3, size, size))  # type: ignore[no-untyped-call]
        torch.jit.save(module, traced, _extra_files={"metadata.json": json.dumps(metadata)})
    # The debugging entries say where on this machine Python is installed.
    with zipfile.ZipFile(traced) as whole, zipfile.ZipFile(file, "w") as kept:
        for entry in whole.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, whole.read(entry))
    return file.getvalue()


def _from_torchscript(content: bytes, _network: Network) -> Callable[[Floats], Floats]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return _by_torch(module)


def _to_safetensors(network: Network, _size: int, metadata: dict[str, str]) -> bytes:
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return with_metadata(safetensors.torch.save(state), metadata)


def _from_safetensors(content: bytes, network: Network) -> Callable[[Floats], Floats]:
    network.load_state_dict(safetensors.torch.load(content))
    return _by_torch(network)


def _by_torch(module: torch.nn.Module) -> Callable[[Floats], Floats]:
    """A function from images to a module's logits."""

    def logits(images: Floats) -> Floats:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return logits


EXPORTS = {
    "onnx": Format("model.onnx", "onnx", _to_onnx, _from_onnx),
    "torchscript": Format("model.pt", "pytorch", _to_torchscript, _from_torchscript),
    "safetensors": Format("model.safetensors", "pytorch", _to_safetensors, _from_safetensors),
}
