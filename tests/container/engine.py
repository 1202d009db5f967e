"""How the tests talk to a Docker engine, and a user's folder for the Compose services.

DOCKER                   the client; docker by default
CONTAINER_BUILD_OPTIONS  further options of `docker build`, such as a proxy's certificates
CONTAINER_BUILT          where it is set, the images of these names are tested as they are, not built
CONTAINER_REQUIRED, CI   where either is set, tests fail without an engine instead of being skipped
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = os.environ.get("DOCKER", "docker")
TRAIN, GRADE = "finetune:train", "finetune:grade"
BASE = "nvidia/cuda:13.2.0-base-ubuntu24.04"
GRADE_BASE = "debian:13-slim"
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


def accepted_by(tool: str, *arguments: str | Path) -> None:
    """Run a program of this environment on files; skip where the program is not installed."""
    tools = Path(sys.executable).parent
    if not (tools / tool).exists():
        pytest.skip(f"{tool} is not installed in this environment")
    done = run(tools / tool, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def engine_fault() -> str | None:
    """Why no engine can be used; None where one answers."""
    if shutil.which(DOCKER) is None:
        return f"no {DOCKER} client is installed"
    answer = docker("version", "--format", "{{.Server.Version}}", timeout=30)
    return None if answer.returncode == 0 else f"no Docker engine answers: {answer.stderr.strip()}"


def require_engine() -> None:
    """Skip the running test where no engine can be used; fail it where one was promised."""
    if (fault := engine_fault()) is None:
        return
    if os.environ.get("CONTAINER_REQUIRED") or os.environ.get("CI"):
        pytest.fail(fault)
    pytest.skip(fault)


COMPOSES = {"plugin": (DOCKER, "compose"), "standalone": ("docker-compose",)}


@functools.cache
def compose_version(kind: str) -> str | None:
    """The version of one of `COMPOSES`; None where it is not installed."""
    command = COMPOSES[kind]
    if shutil.which(command[0]) is None:
        return None
    answer = run(*command, "version", "--short", timeout=30)
    return answer.stdout.strip() if answer.returncode == 0 else None


def require_compose(kind: str) -> tuple[str, ...]:
    """The command; skip the test where it is not installed, or is the other one by another name."""
    versions = {name: compose_version(name) for name in COMPOSES}
    if not any(versions.values()):
        pytest.fail(f"no Compose is installed, neither {' nor '.join(map(' '.join, COMPOSES.values()))}")
    if versions[kind] is None:
        pytest.skip(f"{' '.join(COMPOSES[kind])} is not installed")
    if kind == "standalone" and versions["plugin"] == versions[kind]:
        pytest.skip(f"docker-compose is the plugin, {versions[kind]}")
    return COMPOSES[kind]


def build(target: str, context: Path = ROOT, tag: str = "", *more: str) -> float:
    """Build one of the images from a folder, with more options; the seconds it took."""
    options = shlex.split(os.environ.get("CONTAINER_BUILD_OPTIONS", ""))
    started = time.perf_counter()
    done = run(
        *(
            DOCKER,
            "build",
            *options,
            *more,
            "--target",
            target,
            "--tag",
            tag or f"finetune:{target}",
            context,
        ),
        timeout=1500,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )
    checked(done)
    return time.perf_counter() - started


@dataclass
class Project:
    """A user's folder with the Compose file, a .env and an empty ./runs."""

    folder: Path
    compose: tuple[str, ...]
    name: str = field(default_factory=lambda: f"finetune-test-{os.getpid()}")

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (*self.compose, "--project-name", self.name, *arguments)

    def __call__(self, *arguments: str, timeout: float = 600, **environment: str) -> Done:
        environ = {**os.environ, **environment}
        return run(*self.command(*arguments), timeout=timeout, cwd=self.folder, env=environ)

    def service(self, name: str, *arguments: str, timeout: float = 600) -> Done:
        """`docker compose run --rm NAME ARGUMENT...`, with no terminal."""
        return self("run", "--rm", "-T", name, *arguments, timeout=timeout)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"
