"""The files themselves, checked by the tools for each kind. These need no engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.container.engine import BASE, GRADE_BASE, ROOT, accepted_by

LOCK = ROOT / "requirements" / "train.lock"


def compose_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))  # type: ignore[no-any-return]


def test_hadolint() -> None:
    accepted_by("hadolint", "--failure-threshold", "style", "Dockerfile")


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", "docker-compose.yml"), ("github-workflows", ".github/workflows/container.yml")],
)
def test_schemas(schema: str, path: str) -> None:
    accepted_by("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)


class TestDockerfile:
    TEXT = (ROOT / "Dockerfile").read_text("utf-8")

    def test_base_image_is_an_argument(self) -> None:
        assert f"ARG BASE_IMAGE={BASE}\n" in self.TEXT
        assert f"ARG GRADE_BASE_IMAGE={GRADE_BASE}\n" in self.TEXT

    def test_needs_no_frontend_from_a_registry(self) -> None:
        assert "# syntax=" not in self.TEXT

    def test_installs_nothing_unhashed_but_torch_from_another_index(self) -> None:
        logical = re.sub(r"\\\n", " ", self.TEXT)
        installs = re.findall(r"/mnt/pip-install [^;&\n]*", logical)
        assert installs
        for install in installs:
            assert any(o in install for o in ("--require-hashes", "--no-index", '"$TORCH_INDEX_URL"')), (
                install
            )

    def test_the_context_holds_only_what_is_copied(self) -> None:
        lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        assert rules[0] == "*"
        for rule in rules:
            if rule.startswith("!"):
                assert (ROOT / rule[1:]).exists(), rule


class TestCompose:
    def test_no_obsolete_version(self) -> None:
        assert "version" not in compose_file()

    def test_services(self) -> None:
        services = compose_file()["services"]
        assert {"train", "train-cpu", "smoke", "grade"} <= set(services)
        (device,) = services["train"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert "deploy" not in services["train-cpu"]

    def test_every_service_is_locked_down(self) -> None:
        for name, service in compose_file()["services"].items():
            assert service["pids_limit"] > 0, name
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["user"] == "${UID:-1000}:${GID:-1000}", name
            assert "privileged" not in service, name

    def test_up_starts_nothing(self) -> None:
        assert all(service["profiles"] for service in compose_file()["services"].values())

    @pytest.mark.parametrize("name", ["smoke", "grade"])
    def test_no_network(self, name: str) -> None:
        assert compose_file()["services"][name]["network_mode"] == "none"


class TestSplitLock:
    """What an image without CUDA installs, from the lock file as it is."""

    @pytest.fixture
    def parts(self, tmp_path: Path) -> list[str]:
        script = ROOT / "deploy" / "split_lock.py"
        files = [tmp_path / name for name in ("others", "pins", "torch", "cuda")]
        subprocess.run([sys.executable, script, LOCK, *files], check=True)
        return [file.read_text("utf-8") for file in files]

    def test_every_entry_is_in_one_part(self, parts: list[str]) -> None:
        others, _, torch, cuda = parts
        assert sorted((others + torch + cuda).splitlines()) == sorted(LOCK.read_text("utf-8").splitlines())

    def test_torch_keeps_its_version_and_loses_its_hashes(self, parts: list[str]) -> None:
        lock = LOCK.read_text("utf-8")
        assert [re.sub(r"==.*", "", line) for line in parts[1].split()] == ["torch", "torchvision"]
        for pin in parts[1].split():
            assert f"\n{pin} \\\n" in lock

    def test_the_rest_keeps_its_hashes_and_loses_cuda(self, parts: list[str]) -> None:
        def names(text: str) -> set[str]:
            return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))

        gone = names(LOCK.read_text("utf-8")) - names(parts[0])
        assert {"torch", "torchvision", "triton"} <= gone
        assert all(n.startswith(("nvidia-", "cuda-", "torch", "triton")) for n in gone)
        assert {"numpy", "pillow", "safetensors", "sympy"} <= names(parts[0])
        entries = re.split(r"^(?=[a-z])", parts[0], flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in entry for entry in entries)
