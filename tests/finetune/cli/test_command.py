"""Help in groups, options from the environment, and suggestions for what was mistyped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.cli.app import COMMANDS
from finetune.cli.command import Command, variable
from finetune.cli.train import train
from finetune.config.experiment import ExperimentConfig
from tests.builders.runs import Command as Run

Refused = Callable[..., str]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[ExperimentConfig]:
    """Collects what `finetune train` would train."""
    found: list[ExperimentConfig] = []

    def run_experiment(config: ExperimentConfig, *_: object) -> dict[str, object]:
        found.append(config)
        return {"runs": []}

    monkeypatch.setattr("finetune.run.experiment.run_experiment", run_experiment)
    return found


class TestHelp:
    def test_options_are_in_groups(self, finetune: Run) -> None:
        _, out, _ = finetune("train", "--help")
        headings = re.findall("^([A-Z][a-z ]+):$", out, re.M)
        assert headings == ["Data", "Recipe", "Compute", "Output", "Other options", "Environment", "Examples"]
        between = {h: out.split(f"\n{h}:\n")[1].split("\n\n")[0] for h in headings}
        assert "--dataset" in between["Data"]
        assert "--lr" in between["Recipe"]
        assert "--device" in between["Compute"]
        assert "--out" in between["Output"]

    def test_every_option_of_train_has_a_group(self, finetune: Run) -> None:
        assert finetune("train", "--help")[1].split("Other options:\n")[1].split("\n\n")[0] == (
            "  -h, --help  Show this message and exit."
        )

    def test_a_short_list_has_no_groups(self, finetune: Run) -> None:
        _, out, _ = finetune("predict", "--help")
        assert "\nOptions:\n" in out
        assert "Other options" not in out

    @pytest.mark.parametrize("command", [c for c in COMMANDS if isinstance(c, Command)], ids=lambda c: c.name)
    def test_examples_name_options_that_exist_and_fit_into_80_columns(self, command: Command) -> None:
        options = {o for parameter in command.params for o in parameter.opts}
        for line in command.examples:
            assert line.startswith(f"finetune {command.name} ")
            assert set(re.findall(r"--[a-z-]+", line)) <= options
            assert len(line) <= 78


class TestEnvironment:
    def test_a_variable_sets_an_option(
        self, finetune: Run, trained: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FINETUNE_TRAIN_PRESET", "smoke")
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "3")
        monkeypatch.setenv("FINETUNE_TRAIN_RESPLIT", "1")
        monkeypatch.setenv("FINETUNE_TRAIN_TUNE", "off")
        assert finetune("train", "--seeds", "2")[0] == 0
        (config,) = trained
        assert (config.preset, config.recipe.epochs, config.resplit, config.seeds) == ("smoke", 3, True, 2)

    def test_the_command_line_comes_first(
        self, finetune: Run, trained: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "3")
        assert finetune("train", "--epochs", "4")[0] == 0
        assert trained[0].recipe.epochs == 4

    def test_an_empty_one_is_unset(
        self, finetune: Run, trained: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Compose sets a variable that its file passes on and nobody has given a value."""
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "")
        monkeypatch.setenv("FINETUNE_TRAIN_NO_SUCH_OPTION", "")
        assert finetune("train")[0] == 0
        assert trained[0].recipe.epochs == 30

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("EPOCHS", "many", "Invalid value for 'FINETUNE_TRAIN_EPOCHS': 'many' is not a valid integer."),
            (
                "EPOCHS",
                "0",
                "epochs must be a whole number of at least 1, but 0 was given. "
                "The value comes from FINETUNE_TRAIN_EPOCHS.",
            ),
            (
                "DEVICE",
                "cdua",
                "device must be auto, cpu, cuda, cuda:N or mps, but 'cdua' was given; did you mean 'cuda'? "
                "The value comes from FINETUNE_TRAIN_DEVICE.",
            ),
            ("CACHE_LIMIT", "much", "FINETUNE_TRAIN_CACHE_LIMIT must be a number with MB, GB or TB, such as"),
            (
                "EPOCH",
                "3",
                "The environment variable FINETUNE_TRAIN_EPOCH must be named after an option of finetune "
                "train, but there is none of that name; did you mean FINETUNE_TRAIN_EPOCHS?",
            ),
            ("X", "3", "but there is none of that name; unset it."),
        ],
    )
    def test_a_bad_one_is_named(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
    ) -> None:
        monkeypatch.setenv(f"FINETUNE_TRAIN_{name}", value)
        assert message in refused("train", "--seeds", "2")

    def test_a_mistake_on_the_command_line_names_no_variable(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "3")
        assert refused("train", "--lr", "-1") == "lr must be a number above 0, but -1.0 was given."

    def test_other_commands_have_other_variables(
        self, finetune: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("FINETUNE_TRAIN_EPOCHS", "many")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert finetune("data", "list")[0] == 0

    @pytest.mark.usefixtures("trained")
    def test_the_limit_of_the_cache_keeps_its_variable(
        self, finetune: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "1GB")
        assert finetune("train")[0] == 0
        assert os.environ["FINETUNE_CACHE_LIMIT"] == "1GB"
        monkeypatch.setenv("FINETUNE_TRAIN_CACHE_LIMIT", "2GB")
        assert finetune("train")[0] == 0
        assert os.environ["FINETUNE_CACHE_LIMIT"] == "2GB"

    def test_it_is_named_after_the_option_as_it_is_written(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "run").mkdir()
        monkeypatch.setenv("FINETUNE_EXPORT_FORMAT", "onxn")
        said = refused("export", "run")
        assert said.startswith("Invalid value for 'FINETUNE_EXPORT_FORMAT'")
        assert said.endswith("Did you mean 'onnx'?")

    def test_a_variable_with_a_version_does_not_print_it(
        self, finetune: Run, trained: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a CI service may have one, to say what it installs."""
        monkeypatch.setenv("FINETUNE_VERSION", "1.2")
        assert finetune("train")[0] == 0
        assert len(trained) == 1

    def test_help_names_a_variable_that_works(self, finetune: Run) -> None:
        _, out, _ = finetune("predict", "--help")
        assert "FINETUNE_PREDICT_VARIANT sets --variant" in " ".join(out.split())


class TestSuggestions:
    @pytest.mark.parametrize(
        ("line", "near"),
        [
            ("trian", "Did you mean 'train'?"),
            ("train --dataest x", "Did you mean one of: '--data-root', '--dataset'?"),
            ("train --device cdua", "did you mean 'cuda'?"),
            ("train --preset smok", "was given; did you mean 'smoke'?"),
            ("train --dataset flower102", "was given; did you mean 'flowers102'?"),
            ("train --variants A,longer", "'longer' was given."),
            ("train --preset depth --variants layer3up", "'layer3up' was given; did you mean"),
            ("train --dataset digits --weights bundeld", "was given; did you mean 'bundled'?"),
            ("layers --preset Smoke", "was given; did you mean 'smoke'?"),
            ("data clera", "Did you mean 'clear'?"),
        ],
    )
    def test_what_is_near(self, refused: Refused, line: str, near: str) -> None:
        assert near in refused(*line.split())

    @pytest.mark.parametrize(
        ("text", "near"),
        [
            ("epoch = 3", "unknown key 'epoch'"),
            ("batchsize = 3\n", "unknown key 'batchsize'"),
            ("[recipe]\nbatchsize = 3", "did you mean 'batch_size'?"),
            ("[recipies]\nepochs = 3", "did you mean 'recipe'?"),
            ("[variants.C]\ninti = 'random'", "did you mean 'init'?"),
            ("[variants.C]\ninit = 'pretraind'", "did you mean 'pretrained'?"),
            ("[variants.C]\ntrain = ['layer4', 'fcc']", "but 'fcc' was given; did you mean 'fc'?"),
            ("[tune]\nrate = [0.1]", "the valid ones are mode, rates; did you mean 'rates'?"),
            ("tune = 'halvin'", "was given; did you mean 'halving'?"),
        ],
    )
    def test_keys_and_values_of_a_preset(
        self, refused: Refused, tmp_path: Path, text: str, near: str
    ) -> None:
        (tmp_path / "own.toml").write_text(text)
        assert near in refused("train", "--preset", "own.toml")


@pytest.mark.parametrize(
    ("words", "expected"), [("finetune tra", "train"), ("finetune train --longer", "--longer-scratch")]
)
def test_shells_complete_commands_and_options(words: str, expected: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'finetune'; from finetune.cli import main; main()"],
        env={
            **os.environ,
            "_FINETUNE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"plain,{expected}\n" in completed.stdout


def test_variable_of_an_option_in_a_group_of_commands() -> None:
    with train.make_context("train", [], auto_envvar_prefix="FINETUNE_TRAIN") as context:
        assert variable(context, "batch_size") == "FINETUNE_TRAIN_BATCH_SIZE"
