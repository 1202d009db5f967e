"""`deploy/install.py`, which `make` runs: without CUDA's libraries where there is no NVIDIA driver."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip
import pytest
import torchvision

from tests.container.engine import ROOT, Done, run
from tests.machine import free_port

SITE = Path(torchvision.__file__).parents[1]
SCRIPT = ROOT / "deploy" / "install.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch comes without CUDA")


def environment(folder: Path) -> Path:
    """A new virtual environment without packages; its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)


def link(source: Path, target: Path) -> None:
    """The same folder again, made of links, so that libraries look for others beside themselves."""
    target.mkdir()
    for path in source.iterdir():
        if path.name == "lib" and path.is_dir():
            link(path, target / "lib")
        elif not path.is_symlink():
            (target / path.name).symlink_to(path)


@pytest.fixture
def without_cuda(tmp_path: Path) -> Path:
    """This environment's packages, but none of CUDA's that the script leaves out; its Python."""
    site = environment(tmp_path / "env")
    for path in SITE.iterdir():
        if path.name == "torch":
            link(path, site / "torch")
        elif not re.match(r"nvidia|cuda|triton|.*\.pth$", path.name):
            (site / path.name).symlink_to(path)
    (site / "nvidia").mkdir()
    for kept in ("nvshmem", "cuda_runtime", "cuda_cupti"):
        if (SITE / "nvidia" / kept).exists():
            (site / "nvidia" / kept).symlink_to(SITE / "nvidia" / kept)
    for library in SITE.glob("nvidia/cu*/lib/lib*.so.*"):  # several packages share this folder
        if re.match(r"lib(cudart|cupti|nvperf|checkpoint)", library.name):
            folder = site / library.parent.relative_to(SITE)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / library.name).symlink_to(library)
    return tmp_path / "env" / "bin" / "python"


def python(executable: Path, code: str) -> Done:
    folder = str(SCRIPT.parent)
    return run(executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{code}", cwd=folder)


@pytest.mark.slow  # the installation of every clone without an NVIDIA driver tries the same
def test_torch_trains_without_the_libraries_left_out(without_cuda: Path) -> None:
    done = python(without_cuda, "import install; print(install.runs_without_cuda())")
    assert (done.stdout, done.stderr) == ("True\n", "")
    # As tests, `finetune evaluate` and the grader's --rerun start Python.
    code = "from install import TRIAL; exec(TRIAL); print(torch.cuda.device_count())"
    assert python(without_cuda, code).stdout == "0\n"


class Index(ThreadingHTTPServer):
    """A package index over a folder of wheels; files whose names begin with `cut` end in the middle."""

    cut = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), Page)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class Page(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        name = self.path.strip("/").rpartition("/")[2]
        file = self.server.folder / name
        if file.suffix == ".whl":
            content = file.read_bytes()
            end = len(content) // 2 if self.server.cut and name.startswith(self.server.cut) else None
            self.answer("application/octet-stream", content, end)
        else:
            wheels = self.server.folder.glob(f"{name.replace('-', '_')}-*.whl")
            links = "".join(f'<a href="/files/{wheel.name}">{wheel.name}</a>' for wheel in wheels)
            self.answer("text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), None)

    def answer(self, kind: str, content: bytes, end: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:end])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def index_of(folder: Path) -> Iterator[Index]:
    with Index(folder) as index:
        thread = threading.Thread(target=index.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            index.shutdown()
            thread.join()


class TestLockFile:
    """A lock file of packages that a folder holds."""

    @pytest.fixture
    def executable(self, tmp_path: Path) -> Path:
        site = environment(tmp_path / "env")
        (site / "pip").symlink_to(Path(pip.__file__).parent)
        return tmp_path / "env" / "bin" / "python"

    @pytest.fixture
    def lock(self, tmp_path: Path) -> Path:
        lines = []
        for name in ("demo", "nvidia_demo"):
            wheel = tmp_path / f"{name}-1.0-py3-none-any.whl"
            info = f"{name}-1.0.dist-info"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"{name}.py", "")
                archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
                archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
                archive.writestr(f"{info}/RECORD", "")
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            lines.append(f"{name.replace('_', '-')}==1.0 \\\n    --hash=sha256:{digest}\n")
        (tmp_path / "some.lock").write_text("".join(lines))
        return tmp_path / "some.lock"

    def install(self, executable: Path, lock: Path, kind: str) -> Done:
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(lock.parent), "PIP_CONFIG_FILE": os.devnull}
        return run(executable, SCRIPT, lock, kind, env={**os.environ, **offline})

    def test_a_torch_that_needs_all_libraries_gets_them(self, executable: Path, lock: Path) -> None:
        """There is no torch at all here, so it cannot start."""
        done = self.install(executable, lock, "cpu")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No NVIDIA driver found" in done.stdout
        assert "installing the whole lock file" in done.stdout
        assert run(executable, "-c", "import demo, nvidia_demo").returncode == 0
        assert not list(executable.parents[1].rglob("torch_without_cuda.pth"))
        assert not list(executable.parents[1].glob("download-*"))

    def test_a_lost_connection_is_one_sentence(self, executable: Path, lock: Path) -> None:
        with index_of(lock.parent) as index:
            index.cut = "nvidia_demo"
            options = {"PIP_INDEX_URL": index.url, "PIP_CACHE_DIR": str(lock.parent / "cache")}
            options |= {"PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
            done = run(executable, SCRIPT, lock, "cuda", env={**os.environ, **options})
            assert done.returncode == 1
            # pip 23 takes what has arrived for the whole file; newer ones notice.
            assert re.match(r"nvidia-demo==1.0 must have a hash|The package index cannot be", done.stderr)
            assert "repeat the command" in done.stderr
            assert done.stderr.count("\n") == 1
            assert not list(executable.parents[1].glob("download-*"))
            index.cut = ""
            done = run(executable, SCRIPT, lock, "cuda", env={**os.environ, **options})
            assert done.returncode == 0, done.stdout + done.stderr
        assert run(executable, "-c", "import demo, nvidia_demo").returncode == 0

    def test_no_network_is_one_sentence(self, executable: Path, lock: Path) -> None:
        options = {"PIP_INDEX_URL": f"http://127.0.0.1:{free_port()}/simple", "PIP_FIND_LINKS": ""}
        options |= {"PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
        done = run(executable, SCRIPT, lock, "cuda", env={**os.environ, **options})
        assert done.returncode == 1
        assert done.stderr.startswith("The package index cannot be reached, or the connection was lost;")
        assert done.stderr.count("\n") == 1

    def test_a_full_disk_is_one_sentence(self, lock: Path, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        if run("mount", "-t", "tmpfs", "-o", "size=1m", "none", small).returncode:
            pytest.skip("needs root, to mount a small disk")
        try:
            site = environment(small / "env")
            (site / "pip").symlink_to(Path(pip.__file__).parent)
            (small / "filler").write_bytes(b"0" * (shutil.disk_usage(small).free - 20_000))
            with zipfile.ZipFile(lock.parent / "demo-1.0-py3-none-any.whl", "a") as archive:
                archive.writestr("demo.dat", os.urandom(100_000))
            digest = hashlib.sha256((lock.parent / "demo-1.0-py3-none-any.whl").read_bytes()).hexdigest()
            lock.write_text(f"demo==1.0 --hash=sha256:{digest}\n")
            done = self.install(small / "env" / "bin" / "python", lock, "cuda")
            assert done.returncode == 1
            assert re.fullmatch(r"The disk of \S+ is full \(0 MB free\); .*\n", done.stderr), done.stderr
        finally:
            assert run("umount", small).returncode == 0

    def test_a_file_with_another_hash_is_refused(self, executable: Path, lock: Path) -> None:
        lock.write_text(re.sub(r"sha256:\w{4}", "sha256:0000", lock.read_text()))
        done = self.install(executable, lock, "cuda")
        assert done.returncode == 1
        assert done.stderr.startswith("demo==1.0 must have a hash of the lock file, but ")
        assert done.stderr.count("\n") == 1
        assert run(executable, "-c", "import demo").returncode == 1
