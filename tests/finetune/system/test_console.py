"""What people see while a job runs."""

import io

from rich.console import Console

from finetune.system.console import Reporter


def test_a_name_cannot_control_the_terminal() -> None:
    out = io.StringIO()
    Reporter(Console(file=out)).say("2 classes: a\x1b[31mred, b")
    assert out.getvalue() == "2 classes: a\\x1b[31mred, b\n"
