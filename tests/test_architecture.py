"""docs/architecture.md lists the packages and modules that there are."""

from __future__ import annotations

from tests.architecture import PAGE, ROOT, layers, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.architecture"


def test_every_package_has_a_layer() -> None:
    packages = {p.parent.name for p in (ROOT / "finetune").glob("*/__init__.py")}
    assert packages == {name for row in layers() for name in row} - {"api", "errors"}
