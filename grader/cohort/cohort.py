"""A class of submissions: their grades, and what comparing them shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grader.cohort.likeness import MOST_NAMED, Group, groups_of
from grader.cohort.reference import Reference, implausible
from grader.evidence.traces import Traces
from grader.findings import Finding, Level, Status, counted, in_words
from grader.grading.verdict import Grade

OWN = "own-runs"


@dataclass(frozen=True)
class Cohort:
    """The grades of a class.

    Attributes:
        grades: In order, with `own-runs` judged if seeds were prescribed.
        groups: Submissions with something in common.
        remarks: By submission, in what it differs from the instructor's runs.

    Groups and remarks ask for a look; they change no grade.
    """

    grades: Sequence[Grade]
    groups: Sequence[Group] = ()
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def flags(self, name: str) -> list[str]:
        """What asks for a look at a submission, without full stops."""
        groups = [group for group in self.groups if name in group.members]
        others = [self._listed([m for m in group.members if m != name]) for group in groups]
        found = [f"as {who}: {group.text}" for who, group in zip(others, groups, strict=True)]
        return found + list(self.remarks.get(name, ()))

    @property
    def looks(self) -> list[str]:
        """The same for the whole class, each group once."""
        found = [f"{self._listed(group.members)}: {group.text}" for group in self.groups]
        return found + [
            f"{self._listed([name])}: {text}" for name, texts in self.remarks.items() for text in texts
        ]

    def _listed(self, names: Sequence[str]) -> str:
        ids = {grade.run: grade.id for grade in self.grades}
        return in_words([ids.get(name, name) for name in names], MOST_NAMED)


def compared(
    grades: Sequence[Grade],
    seeds: Mapping[str, int] | None = None,
    reference: Reference | None = None,
    known: Mapping[str, Traces] | None = None,
) -> Cohort:
    """Compare submissions with one another and with an instructor's runs.

    Args:
        grades: With traces.
        seeds: The prescribed seed of each submission, by name; None if none was prescribed.
        reference: The plausible band of accuracies.
        known: Traces of the instructor's runs by name, which nobody should have handed in.
    """
    traces = {grade.run: grade.traces for grade in grades if grade.traces is not None}
    groups = groups_of({**(known or {}), **traces})
    groups = [group for group in groups if any(name in traces for name in group.members)]
    remarks = (
        {name: list(implausible(found, reference)) for name, found in traces.items()} if reference else {}
    )
    judged = list(grades) if seeds is None else [_judged(grade, grades, groups, seeds) for grade in grades]
    return Cohort(judged, groups, remarks)


def _judged(
    grade: Grade, grades: Sequence[Grade], groups: Sequence[Group], seeds: Mapping[str, int]
) -> Grade:
    """The grade with the finding on `own-runs`."""
    if not grade.findings or len(grades) < 2:
        return grade
    by_name = {other.run: other for other in grades}
    problems = []
    for group in groups:
        if grade.run not in group.members or group.kind == "near":
            continue
        # One that cannot be used, and so risks nothing, accuses nobody.
        others = [
            name
            for name in group.members
            if name in seeds and seeds[name] != seeds[grade.run] and by_name[name].findings
        ]
        refuted = all(by_name[name].refuted for name in others)
        if others and (grade.refuted or not refuted):
            runs, names = (
                in_words(found, MOST_NAMED) for found in (group.runs, [by_name[name].id for name in others])
            )
            problems.append(f"{runs}: as {names}, with another prescribed seed: {group.text}.")
    holds = f"None of the {counted(len(grades) - 1, 'other submission')} has the same runs."
    finding = Finding(
        Status.FAILS if problems else Status.HOLDS,
        Level.FILE,
        problems[0] if problems else holds,
        tuple(problems[1:]),
        held=int(not problems),
        judged=1,
        name=OWN,
    )
    return replace(grade, findings={**grade.findings, OWN: finding})
