"""Level 1: the seeds are those that the course prescribed, and nobody else has the same runs."""

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, from_problems, not_checked
from grader.reading.strict_json import short


def seed_prescribed(evidence: Evidence) -> Finding:
    """The seeds are those that the course prescribed to this student.

    Rule: with --seed-from NONCE, the first seed is the first 8 bytes of SHA-256("NONCE:STUDENT") as a
    big-endian number, modulo 2^32 - 2^16, and the others follow it; STUDENT is the name of the submission's
    folder or zip file, or what --students says. The split seed is 0, so that nobody chooses among splits.

    Source: `finetune train --seed-from NONCE:STUDENT`.
    """
    prescription, results = evidence.prescription, evidence.results
    if prescription is None:
        return not_checked("Requires --seed-from.", Level.FILE)
    first, student = prescription.seed, short(prescription.student)
    wanted = tuple(range(first, first + len(results.seeds)))
    problems = []
    if results.seeds != wanted:
        found = ", ".join(map(str, results.seeds[:3]))
        problems = [f"The course prescribes seed {first} to {student}, but the run has {found}."]
        if results.seed_from is not None and results.seed_from != str(prescription):
            problems[0] += f" It was trained with --seed-from {short(results.seed_from)}."
    if results.split_seed != 0:
        problems.append(f"The course prescribes split seed 0, but the run has {results.split_seed}.")
    return from_problems({"seeds": problems}, Level.FILE, f"Seed {first} was prescribed to {student}.")


def own_runs(_evidence: Evidence) -> Finding:
    """No other student, to whom another seed was prescribed, has the same runs.

    Rule: with --seed-from and several submissions, no epoch's measured time, training loss, weights or
    predictions, and no file, are those of a run of a student with another prescribed seed. If they are, and
    an integrity property refutes one of the two submissions, the other one is left alone; otherwise both
    fail, because one is a copy; --rerun, or --replay if its hashes were recomputed, shows which.

    Source: seeds decide order, crops and new layers; equal results of different seeds are copies.
    """
    # The comparison of all submissions, which knows more than one of them, replaces this finding.
    return not_checked("Requires --seed-from and several submissions.", Level.FILE)
