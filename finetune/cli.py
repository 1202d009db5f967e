"""The command line: options to configuration, errors to exit codes. Heavy imports wait until they are needed."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from finetune import __version__
from finetune.config import DEVICES, SPLITS, ExperimentConfig, load_preset, preset_names
from finetune.errors import FinetuneError

EXIT_FAILED_VARIANT = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line; every error a user can meet becomes one sentence and an exit code."""
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FinetuneError as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Variants that had ended stand in the run folder's results.json.", err=True)
        code = EXIT_INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Does it pay to start from pretrained weights, and must I train every layer?

    Trains ResNet-18 from random weights (A), from pretrained weights (B), and from pretrained weights with only
    the last two layers trained (C), on the same images with the same budget, and writes the evidence.

    Exit codes: 0 done, 1 a variant's training failed (the results say which), 2 bad input, 130 interrupted.
    """


@cli.command()
@click.option("--preset", default="flowers102", show_default=True, help="Preset name, or a TOML file like one.")
@click.option("--dataset", help="flowers102, digits, or imagefolder:PATH.")
@click.option("--data-root", help="Folder that downloads go to and are read from.  [default: data]")
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="How images are divided.  [default: 70-15-15; official for an image folder with train/]",
)
@click.option("--subset", type=int, help="At most this many images a class in each split.")
@click.option("--weights", help="imagenet, bundled, a .safetensors or .pth file, or an earlier run folder.")
@click.option("--variants", help="Which to train, such as a,c.  [default: all of the preset]")
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option("--batch-size", type=int, help="Images in a training step.")
@click.option("--lr", type=float, help="Peak learning rate, for every variant.")
@click.option("--image-size", type=int, help="Height and width of the network's input, pixels.")
@click.option("--seed", type=int, help="First seed; it also decides the split.")
@click.option("--seeds", type=int, help="How many seeds to train each variant with.")
@click.option("--device", type=click.Choice(DEVICES), help="Where to train.  [default: auto]")
@click.option("--workers", type=int, help="Threads that decode and augment.  [default: one a core]")
@click.option("--out", type=click.Path(path_type=Path), help="New run folder.  [default: runs/DATASET-TIME]")
def train(preset: str, variants: str | None, out: Path | None, **options: Any) -> int:
    """Train the variants and write a run folder.

    Options override the preset. The run folder holds results.json, curves.png, config.toml, the predictions of
    each variant's chosen epoch and its checkpoint.
    """
    config = _configure(load_preset(preset), variants, options)
    if out is None:
        name = config.dataset.partition(":")[0]
        out = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 - the user's own clock
    from finetune.console import Reporter
    from finetune.experiment import run_experiment

    record = run_experiment(config, out, Reporter())
    failed = any(run["status"] != "completed" for run in record["runs"])
    return EXIT_FAILED_VARIANT if failed else 0


def _configure(config: ExperimentConfig, variants: str | None, options: dict[str, Any]) -> ExperimentConfig:
    """A preset with the options that were given in place of its own values."""
    given = {k: v for k, v in options.items() if v is not None}
    recipe_fields = {f.name for f in dataclasses.fields(config.recipe)}
    recipe = dataclasses.replace(config.recipe, **{k: v for k, v in given.items() if k in recipe_fields})
    config = dataclasses.replace(
        config, recipe=recipe, **{k: v for k, v in given.items() if k not in recipe_fields}
    )
    if "lr" in given:
        config = dataclasses.replace(
            config, variants=tuple(dataclasses.replace(v, lr=None) for v in config.variants)
        )
    return config.pick(variants) if variants is not None else config


@cli.command()
@click.option("--variant", help="One variant of the preset.  [default: all]")
@click.option("--classes", type=click.IntRange(min=2), default=102, show_default=True, help="Size of the head.")
@click.option("--preset", default="flowers102", show_default=True, help="Preset whose variants to list.")
def layers(variant: str | None, classes: int, preset: str) -> None:
    """List every parameter: name, shape, count and which variants train it. Needs no images."""
    config = load_preset(preset)
    if variant is not None:
        config = config.pick(variant)
    from finetune.console import Reporter
    from finetune.layers import layer_table

    Reporter().table(layer_table(config.variants, classes))


@cli.command()
def presets() -> None:
    """List the presets that come with finetune."""
    for name, description in preset_names().items():
        click.echo(f"{name:<12}{description}")
