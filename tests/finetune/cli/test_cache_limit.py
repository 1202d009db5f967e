"""`--cache-limit` reaches the cache from every command that decodes images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.data.cache import entries
from tests.builders.runs import Command

IMAGES = ["--dataset", "digits", "--subset", "2", "--workers", "1"]


@pytest.fixture(autouse=True)
def _cache(narrow: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: ARG001 - for its effect
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FINETUNE_CACHE_LIMIT", "1GB")  # restored after the option has changed it


def test_older_images_are_removed(finetune: Command) -> None:
    for size in ("16", "17", "18"):
        assert finetune("data", "prepare", *IMAGES, "--weights", "bundled", "--image-size", size)[0] == 0
    assert len(entries()) == 9
    options = ["--weights", "bundled", "--image-size", "18", "--cache-limit", "0MB"]
    code, _, err = finetune("data", "prepare", *IMAGES, *options)
    assert (code, err) == (0, "")
    assert {e.name.split("-")[2] for e in entries()} == {"18px"}


@pytest.mark.parametrize("command", [("train",), ("profile",), ("data", "prepare")])
def test_a_wrong_size_is_refused(finetune: Command, command: tuple[str, ...]) -> None:
    code, out, err = finetune(*command, *IMAGES, "--cache-limit", "10")
    assert (code, out) == (2, "")
    assert err == (
        "Error: --cache-limit must be a number with MB, GB or TB, such as 500MB or 10GB, but '10' "
        "was given.\n"
    )
    assert os.environ["FINETUNE_CACHE_LIMIT"] == "1GB"


def test_it_is_not_part_of_the_configuration(finetune: Command, narrow_weights: Path) -> None:
    options = [
        "--image-size",
        "16",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--variants",
        "a",
        "--device",
        "cpu",
    ]
    arguments = ["--weights", str(narrow_weights), "--out", "run", "--cache-limit", "2GB"]
    assert finetune("train", *IMAGES, *options, *arguments)[0] == 0
    for name in ("config.toml", "results.json"):
        assert "cache_limit" not in Path("run", name).read_text()
    assert finetune("train", "--resume", "run", "--cache-limit", "3GB")[0] == 0
