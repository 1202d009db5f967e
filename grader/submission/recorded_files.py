"""Reads the files that a results file names, each only if it is the recorded one."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from grader.errors import UnusableError
from grader.reading.files import below, read_bytes
from grader.submission.parts import Artifact, State


@dataclass
class RecordedFiles:
    """Reads the files that a results file names, each only if it is the recorded one.

    Attributes:
        folder: The run folder.
        limit: Maximum size of a file, in bytes.
        room: Bytes that may still be read, of all files together.
    """

    folder: Path
    limit: int
    room: int = sys.maxsize

    def read(self, file: Artifact | State, shown: str) -> bytes:
        """The content of a file.

        Args:
            file: Its path and SHA-256 as recorded.
            shown: Where the path comes from, for messages.

        Raises:
            UnusableError: As `below` and `read_bytes`, or the SHA-256 is another one.
        """
        path = below(self.folder, file.path, shown)
        content = read_bytes(path, file.path, min(self.room, self.limit))
        self.room -= len(content)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UnusableError([f"{file.path} does not match its recorded SHA-256."])
        return content
