"""Downloads: one place where a network's failures become a sentence that names the ways on."""

from __future__ import annotations

import http.client
import socket
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import FinetuneError

STALL_SECONDS = 30.0
"""A connection that delivers nothing for this long has failed."""


@contextmanager
def downloading(what: str, ways_on: str, error: type[FinetuneError]) -> Iterator[None]:
    """Run a download; turn whatever goes wrong with it into `error` with a way on.

    Args:
        what: the thing wanted and where it was looked for, as the subject of a sentence.
        ways_on: what the user can do instead, a full sentence.
        error: the class to raise.

    Raises:
        FinetuneError: of class `error`: no network, an HTTP error, a stall, a wrong hash, no room to write.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(
        STALL_SECONDS
    )  # urllib has no other way to reach torch's and torchvision's calls
    try:
        yield
    except urllib.error.HTTPError as cause:
        answer = _line(cause)  # urllib's remark on redirect loops has several lines
        raise error(f"{what} could not be downloaded: the server answered {answer}. {ways_on}") from cause
    except urllib.error.URLError as cause:
        raise error(f"{what} could not be downloaded: no connection ({cause.reason}). {ways_on}") from cause
    except (TimeoutError, http.client.HTTPException, ConnectionError) as cause:
        raise error(
            f"{what} could not be downloaded: the connection broke off ({_line(cause)}). {ways_on}"
        ) from cause
    except (RuntimeError, OSError) as cause:
        # torch.hub and torchvision raise RuntimeError for a hash that does not match.
        raise error(f"{what} could not be downloaded: {_line(cause)}. {ways_on}") from cause
    finally:
        socket.setdefaulttimeout(before)


def _line(cause: Exception) -> str:
    """An error's text in one line, without its full stop."""
    return " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
