from pathlib import Path

import pytest

from grader.grading.policy import Policy, load_policy
from tests.grader.honest import Size, write_run


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated honest run with two seeds; not to be changed."""
    return write_run(tmp_path_factory.mktemp("honest") / "run", Size(seeds=(0, 1)))


@pytest.fixture(scope="session")
def smoke() -> Path:
    """A real run: `finetune train --preset smoke --seeds 2` on two cores, without its checkpoints."""
    return Path(__file__).parent / "smoke-run"


@pytest.fixture(scope="session")
def policy() -> Policy:
    return load_policy("default")
