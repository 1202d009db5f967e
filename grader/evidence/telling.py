"""Whether a sum of losses tells a network from others, so that two runs that share it are one training."""

from grader.submission.parts import Metrics

FEWEST_IMAGES = 30
"""Of fewer, whose logits in bf16 lie on a coarse grid, two networks may have the same losses by chance: in
one of 2,000 simulated runs, two at chance had on 11 images."""

LEAST = 0.01
"""Where answers are right and certain, a loss is 0 or a few times 1.2e-7."""

COARSE = 2**12
"""The loss of a wrong and certain answer is a difference of logits, in bf16 a multiple of a power of two."""


def is_telling(found: Metrics) -> bool:
    """Whether two trainings hardly have this sum of losses in common by chance."""
    is_coarse = found.loss_sum * COARSE % 1 == 0
    return found.n_samples >= FEWEST_IMAGES and found.loss_sum >= LEAST and not is_coarse
