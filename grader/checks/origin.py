"""Level 1: where pretrained weights come from, and whether they can have seen the images."""

from dataclasses import dataclass

from grader.evidence.gathered import Evidence
from grader.findings import Finding, Level, Status, from_problems
from grader.reading.strict_json import short


@dataclass(frozen=True)
class KnownWeights:
    """Weights that the grader knows.

    Attributes:
        sha256: Of the file.
        counter: BatchNorm's step counters in the file; 0 if it lacks them.
        origin: What they were trained on.
    """

    sha256: str
    counter: int
    origin: str


KNOWN_WEIGHTS = {
    # torchvision's resnet18-f37072fd.pth, whose name carries the first eight digits
    "imagenet": KnownWeights(
        "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 0, "trained on ImageNet"
    ),
    "bundled": KnownWeights(
        "c5c515f6a17b3c998dfce63c2a57dd880aa2c304bd70ef3de9dbf49614effc79", 3546, "trained on Tiny-ImageNet"
    ),
}


def weights_known(evidence: Evidence) -> Finding:
    """The pretrained weights are known, and have not seen the test images.

    Rule: fails if a variant starts pretrained and no weights are recorded, if the recorded kind is not the
    configured one, or if weights called imagenet or bundled have another SHA-256. Holds if the SHA-256 is
    that of torchvision's IMAGENET1K_V1 file or of the bundled file. Inconclusive otherwise: weights from a
    file or an earlier run may have been trained on these very images. With another split seed, an earlier
    run's training images are in this run's test split, and its weights reach 100% there.

    Source: torchvision's file, whose name carries the first eight digits; finetune's model card.
    """
    results = evidence.results
    weights, configured = results.weights, evidence.results.configured_weights
    names = [run.name for run in results.runs if run.init == "pretrained"]
    if weights is None:
        problem = f"{', '.join(names)}: pretrained, but no weights are recorded."
        return from_problems({"weights": [problem] if names else []}, Level.FILE, "No pretrained weights.")
    kind, digest = weights["kind"], weights["sha256"]
    problems = []
    if (configured if configured in KNOWN_WEIGHTS else "") != (kind if kind in KNOWN_WEIGHTS else ""):
        problems.append(
            f"The configuration asks for the weights {short(configured)}, but {kind} is recorded."
        )
    elif kind in KNOWN_WEIGHTS and KNOWN_WEIGHTS[kind].sha256 != digest:
        wanted = KNOWN_WEIGHTS[kind].sha256
        problems.append(f"Weights called {kind} have the SHA-256 {digest}, but it is {wanted}.")
    known = [name for name, file in KNOWN_WEIGHTS.items() if file.sha256 == digest]
    if problems or known:
        origin = f"The weights are the {known[0]} ones, {KNOWN_WEIGHTS[known[0]].origin}." if known else ""
        return from_problems({"weights": problems}, Level.FILE, origin)
    of_run = " of an earlier run, which trains on some of these images if its split had another seed"
    return Finding(
        Status.INCONCLUSIVE,
        Level.FILE,
        f"Weights of unknown origin, {short(weights['source'])}{of_run if kind == 'run' else ''}: they may "
        "have been trained on the test images. Ask for the file.",
    )
