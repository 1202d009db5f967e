"""Downloads that fail, by cause."""

from __future__ import annotations

import http.client
import socket
import sys
import urllib.error
import urllib.request

import pytest

from finetune.errors import DataError, WeightsError
from finetune.system import download as network
from finetune.system.download import downloading
from tests.builders.server import Server


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (urllib.error.URLError("[Errno -2] Name or service not known"), "no connection ([Errno -2] Name"),
        (TimeoutError(), "the connection was lost (TimeoutError)."),
        (http.client.IncompleteRead(b"x", 10), "the connection was lost (IncompleteRead"),
        (ConnectionResetError("reset"), "the connection was lost (reset)."),
        (OSError(28, "No space left on device"), "No space left on device. Do that."),
        (RuntimeError("File not found or corrupted."), "downloaded: File not found or corrupted. Do that."),
        (RuntimeError("two\nlines"), "two lines. Do that."),
    ],
)
def test_each_cause_is_one_line(cause: Exception, reason: str) -> None:
    with (
        pytest.raises(WeightsError) as caught,
        downloading("The thing, looked for here,", "Do that.", WeightsError),
    ):
        raise cause
    said = str(caught.value)
    assert said.startswith("The thing, looked for here, could not be downloaded: ")
    assert said.endswith(" Do that.")
    assert reason in said
    assert "\n" not in said
    assert caught.value.__cause__ is cause


def test_bugs_pass_through() -> None:
    with pytest.raises(KeyError), downloading("It", "Go.", DataError):
        raise KeyError("bug")


def test_the_limit_holds_only_within() -> None:
    before = socket.getdefaulttimeout()
    with downloading("It", "Go.", DataError):
        assert socket.getdefaulttimeout() == network.STALL_SECONDS
    assert socket.getdefaulttimeout() == before
    with pytest.raises(DataError), downloading("It", "Go.", DataError):
        raise OSError("x")
    assert socket.getdefaulttimeout() == before


def test_a_stalled_server_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "STALL_SECONDS", 0.2)
    with (
        pytest.raises(DataError, match=r"the connection was lost \(timed out\)\."),
        downloading("It", "Go.", DataError),
        urllib.request.urlopen(f"{server.url}/stall/x"),  # noqa: S310 - a server of this test
    ):
        pass


def test_a_percentage_stays_out_of_logs(capsys: pytest.CaptureFixture[str]) -> None:
    with downloading("The file", "Try again.", DataError):
        print("\r12.5%", end="", file=sys.stderr)  # noqa: T201 - as torchvision does
    print("after", file=sys.stderr)  # noqa: T201
    assert capsys.readouterr().err == "after\n"
