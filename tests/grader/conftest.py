import csv
from pathlib import Path

import pytest

from grader.policy import Policy, load_policy
from grader.truth import Truth
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


def truth_of(run: Path) -> Truth:
    """What a data set would say that the honest run tells no lies about, with a training image per class."""
    splits: dict[str, set[str]] = {"val": set(), "test": set()}
    labels = {f"train-{label}": label for label in range(10)}
    for split, ids in splits.items():
        with (run / "predictions" / f"A-seed0-{split}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                ids.add(row["sample_id"])
                labels[row["sample_id"]] = int(row["label"])
    frozen = {name: frozenset(ids) for name, ids in splits.items()}
    return Truth(labels, frozen, "the test's truth")
