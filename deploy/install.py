"""Install a lock file into this Python's environment, and show how far the download is.

    install.py LOCK KIND

KIND is `cuda` for the whole lock file. `cpu` is for a machine without an NVIDIA driver and leaves out most of
CUDA's libraries, over two thirds of the download. If the variable TORCH_INDEX_URL names an index of CPU
wheels, torch and torchvision come from there, in the locked versions but unchecked; otherwise every file is
checked against the hashes of the lock file. Uses only the standard library: it runs before anything else is
installed.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from split_lock import entries, is_cuda, joined, split

NEEDED_AT_START = ("nvidia-cuda-cupti", "nvidia-cuda-runtime", "nvidia-nvshmem")
"""Packages with data, or with functions that PyTorch calls to find out that there is no GPU."""
UNPACKING = "unpacking"
LOST = re.compile(
    r"Retrying \(|Connection\w*Error|ReadTimeout|IncompleteRead|Connection broken|incomplete download"
)
"""What pip says when a connection fails; its versions differ."""
SITE = Path(sysconfig.get_path("purelib"))
LAZY = SITE / "torch_without_cuda.pth"
TRIAL = """
import torch, torchvision
layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
layer(torch.ones(2, 3, 8, 8)).sum().backward()
assert not torch.cuda.is_available()
"""


def main(lock: Path, kind: str) -> None:
    """Install the lock file as this kind of machine needs it."""
    text = lock.read_text("utf-8")
    index = os.environ.get("TORCH_INDEX_URL", "")
    LAZY.unlink(missing_ok=True)
    if kind == "cuda" or sys.platform != "linux":
        pip("--require-hashes", "--requirement", str(lock), packages=len(entries(text)))
    elif index:
        say("No NVIDIA driver found: torch and torchvision come from TORCH_INDEX_URL.")
        others, pins, *_ = split(text)
        install(others, "--require-hashes")
        install(pins, "--index-url", index)
    else:
        say("No NVIDIA driver found: leaving out CUDA's libraries, for GPUs alone (CUDA=1 installs them).")
        kept = [text for name, text in entries(text) if not is_cuda(name) or name.startswith(NEEDED_AT_START)]
        install(joined(kept), "--require-hashes")
        if not runs_without_cuda():
            say("This PyTorch does not start without them: installing the whole lock file.")
            pip("--require-hashes", "--requirement", str(lock), packages=len(entries(text)))


def install(requirements: str, *options: str) -> None:
    """Install these entries of a lock file and nothing else."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        # Otherwise pip insists on all that torch requires, CUDA's packages included.
        pip(*options, "--no-deps", "--requirement", file.name, packages=len(entries(requirements)))


def runs_without_cuda() -> bool:
    """Make torch start without the missing libraries; False if it does not.

    torch for Linux is linked to them. It starts if an empty library, such as torch has itself, stands in for
    each, and if functions are looked up when they are first called, which is on a GPU, and not at the start.
    """
    links: list[Path] = []
    while True:
        trial = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True)
        if trial.returncode == 0:
            return True
        if not links:
            LAZY.write_text(f"import sys; sys.setdlopenflags({os.RTLD_LAZY})\n", "utf-8")
        missing = re.search(r"ImportError: (lib\w+\.so[.\d]*): cannot open shared object", trial.stderr)
        link = SITE / "torch" / "lib" / (missing[1] if missing else "")
        if not missing or link.is_symlink():
            break
        link.symlink_to("libtorch_global_deps.so")
        links.append(link)
    for path in (LAZY, *links):
        path.unlink(missing_ok=True)
    say(trial.stderr.strip())
    return False


def pip(*arguments: str, packages: int) -> None:
    """Run `pip install`; every few seconds, say how far it is."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    # Gigabytes: beside the environment, because /tmp may be small.
    with tempfile.TemporaryDirectory(prefix="download-", dir=sys.prefix) as folder:
        process = subprocess.Popen(
            [*command, "--progress-bar", "off", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        )
        state = Progress(packages, Path(folder))
        with state.shown():
            for line in process.stdout or ():
                state.read(line)
        if process.wait():
            sys.exit(why("".join(state.lines)))


def why(said: str) -> str:
    """What pip said, in one sentence where it is no matter of a package's own."""
    if wrong := re.search(r"DO NOT MATCH THE HASHES.*?\n +(\S+) from ", said, re.DOTALL):
        return (
            f"{wrong[1]} must have a hash of the lock file, but the file that arrived has another: the "
            "connection was cut, or something on the way changed it; repeat the command, and suspect your "
            "index or proxy if that does not help."
        )
    if "[Errno 28]" in said or "No space left on device" in said:
        free = shutil.disk_usage(sys.prefix).free // 10**6
        return (
            f"The disk of {sys.prefix} is full ({free:,} MB free); docs/container.md says how much is "
            "needed: make room and repeat the command, which goes on where it was."
        )
    if LOST.search(said):
        return (
            "The package index cannot be reached, or the connection was lost; check the network and "
            "repeat the command, which downloads only what has not arrived."
        )
    return "".join(said.splitlines(keepends=True)[-20:]) + "pip failed; see above, and try again."


class Progress:
    """What pip is doing, from what it prints and from the files that grow."""

    def __init__(self, packages: int, folder: Path) -> None:
        self.packages = packages
        self.folder = folder
        self.lines: list[str] = []
        self.done = 0
        self.doing = "starting"
        self.started = time.monotonic()

    def read(self, line: str) -> None:
        """Follow what pip prints."""
        self.lines.append(line)
        words = line.split()
        if line.startswith(("Collecting ", "Requirement already")):
            self.done += 1
            self.doing = words[1] if words[0] == "Collecting" else "present"
        elif line.startswith("Installing collected"):
            self.doing = UNPACKING

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Say it for as long as the block runs: in one line of a terminal, or in new lines, less often."""
        ended = threading.Event()
        thread = threading.Thread(target=self._show, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _show(self, ended: threading.Event) -> None:
        terminal = sys.stdout.isatty()
        shown, most, waited = "", 0, 0
        while not ended.wait(0.5 if terminal else 10):
            most = max(most, megabytes(self.folder))
            seconds = f"{time.monotonic() - self.started:.0f} s"
            text = f"  {self.doing}: package {self.done} of {self.packages}, {most:,} MB downloaded"
            if self.doing == UNPACKING:
                text = f"  {UNPACKING} {self.packages} packages"
            waited = 0 if text != shown else waited + 1
            if terminal:
                print(f"\r{text}, {seconds}".ljust(100), end="", flush=True)
            elif waited % 6 == 0:
                say(f"{text}, {seconds}")
            shown = text
        if terminal and shown:
            print()


def megabytes(folder: Path) -> int:
    """The size of a folder that is changing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip has just removed it
            continue
    return total // 10**6


def say(text: str) -> None:
    """Print at once, through a pipe as well."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except KeyboardInterrupt:
        sys.exit(130)
