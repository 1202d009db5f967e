"""What the two images hold, and how fast they follow a change of the code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.container.engine import GRADE, GRADE_BASE, ROOT, TRAIN, build, checked, docker

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("images")]
BUILDS = pytest.mark.skipif("CONTAINER_BUILT" in os.environ, reason="the images come from elsewhere")
BOTH = pytest.mark.parametrize("image", [TRAIN, GRADE])


def inspect(image: str) -> dict[str, Any]:
    return json.loads(checked(docker("image", "inspect", image)))[0]  # type: ignore[no-any-return]


def shell(image: str, script: str, *options: str) -> str:
    command = ("run", "--rm", "--network", "none", *options, "--entrypoint", "sh", image, "-c", script)
    return checked(docker(*command))


@BOTH
def test_runs_as_a_fixed_user_without_privileges(image: str) -> None:
    assert inspect(image)["Config"]["User"] == "10001:10001"
    assert shell(image, "id -u; id -g").split() == ["10001", "10001"]


@BOTH
def test_no_program_runs_as_another_user(image: str) -> None:
    # As root, who can look into every folder.
    assert shell(image, "find / -xdev -type f -perm /6000", "--user", "0") == ""


@BOTH
def test_own_files_are_not_writable(image: str) -> None:
    assert shell(image, "find /opt /usr -xdev -writable ! -type l 2>/dev/null || true") == ""


@BOTH
def test_no_pip_compiler_cache_or_tests(image: str) -> None:
    assert (
        shell(image, "for c in pip pip3 cc gcc g++ c++ clang ld nvcc make git; do command -v $c; done; true")
        == ""
    )
    assert (
        shell(
            image,
            "ls -d /root/.cache /wheel /src /opt/pip /run/secrets/* /mnt/* /srv/* /tmp/* 2>/dev/null; true",
        )
        == ""
    )
    assert shell(image, "ls -A /var/lib/apt/lists; ls /var/cache/apt | grep bin; true") == ""
    own = "/opt/finetune/lib/python3*/site-packages"
    assert shell(image, f"ls -d {own}/tests {own}/pip {own}/hatchling 2>/dev/null; true") == ""


@BOTH
def test_labels(image: str) -> None:
    labels = inspect(image)["Config"]["Labels"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    prefix = "org.opencontainers.image"
    assert labels[f"{prefix}.version"] == project["version"]
    assert labels[f"{prefix}.licenses"] == project["license"]
    for name in ("title", "description", "revision"):
        assert labels[f"{prefix}.{name}"]


def test_train_configuration() -> None:
    config = inspect(TRAIN)["Config"]
    environment = dict(e.split("=", 1) for e in config["Env"])
    assert config["Entrypoint"] == ["tini", "--", "shared-umask", "finetune"]
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["Volumes"]) == {"/workspace/data", "/workspace/runs", "/workspace/weights"}
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["TORCH_HOME"] == "/workspace/weights"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == f"{environment['HOME']}/inductor"
    assert environment["TRITON_CACHE_DIR"] == f"{environment['HOME']}/triton"
    assert checked(docker("run", "--rm", "--network", "none", TRAIN)).startswith("Usage: finetune")


def test_grade_holds_only_the_grader() -> None:
    assert inspect(GRADE)["Config"]["Entrypoint"] == ["tini", "--", "grader"]
    assert "grader" in checked(docker("run", "--rm", "--network", "none", GRADE, "--help"))
    modules = 'python -c \'import importlib.util as u; print(u.find_spec("torch"), u.find_spec("finetune"))\''
    assert shell(GRADE, modules).strip() == "None None"
    assert shell(GRADE, "find / -xdev -name '*.safetensors'", "--user", "0") == ""


@BUILDS
def test_grade_is_small() -> None:
    above_base = inspect(GRADE)["Size"] - inspect(GRADE_BASE)["Size"]
    print(f"grade above its base: {above_base / 1e6:.0f} MB; train: {inspect(TRAIN)['Size'] / 1e9:.2f} GB")  # noqa: T201
    assert above_base < 150e6  # with a slim Debian or Python, at most 250 MB in all


@BUILDS
def test_two_builds_of_grade_are_equal(tmp_path: Path) -> None:
    """Byte for byte, layer by layer, times included. Only the image's record of when it was built differs."""
    build("grade", ROOT, "finetune:grade-again", "--no-cache")
    try:
        first, again = files(GRADE, tmp_path / "1"), files("finetune:grade-again", tmp_path / "2")
        assert {name for name in first | again if first.get(name) != again.get(name)} == set()
        assert inspect("finetune:grade-again")["RootFS"] == inspect(GRADE)["RootFS"]
        assert any(name.endswith(".pyc") for name in first)
    finally:
        docker("image", "rm", "finetune:grade-again")


def files(image: str, folder: Path) -> dict[str, tuple[object, ...]]:
    """What an image's layers hold, by layer and path: kind, mode, owner, time, target and content."""
    folder.mkdir()
    checked(docker("save", "--output", folder / "image.tar", image))
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(folder / "image.tar") as saved:
        (manifest,) = json.loads(saved.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for i, name in enumerate(manifest["Layers"][1:]):  # not the base's
            with tarfile.open(fileobj=saved.extractfile(name)) as layer:
                for m in layer:
                    content = layer.extractfile(m).read() if m.isfile() else b""  # type: ignore[union-attr]
                    digest = hashlib.sha256(content).hexdigest()
                    found[f"{i} {m.name}"] = (m.type, m.mode, m.uid, m.gid, m.mtime, m.linkname, digest)
    return found


def test_versions_are_the_locked_ones() -> None:
    lock = (ROOT / "requirements/train.lock").read_text("utf-8")
    pinned = next(line.split()[0] for line in lock.splitlines() if line.startswith("torch=="))
    name, _, version = pinned.partition("==")
    script = f"python -c 'from importlib.metadata import version as v; print(v(\"{name}\"))'"
    assert shell(TRAIN, script).strip() == version


@BUILDS
def test_a_code_change_rebuilds_in_seconds(tmp_path: Path) -> None:
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("deploy", "requirements", "finetune", "grader"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "finetune" / "__init__.py"
    module.write_text(module.read_text("utf-8") + 'CHANGED = "by a test"\n')
    try:
        seconds = build("train", tmp_path)
        print(f"rebuild after a code change: {seconds:.1f} s")  # noqa: T201
        changed = "python -c 'import finetune; print(finetune.CHANGED)'"
        assert shell(TRAIN, changed).strip() == "by a test"
        assert seconds < 20
    finally:
        build("train")
