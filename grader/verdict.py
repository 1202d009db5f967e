"""Findings -> verdict. Derived each time, never stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from grader.findings import Finding, Level, Status
from grader.policy import Policy


@dataclass(frozen=True)
class Grade:
    """What a policy makes of the findings on one submission.

    Attributes:
        run: How the submission is called.
        policy: The rule set.
        findings: By property, in the registry's order; empty when the submission is unusable.
        levels: The levels of evidence reached.
        problems: Why the submission is unusable; empty when it is usable.
        created_at: When the results file says it was written; empty when unusable.
    """

    run: str
    policy: Policy
    findings: Mapping[str, Finding]
    levels: tuple[Level, ...] = ()
    problems: tuple[str, ...] = ()
    created_at: str = ""

    @property
    def level_is_reached(self) -> bool:
        """Whether all evidence up to the level that the policy requires was there."""
        return all(level in self.levels for level in Level if level <= self.policy.required_level)

    def counts(self, name: str) -> bool:
        """Whether a property counts."""
        return name in self.policy.weights

    def passes(self, name: str) -> bool:
        """Whether a property ended in a way that the policy lets pass."""
        match self.findings[name].status:
            case Status.HOLDS:
                return True
            case Status.NOT_SEPARABLE:
                return self.policy.not_separable_passes
            case Status.NOT_CHECKED:
                return self.policy.not_checked_passes
        return False

    @cached_property
    def passed(self) -> bool:
        """Whether every counting property passes and the required evidence was there."""
        return (
            not self.problems
            and self.level_is_reached
            and all(self.passes(name) for name in self.policy.weights)
        )

    @property
    def exit_code(self) -> int:
        """0 when it passed, 1 when not, 2 when the submission is unusable."""
        return 2 if self.problems else 0 if self.passed else 1

    def points(self, name: str) -> float:
        """Points earned by a counting property; 0 when the submission is unusable."""
        weight, finding = self.policy.weights[name], self.findings.get(name)
        if finding is None:
            return 0.0
        share = {
            Status.HOLDS: 1.0,
            Status.NOT_SEPARABLE: self.policy.not_separable_worth,
            Status.NOT_CHECKED: self.policy.not_checked_worth,
            Status.FAILS: finding.held / finding.judged if weight.partial and finding.judged else 0.0,
        }[finding.status]
        return round(weight.points * share, 2)

    @property
    def score(self) -> float:
        """Points earned."""
        return round(sum(self.points(name) for name in self.policy.weights), 2)

    @property
    def max_score(self) -> float:
        """Points that could be earned."""
        return round(sum(weight.points for weight in self.policy.weights.values()), 2)

    @property
    def sentences(self) -> list[str]:
        """The verdict for people; every number is one of a finding's."""
        if self.problems:
            return ["The submission cannot be judged."]
        found = [
            _soundness(self),
            _pretraining(self.findings, 100 * self.policy.thresholds.confidence),
            _choice(self.findings),
        ]
        return [sentence for sentence in found if sentence]


def _soundness(grade: Grade) -> str:
    failed = [name for name in grade.policy.weights if grade.findings[name].status is Status.FAILS]
    if failed:
        return f"Not as it should be: {', '.join(failed)}."
    return ""


def _pretraining(findings: Mapping[str, Finding], confidence: float) -> str:
    finding = findings["b-beats-a"]
    if not finding.numbers:
        return ""
    gap, limits = _gap(finding)
    match finding.status:
        case Status.HOLDS:
            opening = "Starting from pretrained weights pays"
        case Status.FAILS:
            opening = "Starting from pretrained weights costs accuracy"
        case _:
            opening = "Whether starting from pretrained weights pays cannot be told"
    return f"{opening}: {gap} points ({confidence:.3g} % interval {limits})."


def _choice(findings: Mapping[str, Finding]) -> str:
    finding, speed = findings["c-against-b"], findings["c-faster"]
    if not finding.numbers:
        return ""
    d, margin = 100 * finding.numbers["difference"], 100 * finding.numbers["margin"]
    relation = (
        "as accurate as" if round(abs(d), 1) == 0 else f"{abs(d):.1f} points {'above' if d > 0 else 'below'}"
    )
    low, high = (_signed(finding.numbers[name]) for name in ("low", "high"))
    within = {
        Status.HOLDS: "more than chance"
        if finding.numbers["low"] > 0
        else f"within your margin of {margin:g}",
        Status.FAILS: f"beyond your margin of {margin:g}",
    }.get(finding.status, f"which cannot be told from your margin of {margin:g}")
    time = ""
    if "ratio" in speed.numbers:
        doubt = " (not told apart from 1)" if speed.status is Status.NOT_SEPARABLE else ""
        time = f", and takes {speed.numbers['ratio']:.2f} of the time{doubt}"
    faster = speed.status is Status.HOLDS
    match finding.status:
        case Status.HOLDS:
            advice = "choose C" if faster or finding.numbers["low"] > 0 else "choose either"
        case Status.FAILS:
            advice = "choose B"
        case _ if d >= 0:
            advice = "nothing here speaks against C"
        case _:
            advice = "choose B unless the time matters more" if faster else "choose B"
    difference = f"{relation} training everything ({low} to {high})"
    return f"Training only layer4 and fc is {difference}, {within}{time}: {advice}."


def _gap(finding: Finding) -> tuple[str, str]:
    numbers = finding.numbers
    limits = f"{100 * numbers['low']:.1f} to {100 * numbers['high']:.1f}"
    return _signed(numbers["difference"]), limits


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
