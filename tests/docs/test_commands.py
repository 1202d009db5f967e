"""What pages tell users to type is understood, and what is marked to be run works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click
import pytest

from finetune.cli.app import cli
from finetune.config.presets import load_preset
from finetune.system.session import undisturbed
from tests.builders.images import image_tree, photo
from tests.docs.commands import PAGES, Line, problem, shown, to_run
from tests.docs.markdown import DOCS, ROOT
from tests.docs.options_page import GRADER

MARKED = [path for path in sorted(DOCS.glob("*.md")) if to_run(path)]
BRIEF = shlex.split("--epochs 1 --subset 2 --batch-size 8 --image-size 32 --threads 1")
"""Appended to each `finetune train` that is run: the last of equal options counts."""

TRAINED = "runs/trained"
"""The run that commands use where the pages write RUN."""

OTHERS = {"--array", "--gres", "--group-add", "--no-deps", "--python", "--time"}
"""Options of other programs that pages mention: sbatch, docker, pip, uv."""


def name(path: Path) -> str:
    """The name of a page in the output of pytest."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_are_understood(path: Path) -> None:
    found = {" ".join(line.words): problem(line.words) for line in shown(path)}
    assert {command: wrong for command, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("finetune trian", "there is no command trian"),
        ("finetune train --epoch-count 3", "No such option"),
        ("finetune train --epochs three", "'three' is not a valid integer"),
        ("finetune train --on-bad-image ignore", "'ignore' is not one of"),
        ("finetune train --preset smok", "there is no preset smok"),
        ("finetune layers B", "unexpected argument B"),
        ("grader explain b-beat-a", "There is no 'b-beat-a'. Did you mean 'b-beats-a'?"),
    ],
)
def test_a_mistake_is_noticed(command: str, said: str) -> None:
    assert said in (problem(command.split()) or "")


@pytest.mark.parametrize(
    "mention", ["grader --labels", "finetune COMMAND --help", "finetune train ... --tune"]
)
def test_a_mention_need_not_be_complete(mention: str) -> None:
    assert problem(mention.split()) is None


def test_commands_are_found_wherever_a_page_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.commands.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Run `finetune layers`, or `torchrun -n 2 -m\nfinetune merge x`; finetune is no command here.\n\n"
        "    .venv/bin/grader a   # grades a\n    finetune train \\\n      --seeds 2 && grader b | head\n\n"
        "```sh\ndocker compose run --rm train --epochs 1\nOMP_NUM_THREADS=1 finetune presets\n```\n"
    )
    assert [" ".join(line.words) for line in shown(page)] == [
        "finetune layers",
        "finetune merge x",
        "grader a",
        "finetune train --seeds 2",
        "grader b",
        "finetune train --epochs 1",
        "finetune presets",
    ]


def options(command: click.Command) -> Iterator[str]:
    """The options of a command and of its subcommands."""
    yield from chain.from_iterable(parameter.opts for parameter in command.params)
    for child in getattr(command, "commands", {}).values():
        yield from options(child)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_option_is_mentioned_that_does_not_exist(path: Path) -> None:
    known = {"--help", *OTHERS, *options(cli), *chain.from_iterable(map(options, GRADER.values()))}
    mentioned = set(re.findall(r"(?<!`)`(--[a-z][a-z-]*)", path.read_text("utf-8")))
    assert mentioned - known == set()


@pytest.fixture
def place(
    tmp_path: Path,
    narrow_weights: Path,
    no_fsync: None,  # noqa: ARG001 - wanted for its effect
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The working folder, with photos of one's own as pages assume them; returns weights to start from."""
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / "photos", {"daisy": 8, "dandelion": 8})
    photo(tmp_path / "photo.jpg", 1)
    photo(tmp_path / "more-photos" / "another.jpg", 2)
    return narrow_weights


@pytest.mark.parametrize("path", MARKED, ids=name)
def test_marked_commands_run(path: Path, place: Path) -> None:
    run_command(["finetune", "train", "--dataset", "photos", "--out", TRAINED], place)
    for words in to_run(path):
        run_command([re.sub(r"^(runs/)?RUN\b", TRAINED, word) for word in words], place)


def run_command(words: list[str], weights: Path) -> None:
    """Run a command in this process; whatever it grades may fail, since next to nothing is trained."""
    if words[:2] == ["finetune", "train"]:
        words = [*words, *BRIEF, "--weights", str(weights)]
    program, allowed = (cli, {0}) if words[0] == "finetune" else (GRADER["grader"], {0, 1})
    if words[0] == "grader" and (named := GRADER.get(" ".join(words[:2]))):
        program, words = named, words[1:]
    with undisturbed():
        try:
            code = program.main(words[1:], prog_name=words[0], standalone_mode=False)
        except SystemExit as stopped:
            code = stopped.code
    assert (code if isinstance(code, int) else 0) in allowed, words


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=name)
def test_toml_examples_are_valid(path: Path, tmp_path: Path) -> None:
    for example in re.findall(r"^```toml\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        (tmp_path / "example.toml").write_text(example)
        load_preset(str(tmp_path / "example.toml"))


def test_a_line_names_its_page() -> None:
    assert Line("docs/fairness.md", ["finetune", "train", "--tune"]) in list(shown(DOCS / "fairness.md"))
