"""Grades finetune's results: recomputes every claim and says when the data are inconclusive.

This package imports neither torch nor finetune. It relies on five levels of evidence, from weak to strong:
the results file, the predictions, the ground truth, the checkpoints and training again (`docs/evidence.md`).
"""
