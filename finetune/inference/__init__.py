"""A trained network put to use: predictions, explanations and exported files."""
