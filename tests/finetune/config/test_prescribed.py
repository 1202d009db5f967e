"""--seed-from, from the option to the configuration and back from config.toml."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from finetune.config.overrides import configure
from finetune.config.presets import load_preset, to_table
from finetune.errors import ConfigError
from grader.evidence.seeds import Prescription

SEED = Prescription("n", "alice").seed


def test_derives_the_seeds() -> None:
    config = configure({"seed_from": "n:alice", "seeds": 2})
    assert config.seed_list == (SEED, SEED + 1)
    assert config.seed_from == "n:alice"


def test_is_kept_in_config_toml(tmp_path: Path) -> None:
    config = configure({"seed_from": "n:alice"})
    (tmp_path / "config.toml").write_text(tomli_w.dumps(to_table(config)))
    assert load_preset(str(tmp_path / "config.toml")) == config


@pytest.mark.parametrize("name", ["seed", "split_seed"])
def test_no_seed_beside_it(name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=rf"--seed-from prescribes the seeds, but {option} 5 was given too"):
        configure({"seed_from": "n:alice", name: 5})


@pytest.mark.parametrize("text", ["alice", "n:", ":alice"])
def test_must_name_nonce_and_student(text: str) -> None:
    with pytest.raises(ConfigError, match="seed-from must be NONCE:STUDENT"):
        configure({"seed_from": text})


@pytest.mark.parametrize("change", [{"seed": 5}, {"split_seed": 1}])
def test_a_configuration_cannot_claim_another_seed(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"must be ({SEED}|0)"):
        dataclasses.replace(configure({"seed_from": "n:alice"}), **change)
