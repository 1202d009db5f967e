"""Make text from a submission safe to print."""


def clean(text: str) -> str:
    """Remove control characters, which could control a terminal or break XML, except line breaks.

    Also removes lone surrogates and the two non-characters that XML 1.0 forbids.
    """
    return "".join(c for c in text if c == "\n" or (c.isprintable() and c not in "\ufffe\uffff"))
