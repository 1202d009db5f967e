"""Text from a submission, made safe to print."""


def clean(text: str) -> str:
    """Without control characters, which could steer a terminal or break XML; line breaks stay.

    Lone surrogates and the two non-characters that XML 1.0 forbids go too.
    """
    return "".join(c for c in text if c == "\n" or (c.isprintable() and c not in "\ufffe\uffff"))
