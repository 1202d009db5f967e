"""`deploy/install.py`, which `make` runs: without CUDA's libraries where there is no NVIDIA driver."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pip
import pytest
import torchvision

from tests.container.engine import ROOT, Done, run

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

    def test_a_file_with_another_hash_is_refused(self, executable: Path, lock: Path) -> None:
        lock.write_text(re.sub(r"sha256:\w{4}", "sha256:0000", lock.read_text()))
        done = self.install(executable, lock, "cuda")
        assert done.returncode == 1
        assert "DO NOT MATCH THE HASHES" in done.stderr
        assert done.stderr.endswith("pip failed; see above, and try again.\n")
        assert run(executable, "-c", "import demo").returncode == 1
