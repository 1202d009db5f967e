"""A program in finetune's place for the tests of --rerun and --replay, which need no torch."""

from __future__ import annotations

import importlib.util

import pytest

from grader.isolated import rerun


def use_stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have the grader start `python -c CODE` instead of finetune, and believe that torch is installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: real("json") if name == "torch" else real(name)
    )
    monkeypatch.setattr(rerun, "_START", code)
