"""The `finetune` command: its subcommands, exit codes, and errors as one sentence each."""

from __future__ import annotations

import os
import signal
import sys
import warnings

import click

from finetune import __version__
from finetune.cli.command import PREFIX
from finetune.cli.data import data
from finetune.cli.evaluate import evaluate
from finetune.cli.exit_codes import BAD_INPUT, SIGNAL, exit_code
from finetune.cli.explain import explain
from finetune.cli.export import export
from finetune.cli.info import info
from finetune.cli.layers import layers
from finetune.cli.merge import merge
from finetune.cli.predict import predict
from finetune.cli.presets import presets
from finetune.cli.profile import profile
from finetune.cli.replay import replay
from finetune.cli.report import report
from finetune.cli.train import train
from finetune.errors import FinetuneError
from finetune.system.console import survive_closed_pipes
from finetune.system.signals import Stopped

EXTRAS = {
    "captum": "explain",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    "tensorboard": "tensorboard",
    **dict.fromkeys(("alembic", "mlflow", "sqlalchemy"), "mlflow"),
}
"""The extra that installs a module, where it is not `train`."""


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "auto_envvar_prefix": PREFIX,
    }
)
@click.version_option(__version__, allow_from_autoenv=False)
def cli() -> None:
    """Does it pay to start from pretrained weights, and must I train every layer?

    Trains ResNet-18 from random weights (A), from pretrained weights (B), and from pretrained weights with
    only the last two layers trained (C), on the same images with the same budget, and records the evidence.

    Exit codes: 0 success; 1 the training of a variant failed (the results say which) or predict could not
    read some files; 2 invalid input; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
    """


COMMANDS = (
    train,
    report,
    predict,
    explain,
    export,
    evaluate,
    replay,
    merge,
    profile,
    data,
    layers,
    presets,
    info,
)

for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit; errors that a user can correct become one sentence each."""
    # Before torch starts its threads: let idle ones sleep soon. Spinning makes every parallel operation wait
    # for a time slice where other programs want the cores; where none does, waking up costs more.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GNU's OpenMP: spin for some 10 microseconds first
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")  # odd metadata; damaged images still raise
    survive_closed_pipes()
    try:
        code = exit_code(cli(prog_name="finetune", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except FinetuneError as error:
        click.echo(f"Error: {error}", err=True)
        code = BAD_INPUT
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name or error.name == "finetune":
            raise  # a bug; only top-level packages of others can be missing from an installation
        click.echo(
            f"Error: This command needs more than the base installation, but {error.name} is not installed; "
            f'run: pip install "finetune[{EXTRAS.get(error.name, "train")}]".',
            err=True,
        )
        code = BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        code = SIGNAL + signal.SIGINT
    except Stopped as stopped:
        code = SIGNAL + stopped.number
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; training says more, and torch may be absent
            raise
        click.echo(
            "Error: This command needs more memory than the GPU has free; stop what else uses the GPU, or "
            "use --device cpu.",
            err=True,
        )
        code = BAD_INPUT
    sys.exit(code)
