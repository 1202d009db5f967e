"""A judge for finetune's results: recomputes every claim, and says when the data cannot tell.

The package never imports torch nor finetune. What it trusts, in rising order: the results file, the
predictions beside it, the true labels, the checkpoints (see `docs/grading.md`).
"""
