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


def layers() -> list[list[str]]:
    """The packages of finetune from top to bottom, as import-linter holds them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (rows,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    return [[name.removeprefix("finetune.") for name in row.split(" | ")] for row in rows]


def module_list() -> str:
    """The packages in their order, then grader, each with its modules, as Markdown."""
    packages = [(ROOT / "finetune" / name, f"finetune/{name}") for row in layers() for name in row]
    text = ""
    for path, name in [*packages, (ROOT / "grader", "grader"), (ROOT / "grader" / "checks", "grader/checks")]:
        if not path.is_dir():
            text += f"\n**`{name}.py`** {summary(path.with_suffix('.py'))}\n"
            continue
        text += f"\n**`{name}/`** {summary(path / '__init__.py')}\n\n| module | |\n|---|---|\n"
        modules = sorted(m for m in path.glob("*.py") if m.stem not in ("__init__", "__main__"))
        text += "".join(f"| `{m.name}` | {summary(m)} |\n" for m in modules)
    return f"{BEGIN}{text}\n{END}"


def page() -> str:
    """The page with the list as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + module_list() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
