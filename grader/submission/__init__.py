"""What was handed in: from a path to the results as typed records, predictions and checkpoints."""
