"""One line that says what to do next, to whoever trained the run."""

from collections.abc import Mapping
from typing import Protocol

from grader.findings import Finding, Level, Status, in_words
from grader.grading.sentences import Scope, is_short
from grader.submission.unfinished import is_told_how_to_finish


class Judged(Protocol):
    """What advice needs to know of a grade."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the submission is unusable."""

    @property
    def missing(self) -> list[Level]:
        """Required evidence that was not there."""

    @property
    def refuted(self) -> list[str]:
        """Integrity properties that fail."""

    @property
    def failing(self) -> list[str]:
        """All properties that fail the submission."""

    @property
    def findings(self) -> Mapping[str, Finding]:
        """By property."""

    @property
    def scope(self) -> Scope:
        """What the run was."""


UNFIT = " does not fit this submission: "
"""In the problem of labels or a data set that are not those of the run."""

REMEDIES = {
    "complete": "finish the training (finetune train --resume RUN), or merge its parts (finetune merge)",
    "as-required": "train the experiment that the policy asks for",
    "c-faster": "time the training on a machine that does nothing else",
    "test-close-to-validation": "look for test images among those trained on",
}


def advice(grade: Judged) -> list[str]:
    """What to do next, in one sentence; nothing if nothing is open.

    The first cause that applies speaks: what makes the file unusable, then doctored or damaged evidence, then
    missing evidence, then trainings that failed, then what would make the answer better.
    """
    if any(map(is_told_how_to_finish, grade.problems)):
        return []
    if grade.refuted == ["seed-prescribed"]:
        return [
            "To do: train with the seed that the course prescribes: finetune train --seed-from NONCE:STUDENT."
        ]
    if any(problem.endswith("No such file or directory.") for problem in grade.problems):
        return ["To do: check the path."]
    if any(UNFIT in problem for problem in grade.problems):
        return ["To do: give labels that fit; they, not the submission, are in question."]
    if grade.problems or grade.refuted:
        return [
            "To do: submit the run folder exactly as finetune train wrote it; if it was damaged, train again."
        ]
    if grade.missing:
        needs = {
            Level.PREDICTIONS: "submit the folder predictions/ too",
            Level.TRUTH: "give the grader the true labels (--labels or --dataset)",
            Level.CHECKPOINTS: "submit the folder checkpoints/ too, and grade with --rerun",
            Level.REPLAY: "grade with --replay",
        }
        if grade.findings["checkpoints-intact"].status is Status.HOLDS:
            needs[Level.CHECKPOINTS] = "grade with --rerun and, for an image folder, --dataset PATH"
            needs[Level.TRUTH] += f", or {needs[Level.CHECKPOINTS]}"
        return [f"To do: {needs.get(grade.missing[0], 'submit the whole run folder')}."]
    scope, findings = grade.scope, grade.findings
    if scope.diverged:
        return [
            f"To do: {', '.join(scope.diverged[:3])} diverged; train again with a lower --lr, or let --tune "
            "choose the rate."
        ]
    if findings["complete"].status is Status.FAILS:
        return [f"To do: {REMEDIES['complete']}."]
    if scope.at_chance:
        does = f"{in_words(scope.at_chance)} {'does' if len(scope.at_chance) == 1 else 'do'}"
        rates = "rates in [tune]" if scope.is_tuned else "--tune"
        return [
            f"To do: find a recipe with which {does} clearly better than guessing the most frequent class, "
            f"before comparing the variants: other rates ({rates}), more epochs (--epochs) or more images."
        ]
    if "as-required" in grade.failing:
        return [f"To do: {REMEDIES['as-required']}."]
    if findings["statistics-settled"].status is Status.FAILS or is_short(findings):
        return ["To do: train for more epochs (--epochs), or on more images, before comparing the variants."]
    if grade.failing:
        name = grade.failing[0]
        return [f"To do: {REMEDIES.get(name, f'see `grader explain {name}`')}."]
    if scope.to_settle:
        return [f"To do: add {scope.to_settle} to the command, so that the answer reaches beyond this run."]
    return []
