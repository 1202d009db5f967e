"""Write the list of modules in docs/architecture.md from their docstrings: python -m tests.architecture."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules -->\n", "<!-- end -->\n"


def summary(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").partition("\n")[0]


def layers() -> list[str]:
    """The packages and modules of both programs from top to bottom, as import-linter holds them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    rows = [row for c in contracts["contracts"] if c["type"] == "layers" for row in c["layers"]]
    return [name.replace(".", "/") for row in rows for name in row.split(" | ")]


def module_list() -> str:
    """The packages in their order, each with its modules and below it the packages inside it, as Markdown."""
    text = ""
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
