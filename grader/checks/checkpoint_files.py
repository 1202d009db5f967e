"""Checkpoints, wherever a submission contains them: their content follows from the recorded training."""

from collections.abc import Mapping
from math import ceil

from grader.checks.one_network import LEAST_RATE, have_one_best
from grader.checks.origin import KNOWN_WEIGHTS
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.submission.checkpoints import COUNTER, Checkpoint
from grader.submission.record import Run

REESTIMATED_IMAGES = 512
NO_CHECKPOINTS = "The submission contains no checkpoints."


def checkpoint_tensors(evidence: Evidence) -> Finding:
    """The checkpoints are states of a ResNet-18.

    Rule: each checkpoint is a safetensors file with the names, shapes and types of ResNet-18's 122 tensors
    for this number of classes, and all parameters are finite. A network with other values has no finite loss.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), table 1; names as in torchvision.
    """
    problems = {name: c.problems for name, c in evidence.checkpoints.items() if not c.altered}
    if not problems:
        return not_checked(NO_CHECKPOINTS, Level.CHECKPOINTS)
    summary = f"{counted(len(problems), 'checkpoint')} with ResNet-18's tensors."
    return from_problems(problems, Level.CHECKPOINTS, summary)


def checkpoint_frozen(evidence: Evidence) -> Finding:
    """The frozen tensors in a checkpoint are those that the run recorded, and the trained ones have changed.

    Rule: the SHA-256 over all parameters and buffers of the frozen groups (parameters alone where norm is
    adapt), computed from the checkpoint, equals frozen_sha256_after. If another run with the same pretrained
    start froze a tensor, no run that trained this tensor (of two or more dimensions) has the same values. No
    two runs share a trained tensor, but those that end as one network (`distinct-runs`). The last two do not
    hold below a rate of 0.00001, where a step may be smaller than the rounding of the weights.

    Source: the results schema.
    """
    readable = _readable(evidence)
    problems: dict[str, list[str]] = {run.name: [] for run, _ in readable}
    frozen: dict[str, tuple[Run, str]] = {}
    trained: dict[str, Run] = {}
    for run, found in readable:
        if run.n_frozen and found.frozen_sha256 != run.frozen_sha256_after:
            recorded = f"{found.frozen_sha256[:8]}…, but {run.frozen_sha256_after[:8]}… is recorded"
            problems[run.name].append(f"{run.name}: the checkpoint's frozen tensors hash to {recorded}.")
        if run.init == "pretrained":
            for name, digest in found.digests.items():
                own_head = name.startswith("fc.") and evidence.results.has_head(run)
                if not (_is_trained(run, name) or own_head):
                    frozen.setdefault(name, (run, digest))
    for run, found in readable:
        if run.learning_rate < LEAST_RATE:
            continue
        weights = {n: d for n, d in found.digests.items() if _is_trained(run, n) and _is_kernel(n)}
        for name, digest in weights.items():
            start = frozen.get(name) if run.init == "pretrained" else None
            other = trained.setdefault(digest, run)
            if start and start[1] == digest:
                problems[run.name].append(f"{run.name}: {name} is as in {start[0].name}, which froze it.")
            elif other is not run and not have_one_best(evidence.results, other, run):
                problems[run.name].append(f"{run.name}: {name} is the same as in {other.name}.")
    if not problems:
        return not_checked(NO_CHECKPOINTS, Level.CHECKPOINTS)
    return from_problems(
        problems, Level.CHECKPOINTS, "Frozen tensors are the recorded ones; trained tensors differ."
    )


def checkpoint_steps(evidence: Evidence) -> Finding:
    """BatchNorm counted as many training steps as the run had up to its best epoch.

    Rule: in each trained BatchNorm layer, and in the frozen ones where norm is adapt, num_batches_tracked is
    its value at the start plus best_epoch * ceil(training images / batch size). A random start has 0; for a
    pretrained one, the value is known for known weights, or from a run that froze the layer, or must at least
    be the same for all runs that trained it. With statistics = "reestimated" the count begins anew before
    each evaluation: it is that of whole batches that hold 512 images, of those that there are, at least one.

    Source: torch.nn.BatchNorm2d, which counts every batch it sees in training mode. A network trained on more
    images than recorded shows here: 3,818 instead of 3,594 steps in one that was trained on test images too.
    """
    readable = [(run, found) for run, found in _readable(evidence) if run.best is not None]
    if not readable:
        return not_checked(NO_CHECKPOINTS, Level.CHECKPOINTS)
    anew = evidence.results.statistics == "reestimated"
    start = {} if anew else _pretrained_counters(evidence, readable)
    problems: dict[str, list[str]] = {}
    for run, found in readable:
        problems[run.name] = []
        steps = _averaged(evidence, run) if anew else _steps(evidence, run)
        for name, value in found.counters.items():
            if not _counts(evidence, run, name):
                continue
            first = 0 if anew or run.init == "random" else start.setdefault(name, value - steps)
            if value != first + steps or first < 0:
                layer = name.removesuffix(f".{COUNTER}")
                wanted = f"{steps:,} were recorded" if not anew else f"re-estimation takes {steps:,}"
                problems[run.name].append(
                    f"{run.name}: {layer} counted {value - first:,} steps, but {wanted}."
                )
                break
    what = "the batches of re-estimation" if anew else "the recorded steps"
    return from_problems(problems, Level.CHECKPOINTS, f"BatchNorm counted {what} in every run.")


def _steps(evidence: Evidence, run: Run) -> int:
    """Steps up to the best epoch."""
    best = run.best
    return best.epoch * ceil(best.train.n_samples / evidence.results.batch_size) if best else 0


def _averaged(evidence: Evidence, run: Run) -> int:
    """Batches over which statistics are averaged; `n_batches` in finetune/training/statistics.py."""
    size, best = evidence.results.batch_size, run.best
    whole = best.train.n_samples // size if best else 0
    return max(1, min(whole, ceil(REESTIMATED_IMAGES / size)))


def _counts(evidence: Evidence, run: Run, name: str) -> bool:
    """Whether a BatchNorm layer gathers statistics in training."""
    return _is_trained(run, name) or evidence.results.adapts(run)


def _pretrained_counters(evidence: Evidence, readable: list[tuple[Run, Checkpoint]]) -> dict[str, int]:
    """BatchNorm's counters in the pretrained weights, as far as they are known."""
    weights = evidence.results.weights
    known = KNOWN_WEIGHTS.get(weights["kind"]) if weights else None
    start: dict[str, int] = {}
    for run, found in readable:
        for name, value in found.counters.items():
            if known and weights and weights["sha256"] == known.sha256:
                start[name] = known.counter
            elif run.init == "pretrained" and not _counts(evidence, run, name):
                start.setdefault(name, value)
    return start


def _readable(evidence: Evidence) -> list[tuple[Run, Checkpoint]]:
    found: Mapping[str, Checkpoint] = evidence.checkpoints
    runs = [run for run in evidence.results.runs if run.name in found]
    return [(run, found[run.name]) for run in runs if found[run.name].digests]


def _is_trained(run: Run, name: str) -> bool:
    return name.partition(".")[0] in run.trained_groups


def _is_kernel(name: str) -> bool:
    """Whether a tensor is a convolution's or the classifier's: those never end as they began, or alike."""
    return name.endswith("weight") and ("conv" in name or "downsample.0" in name or name == "fc.weight")
