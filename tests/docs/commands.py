"""The command lines that pages show, and what click makes of them without running them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from finetune.cli.app import cli
from finetune.config.presets import preset_names
from tests.docs.markdown import ROOT
from tests.docs.options_page import GRADER

GENERATED = {ROOT / "docs" / "cli.md"}
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*", "examples/**/*", "finetune/bundled/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in ("", ".md", ".sh", ".yml", ".yaml", ".ipynb")
    if path.name != "CHANGELOG.md" and path not in GENERATED
)
"""Where commands are shown to users; the changelog may name options that are gone."""

RUN_MARK = "<!-- run -->"
"""Before a block of commands that a test runs."""

BEFORE = re.compile(
    r"""^(?:[#$-]\ +|command:\ |exec\ |\S*/(?=finetune|grader)|(?:[A-Z_]+=\S+\ )+(?=finetune|grader|torchrun)
    |torchrun\ .*?-m\ (?=finetune)|srun\ .*?(?=finetune))+""",
    re.VERBOSE,
)
"""What may stand before a command in its line: a comment sign, a prompt, a folder, variables, a launcher."""

SERVICES = (
    (r"docker compose run [^#\n]*?--entrypoint (finetune|grader) \S+", r"\1"),
    (r"docker compose run [^#\n]*?--entrypoint torchrun \S+", "torchrun"),
    (r"docker compose run [^#\n]*?\btrain(-cpu)?(?= |$)", "finetune train"),
    (r"docker compose run [^#\n]*?\bgrade(?= |$)", "grader"),
)
"""The services of docker-compose.yml that pass their arguments on, and what to."""

PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*|.*\.\.\.|.*…")


class Line(NamedTuple):
    """A command and where it is."""

    page: str
    words: list[str]


def shown(path: Path) -> Iterator[Line]:
    """The commands in a page: in its blocks of code, one a line, and inline."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    for pattern, command in SERVICES:
        text = re.sub(pattern, command, text)
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    prose = path.suffix in (".md", ".ipynb")
    inline = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)] if prose else []
    fenced, blocks = False, []
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if fenced or line.startswith("    ") or not prose:
            blocks.append(line.strip())
    for line in inline + blocks:
        for part in re.split(r" (?:&&|\|\|?|>) |;|\s+#\s", BEFORE.sub("", line)):
            if re.match("(finetune|grader)(?: [^<]|$)", part.strip()):
                yield Line(path.relative_to(ROOT).as_posix(), shlex.split(part))


def to_run(path: Path) -> list[list[str]]:
    """The commands of the blocks that are marked to be run."""
    text = path.read_text("utf-8")
    blocks = re.findall(rf"^{RUN_MARK}\n```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == text.count(RUN_MARK), f"{path.name}: {RUN_MARK} stands right before ```sh"
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def problem(words: list[str]) -> str | None:
    """What is wrong with a command: an unknown command, option or value, or one argument too many."""
    command: click.Command = cli if words[0] == "finetune" else GRADER["grader"]
    rest = [word for word in words[1:] if word not in ("...", "…")]
    if words[0] == "grader" and (named := GRADER.get(" ".join(words[:2]))):
        command, rest = named, rest[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.commands.get(rest[0])
        if PLACEHOLDER.fullmatch(rest[0]):
            return None
        if found is None:
            return f"there is no command {rest[0]}"
        command, rest = found, rest[1:]
    context = click.Context(command, info_name=words[0])
    try:
        values, extra, _ = command.make_parser(context).parse_args(list(rest))
        for parameter in command.params:
            value = values.get(parameter.name)
            if isinstance(value, str) and not PLACEHOLDER.fullmatch(value):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        if isinstance(error, click.BadOptionUsage) and error.option_name == rest[-1]:
            return None  # an option that is mentioned without its value
        return error.format_message()
    if extra and not isinstance(command, click.Group):
        return f"unexpected argument {extra[0]}"
    preset = values.get("preset")
    known = preset is None or preset.endswith(".toml") or PLACEHOLDER.fullmatch(preset)
    return None if known or preset in preset_names() else f"there is no preset {preset}"
