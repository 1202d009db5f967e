"""Which options a command has, and which of option, preset and default wins."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from finetune.config.experiment import ExperimentConfig
from finetune.config.presets import load_preset, to_table
from finetune.config.tune import RATES, Tune
from tests.builders.runs import Command

Configure = Callable[..., ExperimentConfig]

EVERY_OPTION = """
    --dataset digits --data-root d --split 70-15-15 --subset 3 --weights bundled --epochs 4 --batch-size 5
    --lr 0.5 --image-size 32 --seed 6 --seeds 7 --device cpu --on-bad-image skip --deterministic --threads 8
    --workers 9 --store off --precision fp32 --cache-views 10
"""


@pytest.fixture
def configure(finetune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Configure:
    """The configuration that `finetune train` would train with options and the text of a preset."""

    def run(*options: str, preset: str | None = None) -> ExperimentConfig:
        found: list[ExperimentConfig] = []

        def run_experiment(config: ExperimentConfig, *_: object) -> dict[str, Any]:
            found.append(config)
            return {"runs": []}

        monkeypatch.setattr("finetune.run.experiment.run_experiment", run_experiment)
        if preset is not None:
            (tmp_path / "own.toml").write_text(preset)
            options = ("--preset", "own.toml", *options)
        code, _, err = finetune("train", *options)
        assert code == 0, err
        return found[0]

    return run


class TestPrecedence:
    def test_nothing_given_is_flowers102(self, configure: Configure) -> None:
        assert configure() == load_preset("flowers102")

    def test_preset_over_default_and_option_over_preset(self, configure: Configure) -> None:
        text = 'dataset = "digits"\nseed = 4\n[recipe]\nepochs = 7\nbatch_size = 5\n'
        config = configure("--epochs", "9", preset=text)
        assert (config.recipe.epochs, config.recipe.batch_size, config.recipe.image_size) == (9, 5, 224)
        assert (config.seed, config.dataset) == (4, "digits")

    def test_lr_overrides_the_rate_of_a_single_variant(self, configure: Configure) -> None:
        text = "[variants.C]\nlr = 0.5\n"
        assert configure(preset=text).variants[2].lr == 0.5
        config = configure("--lr", "0.25", preset=text)
        assert (config.variants[2].lr, config.recipe.lr) == (None, 0.25)

    def test_a_new_run_is_of_one_process_whatever_the_preset(self, configure: Configure) -> None:
        assert configure(preset="processes = 2").processes == 1

    def test_variants(self, configure: Configure) -> None:
        assert [v.name for v in configure("--variants", "c").variants] == ["C"]

    def test_every_option_reaches_the_configuration(self, configure: Configure) -> None:
        config = configure(*EVERY_OPTION.split())
        assert (config.dataset, config.data_root, config.split, config.subset) == (
            ("digits", "d", "70-15-15", 3)
        )
        recipe = config.recipe
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.image_size) == (4, 5, 0.5, 32)
        assert (config.weights, config.seed, config.seeds, config.device) == ("bundled", 6, 7, "cpu")
        assert (config.on_bad_image, config.deterministic) == ("skip", True)
        assert (config.threads, config.workers, config.store) == (8, 9, "off")
        assert (config.precision, config.cache_views) == ("fp32", 10)
        assert configure("--cache-views", "auto").cache_views == "auto"


class TestRates:
    """Peak learning rates on the command line."""

    @pytest.mark.parametrize(
        ("value", "recipe", "own"),
        [
            ("0.5", 0.5, (None, None, None)),
            ("a=0.03,b=0.01", 0.03, (0.03, 0.01, None)),
            ("0.2, C = 0.1", 0.2, (None, None, 0.1)),
            ("b=1e-3", 0.03, (None, 1e-3, None)),
        ],
    )
    def test_for_all_or_by_variant(
        self, configure: Configure, value: str, recipe: float, own: tuple[float | None, ...]
    ) -> None:
        config = configure("--lr", value)
        assert config.recipe.lr == recipe
        assert tuple(v.lr for v in config.variants) == own

    def test_a_rate_for_all_replaces_the_presets_own(self, configure: Configure) -> None:
        text = "[variants.C]\nlr = 0.5\n"
        assert [v.lr for v in configure("--lr", "b=0.2", preset=text).variants] == [None, 0.2, 0.5]
        assert [v.lr for v in configure("--lr", "0.1,b=0.2", preset=text).variants] == [None, 0.2, None]

    def test_a_longer_run_has_the_rate_of_the_one_that_it_repeats(self, configure: Configure) -> None:
        variants = configure("--lr", "a=0.2", "--longer-scratch", "3").variants
        assert [(v.name, v.lr) for v in variants[:2]] == [("A", 0.2), ("A3", 0.2)]

    def test_config_toml_says_the_same(self, configure: Configure) -> None:
        config = configure("--lr", "a=0.2,c=0.1")
        assert configure(preset=tomli_w.dumps(to_table(config))).variants == config.variants

    @pytest.mark.parametrize("value", ["", ",", "a=0.1,", "a=0.1,0.2", "a=1,A=2", "a", "a=b=0.1", "1,2"])
    def test_is_refused(self, finetune: Command, value: str) -> None:
        code, _, err = finetune("train", "--lr", value)
        assert (code, err.count("\n")) == (2, 1)
        assert "lr must be " in err

    def test_not_beside_trials(self, finetune: Command) -> None:
        code, _, err = finetune("train", "--tune", "--lr", "a=0.1")
        assert code == 2
        assert "but --lr a=0.1 was given too; leave --lr out" in err


class TestTune:
    """Tuned or not, and over which rates."""

    def test_is_off_unless_asked_for(self, configure: Configure) -> None:
        assert configure().tune is None

    def test_halving_unless_a_mode_follows(self, configure: Configure) -> None:
        assert configure("--tune", "--epochs", "3").tune == Tune(mode="halving", rates=RATES)
        assert configure("--tune", "full").tune == Tune(mode="full")

    def test_a_preset_says_it_in_a_word_or_a_table(self, configure: Configure) -> None:
        assert configure(preset='tune = "full"').tune == Tune(mode="full")
        assert configure(preset="[tune]\nrates = [0.01, 1]").tune == Tune(rates=(0.01, 1.0))

    def test_an_option_keeps_the_rates_of_the_preset(self, configure: Configure) -> None:
        table = '[tune]\nmode = "halving"\nrates = [0.01, 0.02]'
        assert configure("--tune", "full", preset=table).tune == Tune(mode="full", rates=(0.01, 0.02))
        assert configure("--tune", "off", preset=table).tune is None

    def test_a_variants_own_rate_gives_way_to_the_option(self, configure: Configure) -> None:
        text = "[variants.C]\nlr = 0.5\n"
        assert configure("--tune", preset=text).variants[2].lr is None
        assert configure("--tune", "off", preset=text).variants[2].lr == 0.5

    def test_config_toml_says_the_same(self, configure: Configure) -> None:
        config = configure("--tune", "full", preset="[tune]\nrates = [0.01, 0.02]")
        text = tomli_w.dumps(to_table(config))
        assert configure(preset=text).tune == config.tune

    @pytest.mark.parametrize(
        ("options", "text", "message"),
        [
            ("--tune --lr 0.1", "", r"--lr 0\.1 was given too; leave --lr out, or name the rates"),
            ("--lr 0.1", 'tune = "full"', "leave --lr out, or add --tune off"),
            ("", 'tune = "both"', "must be halving or full, but 'both' was given"),
            ("", "tune = 3", "must be halving or full, or a table with mode and rates, but 3 was given"),
            ("", "[tune]\nrate = [0.1]", "unknown key 'rate'; the valid ones are mode, rates"),
            ("", "[tune]\nrates = [0.1]", r"at least two peak learning rates .* but \[0\.1\] was given"),
            ("", "[tune]\nrates = [0.1, 0.01]", "each above the one before"),
            ("", "[tune]\nrates = [0, 0.01]", "above 0"),
            ("", "[tune]\nrates = [0.1, inf]", "each above the one before"),
            ("", '[tune]\nrates = "all"', "but 'all' was given"),
            ("", '[tune]\nrates = ["a", "b"]', "at least two peak learning rates"),
            ("", "[tune]\nmode = 3", "must be halving or full, but 3 was given"),
            ("", "[tune]\n[variants.C]\nlr = 0.5", "lr of a variant that is tuned must be left out, but 0.5"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, finetune: Command, tmp_path: Path, options: str, text: str, message: str
    ) -> None:
        (tmp_path / "own.toml").write_text(text)
        code, _, err = finetune("train", "--preset", "own.toml", *options.split())
        assert code == 2
        assert re.search(message, err), err
        assert err.count("\n") == 1

    def test_a_profile_does_not_tune(
        self, finetune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        found: list[ExperimentConfig] = []
        monkeypatch.setattr("finetune.run.profile.profile_run", lambda config, *_: found.append(config))
        (tmp_path / "own.toml").write_text('tune = "full"')
        assert finetune("profile", "--preset", "own.toml")[0] == 0
        assert found[0].tune is None
        assert finetune("profile", "--tune")[0] == 2


class TestHelp:
    def options(self, text: str) -> dict[str, str]:
        """The help of each option, by its name."""
        found = re.findall(r"^  (?:-h, )?(--[a-z-]+)(.*?)(?=^  -|^[A-Z]|\Z)", text, re.M | re.S)
        return {name: " ".join(rest.split()) for name, rest in found}

    def test_the_defaults_shown_are_those_of_flowers102(self, finetune: Command) -> None:
        shown = self.options(finetune("train", "--help")[1])
        config = load_preset("flowers102")
        for option, value in {
            "--preset": config.preset,
            "--dataset": config.dataset,
            "--data-root": config.data_root,
            "--weights": config.weights,
            "--epochs": config.recipe.epochs,
            "--batch-size": config.recipe.batch_size,
            "--lr": config.recipe.lr,
            "--image-size": config.recipe.image_size,
            "--seed": config.seed,
            "--seeds": config.seeds,
            "--device": config.device,
            "--on-bad-image": config.on_bad_image,
            "--store": config.store,
            "--precision": config.precision,
        }.items():
            assert shown[option].endswith(f"[default: {value}]"), option

    @pytest.mark.parametrize("command", ["train", "profile", "data prepare", "layers"])
    def test_every_default_is_shown(self, finetune: Command, command: str) -> None:
        shown = self.options(finetune(*command.split(), "--help")[1])
        assert len(shown) > 3
        without = {name for name, text in shown.items() if "[default: " not in text}
        assert without <= {"--help", "--resume"}

    def test_a_profile_has_epochs_of_its_own(self, finetune: Command) -> None:
        assert self.options(finetune("profile", "--help")[1])["--epochs"].endswith("[default: 2]")

    def test_data_prepare_has_no_options_of_training(self, finetune: Command) -> None:
        assert set(self.options(finetune("data", "prepare", "--help")[1])) == {
            *("--preset", "--dataset", "--data-root", "--split", "--subset", "--image-size"),
            *(
                "--split-seed",
                "--resplit",
                "--seed",
                "--seeds",
                "--on-bad-image",
                "--near-duplicates",
                "--workers",
                "--weights",
                "--cache-limit",
                "--help",
            ),
        }


def test_a_folder_is_a_data_set(configure: Configure, tmp_path: Path) -> None:
    for name in ("photos", "digits"):
        (tmp_path / name).mkdir()
    wanted = {
        "photos": "imagefolder:photos",
        "./digits": "imagefolder:./digits",
        "digits": "digits",
        "imagefolder:photos": "imagefolder:photos",
    }
    assert {given: configure("--dataset", given).dataset for given in wanted} == wanted
