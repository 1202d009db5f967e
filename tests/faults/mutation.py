"""Change one thing at a time in a module and see whether its tests notice.

Run as `python -m tests.faults.mutation MODULE[:FUNCTION,...] TEST... [-k EXPRESSION]`; with EVERY=3 in the
environment only every third mutant is tried, spread over the whole module. One process imports
the heavy libraries and forks a child for each mutant, so that a mutant costs no imports; the child imports
the changed module in place of the real one and runs the tests until one fails. Nothing on disk is changed.
A mutant that makes the tests take ten times as long counts as killed. Survivors are printed when found.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import gc
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Each small change to one node, described, with the node that takes its place."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS.get(type(operator), []):
                yield f"{type(operator).__name__} -> {other.__name__}", _with(node, ops=[other()])
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            other_operator = OPERATORS[type(operator)]
            yield f"{type(operator).__name__} -> {other_operator.__name__}", _with(node, op=other_operator())
        case ast.BoolOp(op=operator):
            other_bool = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "and <-> or", _with(node, op=other_bool)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not dropped", operand
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "minus dropped", operand
        case ast.IfExp():
            yield "if-else exchanged", _with(node, body=node.orelse, orelse=node.body)
        case ast.If() | ast.While():
            yield "condition negated", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool() as value):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
        case ast.Constant(value=str() as value) if value:
            yield f"{value[:30]!r} -> other text", ast.Constant("XX" + value)
        case ast.Return(value=ast.expr()):
            yield "return None", _with(node, value=ast.Constant(None))
        case ast.Name(id=("min" | "max" | "any" | "all" | "sorted") as name):
            exchanged = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}[name]
            yield f"{name} -> {exchanged}", ast.Name(exchanged, ast.Load())
        case ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1:
            for index in range(len(elements)):
                rest = elements[:index] + elements[index + 1 :]
                yield f"element {index} of a tuple dropped", _with(node, elts=rest)
        case ast.Break():
            yield "break -> continue", ast.Continue()
        case ast.Continue():
            yield "continue -> break", ast.Break()
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign():
            yield "statement dropped", ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutants(source: str, functions: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every mutant of a module, or of some of its functions: what was changed, and the whole source.

    Left alone: documentation, annotations, and the texts of errors, which people read and no code does.
    """
    tree = ast.parse(source)
    for parent, field, index, node in list(_places(tree, functions)):
        for what, changed in changes(node):
            ast.copy_location(changed, node)
            _put(parent, field, index, changed)
            yield f"line {node.lineno}: {what}: {ast.unparse(node)[:70]}", _unparse(tree)
            _put(parent, field, index, node)


def _unparse(tree: ast.Module) -> str:
    return ast.unparse(ast.fix_missing_locations(tree))


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _places(tree: ast.Module, functions: Sequence[str]) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    roots = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in functions]
    waiting: list[ast.AST] = list(roots) if functions else [tree]
    while waiting:
        parent = waiting.pop(0)
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list", "keywords") and not isinstance(
                parent, ast.Call
            ):
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or _spoken(node):
                    continue
                yield parent, field, index, node
                waiting.append(node)


def _spoken(node: ast.AST) -> bool:
    """Whether a node is documentation, an error's text, an import or a type alias."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name.endswith(("Error", "Problem")) or name == "TypeVar"
    return False


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, name: str, path: str, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """The changed module's, and no other's."""
        if name != self.name:
            return None
        is_package = self.path.endswith("__init__.py")
        spec = importlib.util.spec_from_loader(name, self, origin=self.path, is_package=is_package)
        if spec and is_package:
            spec.submodule_search_locations = [str(Path(self.path).parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        module.__file__ = self.path
        exec(compile(self.source, self.path, "exec"), module.__dict__)  # noqa: S102 - a mutant of our own code


def attempt(name: str, path: Path, source: str, tests: Sequence[str], limit: float) -> tuple[bool, float]:
    """Whether the tests fail with a source in place of a module, and the seconds they took."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        sys.meta_path.insert(0, Changed(name, str(path), source))
        signal.alarm(max(1, int(limit)))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = 1
        with contextlib.suppress(BaseException):
            import pytest

            quiet = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
            code = int(pytest.main([*quiet, *tests]))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return status != 0, time.monotonic() - started


def main(module: str, *tests: str) -> None:
    """Run it as the module's documentation says."""
    heavy = [
        "numpy",
        "scipy.stats",
        "jsonschema",
        "hypothesis",
        "pytest",
        "pytest_benchmark.plugin",
        "pytest_cov",
    ]
    if module.startswith("finetune"):
        heavy += ["torch", "torchvision", "PIL.Image", "sklearn.datasets"]
    for library in heavy:
        importlib.import_module(library)
    gc.freeze()  # else each child would walk all of it
    name, _, functions = module.partition(":")
    path = Path(name.replace(".", "/"))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text("utf-8")
    failed, seconds = attempt(name, path, ast.unparse(ast.parse(source)), tests, 600)
    if failed:
        sys.exit("The tests must pass on the unchanged module, but they do not.")
    survivors, total = [], 0
    every = int(os.environ.get("EVERY", "1"))
    for number, (what, changed) in enumerate(mutants(source, functions.split(",") if functions else [])):
        if number % every:
            continue
        total += 1
        killed, _ = attempt(name, path, changed, tests, 10 * seconds + 10)
        if not killed:
            survivors.append(what)
            print(f"survived: {what}", file=sys.stderr, flush=True)  # noqa: T201 - its answer
    figures = {"module": module, "every": every, "mutants": total, "killed": total - len(survivors)}
    print(json.dumps({**figures, "seconds_of_tests": round(seconds, 1)}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(*sys.argv[1:])
