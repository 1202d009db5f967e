"""`finetune train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from finetune.cli.options import FOLDER, begin_training, cache_limit, takes_config
from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset
from finetune.errors import ConfigError
from finetune.system.signals import Stopped, StopRequest

RUNS = Path("runs")
NEWEST = Path("newest")
"""The value of `--resume` when no folder follows it."""


@click.command()
@takes_config()
@cache_limit
@click.option(
    "--parallel",
    type=click.Choice(["runs", "data"]),
    help="Under torchrun and the like: divide the runs among the processes, or each batch. Needs --out.  "
    "[default: one process]",
)
@click.option("--out", type=FOLDER, help="New run folder.  [default: runs/DATASET-TIME]")
@click.option(
    "--resume",
    type=FOLDER,
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Resume an interrupted run; without RUN, the newest in runs/.",
)
def train(
    config: ExperimentConfig, parallel: str | None, out: Path | None, resume: Path | None
) -> Mapping[str, Any] | None:
    """Train the variants and write a run folder.

    Options override the preset; the defaults shown are those of the preset flowers102. The run folder
    contains results.json, report.html, config.toml, and the predictions and the checkpoint of each variant's
    best epoch.
    """
    if resume is not None:
        out = _folder_to_resume(resume)
        config = load_preset(str(out / "config.toml"))
    elif parallel is not None and out is None:
        raise ConfigError(
            "--parallel needs one run folder for all processes, but --out was not given; add --out FOLDER."
        )
    out = out or default_folder(config)
    stop = begin_training(config)
    try:
        return _train(config, out, resume is not None, parallel, stop)
    except Stopped:
        click.echo(f"Interrupted. {_how_to_resume(out, parallel)}", err=True)
        raise


def default_folder(config: ExperimentConfig) -> Path:
    """The run folder of an experiment that was given none."""
    return RUNS / f"{config.dataset.partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}"


def _folder_to_resume(resume: Path) -> Path:
    """The run folder that `--resume` names.

    Raises:
        ConfigError: there is no such run, or other options were given too.
    """
    context = click.get_current_context()
    if context.params.get("epochs") is not None:
        raise ConfigError(_no_more_epochs(resume, context.params["epochs"]))
    for name in context.params:
        if (
            name not in ("resume", "parallel")
            and context.get_parameter_source(name) != ParameterSource.DEFAULT
        ):
            raise ConfigError(
                "--resume continues a run with the options it was started with, so no other option can be "
                f"given, but --{name.replace('_', '-')} was; leave it out or start a new run."
            )
    if resume == NEWEST:
        configs = sorted(RUNS.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
        if not configs:
            raise ConfigError(
                "--resume needs a run folder, but there is none in runs/; name one: --resume RUN."
            )
        return configs[-1].parent
    if not os.path.isfile(resume / "config.toml"):  # noqa: PTH113 - Path.is_file() raises on overlong names
        raise ConfigError(
            f"--resume needs a run folder with a config.toml, but {resume} has none; check the path."
        )
    return resume


def _no_more_epochs(resume: Path, epochs: int) -> str:
    """Why a run cannot be given more epochs, and what gives the user what they want."""
    run = "RUN" if resume == NEWEST else str(resume)
    return (
        "--resume continues a run with the learning rates it was started with, which fall to zero in its "
        f"last epoch, so it cannot have --epochs {epochs}; train anew for as long with: finetune train "
        f"--preset {run}/config.toml --epochs {epochs}."
    )


def _train(
    config: ExperimentConfig, out: Path, resume: bool, parallel: str | None, stop: StopRequest
) -> Mapping[str, Any] | None:
    """Train in this process alone, or as one of several; returns the results that this process has."""
    if parallel is None and config.processes > 1:
        raise ConfigError(
            f"This run divides each batch among {config.processes} processes, so it must be resumed with the "
            f"same number: torchrun --nproc-per-node {config.processes} -m finetune train --parallel data "
            f"--resume {out}."
        )
    if parallel is not None:
        from finetune.run.shards import train_parallel

        return train_parallel(parallel, config, out, resume, stop)
    from finetune.run.experiment import run_experiment
    from finetune.system.console import Reporter

    return run_experiment(config, out, Reporter(), stop, resume)


def _how_to_resume(out: Path, parallel: str | None) -> str:
    """A sentence on how to resume an interrupted run."""
    if parallel == "runs":
        return "Resume with the same command."
    if not (out / "config.toml").is_file():
        return "Nothing was trained yet."
    if parallel == "data":
        return f"Resume with the same number of processes and: --parallel data --resume {out}"
    return f"Resume with: finetune train --resume {out}"
