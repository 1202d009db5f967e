"""docs/architecture.md lists the packages and modules that there are."""

from __future__ import annotations

from tests.architecture import PAGE, ROOT, layers, page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.architecture"


def test_every_package_has_a_layer() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for product in ("finetune", "grader")
        for path in (ROOT / product).glob("*/__init__.py")
    }
    assert packages == {name for name in layers() if (ROOT / name).is_dir()}
