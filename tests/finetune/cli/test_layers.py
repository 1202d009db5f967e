"""`finetune layers`."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.builders.runs import Command


def test_parameters_by_variant(finetune: Command) -> None:
    code, out, _ = finetune("layers")
    assert code == 0
    assert re.search(r"11,228,838\W+11,228,838\W+11,228,838\W+8,446,054", out)
    code, out, _ = finetune("layers", "--variant", "c", "--classes", "10")
    assert code == 0
    assert re.search(r"11,181,642\W+8,398,858", out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--variant", "z"], "variant must be one of A, B, C, but 'z' was given."),
        (["--classes", "1"], "x>=2"),
        (["--preset", "none"], "preset must be"),
    ],
)
def test_refused(refused: Callable[..., str], options: list[str], message: str) -> None:
    assert message in refused("layers", *options)
