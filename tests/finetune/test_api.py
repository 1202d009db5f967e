"""finetune from Python."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import finetune as ft
from finetune.cli.options import OPTIONS
from finetune.config.experiment import ExperimentConfig
from finetune.errors import ConfigError, FinetuneError
from finetune.training.trainer import Trainer
from tests.builders.images import image_tree, photo

TINY: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "image_size": 16,
    "subset": 2,
    "device": "cpu",
    "workers": 1,
    "variants": ["b", "c"],
}


def state() -> dict[str, Any]:
    """What a notebook would notice."""
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "filters": list(warnings.filters),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cudnn.allow_tf32,
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "streams": (sys.stdout, sys.stderr),
        "hook": sys.excepthook,
        "log handlers": list(logging.getLogger().handlers),
        "numpy": np.random.get_state()[1].tolist(),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic),
        "bombs": Image.MAX_IMAGE_PIXELS,
        "pyplot": "matplotlib.pyplot" in sys.modules,
    }


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of photos, named as a user in the folder above would."""
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / "photos", {"cat": 12, "dog": 12})
    return "photos"


def test_importing_it_loads_no_torch_and_is_quick() -> None:
    code = (
        "import sys; before = set(sys.modules); import finetune as ft; "
        "assert len(set(sys.modules) - before) < 60; ft.train; ft.load_run; ft.Run; "
        "new = set(sys.modules) - before; assert len(new) < 300, len(new); "  # numpy alone has some 200
        "assert not {'torch', 'numpy', 'matplotlib', 'pandas', 'scipy', 'PIL', 'jsonschema'} & new, new; "
        "assert 'train' in dir(ft)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_its_options_are_those_of_the_command_line() -> None:
    from finetune.api import Options

    assert Options.__annotations__.keys() == OPTIONS.keys() - {"dataset"}  # which is an argument of its own


@pytest.mark.parametrize(("given", "mode"), [(True, "halving"), ("full", "full"), (False, None)])
def test_options_in_pythons_words(
    photos: str, monkeypatch: pytest.MonkeyPatch, given: str | bool, mode: str | None
) -> None:
    found: list[ExperimentConfig] = []

    def catch(config: ExperimentConfig, *_: object) -> None:
        found.append(config)
        raise ConfigError("seen")

    monkeypatch.setattr("finetune.run.experiment.run_experiment", catch)
    rates: dict[str, Any] = {} if mode else {"lr": {"B": 0.5}}
    with pytest.raises(ConfigError, match="seen"):
        ft.train(photos, tune=given, variants=["c", "b"], split="80-10-10", quiet=True, **rates)
    config = found[0]
    assert (config.tune and config.tune.mode, config.split) == (mode, "80-10-10")
    assert [(v.name, v.lr) for v in config.variants] == [("C", None), ("B", None if mode else 0.5)]


def test_trains_reads_and_predicts(photos: str, narrow_weights: Path) -> None:
    torch.set_num_threads(1)
    before, running = state(), threading.active_count()
    run = ft.train(photos, out="out", quiet=True, weights=str(narrow_weights), threads=2, **TINY)
    assert state() == before
    assert run.path == Path("out")
    assert [r.variant for r in run.results.runs] == ["B", "C"]
    assert "parameter-totals" in run.verdict  # the network is narrow
    assert run.verdict in repr(run)
    assert run.results.classes == ("cat", "dog")
    frame = run.predictions("C", split="val")
    assert list(frame.columns) == ["sample_id", "label", "predicted", "correct", "nll", "confidence"]
    assert len(frame) == run.results.splits["val"].n_samples
    assert set(frame.label) == {"cat", "dog"}
    assert ((frame.label == frame.predicted) == frame.correct).all()
    (Path("photos") / "cat" / "bad.jpg").write_text("x")
    found = ft.load_run("out").predict(["photos/dog", Path("photos/cat/bad.jpg")], variant="b", top=2)
    assert state() == before
    assert list(found.columns) == ["path", "rank", "class", "probability", "problem"]
    assert len(found) == 12 * 2 + 1
    assert found.problem.iloc[-1] == "not an image"
    assert found.probability[:2].sum() == pytest.approx(1, abs=1e-5)
    assert threading.active_count() == running
    assert "HEIF" not in Image.ID  # read by pillow-heif, which is not registered for all
    figure = run.plot_curves()
    assert state() == before
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_without_pandas_tables_are_lists(
    photos_run: tuple[Path, Path], narrow_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert narrow_weights
    rows = ft.load_run(photos_run[0]).predictions("b")
    assert isinstance(rows, list)
    assert rows[0].keys() == {"sample_id", "label", "predicted", "correct", "nll", "confidence"}


def test_what_it_refuses(photos: str, photos_run: tuple[Path, Path], narrow_weights: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'; did you mean 'epochs'"):
        ft.train(photos, epoch=3)  # type: ignore[call-arg]
    before = state()
    with pytest.raises(FinetuneError, match="dataset must be"):
        ft.train("nowhere")
    with pytest.raises(FinetuneError, match="weights file nowhere"):
        ft.train(photos, weights="nowhere.pth", quiet=True, **TINY)
    assert state() == before
    with pytest.raises(FinetuneError, match=r"results\.json"):
        ft.load_run("nowhere")
    run = ft.load_run(photos_run[0])
    with pytest.raises(FinetuneError, match="split must be val or test"):
        run.predictions("B", split="train")
    with pytest.raises(AttributeError):
        ft.nothing  # noqa: B018
    assert narrow_weights


@pytest.fixture
def at_first_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done after the first training step."""

    def do(what: Callable[[], None]) -> None:
        step = Trainer._step

        def stepped(self: Trainer, *arguments: Any) -> None:
            step(self, *arguments)
            monkeypatch.setattr(Trainer, "_step", step)
            what()

        monkeypatch.setattr(Trainer, "_step", stepped)

    return do


def test_an_interrupt_leaves_a_checkpoint_and_the_session_as_it_was(
    photos: str, narrow_weights: Path, at_first_step: Callable[[Callable[[], None]], None]
) -> None:
    before = state()
    at_first_step(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="--resume out"):
        ft.train(photos, out="out", quiet=True, weights=str(narrow_weights), **TINY)
    assert state() == before
    assert list(Path("out/state").glob("B-seed0-*.safetensors"))


def test_a_second_interrupt_does_not_end_the_session(
    photos: str, narrow_weights: Path, at_first_step: Callable[[Callable[[], None]], None]
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_first_step(twice)
    before = state()
    with pytest.raises(KeyboardInterrupt):
        ft.train(photos, out="out", quiet=True, weights=str(narrow_weights), **TINY)
    assert state() == before


def test_sigterm_reaches_the_handler_of_the_session(
    photos: str, narrow_weights: Path, at_first_step: Callable[[Callable[[], None]], None]
) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        at_first_step(lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            ft.train(photos, out="out", quiet=True, weights=str(narrow_weights), **TINY)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_trains_in_a_thread(photos: str, narrow_weights: Path) -> None:
    done: list[ft.Run] = []
    options = {**TINY, "epochs": 1, "variants": "c"}
    thread = threading.Thread(
        target=lambda: done.append(
            ft.train(photos, out="out", quiet=True, weights=str(narrow_weights), **options)
        )
    )
    thread.start()
    thread.join()
    assert [r.variant for r in done[0].results.runs] == ["C"]


def test_prints_what_the_command_prints_unless_quiet(
    photos: str, narrow_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ft.train(photos, out="loud", weights=str(narrow_weights), **TINY)
    assert "Results: loud/results.json" in capsys.readouterr().out
    ft.train(photos, out="still", weights=str(narrow_weights), quiet=True, **TINY)
    assert capsys.readouterr() == ("", "")
    assert photo(Path("x.png"), 0)
