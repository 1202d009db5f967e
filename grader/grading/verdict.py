"""Derive the verdict from the findings; it is never stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from grader.checks import PROPERTIES
from grader.evidence.traces import Traces
from grader.findings import Finding, Level, Status, in_words
from grader.grading.advice import advice
from grader.grading.policy import Policy
from grader.grading.sentences import Scope, cautions, choice, depth, favored, pretraining, reach
from grader.submission.ids import visible

NO_NETWORK = (
    "Without evidence level 4 (--rerun), nothing shows that a network exists: "
    "a script can fabricate consistent files."
)


UNSETTLED = (
    "Evidence level {} ({}) is inconclusive: it neither confirms nor refutes this submission, and does not "
    "count as reached."
)

RERUN = "grade with --rerun."


@dataclass(frozen=True)
class Grade:
    """The grade of one submission: its findings under a policy.

    Attributes:
        run: Name of the submission, of which its files are named.
        policy: The policy.
        findings: By property, in the registry's order; empty if the submission is unusable.
        levels: The levels of evidence reached: the evidence was there, and agreed with the submission.
        unsettled_levels: Those whose evidence was there, but is inconclusive.
        refuted_levels: Those whose evidence contradicts the submission.
        problems: Why the submission is unusable; empty if it is usable.
        created_at: Creation time according to the results file; empty if unusable.
        requested: Levels of evidence requested by an option; they are required under every policy.
        scope: What the run was, which limits what the verdict may claim.
        traces: What identifies its runs, to compare them with those of others; None if they are not compared.
        digests: SHA-256 of each file of the submission that was read, by path; empty unless attested.
        shown: How the name is shown beside those of others; empty if alone.
    """

    run: str
    policy: Policy
    findings: Mapping[str, Finding]
    levels: tuple[Level, ...] = ()
    unsettled_levels: tuple[Level, ...] = ()
    refuted_levels: tuple[Level, ...] = ()
    problems: tuple[str, ...] = ()
    created_at: str = ""
    requested: frozenset[Level] = frozenset()
    scope: Scope = field(default_factory=Scope)
    traces: Traces | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""

    @property
    def id(self) -> str:
        """The submission's name as it is shown: nothing in it is invisible."""
        return self.shown or visible(self.run)

    @property
    def nothing_trained(self) -> bool:
        """Whether no training completed, so that there is nothing to earn points with."""
        return bool(self.findings) and not self.scope.n_completed

    @property
    def missing(self) -> list[Level]:
        """Levels of evidence that are required but were not reached; empty if unusable.

        A level that is inconclusive is missing unless what is inconclusive passes under the policy. One whose
        evidence contradicts the submission is not missing: the property that fails says so.

        What to do first comes first: without predictions nothing helps, and then the highest level gives
        those below.
        """
        required = self.requested | {level for level in Level if level <= self.policy.required_level}
        had = {*self.levels, *self.refuted_levels}
        if self.policy.inconclusive_passes:
            had.update(self.unsettled_levels)
        absent = set() if self.problems else required - had
        return sorted(absent, key=lambda level: (level is not Level.PREDICTIONS, -level))

    @property
    def refuted(self) -> list[str]:
        """Integrity properties that fail; they fail the submission under every policy."""
        return [
            name
            for name, finding in self.findings.items()
            if finding.status is Status.FAILS and PROPERTIES[name].is_integrity
        ]

    @cached_property
    def failing(self) -> list[str]:
        """Properties that fail the submission: refuted ones, then counted ones that do not pass."""
        refuted = self.refuted
        counted = self.policy.weights if self.findings else ()
        return refuted + [name for name in counted if name not in refuted and not self.passes(name)]

    @property
    def causes(self) -> list[str]:
        """What fails the submission, in few words: `failing`, with any status but fails, and `missing`."""
        statuses = {name: self.findings[name].status for name in self.failing}
        words = [n if status is Status.FAILS else f"{n} ({status})" for n, status in statuses.items()]
        return words + [f"evidence level {int(level)}" for level in self.missing]

    @cached_property
    def is_void(self) -> bool:
        """Whether no points are earned: nothing trained, or outside evidence refutes a claim or is missing.

        A submission that merely contradicts itself fails but keeps its points: it may have been damaged.
        """
        if self.missing or self.nothing_trained:
            return True
        return any(self.findings[name].level >= Level.TRUTH for name in self.refuted)

    @property
    def unsettled(self) -> list[Finding]:
        """Findings of properties that fail or are inconclusive, in the registry's order."""
        return [f for f in self.findings.values() if f.status in (Status.FAILS, Status.INCONCLUSIVE)]

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

    @property
    def passed(self) -> bool:
        """Whether no property fails the submission and all required evidence was available."""
        return not (self.problems or self.missing or self.failing or self.nothing_trained)

    @property
    def exit_code(self) -> int:
        """0 if it passed, 1 if it failed, 2 if the submission is unusable."""
        return 2 if self.problems else 0 if self.passed else 1

    def points(self, name: str) -> float:
        """Points earned by a counted property; 0 if the submission is unusable or void.

        Where the policy itself requires a level that is inconclusive, all points are those of what is
        inconclusive.
        """
        weight, finding = self.policy.weights[name], self.findings.get(name)
        if finding is None or self.is_void:
            return 0.0
        share = {
            Status.HOLDS: 1.0,
            Status.INCONCLUSIVE: self.policy.inconclusive_credit,
            Status.NOT_CHECKED: self.policy.not_checked_credit,
            Status.FAILS: finding.held / finding.judged if weight.partial and finding.judged else 0.0,
        }[finding.status]
        if any(level <= self.policy.required_level for level in self.unsettled_levels):
            share *= self.policy.inconclusive_credit
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
    def objections(self) -> list[str]:
        """One sentence for each reason that fails the submission under every policy."""
        refuted = [f"{name} fails under every policy: {self.findings[name].summary}" for name in self.refuted]
        if self.nothing_trained:
            refuted.append("No training completed, so nothing can be judged and no points are earned.")
        return refuted + [self.why_missing(level) for level in self.missing]

    def why_missing(self, level: Level) -> str:
        """Why evidence of a required level is missing."""
        why = "the predictions of at least one run are missing."
        name = {
            Level.TRUTH: "true-labels",
            Level.CHECKPOINTS: "rerun-agrees",
            Level.REPLAY: "replay-agrees",
        }.get(level)
        if name and level in self.unsettled_levels:
            why = f"{name} is inconclusive. {self.findings[name].summary}"
        elif name and self.findings[name].status is Status.NOT_CHECKED:
            why = f"{name} was not checked. {self.findings[name].summary}"
            if level is Level.TRUTH and Level.CHECKPOINTS in self.missing:
                why = "it comes with level 4, or with --labels or --dataset."
            elif level is Level.CHECKPOINTS and level not in self.requested:
                lacks = self.findings["checkpoints-intact"].status is Status.NOT_CHECKED
                why = f"ask for the folder checkpoints/, which is not there, and {RERUN}" if lacks else RERUN
        return f"Evidence level {int(level)} ({level.description}) is required: {why}"

    @property
    def standing(self) -> str:
        """The highest level of evidence reached, and those above that are inconclusive, in few words."""
        if not self.levels:
            return ""
        above = [str(int(level)) for level in self.unsettled_levels]
        return f"{int(max(self.levels))}{f' ({in_words(above)} inconclusive)' if above else ''}"

    @property
    def sentences(self) -> list[str]:
        """The objections, then the verdict, then what to do next."""
        return [*self.objections, *self.verdict, *advice(self)]

    @property
    def advised(self) -> str | None:
        """The variant that the verdict favors, `B` or `C`; None if it leaves that open."""
        return None if self.problems else favored(self.findings, self.scope)

    @property
    def verdict(self) -> list[str]:
        """The verdict in sentences; every number comes from a finding."""
        if self.problems:
            return ["The submission cannot be graded."]
        findings, scope = self.findings, self.scope
        found = [
            _soundness(self),
            *cautions(findings, scope),
            *pretraining(findings, scope, 100 * self.policy.thresholds.confidence),
            *choice(findings, scope),
            *depth(findings, scope),
            *reach(findings, scope),
            "" if Level.CHECKPOINTS in (*self.levels, *self.refuted_levels) else NO_NETWORK,
            *(UNSETTLED.format(int(level), level.description) for level in self.unsettled_levels),
        ]
        return [sentence for sentence in found if sentence]


def _soundness(grade: Grade) -> str:
    fails = [name for name in grade.policy.weights if grade.findings[name].status is Status.FAILS]
    failed = [name for name in fails if name not in grade.refuted]
    return f"Failed: {', '.join(failed)}." if failed else ""
