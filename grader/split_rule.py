"""How a run split its images, as `config.split` of the results names it."""

STANDARD = (70, 15, 15)


def shares_of(rule: str) -> tuple[int, int, int] | None:
    """The percentages of training, validation and test; None for the split `official`."""
    if rule == "official":
        return None
    train, val, test = map(int, rule.split("-"))  # the schema has checked the form
    return train, val, test
