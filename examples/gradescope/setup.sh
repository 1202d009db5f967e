#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image. Build the wheel with `pip wheel --no-deps .` in the project
# folder and put it beside this file in the zip. The base installation does not include torch.
set -e
apt-get update
apt-get install -y python3 python3-venv
python3 -m venv /opt/grader
/opt/grader/bin/pip install /autograder/source/*.whl
ln -s /opt/grader/bin/grader /usr/local/bin/grader
