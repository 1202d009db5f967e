"""`finetune train`."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from finetune.cli.command import Command, Option
from finetune.cli.exit_codes import BAD_INPUT, SIGNAL, exit_code
from finetune.cli.options import FOLDER, begin_training, cache_limit, takes_config
from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset
from finetune.distributed.launcher import launch_info
from finetune.errors import ConfigError, FinetuneError
from finetune.system.signals import Stopped, StopRequest

if TYPE_CHECKING:
    from finetune.system.console import Reporter

LOG_FORMATS = ("text", "json")
RUNS = Path("runs")
NEWEST = Path("newest")
"""The value of `--resume` when no folder follows it."""


@click.command(
    cls=Command,
    examples=(
        "finetune train --preset smoke           # a minute, nothing to download",
        "finetune train --dataset photos         # photos/CLASS/*.jpg, ImageNet weights",
        "finetune train --dataset photos --weights bundled --image-size 64 --subset 20",
        "finetune train --dataset photos --tune --seeds 3  # the fairest comparison",
        "finetune train --resume                 # the newest interrupted run",
    ),
)
@takes_config()
@cache_limit
@click.option(
    "--parallel",
    cls=Option,
    group="Compute",
    type=click.Choice(["runs", "data"]),
    help="Under torchrun and the like: divide the runs among the processes, or each batch. Needs --out.  "
    "[default: one process]",
)
@click.option(
    "--out", cls=Option, group="Output", type=FOLDER, help="New run folder.  [default: runs/DATASET-TIME]"
)
@click.option(
    "--resume",
    cls=Option,
    group="Output",
    type=FOLDER,
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Resume an interrupted run; without RUN, the newest unfinished one in runs/.",
)
@click.option(
    "--quiet",
    cls=Option,
    group="Output",
    is_flag=True,
    help="Print warnings and the verdict only, with a line on what does not hold.  [default: off]",
)
@click.option(
    "--log-format",
    cls=Option,
    group="Output",
    type=click.Choice(LOG_FORMATS),
    default=LOG_FORMATS[0],
    help="Lines for people, or a JSON object a line for programs.  [default: text]",
)
def train(
    config: ExperimentConfig,
    parallel: str | None,
    out: Path | None,
    resume: Path | None,
    quiet: bool,
    log_format: str,
) -> Mapping[str, Any] | None:
    """Train the variants and write a run folder.

    Options override the preset; the defaults shown are those of the preset flowers102. The run folder
    contains results.json, report.html, config.toml, and the predictions and the checkpoint of each variant's
    best epoch.
    """
    if quiet and log_format != "text":
        raise ConfigError(
            f"--quiet chooses what is said to people, but --log-format {log_format} was given too; leave one "
            "of them out."
        )
    if resume is not None:
        out = _folder_to_resume(resume)
        config = load_preset(str(out / "config.toml"))
    elif parallel is not None and out is None:
        raise ConfigError(
            "--parallel needs one run folder for all processes, but --out was not given; add --out FOLDER."
        )
    out = out or default_folder(config)
    stop = begin_training(config)
    from finetune.system.reporters import reporter_for

    reporter = reporter_for(log_format, quiet, launch_info().rank if parallel else 0, parallel)
    stop.announce = reporter.stopping
    with _end_told(reporter, out, parallel):
        record = _train(config, out, resume is not None, parallel, stop, reporter)
        code = exit_code(record)
        reporter.event("end", _end("failed" if code else "completed", code, out))
    return record


@contextmanager
def _end_told(reporter: Reporter, out: Path, parallel: str | None) -> Iterator[None]:
    """Tell programs how the job ended if it does not end well, and people how to resume it."""
    try:
        yield
    except Stopped as stopped:
        message = f"Interrupted. {_how_to_resume(out, parallel)}"
        click.echo(message, err=True)
        reporter.event("end", _end("interrupted", SIGNAL + stopped.number, out, message))
        raise
    except FinetuneError as error:
        reporter.event("end", _end("refused", BAD_INPUT, out, str(error)))
        raise


def _end(status: str, code: int, out: Path, message: str | None = None) -> dict[str, Any]:
    made = os.path.exists(out)  # noqa: PTH110 - a refused job may have made none; too long a name raises nothing
    run = str(out) if made else None
    return {"status": status, "exit_code": code, "run": run, "message": message}


def default_folder(config: ExperimentConfig) -> Path:
    """The run folder of an experiment that was given none."""
    first = RUNS / f"{config.dataset.partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}"
    later = (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))  # started in the same second
    return next(path for path in itertools.chain([first], later) if not path.exists())


def _folder_to_resume(resume: Path) -> Path:
    """The run folder that `--resume` names.

    Raises:
        ConfigError: there is no such run, or other options were given too.
    """
    context = click.get_current_context()
    if context.get_parameter_source("epochs") == ParameterSource.COMMANDLINE:
        raise ConfigError(_no_more_epochs(resume, context.params["epochs"]))
    for name in context.params:
        if (
            name not in ("resume", "parallel", "quiet", "log_format")  # which change no result
            and context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        ):
            raise ConfigError(
                "--resume continues a run with the options it was started with, so no other option can be "
                f"given, but --{name.replace('_', '-')} was; leave it out or start a new run."
            )
    if resume == NEWEST:
        return _newest_unfinished()
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


def _newest_unfinished() -> Path:
    """The run in runs/ that began last and has not ended.

    Raises:
        ConfigError: there is none.
    """
    configs = sorted(RUNS.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise ConfigError("--resume needs a run folder, but there is none in runs/; name one: --resume RUN.")
    for config in reversed(configs):
        # The state of a job is removed once all of its runs have ended.
        if (config.parent / "state").is_dir() or not (config.parent / "results.json").is_file():
            return config.parent
    raise ConfigError(
        f"--resume continues an interrupted run, but every run in runs/ is finished, the newest being "
        f"{configs[-1].parent}; name one that is not: --resume RUN."
    )


def _train(
    config: ExperimentConfig,
    out: Path,
    resume: bool,
    parallel: str | None,
    stop: StopRequest,
    reporter: Reporter,
) -> Mapping[str, Any] | None:
    """Train in this process alone, or as one of several; returns the results that this process has."""
    if parallel is None and config.processes > 1:
        raise ConfigError(
            f"This run divides each batch among {config.processes} processes, so it must be resumed with the "
            f"same number: torchrun --nproc-per-node {config.processes} -m finetune train --parallel data "
            f"--resume {quote(str(out))}."
        )
    with _imports_are_no_garbage():
        from finetune.run.experiment import run_experiment
        from finetune.run.shards import train_parallel
    if parallel is not None:
        return train_parallel(parallel, config, out, resume, stop, reporter)
    return run_experiment(config, out, reporter, stop, resume)


@contextmanager
def _imports_are_no_garbage() -> Iterator[None]:
    """Keep the garbage collector off what torch and its dependencies import, 400,000 objects.

    Looking for garbage among them takes a quarter of the time of importing them, and 0.2 s in every full
    collection, some twenty in a tuned job.
    """
    if "torch" in sys.modules:  # there may be garbage already, of whoever imported it
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # extensions complain of objects that are left at the end


def _how_to_resume(out: Path, parallel: str | None) -> str:
    """A sentence on how to resume an interrupted run."""
    if parallel == "runs":
        return "Resume with the same command."
    if not (out / "config.toml").is_file():
        return "Nothing was trained yet."
    if parallel == "data":
        return f"Resume with the same number of processes and: --parallel data --resume {quote(str(out))}"
    return f"Resume with: finetune train --resume {quote(str(out))}"
