"""A variant: one way to train the network, as a row of data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune.config.rules import is_number, is_whole, require, require_choice
from grader.submission.resnet18 import GROUPS

INITS = ("random", "pretrained")
NORMS = ("frozen", "adapt")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the network: a row of data, not a code path.

    Args:
        name: a letter, then at most 31 letters, digits, hyphens or underscores; unique, ignoring case.
        init: initial weights, `random` or `pretrained`.
        train: `all`, or names from `GROUPS`; everything else is frozen.
        lr: peak learning rate of this variant; None means the recipe's.
        epochs: passes over the training split; None means the recipe's.
        norm: `frozen`, or `adapt` to let the BatchNorm statistics of frozen groups follow the images, as
            they do in training loops that only switch gradients off; the parameters stay frozen.
        head: name of another variant whose best epoch with the same seed gives the initial `fc` (linear probe
            first, then fine-tuning: Kumar et al. 2022); None draws it at random.

    Raises:
        ConfigError: a field breaks its rule.
    """

    name: str
    init: str
    train: str | tuple[str, ...]
    lr: float | None = None
    epochs: int | None = None
    norm: str = "frozen"
    head: str | None = None

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,31}", self.name) is not None,
            "A variant's name",
            "a letter, then at most 31 letters, digits, hyphens or underscores",
            self.name,
        )
        require_choice(f"init of variant {self.name}", INITS, self.init)
        listed = isinstance(self.train, str | tuple)
        unknown = [g for g in self.groups if g not in GROUPS] if listed else [self.train]
        require(
            not unknown and len(self.groups) > 0 and len(set(self.groups)) == len(self.groups),
            f"train of variant {self.name}",
            f'"all" or a list of different groups from {", ".join(GROUPS)}',
            unknown[0] if unknown else self.train,
            ("all", *GROUPS),
        )
        require(
            self.lr is None or (is_number(self.lr) and self.lr > 0),
            f"lr of variant {self.name}",
            "a number above 0",
            self.lr,
        )
        require(
            self.epochs is None or is_whole(self.epochs, 1),
            f"epochs of variant {self.name}",
            "a whole number of at least 1",
            self.epochs,
        )
        require_choice(f"norm of variant {self.name}", NORMS, self.norm)
        freezes = len(self.groups) < len(GROUPS)
        require(
            self.norm == "frozen" or freezes,
            f"norm of variant {self.name}, which freezes no layer,",
            "frozen",
            self.norm,
        )
        named = self.head is None or (isinstance(self.head, str) and self.head != self.name)
        require(named, f"head of variant {self.name}", "the name of another variant", self.head)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that this variant trains."""
        if self.train == "all":
            return GROUPS
        return (self.train,) if isinstance(self.train, str) else tuple(self.train)

    @property
    def adapts(self) -> bool:
        """Whether the BatchNorm statistics of frozen groups follow the images."""
        return self.norm == "adapt"


STANDARD_VARIANTS = (
    Variant(name="A", init="random", train="all"),
    Variant(name="B", init="pretrained", train="all"),
    Variant(name="C", init="pretrained", train=("layer4", "fc")),
)


def pick(variants: Sequence[Variant], names: Iterable[str]) -> tuple[Variant, ...]:
    """The variants with these names, in the order of the names; case does not matter.

    Raises:
        ConfigError: a name is unknown; the message lists the valid ones.
    """
    rows = {v.name.casefold(): v for v in variants}
    wanted = [n.strip() for n in names]
    known = [v.name for v in variants]
    for name in wanted:
        require(name.casefold() in rows, "variant", f"one of {', '.join(known)}", name, known)
    return tuple(rows[n.casefold()] for n in wanted)
