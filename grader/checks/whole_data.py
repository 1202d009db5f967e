"""Level 1: a data set that the grader knows was used whole, divided as the results say."""

from collections.abc import Mapping, Sequence

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, counted, from_problems, not_checked
from grader.submission.parts import Split
from grader.submission.record import SPLITS, Results
from grader.submission.split_rule import STANDARD, shares_of

DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
FLOWERS = (
    40, 60, 40, 56, 65, 45, 40, 85, 46, 45, 87, 87, 49, 48, 49, 41, 85, 82, 49, 56, 40, 59, 91, 42,
    41, 41, 40, 66, 78, 85, 52, 45, 46, 40, 43, 75, 108, 56, 41, 67, 127, 59, 130, 93, 40, 196, 67,
    71, 49, 92, 258, 85, 93, 61, 71, 109, 67, 114, 67, 109, 50, 55, 54, 52, 102, 61, 42, 54, 54, 62,
    78, 96, 194, 171, 120, 107, 251, 137, 41, 105, 166, 112, 131, 86, 63, 58, 63, 154, 184, 82, 76,
    66, 46, 162, 128, 91, 66, 82, 63, 49, 58, 48,
)  # fmt: skip
KNOWN: Mapping[str, tuple[int, ...]] = {"digits": DIGITS, "flowers102": FLOWERS}
"""Images of each class: scikit-learn's 1,797 (Alpaydin and Kaynak 1998); Nilsback and Zisserman (2008)."""

FLOWERS_OFFICIAL = 10  # training and validation images of each class, each
MOST_EXCLUDED = 0.01  # share of the images
LEAST_OF_SPLIT = 1  # images; of validation or test, otherwise the same share
LEAST_LIMIT = 3  # images; in Flowers-102, three are excluded as copies, whatever the subset
COPIES = 3  # identical images stay together, so that a class may be divided this far off the rule


def whole_data(evidence: Evidence) -> Finding:
    """All images of the data set were used, divided as the results say.

    Rule, for digits (1,797 images) and flowers102 (8,189): at most three images are excluded, or 1% of those
    that are used or excluded; of validation and of test, exclusions leave out at most one image, or 1%,
    because a few wrong answers hidden in a small split could decide the comparison. Without a subset, each
    class has all its images but the excluded ones, and so has each of its splits: with the split official, 10
    for training, 10 for validation and the rest for test; with shares such as 70-15-15, 70% (rounded down)
    for training and the rest divided as 15 to 15, each within 3 images, because identical images stay
    together. With a subset of n, each split has min(n, what it would have otherwise) of each class. With a
    split for each seed, all this for each of them. --rerun recomputes the splits from the images and the
    split seed, exclusions included.

    Source: the data sets' authors; finetune's split rule.
    """
    results = evidence.results
    totals = KNOWN.get(results.dataset_name)
    if totals is None:
        return not_checked("The grader does not know how many images this data set has.", Level.FILE)
    if len(totals) != len(results.classes):
        problem = f"{results.dataset_name} has {len(totals)} classes, not {len(results.classes)}."
        return from_problems({"classes": [problem]}, Level.FILE, "")
    n_excluded, n_used = len(results.excluded), sum(sum(s.class_counts) for s in results.splits.values())
    most = max(LEAST_LIMIT, int(MOST_EXCLUDED * (n_used + n_excluded)))
    problems: dict[str, list[str]] = {"excluded": []}
    if n_excluded > most:
        images = f"{n_excluded:,} images are excluded, and {n_used:,} used"
        problems["excluded"] = [f"{images}; at most {most} can be without the images to show why (--rerun)."]
    if results.resplits is None:
        problems |= _split_problems(results, totals, results.splits)
    for seed, splits in (results.resplits or {}).items():
        found = _split_problems(results, totals, splits)
        problems |= {f"{part} of seed {seed}": found[part] for part in found}
    summary = f"All {sum(totals):,} images of {results.dataset_name}, "
    summary += (
        f"less {n_excluded} excluded" if results.subset is None else f"at most {results.subset} a class"
    )
    summary += f", less {n_excluded} excluded." if results.subset is not None and n_excluded else "."
    return from_problems(problems, Level.FILE, summary)


def _split_problems(
    results: Results, totals: Sequence[int], splits: Mapping[str, Split]
) -> dict[str, list[str]]:
    """What is wrong with one division of the images into splits."""
    official = results.split_rule == "official" and results.dataset_name == "flowers102"
    n_excluded, lacking, slack = len(results.excluded), 0, 0 if official else COPIES
    problems: dict[str, list[str]] = {}
    for name, split in splits.items():
        found, before = problems.setdefault(f"split {name}", []), lacking
        for label, (n, total) in enumerate(zip(split.class_counts, totals, strict=False)):
            full = _official(total)[name] if official else _divided(total, results.split_rule)[name]
            wanted = full if results.subset is None else min(full, results.subset)
            lacking += max(0, wanted - n)
            if n > wanted + slack or n < wanted - slack - n_excluded:
                of = f"{counted(n, 'image')} of class {results.classes[label]}"
                found.append(f"{name}: {of}, but {results.split_rule} gives {wanted}.")
        if name in SPLITS and not found:
            found += _hidden(name, min(n_excluded, lacking - before), split.n_samples)
    if results.subset is None:
        n_used = sum(sum(split.class_counts) for split in splits.values())
        if n_used + n_excluded != sum(totals):
            used = f"{n_used:,} images used and {n_excluded:,} excluded"
            problems["total"] = [f"{used}, but {results.dataset_name} has {sum(totals):,}."]
    elif lacking > n_excluded + slack * len(totals):
        problems["total"] = [f"The splits lack {lacking:,} images that a subset of {results.subset} has."]
    return problems


def _hidden(name: str, n_hidden: int, n_samples: int) -> list[str]:
    """What is wrong with as many images of a split as exclusions may have left out."""
    most = max(LEAST_OF_SPLIT, int(MOST_EXCLUDED * (n_samples + n_hidden)))
    if n_hidden <= most:
        return []
    why = f"exclusions leave out {counted(n_hidden, 'image')} of {n_samples + n_hidden:,}"
    return [f"{name}: {why}; at most {most} can be without the images to show why (--rerun)."]


def _official(total: int) -> dict[str, int]:
    """How many images of a class of Flowers-102 each official split has."""
    return {"train": FLOWERS_OFFICIAL, "val": FLOWERS_OFFICIAL, "test": total - 2 * FLOWERS_OFFICIAL}


def _divided(total: int, rule: str) -> dict[str, int]:
    """How finetune divides a class by shares in percent; digits have no official split."""
    train_share, val_share, test_share = shares_of(rule) or STANDARD
    train = min(max(1, total * train_share // 100), total - 2)
    rest = total - train
    val = min(max(1, rest * val_share // (val_share + test_share)), rest - 1)
    return {"train": train, "val": val, "test": rest - val}
