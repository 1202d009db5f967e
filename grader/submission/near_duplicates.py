"""Near-duplicates across splits as the results file lists them, as records; `record.py` builds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out image and the one most similar to it in a split that training or choosing has seen.

    Attributes:
        sample_id: Of the held-out image.
        split: Its split, `val` or `test`.
        other_id: Of the other image.
        other_split: Its split.
        distance: Number of different signs, of 255.
        mirrored: Whether one is the mirror image of the other.
    """

    sample_id: str
    split: str
    other_id: str
    other_split: str
    distance: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Near-duplicates across the splits of one seed.

    Attributes:
        n_compared: Images that could be compared.
        n_not_compared: Images too small or too uniform for that.
        n_val: Validation images with a near-duplicate in training.
        n_test: Test images with one in training or validation.
        pairs: One for each of those, the closest first, or fewer if there are too many to list.
    """

    n_compared: int
    n_not_compared: int
    n_val: int
    n_test: int
    pairs: tuple[Pair, ...]

    def ids(self, split: str) -> frozenset[str]:
        """The listed images of `val` or `test`."""
        return frozenset(pair.sample_id for pair in self.pairs if pair.split == split)


def near_duplicates_from(dataset: Mapping[str, Any], seeds: Sequence[int]) -> dict[int, NearDuplicates]:
    """The near-duplicates of each seed from the `dataset` object; none where no images were compared."""
    shared = dict.fromkeys(seeds, dataset.get("near_duplicates"))
    own = {entry["seed"]: entry.get("near_duplicates") for entry in dataset.get("resplits") or ()}
    return {seed: _near_duplicates(found) for seed, found in {**shared, **own}.items() if found is not None}


def _near_duplicates(found: Mapping[str, Any]) -> NearDuplicates:
    pairs = tuple(Pair(**pair) for pair in found["pairs"])
    numbers = {name: found[name] for name in ("n_compared", "n_not_compared", "n_val", "n_test")}
    return NearDuplicates(**numbers, pairs=pairs)
