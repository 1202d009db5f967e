"""Names of submissions as they are shown: what cannot be seen is written out, so that no two look alike."""

import unicodedata
from collections.abc import Sequence

UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffe\uffff"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
"""Characters that Python calls printable but that nobody sees (Unicode's Default_Ignorable_Code_Point, and
the blank Braille pattern), and the two that XML 1.0 forbids."""


def visible(name: str) -> str:
    r"""A name with everything invisible written as Python writes it, such as `\u200b`.

    That is control and format characters, unpaired surrogates, spaces other than a single one between words,
    and the backslash, so that different names stay different.
    """
    shown = []
    for i, character in enumerate(name):
        if character == " ":
            is_plain = 0 < i < len(name) - 1 and name[i - 1] != " "
        else:
            is_plain = character.isprintable() and character not in UNSEEN and character != "\\"
        shown.append(character if is_plain else _escaped(character))
    return "".join(shown)


def distinct(names: Sequence[str]) -> dict[str, str]:
    """How each of several names is shown.

    Where two look alike, because they are equal in Unicode's normal form NFKC, everything but ASCII in them
    is written out.
    """
    shown = {name: visible(name) for name in names}
    alike: dict[str, list[str]] = {}
    for name, text in shown.items():
        alike.setdefault(unicodedata.normalize("NFKC", text), []).append(name)
    for same in alike.values():
        for name in same if len(same) > 1 else ():
            shown[name] = "".join(c if c.isascii() else _escaped(c) for c in shown[name])
    return shown


def _escaped(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return r"\\"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
