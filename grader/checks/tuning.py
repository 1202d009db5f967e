"""Level 1: the peak learning rates were tuned alike for every variant, on validation alone."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import floor

from grader.checks.trial_terms import has_learned, shared_problems
from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, counted, from_problems, not_checked
from grader.submission.parts import VariantConfig
from grader.submission.record import Results
from grader.submission.trials import Choice, Target, Trial, Tuning, label

MAX_EXTENSIONS = 2
STEP_TOLERANCE = 1e-6  # relative; rates beyond the grid are rounded to 12 digits
MOST_SHOWN = 8  # rates or rounds in a message
KEPT = 2  # rates that halving keeps after its first round

Problems = dict[str, list[str]]


def fairly_tuned(evidence: Evidence) -> Finding:
    """Every variant's peak learning rate was tuned alike, on validation alone, and its final runs use it.

    Rule: every variant has one trial per rate of the shared grid in round 1, and later rounds have exactly
    the survivors. Rounds are those of the mode: halving trains E/4 epochs (rounded, halves up, at least 1)
    and keeps two rates, then E/2 and keeps one, in one round if the two are equal; full trains E epochs; E is
    the variant's epochs. If each seed has a split of its own, each seed has trials of its own. Survivors and
    choices are recomputed from the validation counts: the best epoch of each trial (accuracy, then loss),
    ranked by correct predictions, then lower loss, then lower rate; failed trials drop out. A winner at the
    edge of all rates tried extends the variant's grid by one equal step, in every round, at most twice; a
    winner that is still at the edge after two is inconclusive, and so is a search in which no trial of any
    variant became better than the most frequent class. All trials share one seed, which no final run has;
    they have the same start for pretrained variants, the same training images for the same epochs, and one
    evaluation of the whole validation split per epoch. A variant whose head comes from another one has trials
    if that one has a choice, and they start from one head. Final runs use the chosen rate and name its trial.
    Trials have no test results. A variant with a learning rate of its own in config is not tuned.

    Source: Godbole et al., Deep Learning Tuning Playbook (2023); Jamieson and Talwalkar, Non-stochastic Best
    Arm Identification and Hyperparameter Optimization (2016); Cawley and Talbot, Journal of Machine Learning
    Research 11 (2010) 2079-2107.
    """
    results = evidence.results
    tuning = results.tuning
    if tuning is None:
        named = next((run for run in results.runs if run.trial is not None), None)
        if results.tune is None and named is None:
            return not_checked("The learning rates were not tuned (finetune train --tune).", Level.FILE)
        claim = f"{named.name} names trial {named.trial}" if named else f"config.tune is {results.tune}"
        problem = f"{claim}, but the results record no trials."
        return from_problems({"tuning": [problem]}, Level.FILE, "")
    problems: Problems = {"tuning": list(_frame_problems(results, tuning))}
    at_edge: list[str] = []
    problems |= _target_problems(results, tuning, at_edge)
    problems["starts and images"] = list(shared_problems(results, tuning))
    finding = from_problems(problems, Level.FILE, summary_of(tuning))
    if finding.status is Status.HOLDS and not any(has_learned(results, trial) for trial in tuning.trials):
        summary = "No trial became better on validation than the most frequent class, so these rates tell "
        summary += "nothing apart; give others in [tune]."
        return replace(finding, status=Status.INCONCLUSIVE, summary=summary, held=0)
    if at_edge and finding.status is Status.HOLDS:
        names = " and ".join(at_edge)
        summary = (
            f"The best rate of {names} is at the edge of its grid after two extensions: a better one may "
        )
        summary += "lie beyond; give other rates in [tune]."
        return replace(
            finding, status=Status.INCONCLUSIVE, summary=summary, held=len(problems) - len(at_edge)
        )
    return finding


def _target_problems(results: Results, tuning: Tuning, at_edge: list[str]) -> Problems:
    """What is wrong with the trials and the choice of each variant, for each seed if each has a split."""
    problems: Problems = {}
    by_target: dict[Target, list[Trial]] = defaultdict(list)
    for trial in tuning.trials:
        by_target[trial.target].append(trial)
    choices = {choice.target: choice for choice in reversed(tuning.choices)}
    variants = {variant.name: variant for variant in results.variants}
    for target in targets_of(results):
        variant, for_seed, trials = variants[target[0]], target[1], by_target[target]
        found = [problem for trial in trials for problem in _trial_problems(results, tuning, variant, trial)]
        if not trials and variant.head is not None and (variant.head, for_seed) not in choices:
            found = [f"{label(target)}: chosen without a trial."] if target in choices else []
        else:
            n_rounds = len(_rounds(tuning.mode, variant.epochs or results.epochs))
            found = found or list(_plan_problems(tuning, target, n_rounds, trials, at_edge))
            found = found or list(
                _choice_problems(results, tuning, choices.get(target), target, n_rounds, trials)
            )
        problems[label(target)] = found
    return problems


def targets_of(results: Results) -> list[Target]:
    """What a tuned run has a rate for: each variant, for each seed if each has a split of its own."""
    seeds = results.seeds if results.resplit else (None,)
    return [(variant.name, seed) for seed in seeds for variant in results.variants]


def summary_of(tuning: Tuning) -> str:
    """The rates chosen, and in how many trials."""
    rates = ", ".join(f"{label(choice.target)} {choice.learning_rate:.3g}" for choice in tuning.choices)
    failed = sum(trial.status == "failed" for trial in tuning.trials)
    diverged = f", {failed} of which diverged" if failed else ""
    trials = counted(len(tuning.trials), "trial")
    return f"Chosen on validation in {trials} ({tuning.mode}{diverged}): {rates or 'no rate'}."


def _rounds(mode: str, epochs: int) -> list[tuple[int, int]]:
    """Epochs and rates kept, per round, of a variant with so many epochs."""
    quarter, half = max(1, floor(epochs / 4 + 0.5)), floor(epochs / 2 + 0.5)
    if mode == "full":
        return [(epochs, 1)]
    return [(half, 1)] if quarter == half else [(quarter, KEPT), (half, 1)]


def _frame_problems(results: Results, tuning: Tuning) -> Iterator[str]:
    if tuning.mode != results.tune:
        yield f"config.tune is {results.tune or 'null'}, but tuning.mode is {tuning.mode}."
    if tuning.seed in results.seeds:
        yield f"The trials' seed {tuning.seed} is also a seed of the final runs."
    if list(tuning.rates) != sorted(set(tuning.rates)):
        yield "tuning.rates must ascend."
    rounds = [(entry.epochs, entry.keep) for entry in tuning.rounds]
    if rounds != _rounds(tuning.mode, results.epochs):
        listed = " then ".join(
            f"{counted(epochs, 'epoch')} (keep {keep})" for epochs, keep in rounds[:MOST_SHOWN]
        )
        yield f"The rounds of {tuning.mode} with {counted(results.epochs, 'epoch')} differ: found {listed}."
    targets = targets_of(results)
    for target, n in Counter(choice.target for choice in tuning.choices).items():
        if target not in targets or n > 1:
            why = "not one" if target in targets else "but no such variant"
            yield f"{label(target)}: {counted(n, 'choice')}, {why}."
    for target in dict.fromkeys(trial.target for trial in tuning.trials):
        if target not in targets:
            yield f"{label(target)}: trials of a variant that is not configured."
    for variant in results.variants:
        if variant.lr is not None:
            yield f"{variant.name}: has a learning rate of its own ({variant.lr:g}) and was tuned as well."


def _trial_problems(results: Results, tuning: Tuning, variant: VariantConfig, trial: Trial) -> Iterator[str]:
    """What is wrong with a trial by itself."""
    name = trial.name
    if trial.seed != tuning.seed:
        yield f"{name}: seed {trial.seed}, but the trials' seed is {tuning.seed}."
    rounds = _rounds(tuning.mode, variant.epochs or results.epochs)
    if trial.round > len(rounds):
        yield f"{name}: {tuning.mode} has {counted(len(rounds), 'round')}."
        return
    epochs, n = rounds[trial.round - 1][0], len(trial.validation)
    if trial.epochs != epochs:
        yield f"{name}: {counted(trial.epochs, 'epoch')}, but every trial of that round has {epochs}."
    elif (trial.status == "completed") != (trial.failure is None):
        yield f"{name}: {trial.status}, but it has {'no' if trial.failure is None else 'a'} failure."
    elif trial.status == "completed" and n != epochs:
        yield f"{name}: {counted(n, 'evaluation')} in {counted(epochs, 'epoch')}."
    elif n > epochs:
        yield f"{name}: {counted(n, 'evaluation')}, but only {counted(epochs, 'epoch')} planned."
    if trial.is_extension == (trial.learning_rate in tuning.rates):
        yield f"{name}: {'in' if trial.is_extension else 'not in'} the shared grid."
    n_val = results.splits_of(trial.for_seed)["val"].n_samples
    for number, epoch in enumerate(trial.validation, 1):
        if epoch.n_samples != n_val or epoch.n_correct > n_val:
            yield f"{name}, epoch {number}: {epoch.n_correct:,} of {epoch.n_samples:,}, not of {n_val:,}."
        elif epoch.lacks_loss:
            least = f"at least {epoch.least_loss_sum:.4g}"
            yield f"{name}, epoch {number}: loss_sum {epoch.loss_sum:.4g}, but {least}."


def _plan_problems(
    tuning: Tuning, target: Target, n_rounds: int, trials: Sequence[Trial], at_edge: list[str]
) -> Iterator[str]:
    """Which trials a variant must have, replayed round by round from their own counts."""
    variant = label(target)
    seen: dict[tuple[int, float], Trial] = {}
    for trial in trials:
        if seen.setdefault((trial.round, trial.learning_rate), trial) is not trial:
            yield f"{variant}: two trials at {trial.learning_rate:.3g} in round {trial.round}."
    rates, previous = list(tuning.rates), list[Trial]()
    for number in range(1, n_rounds + 1):
        if number > 1:
            rates = sorted(trial.learning_rate for trial in sorted(previous, key=_rank)[:KEPT])
        found = sorted(rate for n, rate in seen if n == number and not seen[n, rate].is_extension)
        if found != rates:
            why = "the shared grid is" if number == 1 else "on validation the survivors are"
            yield f"{variant}, round {number}: trials at {_listed(found)}, but {why} {_listed(rates)}."
            return
        previous = [seen[number, rate] for rate in rates if seen[number, rate].status == "completed"]
    yield from _extension_problems(tuning, variant, seen, n_rounds, at_edge)


def _extension_problems(
    tuning: Tuning,
    variant: str,
    seen: Mapping[tuple[int, float], Trial],
    n_rounds: int,
    at_edge: list[str],
) -> Iterator[str]:
    tried = list(tuning.rates)
    left = {rate for _, rate in seen} - set(tried)
    for number in range(MAX_EXTENSIONS + 1):
        winner = _winner([t for (n, rate), t in seen.items() if n == n_rounds and rate in tried])
        wanted = None if winner is None else _beyond(winner.learning_rate, tried)
        if wanted is None:
            break
        if number == MAX_EXTENSIONS:
            at_edge.append(variant)
            break
        new = next((rate for rate in left if abs(rate - wanted) <= STEP_TOLERANCE * wanted), None)
        if new is None:
            yield (
                f"{variant}: the best rate {_rate(winner)} is at the edge of {_listed(tried)}, but the "
                f"grid was not extended to {wanted:.3g}."
            )
            return
        missing = [n for n in range(1, n_rounds + 1) if (n, new) not in seen]
        if missing:
            yield f"{variant}: the extension to {new:.3g} has no trial in round {missing[0]}."
            return
        left.remove(new)
        tried = sorted([*tried, new])
    if left:
        yield f"{variant}: trials at {_listed(sorted(left))} are beyond the grid without need."


def _choice_problems(
    results: Results,
    tuning: Tuning,
    choice: Choice | None,
    target: Target,
    n_rounds: int,
    trials: Sequence[Trial],
) -> Iterator[str]:
    """The recorded choice and the final runs, against the winner of the last round."""
    variant = label(target)
    winner = _winner([trial for trial in trials if trial.round == n_rounds])
    if winner is None:
        if choice is not None:
            yield f"{variant}: {choice.learning_rate:.3g} was chosen, but no trial completed the last round."
        return
    index = next(i for i, trial in enumerate(tuning.trials) if trial is winner)
    extensions = len({trial.learning_rate for trial in trials if trial.is_extension})
    if choice is None:
        yield f"{variant}: no rate was chosen, but {_rate(winner)} won."
        return
    if choice.learning_rate != winner.learning_rate:
        yield f"{variant}: {choice.learning_rate:.3g} was chosen, but {_rate(winner)} is best on validation."
    elif choice.trial != index:
        yield f"{variant}: the choice names trial {choice.trial}, but trial {index} won."
    if choice.extensions != extensions:
        yield f"{variant}: {counted(choice.extensions, 'extension')} recorded, but {extensions} tried."
    for run in results.runs:
        if run.variant != target[0] or target[1] not in (None, run.seed):
            continue
        if run.learning_rate != choice.learning_rate:
            rates = f"{run.learning_rate:.3g}, but {choice.learning_rate:.3g} was chosen"
            yield f"{run.name}: trained at {rates}."
        elif run.trial != choice.trial:
            named = "no trial" if run.trial is None else f"trial {run.trial}"
            yield f"{run.name}: names {named}, but trial {choice.trial} was chosen."


def _rank(trial: Trial) -> tuple[int, float, float]:
    """The smaller, the better: correct predictions, loss, learning rate, at the trial's best epoch."""
    n_correct, loss = min((-epoch.n_correct, epoch.loss_sum) for epoch in trial.validation)
    return n_correct, loss, trial.learning_rate


def _winner(trials: Sequence[Trial]) -> Trial | None:
    return min((trial for trial in trials if trial.status == "completed"), key=_rank, default=None)


def _beyond(rate: float, tried: Sequence[float]) -> float | None:
    """The rate one equal step beyond the edge that `rate` is at; None if it is inside, or has no neighbor."""
    if len(tried) < 2 or rate not in (tried[0], tried[-1]):
        return None
    neighbor = tried[1] if rate == tried[0] else tried[-2]
    return rate * rate / neighbor


def _listed(rates: Sequence[float]) -> str:
    shown = ", ".join(f"{rate:.3g}" for rate in rates[:MOST_SHOWN]) or "no rate"
    return f"{shown} and {len(rates) - MOST_SHOWN:,} more" if len(rates) > MOST_SHOWN else shown


def _rate(trial: Trial | None) -> str:
    return "none" if trial is None else f"{trial.learning_rate:.3g}"
