"""What the checks may use: what was handed in, the truth, what was computed again, and its traces."""
