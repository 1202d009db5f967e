"""Make text from a submission safe to print."""

from collections.abc import Iterable


def clean(text: str) -> str:
    """One line without control characters, which could control a terminal, break XML or fake another line.

    Also removes lone surrogates and the two non-characters that XML 1.0 forbids. Consecutive spaces become
    one, because a terminal that wraps lines would turn many into a line break.
    """
    shown = (c if c.isprintable() and c not in "\ufffe\uffff" else " " if c.isspace() else "" for c in text)
    return " ".join("".join(shown).split())


def clean_lines(texts: Iterable[str]) -> str:
    """Several texts, one line each."""
    return "\n".join(map(clean, texts))
