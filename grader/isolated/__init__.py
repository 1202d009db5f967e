"""Predictions and training computed again, in a process that can reach nothing of the submission."""
