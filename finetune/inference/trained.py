"""A network that a run has trained, loaded to be used: the one that the verdict favors, or any other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from finetune.config.experiment import GROUPS, Variant, require
from finetune.errors import ConfigError, RunFolderError, WeightsError, listed
from finetune.network.network import Network
from finetune.network.resnet18 import build, state_shapes
from finetune.network.weights import state_in
from finetune.run import environment
from finetune.run.folder import RunFolder
from finetune.training.precision import choose_precision
from grader.submission.parts import Artifact
from grader.submission.record import Results, Run
from grader.submission.unfinished import is_told_how_to_finish


@dataclass(frozen=True)
class TrainedModel:
    """A trained network and what is needed to use it.

    Args:
        network: in eval mode, on its device.
        folder: where it comes from.
        run: the training run that it comes from.
        results: of the experiment.
        precision: to compute in, `fp32` or `bf16`.
        why: which run was chosen and why, as a sentence; empty if there was nothing to choose.
    """

    network: Network
    folder: RunFolder
    run: Run
    results: Results
    precision: str
    why: str

    @property
    def image_size(self) -> int:
        """Height and width of the input, pixels."""
        return self.results.image_size

    @property
    def temperature(self) -> float:
        """By which logits are divided; 1 for a run of schema version 1, which has none."""
        return self.run.calibration.temperature if self.run.calibration else 1.0


def open_model(
    folder: RunFolder, variant: str | None, seed: int | None, device: str, threads: int
) -> TrainedModel:
    """`load_model` for a device's name; PyTorch then computes with that many threads."""
    target = environment.choose_device(device)
    torch.set_num_threads(threads)
    return load_model(folder, target, variant, seed)


def load_model(
    folder: RunFolder, device: torch.device, variant: str | None = None, seed: int | None = None
) -> TrainedModel:
    """Load the network of a run's best epoch.

    Args:
        folder: of the run.
        device: where it is used.
        variant: whose, ignoring case; None means the one that the verdict favors.
        seed: of the run; None means that of the highest validation accuracy.

    Raises:
        FinetuneError: there is no such run, or its files are missing or damaged.
    """
    results = folder.results()
    run, why = choose_run(folder, results, variant, seed)
    if run.artifacts is None:
        raise RunFolderError(f"{run.name} must have a checkpoint, but it has none; choose another variant.")
    network = load_network(folder, run.artifacts.checkpoint, len(results.classes), device).eval()
    precision = precision_of(results.precision, device, results.image_size)
    return TrainedModel(network, folder, run, results, precision, why)


def choose_run(
    folder: RunFolder, results: Results, variant: str | None = None, seed: int | None = None
) -> tuple[Run, str]:
    """The run to use, and why, as a sentence; empty if there was nothing to choose.

    Raises:
        ConfigError: no run of that variant and seed has finished an epoch.
    """
    usable = [run for run in results.runs if run.best is not None and run.artifacts is not None]
    if not usable:
        raise RunFolderError(
            f"{folder.path} must hold a network that finished an epoch, but it holds none; train again."
        )
    why, best = "", None
    if variant is None:
        variant, why, best = _advised(folder, usable)
    found = [run for run in usable if run.variant.casefold() == variant.casefold()]
    names = list(dict.fromkeys(run.variant for run in usable))
    require(bool(found), "variant", f"one of {listed(names)}", variant, names)
    if seed is not None:
        seeds = listed([str(run.seed) for run in found])
        found = [run for run in found if run.seed == seed]
        if not found:
            raise ConfigError(f"seed must be one of {seeds}, but {seed} was given.")
    run = max(found, key=_score)
    of = ""
    if best is not None:  # the same figure chose variant and seed, unless the caller named one: say it once
        what = "this network" if best is run else f"its seed {best.seed}"
        why += f", and {what} has the highest validation accuracy ({_score(best):.1%})"
    elif len(found) > 1:
        of = f", the seed of its highest validation accuracy ({_score(run):.1%})"
    chosen = f"Using {run.variant}, seed {run.seed}{of}{f': {why}' if why else ''}."
    return run, chosen if of or why else ""


def _score(run: Run) -> float:
    return run.best.val.accuracy if run.best else 0.0


def _advised(folder: RunFolder, usable: list[Run]) -> tuple[str, str, Run | None]:
    """A variant, and why: the verdict favors it, or else its run has the highest validation accuracy."""
    names = {run.variant for run in usable}
    if len(names) == 1:
        return usable[0].variant, "", None
    if folder.grade.advised in names:
        return folder.grade.advised, "the verdict favors it", None
    best = max(usable, key=_score)
    why = (
        "there is no verdict yet"
        if any(map(is_told_how_to_finish, folder.grade.problems))
        else "the verdict favors none"
    )
    return best.variant, why, best


def load_network(folder: RunFolder, artifact: Artifact, n_classes: int, device: torch.device) -> Network:
    """The network of a checkpoint, on its device, in channels_last.

    Raises:
        FinetuneError: the checkpoint is missing, not the recorded one, or does not fit the network.
    """
    network = build(Variant(name="any", init="random", train=GROUPS), n_classes, 0, None)
    path = folder.path / artifact.path
    state, _ = state_in(folder.read_artifact(dataclasses.asdict(artifact)), path)
    if {n: tuple(t.shape) for n, t in state.items()} != state_shapes(n_classes):
        raise WeightsError(
            f"The checkpoint {path} must hold ResNet-18's parameters and buffers, but it does not; put it "
            "back or train again."
        )
    network.load_state_dict(state)
    return network.to(device).to(memory_format=torch.channels_last)


def precision_of(recorded: str, device: torch.device, image_size: int) -> str:
    """The precision of a run if this device has it, else fp32."""
    try:
        return choose_precision(recorded, device, image_size)
    except ConfigError:
        return "fp32"
