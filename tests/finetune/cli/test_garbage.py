"""What training imports is kept out of garbage collections, and garbage is collected afterwards as before."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from finetune.cli.train import _imports_are_no_garbage


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has not imported torch; whatever the session froze is frozen again afterwards."""
    monkeypatch.delitem(sys.modules, "torch")
    yield
    gc.enable()
    gc.freeze()


@pytest.mark.usefixtures("alone")
def test_imports_are_frozen_without_a_collection() -> None:
    gc.unfreeze()
    seen: list[object] = []
    gc.callbacks.append(lambda *_: seen.append(_))
    try:
        with _imports_are_no_garbage():
            imported = [[] for _ in range(10_000)]
            assert seen == []
    finally:
        gc.callbacks.pop()
    assert gc.get_freeze_count() >= len(imported)
    assert gc.isenabled()


@pytest.mark.usefixtures("alone")
def test_garbage_is_collected_after_a_failed_import() -> None:
    with pytest.raises(ModuleNotFoundError), _imports_are_no_garbage():
        raise ModuleNotFoundError("torch")
    assert gc.isenabled()


def test_nothing_is_frozen_in_a_process_that_has_imported_torch_already() -> None:
    before = gc.get_freeze_count()
    with _imports_are_no_garbage():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_nothing_is_said_at_the_end() -> None:
    """Extensions written with nanobind, such as Triton, list what is still frozen then."""
    code = (
        "from finetune.cli.train import _imports_are_no_garbage\n"
        "with _imports_are_no_garbage():\n    import finetune.run.experiment\n"
        "import triton\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "leaked" not in done.stderr
