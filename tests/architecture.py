"""Write the list of modules in docs/architecture.md from their docstrings: python -m tests.architecture."""

from __future__ import annotations

import ast
import itertools
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules -->\n", "<!-- end -->\n"


def summary(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n")[0]


def rows() -> list[list[str]]:
    """What each program consists of, from top to bottom, a row a layer, as import-linter holds it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    return [contract["layers"] for contract in contracts["contracts"] if contract["type"] == "layers"]


def layers() -> list[str]:
    """All of them as paths, in that order."""
    return [name.replace(".", "/") for program in rows() for row in program for name in row.split(" | ")]


def diagram() -> str:
    """Both programs side by side, each layer above those that it may import."""
    columns = [[row.replace(f"{program[0].split('.')[0]}.", "") for row in program] for program in rows()]
    text = "    finetune/                       grader/\n"
    for left, right in itertools.zip_longest(*columns, fillvalue=""):
        text += f"      {left:<30}  {right}".rstrip() + "\n"
    return text


def module_list() -> str:
    """The packages in their order, each with its modules and below it the packages inside it, as Markdown."""
    text = f"\n{diagram()}"
    for name in layers():
        path = ROOT / name
        if not path.is_dir():
            text += f"\n**`{name}.py`** {summary(path.with_suffix('.py'))}\n"
            continue
        for package in sorted(p.parent for p in path.rglob("__init__.py")):
            text += f"\n**`{package.relative_to(ROOT).as_posix()}/`** {summary(package / '__init__.py')}\n\n"
            modules = sorted(m for m in package.glob("*.py") if m.stem != "__init__")
            text += "| module | |\n|---|---|\n"
            text += "".join(f"| `{m.name}` | {summary(m)} |\n" for m in modules)
    return f"{BEGIN}{text}\n{END}"


def page() -> str:
    """The page with the list as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + module_list() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
