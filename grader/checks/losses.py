"""Level 2: losses are numbers that a network can have computed."""

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, from_problems
from grader.submission.record import SPLITS

SUM_TOLERANCE = 1e-12  # relative; the order of a float64 sum matters less, even for a million values


def losses_exact(evidence: Evidence) -> Finding:
    """Each image's loss is a float32 number in nine digits, and they add up to the recorded sum exactly.

    Rule: each nll equals the nearest float32 number printed with nine significant digits, and the best
    epoch's loss_sum equals the sum of these float32 numbers, added in float64, within 1e-12 (relative).

    Source: IEEE 754 (2008), section 5.12.2: nine digits restore a binary32 number exactly. Networks compute
    losses in float32. Of decimal numbers that were made up with nine digits, two in three are the print of no
    float32 number.
    """
    import numpy as np

    problems: dict[str, list[str]] = {}
    for split in SPLITS:
        for run, rows in evidence.rows(split):
            found = problems.setdefault(f"{run.name} {split}", [])
            with np.errstate(over="ignore"):  # above 3e38 no float32 number is near
                single = rows.nll.astype(np.float32)
            printed = [float(f"{value:.9g}") for value in single.tolist()]
            odd = np.flatnonzero(np.array(printed) != rows.nll)
            if len(odd):
                found.append(
                    f"{run.name}, {split}: {len(odd):,} of {len(printed):,} losses are no float32 numbers, "
                    f"the first in line {int(odd[0]) + 2}: {rows.nll[odd[0]]:.12g}."
                )
                continue
            total = float(single.sum(dtype=np.float64))
            recorded = run.best.on(split).loss_sum if run.best else total
            if abs(total - recorded) > SUM_TOLERANCE * total:
                found.append(
                    f"{run.name}, {split}: losses add up to {total:.15g}, but {recorded:.15g} recorded."
                )
    return from_problems(problems, Level.PREDICTIONS, "Every loss is a float32 number; the sums are exact.")
