"""Whether trials compete on equal terms, the same start and training images, and whether any has learned."""

from collections.abc import Iterator

from grader.statistics import proportions
from grader.submission.record import Results
from grader.submission.trials import Target, Trial, Tuning, label


def has_learned(results: Results, trial: Trial) -> bool:
    """Whether a trial became better on validation than the most frequent class (95% Wilson interval)."""
    chance = results.splits_of(trial.for_seed)["val"].chance
    return any(proportions.wilson(e.n_correct, e.n_samples).low > chance for e in trial.validation)


def shared_problems(results: Results, tuning: Tuning) -> Iterator[str]:
    """What is wrong with the starts and training images of a run's trials, for `fairly-tuned`."""
    variants = {variant.name: variant for variant in results.variants}
    starts: dict[Target, str] = {}
    streams: dict[tuple[int | None, int], str] = {}
    for trial in tuning.trials:
        variant = variants.get(trial.variant)
        if variant is not None:
            # Random variants with layers of their own are alike only among themselves, and so are those whose
            # head comes from another one, with one head per split.
            plain = variant.init == "pretrained" and variant.head is None
            key = ("", None) if plain else trial.target if variant.head else (trial.variant, None)
            if starts.setdefault(key, trial.initial_sha256) != trial.initial_sha256:
                yield f"{trial.name}: initial weights differ from those of other trials."
        complete, group = trial.status == "completed", (trial.for_seed, trial.epochs)
        if complete and streams.setdefault(group, trial.stream_sha256) != trial.stream_sha256:
            yield (
                f"{trial.name}: training images differ from those of other trials of {trial.epochs} epochs."
            )
    for target, start in starts.items():
        if target[0] and variants[target[0]].head and start == starts.get(("", None)):
            yield f"{label(target)}: its trials do not start from another variant's head."
    owners: dict[tuple[int | None, str], int] = {}
    for (for_seed, epochs), stream in streams.items():
        if owners.setdefault((for_seed, stream), epochs) != epochs:
            before = owners[for_seed, stream]
            yield f"Trials of {before} and of {epochs} epochs record the same training images."
    finals = {run.budget.stream_sha256: run.name for run in results.runs}
    for stream in streams.values():
        if stream in finals:
            yield f"The trials saw the training images of {finals[stream]}, which has another seed."
