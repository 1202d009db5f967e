"""Derive the verdict from the findings; it is never stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from grader.findings import Finding, Level, Status, in_points
from grader.policy import Policy


@dataclass(frozen=True)
class Grade:
    """The grade of one submission: its findings under a policy.

    Attributes:
        run: Name of the submission.
        policy: The policy.
        findings: By property, in the registry's order; empty if the submission is unusable.
        levels: The levels of evidence reached.
        problems: Why the submission is unusable; empty if it is usable.
        created_at: Creation time according to the results file; empty if unusable.
    """

    run: str
    policy: Policy
    findings: Mapping[str, Finding]
    levels: tuple[Level, ...] = ()
    problems: tuple[str, ...] = ()
    created_at: str = ""

    @property
    def level_is_reached(self) -> bool:
        """Whether all evidence up to the policy's required level was available."""
        return all(level in self.levels for level in Level if level <= self.policy.required_level)

    def counts(self, name: str) -> bool:
        """Whether the policy counts a property."""
        return name in self.policy.weights

    def passes(self, name: str) -> bool:
        """Whether a property passes under the policy."""
        match self.findings[name].status:
            case Status.HOLDS:
                return True
            case Status.INCONCLUSIVE:
                return self.policy.inconclusive_passes
            case Status.NOT_CHECKED:
                return self.policy.not_checked_passes
        return False

    @cached_property
    def passed(self) -> bool:
        """Whether every counted property passes and the required evidence was available."""
        return (
            not self.problems
            and self.level_is_reached
            and all(self.passes(name) for name in self.policy.weights)
        )

    @property
    def exit_code(self) -> int:
        """0 if it passed, 1 if it failed, 2 if the submission is unusable."""
        return 2 if self.problems else 0 if self.passed else 1

    def points(self, name: str) -> float:
        """Points earned by a counted property; 0 if the submission is unusable."""
        weight, finding = self.policy.weights[name], self.findings.get(name)
        if finding is None:
            return 0.0
        share = {
            Status.HOLDS: 1.0,
            Status.INCONCLUSIVE: self.policy.inconclusive_credit,
            Status.NOT_CHECKED: self.policy.not_checked_credit,
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
        """The verdict in sentences; every number comes from a finding."""
        if self.problems:
            return ["The submission cannot be graded."]
        found = [
            _soundness(self),
            _pretraining(self.findings, 100 * self.policy.thresholds.confidence),
            _choice(self.findings),
        ]
        return [sentence for sentence in found if sentence]


def _soundness(grade: Grade) -> str:
    failed = [name for name in grade.policy.weights if grade.findings[name].status is Status.FAILS]
    if failed:
        return f"Failed: {', '.join(failed)}."
    return ""


def _pretraining(findings: Mapping[str, Finding], confidence: float) -> str:
    finding = findings["b-beats-a"]
    if not finding.numbers:
        return ""
    opening = {
        Status.HOLDS: "Starting from pretrained weights pays",
        Status.FAILS: "Starting from pretrained weights costs accuracy",
    }.get(finding.status, "It is unclear whether starting from pretrained weights pays")
    gap, low, high = (in_points(finding.numbers[name]) for name in ("difference", "low", "high"))
    return f"{opening}: {gap} points ({confidence:.3g}% interval {low} to {high})."


def _choice(findings: Mapping[str, Finding]) -> str:
    finding, speed = findings["c-against-b"], findings["c-faster"]
    if not finding.numbers:
        return ""
    low, high = finding.numbers["low"], finding.numbers["high"]
    d, margin = (
        100 * finding.numbers["difference"],
        f"your margin of {100 * finding.numbers['margin']:g} points",
    )
    relation = (
        "is as accurate as" if round(abs(d), 1) == 0
        else f"scores {abs(d):.1f} points {'above' if d > 0 else 'below'}"
    )  # fmt: skip
    is_faster = speed.status is Status.HOLDS
    match finding.status:
        case Status.HOLDS:
            doubt = "more than chance explains" if low > 0 else f"within {margin}"
            advice = "choose C" if is_faster or low > 0 else "choose either"
        case Status.FAILS:
            doubt, advice = f"more than {margin}", "choose B"
        case _:
            doubt = "which could be chance" if high >= 0 else f"which may or may not exceed {margin}"
            advice = (
                "C is fine" if d >= 0 else "choose B unless time matters more" if is_faster else "choose B"
            )
    time = ""
    if "ratio" in speed.numbers:
        time = f", and takes {speed.numbers['ratio']:.2f} times as long"
        time += " (could be chance)" if speed.status is Status.INCONCLUSIVE else ""
    limits = f"({in_points(low)} to {in_points(high)})"
    return f"Training only layer4 and fc {relation} training every layer {limits}, {doubt}{time}: {advice}."
