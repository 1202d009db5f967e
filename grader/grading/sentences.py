"""The verdict in sentences: what spoils it, what holds, how far it reaches, and what to do next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grader.checks.learning import at_chance
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Status, in_points, in_words

P_OF_ROW = "_adjusted_p"
"""Ends the names of the numbers of `smallest-sufficient` that belong to a row of the ladder."""


@dataclass(frozen=True)
class Scope:
    """What a run was, so that its verdict claims no more.

    Attributes:
        is_tuned: Whether the peak learning rates were tuned per variant.
        one_rate: Whether all variants ran at one peak rate.
        n_seeds: Seeds that completed.
        resplit: Whether every seed has a split of its own.
        at_chance: Variants that never learned more than the most frequent class.
        diverged: Names of runs that failed.
        n_completed: Runs that completed.
    """

    is_tuned: bool = False
    one_rate: bool = True
    n_seeds: int = 1
    resplit: bool = False
    at_chance: tuple[str, ...] = ()
    diverged: tuple[str, ...] = ()
    n_completed: int = 1

    @property
    def is_settled(self) -> bool:
        """Whether a choice can be recommended: tuned, with several seeds."""
        return not self.to_settle

    @property
    def to_settle(self) -> str:
        """The options of finetune train with which the question would be settled; empty if it is."""
        return " ".join(
            filter(None, ("" if self.is_tuned else "--tune", "--seeds 3" if self.n_seeds < 2 else ""))
        )


def scope_of(evidence: Evidence, findings: Mapping[str, Finding]) -> Scope:
    """The scope of a submission's verdict."""
    results = evidence.results
    completed = [run for run in results.completed if run.best is not None]
    return Scope(
        is_tuned=findings["one-rate"].status is Status.HOLDS,
        one_rate=len({run.learning_rate for run in results.runs}) == 1,
        n_seeds=len({run.seed for run in completed}),
        resplit=results.resplit,
        at_chance=tuple(at_chance(evidence)),
        diverged=tuple(run.name for run in results.runs if run.status != "completed"),
        n_completed=len(completed),
    )


def cautions(findings: Mapping[str, Finding], scope: Scope) -> Iterator[str]:
    """What must be known before the verdict is read."""
    lag = findings["statistics-settled"]
    if lag.status is Status.FAILS:
        yield f"Caution, an artefact: {lag.summary}"
    if scope.at_chance:
        names = in_words(scope.at_chance)
        yield (
            f"Caution: {names} never became clearly better on validation than guessing the most frequent "
            f"class, so a comparison with {names} says nothing about what training could reach."
        )
    if is_short(findings):
        yield f"Caution: {findings['long-enough'].summary}"


def is_short(findings: Mapping[str, Finding]) -> bool:
    """Whether training was too short, or so short that nobody can tell."""
    length = findings["long-enough"]
    return length.status is Status.FAILS or length.numbers.get("n_epochs") == 1


def pretraining(findings: Mapping[str, Finding], scope: Scope, confidence: float) -> Iterator[str]:
    """Whether pretraining pays, at equal budget and against a longer training."""
    finding = findings["b-beats-a"]
    longer = findings["b-beats-longer-a"]
    lag = findings["statistics-settled"]
    lags = lag.status is Status.FAILS and any(
        text.startswith("A-seed") for text in (lag.summary, *lag.details)
    )
    spoiled = _unlearned(("A", "B"), scope) or ("A",) * lags
    if finding.numbers:
        budget = " at equal budget" if longer.numbers else ""
        yield _pays(finding, confidence, budget, spoiled)
    if longer.numbers:
        when = "once" if longer.status is Status.FAILS else "even when"
        when = f" {when} training from random weights gets more epochs"
        yield _pays(longer, confidence, when, _unlearned(("B",), scope))


def _pays(finding: Finding, confidence: float, when: str, spoiled: tuple[str, ...]) -> str:
    opening = {
        Status.HOLDS: f"Starting from pretrained weights pays{when}",
        Status.FAILS: f"Starting from pretrained weights costs accuracy{when}",
    }.get(finding.status, f"It is unclear whether starting from pretrained weights pays{when}")
    if spoiled:
        opening = f"Whether starting from pretrained weights pays{when} cannot be told from this "
        opening += " and this ".join(spoiled)
    low, high = (finding.numbers.get(f"corrected_{side}", finding.numbers[side]) for side in ("low", "high"))
    gap = in_points(finding.numbers["difference"])
    return f"{opening}: {gap} points ({confidence:.3g}% interval {in_points(low)} to {in_points(high)})."


def favored(findings: Mapping[str, Finding], scope: Scope) -> str | None:
    """The variant that `choice` favors, `B` or `C`, less its reservations; None if nothing settled does.

    It follows what is shown, not the sign of a difference that could be chance, and nothing follows from
    networks that did not learn, or if pretraining costs accuracy.
    """
    finding = findings["c-against-b"]
    if not finding.numbers or _unlearned(("B", "C"), scope) or findings["b-beats-a"].status is Status.FAILS:
        return None
    return _favored(finding, findings["c-faster"].status is Status.HOLDS)


def _favored(finding: Finding, is_faster: bool) -> str | None:
    if finding.status is Status.HOLDS:
        return "C" if is_faster or finding.numbers["low"] > 0 else None
    return "B" if finding.numbers["high"] < 0 else None


def choice(findings: Mapping[str, Finding], scope: Scope) -> Iterator[str]:
    """C against B, with a recommendation only where the run can carry one."""
    finding, speed = findings["c-against-b"], findings["c-faster"]
    if not finding.numbers:
        return
    if names := _unlearned(("B", "C"), scope):
        yield (
            "Whether training only layer4 and fc is enough cannot be told from networks that have not "
            f"learned ({in_words(names)})."
        )
        return
    low, high = finding.numbers["low"], finding.numbers["high"]
    d = 100 * finding.numbers["difference"]
    margin = f"your margin of {100 * finding.numbers['margin']:g} points"
    is_level = round(abs(d), 1) == 0
    relation = (
        "is as accurate as" if is_level
        else f"scores {abs(d):.1f} points {'above' if d > 0 else 'below'}"
    )  # fmt: skip
    is_faster = speed.status is Status.HOLDS
    match finding.status:
        case Status.HOLDS:
            doubt = "more than chance explains" if low > 0 else f"within {margin}"
        case Status.FAILS:
            doubt = f"more than {margin}"
        case _:
            doubt = "which could be chance" if high >= 0 else f"which may or may not exceed {margin}"
            if is_level:
                doubt = f"which leaves open whether it loses more than {margin}"
    time = ""
    if "ratio" in speed.numbers:
        time = f", and takes {speed.numbers['ratio']:.2f} times as long"
        time += " (could be chance)" if speed.status is Status.INCONCLUSIVE else ""
    unless = is_faster and finding.status is Status.INCONCLUSIVE
    advice = _advice(_favored(finding, is_faster), finding.status is Status.HOLDS, unless, scope.is_settled)
    limits = f"({in_points(low)} to {in_points(high)})"
    yield f"Training only layer4 and fc {relation} training every layer {limits}, {doubt}{time}: {advice}."


def _advice(variant: str | None, is_within: bool, unless: bool, is_settled: bool) -> str:
    """What follows, in words.

    Args:
        variant: the one that is favored, or None.
        is_within: whether C is within the margin.
        unless: whether C takes less time, which may matter more than what B gains.
        is_settled: whether the run can carry a recommendation.
    """
    if variant is None:
        if is_within:
            return "choose either" if is_settled else "in these runs neither has the advantage"
        return "these runs do not settle which is better" + (", but C saves time" if unless else "")
    reservation = " unless time matters more" if unless else ""
    if is_settled:
        return f"choose {variant}{reservation}"
    return f"in these runs {variant} has the advantage{reservation and ',' + reservation}"


def _unlearned(names: tuple[str, ...], scope: Scope) -> tuple[str, ...]:
    """Those of the variants that never learned more than the most frequent class."""
    return tuple(name for name in names if name in scope.at_chance)


def depth(findings: Mapping[str, Finding], scope: Scope) -> Iterator[str]:
    """How many layers must be trained, if there is a ladder of which a row has learned."""
    finding = findings["smallest-sufficient"]
    rows = [name.removesuffix(P_OF_ROW) for name in finding.numbers if name.endswith(P_OF_ROW)]
    if rows and set(rows) <= set(scope.at_chance):
        yield "How many layers must be trained cannot be told, because no row of the ladder has learned."
    elif finding.numbers:
        yield finding.summary


def reach(findings: Mapping[str, Finding], scope: Scope) -> Iterator[str]:
    """How far the verdict reaches, and what would take it further."""
    if not any(findings[name].numbers for name in ("b-beats-a", "c-beats-a", "c-against-b")):
        return
    rate = (
        "each variant at the learning rate that its trials chose"
        if scope.is_tuned
        else "at one learning rate that was not tuned per variant"
        if scope.one_rate
        else "at learning rates that no trials chose"
    )
    split = f"over {scope.n_seeds} splits" if scope.resplit and scope.n_seeds > 1 else "for this split"
    networks = (
        "for these networks alone"
        if scope.n_seeds == 1
        else f"for networks trained like these ({scope.n_seeds} seeds)"
    )
    sentence = f"Scope: with this recipe, {rate}, {split} and {networks}"
    if scope.to_settle:
        yield f"{sentence}; `finetune train ... {scope.to_settle}` would settle more."
    else:
        yield f"{sentence}."
