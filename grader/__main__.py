"""`python -m grader`."""

import os
import sys

if __name__ == "__main__":
    # `python -m` puts the current folder first on the path: a submission's tomllib.py would be imported.
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    if not sys.flags.safe_path and sys.path[0] != packages:
        del sys.path[0]
    from grader.cli import main

    main()
