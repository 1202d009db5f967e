"""Words of messages."""

from __future__ import annotations

import pytest

from finetune.errors import sized


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1536, "1.54 kB"),
        (54_300_000, "54.3 MB"),
        (999_499_999, "999 MB"),
        (10**10, "10 GB"),
        (5 * 10**15, "5 PB"),
    ],
)
def test_sizes(n_bytes: float, text: str) -> None:
    assert sized(n_bytes) == text
