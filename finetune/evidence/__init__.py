"""Parts of a run computed again for the grader: starts, predictions, and epochs of training."""
