"""Parts of the records: figures, variants, splits, and a run's parameters, budget, calibration and files."""

from dataclasses import dataclass
from math import log

from grader.submission.resnet18 import GROUPS

NEAR_TIES = 1e-4  # share of a loss that rounding changes where two classes are about equally probable


@dataclass(frozen=True, slots=True)
class Metrics:
    """Totals over a split: cross-entropy in nats, correct predictions, samples."""

    loss_sum: float
    n_correct: int
    n_samples: int

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return self.n_correct / self.n_samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return self.loss_sum / self.n_samples

    @property
    def least_loss_sum(self) -> float:
        """What `loss_sum` is at least, nats: ln 2 for each image that is misclassified.

        Another class is at least as probable as the label there, so that the label has at most 1/2.
        """
        return (self.n_samples - self.n_correct) * log(2)

    @property
    def lacks_loss(self) -> bool:
        """Whether `loss_sum` is smaller than that, beyond rounding."""
        return self.loss_sum < self.least_loss_sum * (1 - NEAR_TIES)


@dataclass(frozen=True, slots=True)
class VariantConfig:
    """A configured variant. `train` is `all` or names of layer groups; `epochs` None means the recipe's.

    `norm` tells whether BatchNorm statistics of frozen layers stay (`frozen`) or follow the images (`adapt`),
    and `head` the variant whose best epoch gives the initial fc.
    """

    name: str
    init: str
    train: str | tuple[str, ...]
    lr: float | None
    epochs: int | None
    norm: str
    head: str | None

    @property
    def groups(self) -> tuple[str, ...]:
        """The layer groups that it trains."""
        return GROUPS if self.train == "all" else tuple(self.train)


@dataclass(frozen=True, slots=True)
class Split:
    """Size, class counts and fingerprint of one split."""

    n_samples: int
    class_counts: tuple[int, ...]
    fingerprint: str

    @property
    def chance(self) -> float:
        """Share of the most frequent class, 0 to 1: the accuracy of always naming it."""
        return max(self.class_counts) / max(1, sum(self.class_counts))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter passed to the optimizer."""

    name: str
    shape: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Epochs, steps and images that a run trained on."""

    epochs: int
    steps: int
    images: int
    stream_sha256: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well a network's probabilities match its accuracy; expected calibration errors are 0 to 1.

    Attributes:
        temperature: By which logits are divided before the softmax; fitted on validation.
        ece_val: The error on validation, at temperature 1.
        ece_test: The same on test.
        ece_test_scaled: On test, at the temperature.
        n_bins: Of the three errors.
    """

    temperature: float
    ece_val: float
    ece_test: float
    ece_test_scaled: float
    n_bins: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file in the run folder."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class State:
    """A file with the training state after an epoch."""

    epoch: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Artifacts:
    """The files of a run's best epoch."""

    val_predictions: Artifact
    test_predictions: Artifact
    checkpoint: Artifact

    def predictions(self, split: str) -> Artifact:
        """The predictions on `val` or `test`."""
        return self.val_predictions if split == "val" else self.test_predictions
