"""Groups of submissions with runs in common."""

from dataclasses import replace

import numpy as np
import pytest

from grader.cohort.likeness import MOST_NAMED, Group, groups_of
from grader.evidence.traces import Trace, Traces
from grader.findings import in_words

KINDS = ("times", "losses", "weights", "predictions", "files", "start", "stream")


def trace(owner: str, seed: int = 0, variant: str = "B", **marks: str) -> Trace:
    """A run whose marks are its own, except those given."""
    found = {
        kind: frozenset({marks.get(kind, f"{kind} of {owner}"), f"{kind} of {owner}'s second epoch"})
        for kind in KINDS
    }
    return Trace(variant, seed, found)


def groups(**submissions: Trace) -> list[Group]:
    return groups_of({name: Traces((run,)) for name, run in submissions.items()})


def test_nothing_in_common() -> None:
    assert groups(alice=trace("alice"), bob=trace("bob", 1)) == []


def test_the_same_times_are_a_copy_whatever_the_seeds() -> None:
    (found,) = groups(alice=trace("alice", times="1.5"), bob=trace("bob", times="1.5"), carol=trace("carol"))
    assert (found.kind, found.members, found.is_copy) == ("times", ("alice", "bob"), True)
    assert "no two trainings take the same time, so one is a copy" in found.text


@pytest.mark.parametrize("kind", ["losses", "weights", "predictions", "files"])
def test_the_same_training(kind: str) -> None:
    (found,) = groups(alice=trace("alice", **{kind: "x"}), bob=trace("bob", **{kind: "x"}))
    assert (found.kind, found.is_copy, found.what) == ("training", False, (kind,))
    assert "honest runs with one seed on one kind of machine agree like that, too" in found.text
    (found,) = groups(alice=trace("alice", **{kind: "x"}), bob=trace("bob", 1, **{kind: "x"}))
    assert found.is_copy
    assert "under different seeds: no honest trainings agree like that" in found.text


@pytest.mark.parametrize("kind", ["start", "stream"])
def test_what_the_seed_decides(kind: str) -> None:
    assert groups(alice=trace("alice", **{kind: "x"}), bob=trace("bob", **{kind: "x"})) == []
    (found,) = groups(alice=trace("alice", **{kind: "x"}), bob=trace("bob", 1, **{kind: "x"}))
    assert (found.kind, found.is_copy) == ("seeded", True)


def test_several_seeds_of_one_student_are_no_other_seeds() -> None:
    def both(owner: str) -> Traces:
        return Traces(tuple(trace(owner, seed, losses=f"loss {seed}") for seed in (0, 1)))

    (found,) = groups_of({"alice": both("alice"), "bob": both("bob")})
    assert (found.is_copy, found.seeds_differ) == (False, False)


def test_another_variant_with_the_same_training() -> None:
    (found,) = groups(alice=trace("alice", weights="x"), bob=trace("bob", variant="C", weights="x"))
    assert found.runs == ("B-seed0", "C-seed0")


def test_only_runs_that_all_have_are_named() -> None:
    """A3 starts as A does, but only Bob has one."""
    alice, bob = trace("alice", weights="x"), trace("bob", weights="x")
    (found,) = groups_of({"alice": Traces((alice,)), "bob": Traces((bob, replace(bob, variant="A3")))})
    assert found.runs == ("B-seed0",)


def test_a_chain_is_one_group() -> None:
    (found,) = groups(
        alice=trace("alice", losses="x"),
        bob=trace("bob", losses="x", weights="y"),
        carol=trace("carol", weights="y"),
    )
    assert found.members == ("alice", "bob", "carol")
    assert found.what == ("losses", "weights")


class TestNear:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=800)

    def losses(self, own: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        return np.exp(self.hard + own * self.rng.normal(size=800)).astype(np.float32)

    def groups(self, first: object, second: object, seed: int = 1) -> list[Group]:
        runs = {
            name: Trace("B", which, trace(name).marks, "the same images", found)  # type: ignore[arg-type]
            for name, which, found in (("alice", 0, first), ("bob", seed, second))
        }
        return groups(**runs)

    def test_honest_networks(self) -> None:
        """As alike as the most alike ones with different seeds (docs/detection.md: 0.94)."""
        for _ in range(20):
            assert self.groups(self.losses(0.25), self.losses(0.25)) == []

    @pytest.mark.parametrize("changed", [0.0, 0.05, 0.3])
    def test_a_copy_with_jitter_and_some_answers_changed(self, changed: float) -> None:
        original = self.losses(1.0)
        copy = original * (1 + 0.01 * self.rng.normal(size=800)).astype(np.float32)
        copy[: int(800 * changed)] = self.losses(1.0)[: int(800 * changed)]
        (found,) = self.groups(original, copy)
        assert (found.kind, found.is_copy) == ("near", False)
        assert found.text.endswith("honest runs with different seeds had at most 0.94, on 153 images 0.98")
        (found,) = self.groups(original, copy, seed=0)
        assert "honest runs with one seed on different machines agree like that, too" in found.text

    def test_losses_that_rounding_ties_say_nothing(self) -> None:
        """Two networks that are sure of nearly all images have most losses in common: zero."""
        first, second = self.losses(1.0), self.losses(1.0)
        first[90:] = second[90:] = 1e-7
        assert self.groups(first, second) == []

    def test_losses_resolved_only_in_part(self) -> None:
        first, second = self.losses(0.28), self.losses(0.28)
        sure = self.hard < np.quantile(self.hard, 0.7)
        first[sure] = second[sure] = 0
        assert self.groups(first, second) == []

    def test_too_few_images(self) -> None:
        losses = self.losses(1.0)[:50]
        assert self.groups(losses, losses) == []


def test_a_large_class_with_one_seed_is_one_line() -> None:
    (found,) = groups(**{f"s{i:03d}": trace(f"s{i}", losses="x") for i in range(300)})
    assert len(found.members) == 300
    assert in_words(found.members, MOST_NAMED) == "s000, s001, s002 and 297 more"
