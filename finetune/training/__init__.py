"""Train one variant with one seed: optimizer, precision, evaluation, cached features, checkpoints."""
