"""What a run says of the machine, where this machine cannot show it: a GPU, another system, no git."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import ConfigError
from finetune.run import environment
from finetune.training.precision import choose_precision


def test_a_gpu_is_named_and_its_memory_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + device.index)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = environment.describe(gpu)
    assert (found["device"], found["device_name"], found["cuda"]) == ("cuda", "card 0", "13.0")
    assert environment.peak_memory_bytes(gpu) == 1000


def test_a_cpu_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")  # installed, but not used
    found = environment.describe(torch.device("cpu"))
    assert found["cuda"] is None
    assert found["device_name"]


@pytest.mark.parametrize("limit", ["", "AVX2"])
def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    wanted = "AVX512, BF16" + ", ONEDNN_MAX_CPU_ISA=AVX2" * bool(limit)
    assert environment.describe(torch.device("cpu"))["vector_instructions"] == wanted


def test_memory_is_in_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    linux = environment.peak_memory_bytes(torch.device("cpu"))
    assert linux > 50_000_000  # torch alone takes more
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert environment.peak_memory_bytes(torch.device("cpu")) == pytest.approx(linux / 1024, rel=0.1)


@pytest.mark.parametrize("text", [None, "flags: fpu\n"])
def test_a_cpu_that_proc_does_not_name(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def read(_path: Path, *_arguments: Any) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert environment.cpu_name() == "riscv64"


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("git", 10)])
def test_without_git_there_is_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "SOURCE_TREE", tmp_path)
    found = environment.describe_tool()
    assert (found["git_commit"], found["git_dirty"]) == (None, None)


def test_deterministic_algorithms_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    environment.choose_algorithms(deterministic=True)
    assert asked == [True]
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    environment.choose_algorithms(deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 2.0, 1.0))
    assert environment.mean_load(1.0) == 2.0
    assert environment.mean_load(None) is None
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    assert environment.load_average() is None
    assert environment.mean_load(1.0) is None


class TestChosenDevice:
    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        def have(count: int) -> None:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
            monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

        return have

    @pytest.mark.parametrize(
        ("count", "device", "chosen"),
        [
            (0, "auto", "cpu"),
            (0, "cpu", "cpu"),
            (2, "auto", "cuda"),
            (2, "cpu", "cpu"),
            (2, "cuda", "cuda"),
            (2, "cuda:0", "cuda:0"),
            (2, "cuda:1", "cuda:1"),
        ],
    )
    def test_is_there(self, gpus: Callable[[int], None], count: int, device: str, chosen: str) -> None:
        gpus(count)
        assert str(environment.choose_device(device)) == chosen

    @pytest.mark.parametrize(
        ("count", "device", "problem"),
        [
            (
                0,
                "cuda",
                "--device cuda needs a GPU that PyTorch can use, but there is none; use --device cpu",
            ),
            (0, "cuda:3", "--device cuda:3 needs a GPU that PyTorch can use, but there is none;"),
            (1, "cuda:1", "--device cuda:1 needs 2 GPUs, but PyTorch can use 1; use cuda:0."),
            (2, "cuda:2", "--device cuda:2 needs 3 GPUs, but PyTorch can use 2; use cuda:0 to cuda:1."),
            (
                2,
                "gpu",
                "device must be auto, cpu, cuda, cuda:N or mps, but 'gpu' was given; did you mean 'cuda'?",
            ),
            (2, "cuda:1:2", "device must be auto, cpu, cuda, cuda:N or mps, but 'cuda:1:2' was given;"),
        ],
    )
    def test_is_not_there(self, gpus: Callable[[int], None], count: int, device: str, problem: str) -> None:
        gpus(count)
        with pytest.raises(ConfigError) as caught:
            environment.choose_device(device)
        assert str(caught.value).startswith(problem)

    @pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
    def test_no_apple_gpu(self) -> None:
        with pytest.raises(ConfigError, match="--device mps needs an Apple GPU that PyTorch can use, but"):
            environment.choose_device("mps")

    def test_an_apple_gpu_computes_in_fp32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        device = environment.choose_device("mps")
        assert environment.describe(device)["device"] == "mps"
        assert choose_precision("auto", device, 224) == "fp32"
        with pytest.raises(ConfigError, match="but this GPU has none"):
            choose_precision("bf16", device, 224)
