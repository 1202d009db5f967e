"""Heads taken from another variant: linear probe first, then fine-tuning.

Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution": with a
random head, the first steps of fine-tuning distort the features; with the head of a linear probe they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import safetensors.torch

from finetune.config.experiment import ExperimentConfig, Variant
from finetune.network.network import Network
from finetune.network.resnet18 import HEAD
from finetune.run.folder import RunFolder
from finetune.run.records import Json, Pair
from grader.submission.record import run_name


def put_head(
    network: Network, variant: Variant, seed: int, folder: RunFolder, runs: Sequence[Json]
) -> str | None:
    """Give a network that is about to train the head of another variant's best epoch, if it is to have one.

    Args:
        network: of the variant.
        variant: which may name another one.
        seed: of both.
        folder: where the other one's checkpoint is.
        runs: entries of the runs that have ended.

    Returns:
        Why that is not possible, or None.

    Raises:
        RunFolderError: the checkpoint is missing or not the recorded one.
    """
    if variant.head is None:
        return None
    source = next(run for run in runs if (run["variant"], run["seed"]) == (variant.head, seed))
    if source["artifacts"] is None:
        return f"The head comes from {run_name(variant.head, seed)}, which failed before it had a best epoch."
    state = safetensors.torch.load(folder.read_artifact(source["artifacts"]["checkpoint"]))
    network.load_state_dict({name: state[name] for name in HEAD}, strict=False)
    return None


def trained_together(config: ExperimentConfig) -> list[list[Pair]]:
    """The pairs of variant and seed in lists that one process must train, in training order.

    A variant whose head comes from another one is trained where that one's checkpoint is.
    """
    groups: list[list[Pair]] = []
    for seed in config.seed_list:
        home: dict[str, list[Pair]] = {}
        for variant in config.variants:
            if variant.head is None:
                groups.append([])
                home[variant.name] = groups[-1]
            else:
                home[variant.name] = home[variant.head]
            home[variant.name].append((variant.name, seed))
    return groups
