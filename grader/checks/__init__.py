"""One small function for each property; its docstring states property, rule and source."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

from grader.checks import agreement, architecture, claims, design, learning, rerun, training, truth
from grader.evidence import Evidence
from grader.findings import Finding, Level, Status, not_checked

Check = Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Property:
    """A property that a submission may have.

    Attributes:
        name: As in policies and on the command line.
        level: Weakest evidence it can be judged on.
        check: Judges it.
        after: Properties whose failure explains a failure of this one, which is then not judged: one cause,
            one finding.
    """

    name: str
    level: Level
    check: Check
    after: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What it means, its rule and its source."""
        return inspect.getdoc(self.check) or ""

    @property
    def title(self) -> str:
        """The first sentence of `text`."""
        return self.text.partition("\n\n")[0].replace("\n", " ").rstrip(".")


_COUNTS = ("split-counts", "epochs-in-order")

PROPERTIES = {
    p.name: p
    for p in (
        Property("complete", Level.FILE, design.complete),
        Property("split-counts", Level.FILE, training.split_counts),
        Property("epochs-in-order", Level.FILE, training.epochs_in_order),
        Property("as-configured", Level.FILE, design.as_configured),
        Property("roles", Level.FILE, design.roles, ("complete", "as-configured")),
        Property("parameter-totals", Level.FILE, architecture.parameter_totals),
        Property(
            "resnet18-layers",
            Level.FILE,
            architecture.resnet18_layers,
            ("parameter-totals", "as-configured", "roles"),
        ),
        Property("frozen-unchanged", Level.FILE, architecture.frozen_unchanged, ("as-configured",)),
        Property("equal-budget", Level.FILE, design.equal_budget, _COUNTS),
        Property("same-stream", Level.FILE, design.same_stream),
        Property("same-start", Level.FILE, design.same_start, ("as-configured",)),
        Property("same-schedule", Level.FILE, design.same_schedule, ("epochs-in-order", "as-configured")),
        Property("distinct-runs", Level.FILE, training.distinct_runs),
        Property("best-epoch", Level.FILE, training.best_epoch, _COUNTS),
        Property("loss-fits-accuracy", Level.FILE, training.loss_fits_accuracy, _COUNTS),
        Property("times-add-up", Level.FILE, training.times_add_up, (*_COUNTS, "equal-budget")),
        Property("files-intact", Level.PREDICTIONS, agreement.files_intact),
        Property(
            "recomputed",
            Level.PREDICTIONS,
            agreement.recomputed,
            ("best-epoch", "loss-fits-accuracy", "distinct-runs", *_COUNTS),
        ),
        Property("rows-plausible", Level.PREDICTIONS, agreement.rows_plausible),
        Property("same-samples", Level.PREDICTIONS, agreement.same_samples),
        Property("class-counts", Level.PREDICTIONS, agreement.class_counts, ("split-counts", "same-samples")),
        Property("val-test-disjoint", Level.PREDICTIONS, agreement.val_test_disjoint, ("same-samples",)),
        Property("true-labels", Level.TRUTH, truth.true_labels, ("same-samples",)),
        Property("true-splits", Level.TRUTH, truth.true_splits, ("same-samples", "true-labels")),
        Property("checkpoints-intact", Level.CHECKPOINTS, rerun.checkpoints_intact),
        Property("rerun-agrees", Level.CHECKPOINTS, rerun.rerun_agrees, ("checkpoints-intact",)),
        Property("b-beats-a", Level.FILE, claims.b_beats_a, _COUNTS),
        Property("c-beats-a", Level.FILE, claims.c_beats_a, _COUNTS),
        Property("c-against-b", Level.FILE, claims.c_against_b, _COUNTS),
        Property(
            "c-trains-fewer",
            Level.FILE,
            claims.c_trains_fewer,
            ("parameter-totals", "resnet18-layers", "roles"),
        ),
        Property("c-faster", Level.FILE, claims.c_faster, ("times-add-up", "epochs-in-order")),
        Property(
            "test-close-to-validation",
            Level.FILE,
            agreement.test_close_to_validation,
            (*_COUNTS, "recomputed"),
        ),
        Property("a-learns", Level.FILE, learning.a_learns, _COUNTS),
        Property("long-enough", Level.FILE, learning.long_enough, _COUNTS),
    )
}


def judge(evidence: Evidence) -> dict[str, Finding]:
    """Judge every property, causes before consequences.

    Returns:
        One finding for each property, by name, in the registry's order.
    """
    findings: dict[str, Finding] = {}
    for name, wanted in PROPERTIES.items():
        blamed = [cause for cause in wanted.after if findings[cause].status is Status.FAILS]
        if blamed:
            finding = not_checked(f"Not judged, because {' and '.join(blamed)} failed.", wanted.level)
        else:
            finding = wanted.check(evidence)
        findings[name] = replace(finding, name=name)
    return findings
