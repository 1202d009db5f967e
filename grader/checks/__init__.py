"""One small function per property; its docstring states the property, the rule and the source."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

from grader.checks import (
    architecture,
    calibrated,
    checkpoint_files,
    claims,
    commitments,
    design,
    equal_terms,
    hardware,
    kinship,
    ladder,
    learning,
    losses,
    near_duplicates,
    origin,
    peak_rates,
    prediction_files,
    recomputed_starts,
    replay,
    replayed_times,
    rerun,
    schedule,
    seeds,
    speed,
    training,
    trial_commitments,
    truth,
    tuning,
    whole_data,
)
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, not_checked

Check = Callable[[Evidence], Finding]


@dataclass(frozen=True)
class Property:
    """A property that the grader checks.

    Attributes:
        name: Its name in policies and on the command line.
        level: Weakest evidence that it can be checked on.
        check: The function that checks it.
        depends_on: Properties whose failure would explain a failure of this one. If one fails, this one is
            not checked, so that each cause yields one finding.
    """

    name: str
    level: Level
    check: Check
    depends_on: tuple[str, ...] = ()

    @property
    def is_integrity(self) -> bool:
        """Whether a failure shows that a claim in the submission is false."""
        return self.name not in _DESIGN_AND_EFFECTS

    @property
    def text(self) -> str:
        """Its meaning, rule and source."""
        return inspect.getdoc(self.check) or ""

    @property
    def title(self) -> str:
        """The first sentence of `text`."""
        return self.text.partition("\n\n")[0].replace("\n", " ").rstrip(".")


_COUNTS = ("split-counts", "epochs-in-order")

_DESIGN_AND_EFFECTS = {
    "complete", "roles", "equal-budget", "same-stream", "same-start", "same-schedule", "comparable-rates",
    "b-beats-a", "c-beats-a", "c-against-b", "c-trains-fewer", "c-faster",
    "b-beats-longer-a", "as-required", "smallest-sufficient", "statistics-settled",
    "test-close-to-validation", "near-duplicates", "a-learns", "long-enough", "one-rate",
}  # fmt: skip
"""A failure of these shows a weak experiment, not a false claim; the policy decides what they are worth."""

PROPERTIES = {
    p.name: p
    for p in (
        Property("complete", Level.FILE, design.complete),
        Property("split-counts", Level.FILE, training.split_counts),
        Property("epochs-in-order", Level.FILE, training.epochs_in_order),
        Property("as-configured", Level.FILE, design.as_configured),
        Property("roles", Level.FILE, design.roles, ("complete", "as-configured")),
        Property("as-required", Level.FILE, design.as_required),
        Property("seed-prescribed", Level.FILE, seeds.seed_prescribed),
        Property("own-runs", Level.FILE, seeds.own_runs),
        Property("parameter-totals", Level.FILE, architecture.parameter_totals),
        Property(
            "resnet18-layers",
            Level.FILE,
            architecture.resnet18_layers,
            ("parameter-totals", "as-configured", "roles"),
        ),
        Property("frozen-unchanged", Level.FILE, architecture.frozen_unchanged, ("as-configured",)),
        Property("equal-budget", Level.FILE, equal_terms.equal_budget, _COUNTS),
        Property("same-stream", Level.FILE, equal_terms.same_stream),
        Property("same-start", Level.FILE, equal_terms.same_start, ("as-configured",)),
        Property(
            "same-schedule", Level.FILE, equal_terms.same_schedule, ("epochs-in-order", "as-configured")
        ),
        Property("comparable-rates", Level.FILE, peak_rates.comparable_rates, ("as-configured",)),
        Property(
            "rates-exact",
            Level.FILE,
            schedule.rates_exact,
            ("same-schedule", "as-configured", "equal-budget", *_COUNTS),
        ),
        Property("whole-data", Level.FILE, whole_data.whole_data, ("split-counts",)),
        Property("weights-known", Level.FILE, origin.weights_known),
        Property("distinct-runs", Level.FILE, training.distinct_runs),
        Property("best-epoch", Level.FILE, training.best_epoch, _COUNTS),
        Property("loss-fits-accuracy", Level.FILE, training.loss_fits_accuracy, _COUNTS),
        Property("times-add-up", Level.FILE, training.times_add_up, (*_COUNTS, "equal-budget")),
        Property("fairly-tuned", Level.FILE, tuning.fairly_tuned, ("split-counts",)),
        Property(
            "trials-committed",
            Level.FILE,
            trial_commitments.trials_committed,
            ("fairly-tuned", "split-counts"),
        ),
        Property("times-possible", Level.FILE, hardware.times_possible, ("times-add-up", *_COUNTS)),
        Property("files-intact", Level.PREDICTIONS, prediction_files.files_intact),
        Property(
            "recomputed",
            Level.PREDICTIONS,
            prediction_files.recomputed,
            ("best-epoch", "loss-fits-accuracy", "distinct-runs", *_COUNTS),
        ),
        Property(
            "commitments-chain",
            Level.FILE,
            commitments.commitments_chain,
            ("files-intact", "recomputed", *_COUNTS),
        ),
        Property("rows-plausible", Level.PREDICTIONS, prediction_files.rows_plausible),
        Property(
            "losses-exact",
            Level.PREDICTIONS,
            losses.losses_exact,
            ("recomputed", "rows-plausible", "best-epoch", "loss-fits-accuracy", "distinct-runs", *_COUNTS),
        ),
        Property("same-samples", Level.PREDICTIONS, prediction_files.same_samples),
        Property(
            "hard-images-shared",
            Level.PREDICTIONS,
            kinship.hard_images_shared,
            ("same-samples", "losses-exact", "distinct-runs", "rows-plausible"),
        ),
        Property(
            "networks-differ", Level.PREDICTIONS, kinship.networks_differ, ("same-samples", "distinct-runs")
        ),
        Property(
            "class-counts", Level.PREDICTIONS, prediction_files.class_counts, ("split-counts", "same-samples")
        ),
        Property(
            "val-test-disjoint", Level.PREDICTIONS, prediction_files.val_test_disjoint, ("same-samples",)
        ),
        Property("true-labels", Level.TRUTH, truth.true_labels, ("same-samples",)),
        Property("true-splits", Level.TRUTH, truth.true_splits, ("same-samples", "true-labels")),
        Property("checkpoints-intact", Level.CHECKPOINTS, rerun.checkpoints_intact),
        Property(
            "checkpoint-tensors",
            Level.CHECKPOINTS,
            checkpoint_files.checkpoint_tensors,
            ("checkpoints-intact",),
        ),
        Property(
            "checkpoint-frozen",
            Level.CHECKPOINTS,
            checkpoint_files.checkpoint_frozen,
            ("checkpoint-tensors", "frozen-unchanged", "as-configured"),
        ),
        Property(
            "checkpoint-steps",
            Level.CHECKPOINTS,
            checkpoint_files.checkpoint_steps,
            ("checkpoint-tensors", "best-epoch", "equal-budget", *_COUNTS),
        ),
        Property(
            "start-recomputed",
            Level.CHECKPOINTS,
            recomputed_starts.start_recomputed,
            ("checkpoint-tensors", "same-start", "frozen-unchanged", "as-configured"),
        ),
        Property(
            "stream-recomputed",
            Level.CHECKPOINTS,
            recomputed_starts.stream_recomputed,
            ("same-stream", *_COUNTS),
        ),
        Property("rerun-agrees", Level.CHECKPOINTS, rerun.rerun_agrees, ("checkpoints-intact",)),
        Property(
            "temperature-fits",
            Level.PREDICTIONS,
            calibrated.temperature_fits,
            (
                "files-intact",
                "recomputed",
                "rows-plausible",
                "best-epoch",
                "checkpoints-intact",
                "rerun-agrees",
            ),
        ),
        Property("replay-agrees", Level.REPLAY, replay.replay_agrees),
        Property("times-replayed", Level.REPLAY, replayed_times.times_replayed, ("epochs-in-order",)),
        Property("b-beats-a", Level.FILE, claims.b_beats_a, _COUNTS),
        Property("c-beats-a", Level.FILE, claims.c_beats_a, _COUNTS),
        Property("b-beats-longer-a", Level.FILE, claims.b_beats_longer_a, _COUNTS),
        Property("c-against-b", Level.FILE, claims.c_against_b, _COUNTS),
        Property(
            "c-trains-fewer",
            Level.FILE,
            claims.c_trains_fewer,
            ("parameter-totals", "resnet18-layers", "roles"),
        ),
        Property(
            "c-faster", Level.FILE, speed.c_faster, ("times-add-up", "epochs-in-order", "times-replayed")
        ),
        Property(
            "test-close-to-validation",
            Level.FILE,
            prediction_files.test_close_to_validation,
            (*_COUNTS, "recomputed"),
        ),
        Property(
            "near-duplicates",
            Level.PREDICTIONS,
            near_duplicates.near_duplicates_do_not_decide,
            ("same-samples",),
        ),
        Property("a-learns", Level.FILE, learning.a_learns, _COUNTS),
        Property("long-enough", Level.FILE, learning.long_enough, _COUNTS),
        Property("statistics-settled", Level.FILE, learning.statistics_settled, _COUNTS),
        Property("one-rate", Level.FILE, learning.one_rate, ("comparable-rates",)),
        Property("smallest-sufficient", Level.FILE, ladder.smallest_sufficient, _COUNTS),
    )
}


def judge(evidence: Evidence) -> dict[str, Finding]:
    """Check every property, causes before consequences.

    Returns:
        One finding per property, by name, in the registry's order.
    """
    findings: dict[str, Finding] = {}
    for name, wanted in PROPERTIES.items():
        failed = [cause for cause in wanted.depends_on if findings[cause].status is Status.FAILS]
        if failed:
            finding = not_checked(f"Skipped because {' and '.join(failed)} failed.", wanted.level)
        else:
            finding = wanted.check(evidence)
        findings[name] = replace(finding, name=name)
    return findings
