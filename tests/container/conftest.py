"""A Docker engine, the two images, and the Compose services in a folder of their own.

DOCKER                   the client; docker by default
COMPOSE                  `docker compose` or `docker-compose`, whichever answers, by default
CONTAINER_BUILD_OPTIONS  further options of `docker build`, such as a proxy's certificates
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
TRAIN, GRADE = "finetune:train", "finetune:grade"
BASE = "nvidia/cuda:13.2.0-base-ubuntu24.04"
OWNER = 1234
"""A user id that neither an image nor this machine knows, as a caller's is."""

Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, timeout: float = 600, **options: object) -> Done:
    """A command's exit code and what it printed."""
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]


def docker(*arguments: str | Path, timeout: float = 600) -> Done:
    return run(DOCKER, *arguments, timeout=timeout)


def checked(done: Done) -> str:
    """Its standard output, if it ended well."""
    assert done.returncode == 0, f"{done.args} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def engine_fault() -> str | None:
    """Why no engine can be used; None where one answers."""
    if shutil.which(DOCKER) is None:
        return f"no {DOCKER} client is installed"
    answer = docker("version", "--format", "{{.Server.Version}}", timeout=30)
    return None if answer.returncode == 0 else f"no Docker engine answers: {answer.stderr.strip()}"


@functools.cache
def compose() -> tuple[str, ...]:
    if "COMPOSE" in os.environ:
        return tuple(shlex.split(os.environ["COMPOSE"]))
    return (DOCKER, "compose") if docker("compose", "version").returncode == 0 else ("docker-compose",)


def build(target: str, context: Path = ROOT) -> float:
    """Build one of the images from a folder; the seconds it took."""
    options = shlex.split(os.environ.get("CONTAINER_BUILD_OPTIONS", ""))
    started = time.perf_counter()
    done = run(
        *(DOCKER, "build", *options, "--target", target, "--tag", f"finetune:{target}", context),
        timeout=1500,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    checked(done)
    return time.perf_counter() - started


@pytest.fixture(scope="session")
def engine() -> None:
    if (fault := engine_fault()) is not None:
        pytest.skip(fault)


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, float]:  # noqa: ARG001 - the skip comes first
    """Both images as this tree makes them; the seconds that each build took."""
    seconds = {target: build(target) for target in ("grade", "train")}
    for target, took in seconds.items():
        print(f"building {target}: {took:.1f} s")  # noqa: T201 - shown by pytest -s, for docs/container.md
    return seconds


@dataclass
class Project:
    """A user's folder with the Compose file, a .env and an empty ./runs."""

    folder: Path
    name: str = field(default_factory=lambda: f"finetune-test-{os.getpid()}")

    def __call__(self, *arguments: str, timeout: float = 600) -> Done:
        return run(*compose(), "--project-name", self.name, *arguments, timeout=timeout, cwd=self.folder)

    def service(self, name: str, *arguments: str, timeout: float = 600) -> Done:
        """`docker compose run --rm NAME ARGUMENT...`, with no terminal."""
        return self("run", "--rm", "-T", name, *arguments, timeout=timeout)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"


@pytest.fixture(scope="session")
def project(images: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:  # noqa: ARG001
    """As docs/container.md sets it up, for a caller who is not root."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    (folder / "runs").mkdir()
    owner = OWNER if os.getuid() == 0 else os.getuid()
    if os.getuid() == 0:
        os.chown(folder / "runs", owner, owner)
    (folder / ".env").write_text(f"UID={owner}\nGID={owner if os.getuid() == 0 else os.getgid()}\n")
    project = Project(folder)
    yield project
    project("down", "--volumes", "--remove-orphans")
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def smoke(project: Project) -> Done:
    """The smoke service, run once for every test that looks at what it left in runs/smoke."""
    started = time.perf_counter()
    done = project.service("smoke", "--out", "runs/smoke", timeout=1200)
    print(f"smoke service: {time.perf_counter() - started:.1f} s")  # noqa: T201 - as above
    return done
