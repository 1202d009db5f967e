"""Downloads: whatever goes wrong with one becomes a sentence that says what to do."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import FinetuneError

STALL_SECONDS = 30.0
"""A connection that delivers nothing for this long counts as failed."""


@contextmanager
def downloading(what: str, advice: str, error: type[FinetuneError]) -> Iterator[None]:
    """Run a download; turn whatever goes wrong with it into one error.

    Args:
        what: what is downloaded, as the subject of a sentence.
        advice: what the user can do instead, as a sentence.
        error: the class to raise.

    Raises:
        FinetuneError: of class `error`: no network, an HTTP error, a stalled server, a wrong hash, no disk
            space.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # torch and torchvision pass no timeout to urllib
    try:
        # torch and torchvision draw a percentage on stderr; outside a terminal it would fill the log.
        with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
            yield
    except urllib.error.HTTPError as cause:
        # urllib's message about redirect loops has several lines.
        raise error(
            f"{what} could not be downloaded: the server answered {_line(cause)}. {advice}"
        ) from cause
    except urllib.error.URLError as cause:
        raise error(f"{what} could not be downloaded: no connection ({cause.reason}). {advice}") from cause
    except (TimeoutError, http.client.HTTPException, ConnectionError) as cause:
        raise error(
            f"{what} could not be downloaded: the connection was lost ({_line(cause)}). {advice}"
        ) from cause
    except (RuntimeError, OSError) as cause:
        # torch.hub and torchvision raise RuntimeError for a hash that does not match.
        raise error(f"{what} could not be downloaded: {_line(cause)}. {advice}") from cause
    finally:
        socket.setdefaulttimeout(before)


def _line(cause: Exception) -> str:
    """An error's message in one line, without its full stop."""
    return " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
