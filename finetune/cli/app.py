"""The command line: options to configuration, errors to exit codes. Heavy imports wait until needed."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from finetune import __version__
from finetune.config.experiment import DEVICES, ON_BAD_IMAGE, PRECISIONS, SPLITS, STORES, ExperimentConfig
from finetune.config.presets import load_preset, preset_names
from finetune.errors import ConfigError, FinetuneError
from finetune.system.signals import Stopped, StopRequest

EXIT_FAILED_VARIANT = 1
EXIT_BAD_INPUT = 2
PROFILED_EPOCHS = 2
NEWEST = Path("newest")
"""What `--resume` stands for without a folder."""


def main() -> None:
    """Run the command line; every error a user can meet becomes one sentence and an exit code."""
    # Before torch starts its threads: waiting ones soon sleep. Where other programs want the cores too, long
    # spinning makes every parallel operation wait for a time slice; where none does, waking up takes longer.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # of GNU's: some 10 microseconds awake, then asleep
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # remarks on odd metadata; damage still raises
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FinetuneError as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        code = 128 + signal.SIGINT
    except Stopped as stopped:
        code = 128 + stopped.number
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Does it pay to start from pretrained weights, and must I train every layer?

    Trains ResNet-18 from random weights (A), from pretrained weights (B), and from pretrained weights with
    only the last two layers trained (C), on the same images with the same budget, and writes the evidence.

    Exit codes: 0 done; 1 a variant's training failed, the results say which; 2 bad input; 130 and 143 ended
    by Ctrl-C and SIGTERM.
    """


def _views(value: str) -> int | str:
    """What `--cache-views` takes; the configuration judges it."""
    return int(value) if value.isascii() and value.isdigit() else value


def _experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make up a configuration, in the order of the help."""
    for option in reversed(
        [
            click.option("--preset", help="Preset name, or a TOML file like one.  [default: flowers102]"),
            click.option("--dataset", help="flowers102, digits, or imagefolder:PATH."),
            click.option("--data-root", help="Folder that downloads go to.  [default: data]"),
            click.option(
                "--split",
                type=click.Choice(SPLITS),
                help="How images are divided.  [default: 70-15-15; official for a folder with train/]",
            ),
            click.option("--subset", type=int, help="At most this many images a class in each split."),
            click.option(
                "--weights", help="imagenet, bundled, a .safetensors or .pth file, or an earlier run folder."
            ),
            click.option("--variants", help="Which to train, such as a,c.  [default: all of the preset]"),
            click.option("--epochs", type=int, help="Passes over the training images."),
            click.option("--batch-size", type=int, help="Images in a training step."),
            click.option("--lr", type=float, help="Peak learning rate, for every variant."),
            click.option("--image-size", type=int, help="Height and width of the network's input, pixels."),
            click.option("--seed", type=int, help="First seed; it also decides the split."),
            click.option("--seeds", type=int, help="How many seeds to train each variant with."),
            click.option("--device", type=click.Choice(DEVICES), help="Where to train.  [default: auto]"),
            click.option(
                "--on-bad-image",
                type=click.Choice(ON_BAD_IMAGE),
                help="What to do with images that cannot be read.  [default: fail]",
            ),
            click.option(
                "--deterministic", is_flag=True, default=None, help="On a GPU: repeatable algorithms only."
            ),
            click.option("--workers", type=int, help="Threads for decoding.  [default: one a core]"),
            click.option(
                "--store",
                type=click.Choice(STORES),
                help="Where decoded images lie; off decodes them anew each time.  [default: auto]",
            ),
            click.option(
                "--precision",
                type=click.Choice(PRECISIONS),
                help="auto: bf16 where it is the faster.  [default: auto]",
            ),
            click.option(
                "--cache-views",
                type=_views,
                metavar="K|auto",
                help="Show every variant K augmented views of each image in turn and keep what frozen layers "
                "make of them.  [default: a fresh view each epoch]",
            ),
        ]
    ):
        command = option(command)
    return command


@cli.command()
@_experiment_options
@click.option(
    "--parallel",
    type=click.Choice(["runs", "data"]),
    help="Under torchrun and the like: deal the runs out, or share each batch. Needs --out.",
)
@click.option("--out", type=click.Path(path_type=Path), help="New run folder.  [default: runs/DATASET-TIME]")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=NEWEST,
    metavar="[RUN]",
    help="Go on with an interrupted run; without RUN, the newest in runs/.",
)
def train(out: Path | None, resume: Path | None, parallel: str | None, **options: Any) -> int:
    """Train the variants and write a run folder.

    Options override the preset. The run folder holds results.json, curves.png, config.toml, the predictions
    of each variant's chosen epoch and its checkpoint.
    """
    if resume is not None:
        given = [name for name, value in {**options, "out": out}.items() if value is not None]
        if given:
            raise ConfigError(
                "--resume goes on with a run as it began, so no other option can be given, "
                f"but --{given[0].replace('_', '-')} was; leave it out or start a new run."
            )
        out = _newest_run() if resume == NEWEST else resume
        if not os.path.isfile(out / "config.toml"):  # noqa: PTH113 - Path.is_file() raises on overlong names
            raise ConfigError(
                f"--resume must name a run folder with a config.toml, but {out} is none; check the path."
            )
        config = load_preset(str(out / "config.toml"))
    else:
        config = _configure(**options)
        if parallel is not None and out is None:
            raise ConfigError(
                "--parallel needs a run folder that all processes agree on, but --out is not given; name one."
            )
        out = out or Path("runs") / f"{config.dataset.partition(':')[0]}-{datetime.now():%Y%m%d-%H%M%S}"
    stop = _begin()
    try:
        record = _train(config, out, resume is not None, parallel, stop)
    except Stopped:
        click.echo(f"Interrupted. {_way_on(out, parallel)}", err=True)
        raise
    return _exit_code(record)


def _exit_code(record: dict[str, Any]) -> int:
    return EXIT_FAILED_VARIANT if any(run["status"] != "completed" for run in record["runs"]) else 0


def _begin() -> StopRequest:
    """Ready this process to train."""
    from finetune.system.host import keep_freed_memory

    keep_freed_memory()
    stop = StopRequest()
    stop.install()
    return stop


def _way_on(out: Path, parallel: str | None) -> str:
    """How to go on with an interrupted run."""
    if parallel == "runs":
        return "The same command goes on."
    if not (out / "config.toml").is_file():
        return "Nothing was trained yet."
    launched = "the same number of processes and --parallel data" if parallel else "finetune train"
    return f"Go on with: {launched} --resume {out}"


def _train(
    config: ExperimentConfig, out: Path, resume: bool, parallel: str | None, stop: StopRequest
) -> dict[str, Any]:
    """Train in this process, or as one of several; the results as far as this process has them."""
    from finetune.run.experiment import run_experiment
    from finetune.system.console import Reporter

    if parallel is None:
        if config.processes > 1:
            raise ConfigError(
                f"This run shares each batch among {config.processes} processes, so it must be gone on "
                "with by as many: torchrun --nproc-per-node N -m finetune train --parallel data --resume RUN."
            )
        return run_experiment(config, out, Reporter(), stop, resume)
    from finetune.run.shards import train_parallel

    return train_parallel(parallel, config, out, resume, stop)


def _newest_run() -> Path:
    configs = sorted(Path("runs").glob("*/config.toml"), key=lambda p: p.stat().st_mtime)
    if not configs:
        raise ConfigError("--resume needs a run folder, but there is none in runs/; name it: --resume RUN.")
    return configs[-1].parent


def _configure(preset: str | None, variants: str | None, **options: Any) -> ExperimentConfig:
    """A preset with the options that were given in place of its own values."""
    config = load_preset(preset or "flowers102")
    given = {k: v for k, v in options.items() if v is not None}
    recipe_fields = {f.name for f in dataclasses.fields(config.recipe)}
    recipe = dataclasses.replace(config.recipe, **{k: v for k, v in given.items() if k in recipe_fields})
    rows = config.variants
    if "lr" in given:  # said for every variant, so it outranks a preset's own rate for one of them
        rows = tuple(dataclasses.replace(v, lr=None) for v in rows)
    rest = {k: v for k, v in given.items() if k not in recipe_fields}
    # A new run is this process's own, whatever run's configuration it takes for a preset.
    config = dataclasses.replace(config, recipe=recipe, variants=rows, **{**rest, "processes": 1})
    return config.pick(variants) if variants is not None else config


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the predictions.")
@click.option("--dataset", help="Images in place of the run's own, such as imagefolder:PATH.")
@click.option("--data-root", help="Where downloads lie.  [default: the run's own]")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
def evaluate(run: Path, output: Path, **options: Any) -> None:
    """Make the predictions of RUN afresh from its checkpoints, for the grader to compare."""
    from finetune.run.reevaluate import evaluate_run
    from finetune.system.console import Reporter

    evaluate_run(run, output, Reporter(), **options)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New run folder.")
def merge(runs: tuple[Path, ...], out: Path) -> int:
    """Join RUNS, the shards of one experiment, into one run folder.

    They must agree on everything but variants and seeds.
    """
    from finetune.run.merge import merge_runs
    from finetune.system.console import Reporter

    return _exit_code(merge_runs(runs, out, Reporter()))


@cli.command()
@_experiment_options
def profile(**options: Any) -> int:
    """Show where the time of a short run goes: two epochs unless --epochs says otherwise. Keeps nothing."""
    epochs = PROFILED_EPOCHS if options["epochs"] is None else options["epochs"]
    config = _configure(**{**options, "epochs": epochs})
    from finetune.run.profile import profile_run
    from finetune.system.console import Reporter

    return _exit_code(profile_run(config, Reporter(), _begin()))


@cli.group()
def data() -> None:
    """Decoded images, kept between runs in ~/.cache/finetune, or below XDG_CACHE_HOME."""


@data.command()
@_experiment_options
def prepare(**options: Any) -> None:
    """Decode the images of an experiment now, so that runs find them ready."""
    config = dataclasses.replace(_configure(**options), store="disk")
    from finetune.data.prepare import divide, make_ready
    from finetune.system.console import Reporter

    make_ready(config, divide(config), Reporter())


@data.command("list")
def list_() -> None:
    """List what is kept: images, megabytes, last use."""
    from finetune.data.cache import cache_folder, entries

    found = entries()
    for entry in found:
        megabytes = f"{entry.n_bytes / 1e6:,.0f} MB"
        click.echo(f"{entry.name:<45}{entry.n_images:>10,}{megabytes:>14}  {entry.used_at:%Y-%m-%d %H:%M}")
    total = sum(entry.n_bytes for entry in found)
    click.echo(f"{total / 1e6:,.0f} MB in {cache_folder()}")


@data.command()
@click.argument("names", nargs=-1)
def clear(names: tuple[str, ...]) -> None:
    """Remove what is kept: all of it, or the entries of these NAMES."""
    from finetune.data.cache import clear as clear_cache

    click.echo(f"{clear_cache(names) / 1e6:,.0f} MB freed")


@cli.command()
@click.option("--variant", help="One variant of the preset.  [default: all]")
@click.option(
    "--classes", type=click.IntRange(min=2), default=102, show_default=True, help="Size of the head."
)
@click.option("--preset", default="flowers102", show_default=True, help="Preset whose variants to list.")
def layers(variant: str | None, classes: int, preset: str) -> None:
    """List every parameter: name, shape, count and which variants train it. Needs no images."""
    config = load_preset(preset)
    if variant is not None:
        config = config.pick(variant)
    from finetune.network.layers import layer_table
    from finetune.system.console import Reporter

    Reporter().table(layer_table(config.variants, classes))


@cli.command()
def presets() -> None:
    """List the presets that come with finetune."""
    for name, description in preset_names().items():
        click.echo(f"{name:<12}{description}")
