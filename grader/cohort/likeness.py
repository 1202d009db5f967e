"""Which submissions of a class have runs in common: groups to look at, from traces in memory alone."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grader.evidence.traces import SEEDED, TIMES, TRAINING, Trace, Traces
from grader.findings import in_words
from grader.statistics.distributions import normal_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 0.97
"""Robust correlation of two runs' losses from which they are nearly the same. Honest runs with different
seeds had at most 0.94, two of them on 153 images 0.98; copies with 1% jitter and 30 answers changed 0.97 to 1
(docs/detection.md)."""

RESOLVED = 1e-4  # losses below are tied by rounding, as in checks/kinship.py
MOST_NAMED = 4  # submissions or runs in a sentence
FEWEST = 100  # images with larger losses in both runs


@dataclass(frozen=True)
class Group:
    """Submissions whose runs have something in common.

    Attributes:
        kind: `times`, `training`, `seeded` (start or stream under different seeds) or `near`.
        members: Names of the submissions, sorted.
        runs: Names of the runs that have it in common, sorted.
        what: What they have in common: kinds of marks, or a correlation.
        seeds_differ: Whether they say that they were trained with different seeds.
    """

    kind: str
    members: tuple[str, ...]
    runs: tuple[str, ...]
    what: tuple[str, ...]
    seeds_differ: bool

    @property
    def is_copy(self) -> bool:
        """Whether no honest trainings agree like that."""
        return self.kind == "times" or (self.seeds_differ and self.kind != "near")

    @property
    def text(self) -> str:
        """What is the same, and what it means."""
        runs = in_words(self.runs, MOST_NAMED)
        match self.kind:
            case "times":
                return (
                    f"the same measured times ({runs}): no two trainings take the same time, so one is a copy"
                )
            case "near":
                why = "honest runs with one seed on different machines agree like that, too"
                if self.seeds_differ:
                    why = "honest runs with different seeds had at most 0.94, on 153 images 0.98"
                return f"nearly the same losses ({runs}; {self.what[0]}): {why}"
        same = f"the same {in_words(self.what, MOST_NAMED)} ({runs})"
        if self.seeds_differ:
            return f"{same} under different seeds: no honest trainings agree like that"
        return f"{same}: honest runs with one seed on one kind of machine agree like that, too"


Link = tuple[str, str, bool]  # a kind of mark, the name of a run that has it, and whether its seeds differ


def groups_of(submissions: Mapping[str, Traces]) -> list[Group]:
    """All groups, those that can only be copies first.

    Args:
        submissions: Traces by the name of the submission.
    """
    owners: dict[tuple[str, str], list[tuple[str, Trace]]] = defaultdict(list)
    for name, traces in submissions.items():
        for run in traces.runs:
            for kind, marks in run.marks.items():
                for mark in marks:
                    owners[kind, mark].append((name, run))
    shared: dict[str, dict[tuple[str, ...], list[Link]]] = defaultdict(lambda: defaultdict(list))
    for (kind, _), found in owners.items():
        names = tuple(sorted({name for name, _ in found}))
        differ = len({run.seed for _, run in found}) > 1
        if len(names) > 1 and (differ or kind not in SEEDED):
            group = "times" if kind == TIMES else "training" if kind in TRAINING else "seeded"
            having: dict[str, set[str]] = defaultdict(set)
            for name, run in found:
                having[run.name].add(name)
            in_all = [run for run, members in having.items() if len(members) == len(names)]
            shared[group][names] += [(kind, run, differ) for run in in_all or having]
    groups = [group for kind, links in shared.items() for group in _joined(kind, links)]
    copies = [set(group.members) for group in groups if group.kind == "times"]
    groups = [g for g in groups if g.kind == "times" or not any(set(g.members) <= found for found in copies)]
    alike = {name: g.members[0] for g in groups if g.kind in ("times", "training") for name in g.members}
    groups += _near({name: t for name, t in submissions.items() if alike.get(name, name) == name})
    return sorted(groups, key=lambda group: (not group.is_copy, group.kind != "times", group.members))


def _joined(kind: str, links: Mapping[tuple[str, ...], list[Link]]) -> Iterable[Group]:
    """Connected submissions, each of which shares something with another one of the group."""
    for members, keys in _components(links):
        found = [link for key in keys for link in links[key]]
        what, runs = {kind for kind, _, _ in found}, {run for _, run, _ in found}
        differ = any(differ for _, _, differ in found)
        yield Group(kind, members, tuple(sorted(runs)), tuple(sorted(what)), differ)


def _components(
    links: Iterable[tuple[str, ...]],
) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """The connected components of a graph: their members, and the links inside."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    links = list(links)
    for names in links:
        for other in names[1:]:
            parent[root(other)] = root(names[0])
    inside: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for names in links:
        inside[root(names[0])].append(names)
    return [(tuple(sorted({name for names in found for name in names})), found) for found in inside.values()]


def _near(submissions: Mapping[str, Traces]) -> Iterable[Group]:
    """Runs of one variant with nearly the same losses; submissions with the very same ones only once."""
    alike: dict[tuple[str, str], list[tuple[str, Trace]]] = defaultdict(list)
    for name, traces in submissions.items():
        for run in traces.runs:
            if run.losses is not None:
                alike[run.variant, run.images].append((name, run))
    links: dict[tuple[str, ...], list[tuple[str, float, bool]]] = defaultdict(list)
    for found in alike.values():
        for i, j, rho in _near_pairs([run.losses for _, run in found if run.losses is not None]):
            (name, run), (other, second) = found[i], found[j]
            if name != other:
                key = (name, other) if name < other else (other, name)
                links[key].append((run.name, rho, run.seed != second.seed))
                links[key].append((second.name, rho, run.seed != second.seed))
    for members, keys in _components(links):
        pairs = [link for key in keys for link in links[key]]
        runs, rho = tuple(sorted({name for name, _, _ in pairs})), max(rho for _, rho, _ in pairs)
        yield Group("near", members, runs, (f"rho up to {rho:.3f}",), any(differ for *_, differ in pairs))


def _near_pairs(losses: "Sequence[NDArray[np.float32]]") -> Iterable[tuple[int, int, float]]:
    """Pairs (i, j) of runs whose losses on the same images agree, with their robust correlation.

    It is 1 - (1.4826 * m)^2 / (2 * v), where m is the median absolute difference of the normal scores of the
    losses that both runs resolve, and v the variance of these scores (Rousseeuw and Croux 1993).

    Args:
        losses: One array of shape [n] for each run.
    """
    import numpy as np

    table = np.stack(losses) if losses else np.empty((0, 0), np.float32)
    n_runs, n = table.shape
    if n < FEWEST:
        return
    ranks = table.argsort(axis=1).argsort(axis=1)
    scores = normal_scores(ranks, n).astype(np.float32)
    resolved = table > RESOLVED
    for i in range(n_runs - 1):
        both = resolved[i] & resolved[i + 1 :]
        counts = both.sum(axis=1)
        gaps = np.where(both, np.abs(scores[i] - scores[i + 1 :]), np.inf)
        gaps.sort(axis=1)
        middle = gaps[np.arange(len(gaps)), np.maximum(0, counts - 1) // 2]
        some = np.maximum(counts, 1)
        mean = both @ scores[i] / some
        variance = both @ scores[i] ** 2 / some - mean**2
        usable = (counts >= FEWEST) & (variance > 0)
        rho = 1 - (1.4826 * np.where(usable, middle, np.inf)) ** 2 / (2 * np.where(usable, variance, 1))
        for k in np.flatnonzero(rho > NEAR).tolist():
            yield i, i + 1 + k, float(rho[k])
