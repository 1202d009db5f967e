"""`python -m finetune`."""

import os
import sys

# `python -m` puts the current folder first on the path: a run folder's tomllib.py would be imported.
packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
if not sys.flags.safe_path and sys.path[0] != packages:
    del sys.path[0]

from finetune.cli import main  # noqa: E402 - after the path is safe

main()
