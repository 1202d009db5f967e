"""The seed that a course prescribes to each student: a function of a nonce and the student's id."""

import hashlib
import unicodedata
from dataclasses import dataclass

from grader.errors import UsageError
from grader.reading.strict_json import short

ROOM = 2**16
"""Seeds that are left above the largest prescribed one: a job's seeds are consecutive, and below 2^32."""

SEPARATOR = ":"


@dataclass(frozen=True)
class Prescription:
    """A course's nonce and a student's id, which together prescribe the first seed of the student's job."""

    nonce: str
    student: str

    def __post_init__(self) -> None:
        for name in ("nonce", "student"):
            object.__setattr__(self, name, unicodedata.normalize("NFC", getattr(self, name)).strip())

    @classmethod
    def parse(cls, text: str) -> "Prescription":
        """From `NONCE:STUDENT`.

        Raises:
            UsageError: A part is empty or missing, or the text is not Unicode.
        """
        nonce, _, student = text.partition(SEPARATOR)
        found = cls(require_nonce(nonce), student)
        if not found.student or not text.isprintable():
            raise UsageError(f"It must be NONCE:STUDENT, not {short(text)}.")
        return found

    @property
    def seed(self) -> int:
        """The first seed: the first 8 bytes of SHA-256("NONCE:STUDENT"), big-endian, modulo 2^32 - 2^16.

        Both are in Unicode's normal form C, without surrounding spaces, in UTF-8.
        """
        digest = hashlib.sha256(str(self).encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % (2**32 - ROOM)

    def __str__(self) -> str:
        return f"{self.nonce}{SEPARATOR}{self.student}"


def require_nonce(nonce: str) -> str:
    """The nonce.

    Raises:
        UsageError: It is empty, contains a colon or is not Unicode.
    """
    if not nonce.strip() or SEPARATOR in nonce or not nonce.isprintable():
        raise UsageError(f"--seed-from must be a nonce, a word without a colon, not {short(nonce)}.")
    return nonce
