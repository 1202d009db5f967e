"""Where pretrained weights come from, and what does not get in."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
from hypothesis import given

from finetune.errors import WeightsError
from finetune.network import weights
from finetune.network.resnet18 import resnet18, state_shapes
from finetune.network.weights import Weights, fetch, load_weights, state_in
from finetune.system import download as network
from tests.builders.server import Server

BUNDLED = "c5c515f6a17b3c998dfce63c2a57dd880aa2c304bd70ef3de9dbf49614effc79"
TEN = state_shapes(10)


@pytest.fixture
def state(narrow: None) -> dict[str, torch.Tensor]:  # noqa: ARG001 - wanted for its effect
    """A state dict of the narrow network with ten classes."""
    torch.manual_seed(0)
    return dict(resnet18(10).state_dict())


def write(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        path.write_bytes(safetensors.torch.save(state))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestBundled:
    def test_it_is_the_file_of_the_model_card(self) -> None:
        loaded = load_weights("bundled", TEN)
        assert loaded.kind == "bundled"
        assert loaded.sha256 == BUNDLED
        assert loaded.source == "finetune/bundled/resnet18-tinyimagenet.safetensors"

    def test_it_fits_all_but_the_head(self) -> None:
        loaded = load_weights("bundled", TEN)
        body = {n for n in TEN if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
        assert body <= set(loaded.state)
        assert loaded.dropped in ((), ("fc.weight", "fc.bias"))
        assert not any(n.startswith("fc.") for n in loaded.state)
        assert all(t.dtype == torch.float32 for t in loaded.state.values() if t.is_floating_point())


class TestFile:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_head_of_the_same_size_is_loaded(
        self, tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
    ) -> None:
        path = write(tmp_path / f"own{suffix}", state)
        loaded = load_weights(str(path), state_shapes(10))
        assert (loaded.kind, loaded.source, loaded.sha256) == ("file", path.name, sha256(path))
        assert loaded.dropped == ()
        assert set(loaded.state) == set(state)
        assert all(torch.equal(loaded.state[n], t) for n, t in state.items())

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_head_of_another_size_is_dropped_and_reported(
        self, tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
    ) -> None:
        loaded = load_weights(str(write(tmp_path / f"own{suffix}", state)), state_shapes(7))
        assert loaded.dropped == ("fc.weight", "fc.bias")
        assert set(loaded.state) == {n for n in state if not n.startswith("fc.")}

    def test_a_missing_head_is_not_one_of_another_size(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        body = {n: t for n, t in state.items() if not n.startswith("fc.")}
        assert load_weights(str(write(tmp_path / "own.pth", body)), state_shapes(10)).dropped == ()

    def test_half_precision_becomes_single(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
        loaded = load_weights(str(write(tmp_path / "own.safetensors", half)), state_shapes(10))
        assert loaded.state["conv1.weight"].dtype == torch.float32
        assert torch.equal(loaded.state["conv1.weight"], half["conv1.weight"].float())

    def test_files_of_early_pytorch_lack_step_counters(
        self, tmp_path: Path, state: dict[str, torch.Tensor]
    ) -> None:
        old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
        assert set(load_weights(str(write(tmp_path / "own.pth", old)), state_shapes(10)).state) == set(old)


class TestMisfits:
    def refused(self, path: Path, n_classes: int = 10) -> str:
        with pytest.raises(WeightsError) as caught:
            load_weights(str(path), state_shapes(n_classes))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_another_network(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        longer = {n.replace("layer2.1.", "layer2.2."): t for n, t in state.items()}  # as in ResNet-34
        said = self.refused(write(tmp_path / "resnet34.pth", {**state, **longer}))
        assert "must be those of a ResNet-18, but they are not: unexpected: layer2.2.bn1.bias, " in said
        assert "and 2 more." in said
        assert "missing" not in said

    def test_a_renamed_key(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        state["module.conv1.weight"] = state.pop("conv1.weight")
        said = self.refused(write(tmp_path / "own.safetensors", state))
        assert "missing: conv1.weight; unexpected: module.conv1.weight." in said

    def test_another_shape(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        state["conv1.weight"] = torch.zeros(4, 1, 7, 7)
        said = self.refused(write(tmp_path / "own.pth", state))
        assert "of another shape: conv1.weight [4, 1, 7, 7] instead of [4, 3, 7, 7]." in said

    @pytest.mark.parametrize("gone", ["fc.weight", "fc.bias"])
    def test_half_a_head(self, tmp_path: Path, state: dict[str, torch.Tensor], gone: str) -> None:
        del state[gone]
        assert f"missing: {gone}." in self.refused(write(tmp_path / "own.pth", state))

    def test_a_head_for_another_width(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        state["fc.weight"] = torch.zeros(10, 99)
        said = self.refused(write(tmp_path / "own.pth", state))
        assert "fc.weight [10, 99] instead of [10, 32]" in said

    def test_keys_that_are_not_strings(self, tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
        mixed: dict[Any, Any] = {**state, 7: torch.zeros(1)}
        assert "must contain a dictionary of tensors" in self.refused(write(tmp_path / "own.pth", mixed))

    @pytest.mark.parametrize(
        ("content", "shown"),
        [({"state_dict": {}, "epoch": 3}, "state_dict, epoch"), ([1], "list"), (torch.zeros(3), "Tensor")],
    )
    def test_not_a_dictionary_of_tensors(self, tmp_path: Path, content: Any, shown: str) -> None:
        said = self.refused(write(tmp_path / "own.pth", content))
        assert f"must contain a dictionary of tensors, but it contains: {shown}." in said


class TestDamage:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"\0", b"not weights at all", b"\x80\x02", b"\xff" * 64])
    def test_garbage(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        path = tmp_path / f"own{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is damaged or contains more than tensors"):
            state_in(path.read_bytes(), path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("fraction", [0.1, 0.5, 0.99])
    def test_truncated(
        self, tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, fraction: float
    ) -> None:
        path = write(tmp_path / f"own{suffix}", state)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])
        with pytest.raises(WeightsError, match=r"own\.\w+ is damaged or contains more than tensors \(.+\)\."):
            state_in(path.read_bytes(), path)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @given(data=st.data())
    def test_any_damage_is_reported_or_loads_as_tensors(
        self, tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.mktemp("damaged") / f"own{suffix}"
        old = data.draw(st.booleans())
        if suffix == ".pth":
            torch.save(
                {"a": torch.zeros(3), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=not old
            )
        else:
            write(path, {"a": torch.zeros(3), "b": torch.ones(2, 2)})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            found, _ = state_in(path.read_bytes(), path)
        except WeightsError:
            return
        assert all(isinstance(t, torch.Tensor) for t in found.values())

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "weights.h5").touch()
        with pytest.raises(
            WeightsError, match=r"must be imagenet, bundled, a file \(\.safetensors, \.pth, .*\), or"
        ):
            load_weights(str(tmp_path / "weights.h5"), TEN)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(
            WeightsError, match=r"none\.pth cannot be read \(No such file .*\); check the path"
        ):
            load_weights(str(tmp_path / "none.pth"), TEN)

    def test_a_folder_without_results(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"or a run folder with a results\.json"):
            load_weights(str(tmp_path), TEN)

    def test_a_folder_named_like_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "own.pth").mkdir()
        with pytest.raises(WeightsError, match="cannot be read"):
            load_weights(str(tmp_path / "own.pth"), TEN)


class Planted:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class TestSafety:
    @pytest.mark.parametrize("how", ["zip", "legacy", "plain"])
    def test_a_planted_pickle_does_not_run(self, tmp_path: Path, how: str) -> None:
        trap, path = tmp_path / "trap", tmp_path / "own.pth"
        if how == "plain":
            path.write_bytes(pickle.dumps(Planted(trap)))
        else:
            state = {"conv1.weight": torch.zeros(1), "extra": Planted(trap)}
            torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
        with pytest.raises(WeightsError, match="contains more than tensors"):
            load_weights(str(path), TEN)
        assert not trap.exists()
        pickle.loads(pickle.dumps(Planted(trap)))  # noqa: S301 - the trap does work
        assert trap.exists()


class TestImagenet:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where torch.hub keeps files, with TORCH_HOME in this test's folder."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        return tmp_path / "home" / "hub" / "checkpoints"

    @pytest.fixture
    def served(
        self, server: Server, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> str:
        """Name of a weights file on the local server in ImageNet's place."""
        path = write(tmp_path / "original.pth", state)
        name = f"resnet18-{sha256(path)[:8]}.pth"
        server.files[name] = path.read_bytes()
        monkeypatch.setattr(weights, "IMAGENET_URL", f"{server.url}/ok/{name}")
        return name

    def test_downloaded_once_into_torch_home(self, hub: Path, served: str, server: Server) -> None:
        first = load_weights("imagenet", state_shapes(7))
        assert (first.kind, first.source) == ("imagenet", weights.IMAGENET_URL)
        assert first.sha256 == sha256(hub / served)
        assert first.dropped == ("fc.weight", "fc.bias")
        asked = len(server.asked)
        second = load_weights("imagenet", state_shapes(7))
        assert len(server.asked) == asked
        assert isinstance(second, Weights)
        assert second.sha256 == first.sha256

    def test_a_damaged_copy_is_recognised(self, hub: Path, served: str, server: Server) -> None:
        hub.mkdir(parents=True)
        (hub / served).write_bytes(b"damaged")
        with pytest.raises(WeightsError, match=r"but it does not; it is damaged: remove it and try again"):
            load_weights("imagenet", state_shapes(7))
        assert server.asked == []

    def test_a_server_with_another_file(self, hub: Path, server: Server) -> None:
        server.files["resnet18-00000000.pth"] = b"something else"
        with pytest.raises(WeightsError, match=r"could not be downloaded: invalid hash value .*\. Download "):
            fetch(f"{server.url}/ok/resnet18-00000000.pth")
        assert not list(hub.glob("*"))

    # Of a chain of redirects urllib leaves all answers but the last to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("404", "the server answered HTTP Error 404"),
            ("500", "the server answered HTTP Error 500"),
            ("loop", "the server answered HTTP Error 302"),
            ("stall", "the connection was lost (timed out)"),
            ("html", "invalid hash value"),
            ("cut", "invalid hash value"),
            ("refused", "no connection"),
        ],
    )
    def test_no_network_names_file_folder_and_three_ways_on(
        self, hub: Path, server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
    ) -> None:
        base = "http://127.0.0.1:9" if fault == "refused" else server.url
        url = f"{base}/{fault}/resnet18-f37072fd.pth"
        monkeypatch.setattr(network, "STALL_SECONDS", 0.3)
        monkeypatch.setattr(weights, "IMAGENET_URL", url)
        with pytest.raises(WeightsError) as caught:
            load_weights("imagenet", TEN)
        said = str(caught.value)
        assert reason in said
        assert said.startswith(f"The weights file resnet18-f37072fd.pth, looked for in {hub}, could not be")
        assert f"Download {url} on another machine and put it there" in said
        assert "TORCH_HOME" in said
        assert "--weights FILE" in said
        assert "--weights bundled" in said
        assert "\n" not in said
        assert not list(hub.glob("*"))

    def test_the_default_is_torchvisions(self) -> None:
        assert weights.IMAGENET_URL.endswith("/resnet18-f37072fd.pth")
