"""`--seed-from`: a course prescribes each student's seed, so that nobody chooses among several."""

from __future__ import annotations

from typing import Any

from finetune.config.rules import require
from finetune.errors import ConfigError
from grader.errors import UsageError
from grader.evidence.seeds import Prescription


def prescribe(fields: dict[str, Any]) -> None:
    """Fill in the seed that `seed_from` prescribes, if it was given.

    Args:
        fields: values by field of `ExperimentConfig`, as given by options; changed in place.

    Raises:
        ConfigError: seeds were given, too, or it is not NONCE:STUDENT.
    """
    if "seed_from" not in fields:
        return
    for name in ("seed", "split_seed"):
        if name in fields:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"--seed-from prescribes the seeds, but {option} {fields[name]} was given too; "
                f"leave {option} out."
            )
    fields |= {"seed": prescription_of(fields["seed_from"]).seed, "split_seed": 0}


def require_prescribed(seed_from: str | None, seed: int, split_seed: int) -> None:
    """Check that the seeds are the prescribed ones, if any are.

    Raises:
        ConfigError: they are not.
    """
    if seed_from is None:
        return
    first = prescription_of(seed_from).seed
    require(seed == first, "seed", f"{first}, as {seed_from} prescribes", seed)
    require(split_seed == 0, "split_seed of a job with a prescribed seed", "0", split_seed)


def prescription_of(seed_from: str) -> Prescription:
    """What a course prescribes to a student.

    Raises:
        ConfigError: it is not NONCE:STUDENT.
    """
    try:
        return Prescription.parse(seed_from)
    except UsageError as error:
        raise ConfigError(
            f"seed-from must be NONCE:STUDENT, as your course gave it, but {seed_from!r} was given."
        ) from error
