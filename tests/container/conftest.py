"""The two images, and the Compose services in a folder of their own."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import pytest

from tests.container.engine import (
    COMPOSES,
    OWNER,
    ROOT,
    Done,
    Project,
    build,
    checked,
    docker,
    require_compose,
    require_engine,
)


@pytest.fixture(scope="session")
def engine() -> None:
    require_engine()


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, float]:  # noqa: ARG001 - it comes first
    """Both images as this tree makes them; the seconds that each build took."""
    if "CONTAINER_BUILT" in os.environ:
        return {}
    seconds = {target: build(target) for target in ("grade", "train")}
    for target, took in seconds.items():
        print(f"building {target}: {took:.1f} s")  # noqa: T201 - shown by pytest -s, for docs/container.md
    return seconds


@pytest.fixture(scope="session", params=list(COMPOSES))
def compose(request: pytest.FixtureRequest, engine: None) -> tuple[str, ...]:  # noqa: ARG001
    """Compose in each form that is installed: `docker compose` is version 2, `docker-compose` often 1.29."""
    return require_compose(request.param)


@pytest.fixture(scope="session")
def project(
    compose: tuple[str, ...],
    images: dict[str, float],  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    """As docs/container.md sets it up, for a caller who is not root."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    (folder / "runs").mkdir()
    owner = OWNER if os.getuid() == 0 else os.getuid()
    if os.getuid() == 0:
        os.chown(folder / "runs", owner, owner)
    (folder / ".env").write_text(f"UID={owner}\nGID={owner if os.getuid() == 0 else os.getgid()}\n")
    project = Project(folder, compose)
    yield project
    checked(project("--profile", "run", "down", "--volumes"))
    # As docs/container.md promises: Compose 2 leaves what belongs to profiles that are not named.
    left = docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project.name}")
    assert checked(left) == ""
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def smoke(project: Project) -> Done:
    """The smoke service, run once for every test that looks at what it left in runs/smoke."""
    started = time.perf_counter()
    done = project.service("smoke", "--out", "runs/smoke", timeout=1200)
    print(f"smoke service: {time.perf_counter() - started:.1f} s")  # noqa: T201 - as above
    return done
