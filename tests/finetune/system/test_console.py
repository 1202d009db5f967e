"""What people see while a job runs."""

import io

from rich.console import Console

from finetune.system.console import Reporter


def test_a_name_cannot_control_the_terminal() -> None:
    out = io.StringIO()
    Reporter(Console(file=out)).say("2 classes: a\x1b[31mred, b")
    assert out.getvalue() == "2 classes: a\\x1b[31mred, b\n"


def test_lines_are_wrapped_at_words_in_a_terminal_only() -> None:
    sentence = "Starting from pretrained weights pays: " + "word " * 20
    shown = []
    for is_terminal in (True, False):
        out = io.StringIO()
        Reporter(Console(file=out, width=40, force_terminal=is_terminal, _environ={})).say(sentence.strip())
        shown.append(out.getvalue().splitlines())
    wrapped, plain = shown
    assert plain == [sentence.strip()]
    assert max(map(len, wrapped)) <= 40
    assert " ".join(line.strip() for line in wrapped) == sentence.strip()
