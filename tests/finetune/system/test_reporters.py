"""Who is told what while a job runs: people at a terminal, programs, and those who want silence."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from finetune.system.console import STOPPING, Reporter
from finetune.system.reporters import (
    JsonReporter,
    LiveReporter,
    QuietReporter,
    SilentReporter,
    TaggedReporter,
    reporter_for,
)


class Job:
    """A job that shows how many images it was trained on."""

    def __init__(self) -> None:
        self.images = 0

    def render(self, width: int, stopping: bool, ended: bool = False) -> RenderableType:
        state = ", ended" if ended else ", stopping" if stopping else ""
        return Text(f"{self.images} images at {width}{state}")

    def advance(self, n_images: int) -> None:
        self.images += n_images


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def live(text: io.StringIO, **environment: str) -> LiveReporter:
    return LiveReporter(Console(file=text, width=80, force_terminal=True, _environ=environment))


class TestChoice:
    def test_plain_lines_where_there_is_no_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert type(reporter_for()) is Reporter
        monkeypatch.setenv("FORCE_COLOR", "1")  # as some CI services set it
        assert type(reporter_for()) is Reporter

    @pytest.mark.parametrize(
        ("term", "kind"), [("xterm-256color", LiveReporter), ("dumb", Reporter), ("unknown", Reporter)]
    )
    def test_a_live_table_at_a_terminal_that_can_redraw(
        self, monkeypatch: pytest.MonkeyPatch, term: str, kind: type[Reporter]
    ) -> None:
        monkeypatch.setattr("sys.stdout", Terminal())
        monkeypatch.setenv("TERM", term)
        assert type(reporter_for()) is kind

    def test_what_was_asked_for(self) -> None:
        assert type(reporter_for("json")) is JsonReporter
        assert type(reporter_for(quiet=True)) is QuietReporter

    def test_several_processes(self) -> None:
        assert type(reporter_for("json", rank=1, parallel="data")) is SilentReporter
        assert type(reporter_for(rank=1, parallel="runs")) is TaggedReporter
        found = reporter_for("json", rank=1, parallel="runs")
        assert isinstance(found, JsonReporter)
        assert found.rank == 1


class TestLive:
    def test_the_table_stands_for_details_and_bars(self) -> None:
        text, job = io.StringIO(), Job()
        reporter = live(text)
        with reporter.watching(job):
            reporter.detail("epoch 1")
            reporter.say("a line above")
            with reporter.training("A", 8) as advance:
                advance(8)
            with reporter.bar("decoding", 5) as advance:  # of test images, between trials and runs
                advance(5)
        assert job.images == 8
        shown = text.getvalue()
        assert "a line above" in shown
        assert "8 images at 80" in shown
        assert "epoch 1" not in shown
        assert "decoding" not in shown

    def test_the_cursor_is_never_hidden_for_long(self) -> None:
        text = io.StringIO()
        with live(text).watching(Job()):
            assert text.getvalue().rindex("\x1b[?25h") > text.getvalue().rindex("\x1b[?25l")

    def test_the_last_state_stays_if_the_job_is_stopped(self) -> None:
        kept, removed = io.StringIO(), io.StringIO()
        with pytest.raises(KeyboardInterrupt), live(kept).watching(Job()):
            raise KeyboardInterrupt
        with live(removed).watching(Job()):
            pass
        assert not kept.getvalue().endswith("\x1b[2K")
        assert kept.getvalue().endswith("0 images at 80, ended\n\x1b[?25h")  # no time left any more
        assert removed.getvalue().endswith("\x1b[2K")

    def test_stopping_is_drawn_not_written_into_the_table(self, capfd: pytest.CaptureFixture[str]) -> None:
        text = io.StringIO()
        reporter = live(text)
        with reporter.watching(Job()):
            reporter.stopping()
        assert "0 images at 80, stopping" in text.getvalue()
        assert capfd.readouterr().err == ""
        reporter.stopping()
        assert capfd.readouterr().err == f"{STOPPING}\n"

    def test_no_color_means_none(self) -> None:
        text = io.StringIO()
        reporter = live(text, NO_COLOR="1")
        with reporter.watching(Job()):
            reporter.console.print("[red]no[/red]")
        assert "\x1b[31m" not in text.getvalue()

    def test_a_bar_of_its_own_before_the_job(self) -> None:
        text = io.StringIO()
        with live(text).bar("decoding", 10) as advance:
            advance(10)
        assert "decoding" in text.getvalue()


class TestQuiet:
    def test_only_warnings_and_the_answer(self, capsys: pytest.CaptureFixture[str]) -> None:
        reporter = QuietReporter(0)
        reporter.say("Device: CPU")
        reporter.detail("epoch 1")
        reporter.event("epoch", {"epoch": 1})
        reporter.warn("B failed.\x1b[31m")
        reporter.answer("Pretraining pays.")
        reporter.doubts(["fails one-rate: ...", "inconclusive c-faster: ..."], "Fails: one-rate.")
        reporter.doubts([], "")
        said = capsys.readouterr()
        assert said.out == "Pretraining pays.\nFails: one-rate.\n"
        assert said.err == "B failed.\\x1b[31m\n"


class TestJson:
    def events(self, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def test_one_object_a_line_and_nothing_else(self, capsys: pytest.CaptureFixture[str]) -> None:
        reporter = JsonReporter(2)
        reporter.say("Device: CPU")
        reporter.answer("Pretraining pays.")
        reporter.warn("line\nbreak")
        reporter.event("epoch", {"epoch": 1, "test_loss": None})
        warning, epoch = self.events(capsys)
        assert (warning["event"], warning["message"], warning["rank"]) == ("warning", "line\nbreak", 2)
        assert (epoch["event"], epoch["epoch"], epoch["test_loss"]) == ("epoch", 1, None)
        assert datetime.fromisoformat(epoch["time"]).utcoffset() is not None

    def test_no_value_that_is_not_json(self) -> None:
        with pytest.raises(ValueError, match="JSON"):
            JsonReporter(0).event("epoch", {"loss": float("nan")})


@pytest.mark.parametrize(("rank", "said"), [(0, f"{STOPPING}\n"), (1, "")])
def test_one_of_several_processes_says_that_it_stops(
    capfd: pytest.CaptureFixture[str], rank: int, said: str
) -> None:
    for reporter in (TaggedReporter(rank), JsonReporter(rank), QuietReporter(rank)):
        reporter.stopping()
        assert capfd.readouterr().err == said
