"""What a container gives its process, from control-group files as kernels write them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest

from finetune.errors import ConfigError, RunFolderError
from finetune.system import host

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cgroup(root: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control-group files below a folder, and the file that names the process's own group."""
    for name, content in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "self").write_text(own)
    return root / "cgroup", root / "self"


class TestCores:
    def test_no_control_groups_is_the_affinity(self, tmp_path: Path) -> None:
        assert host.cores(tmp_path / "none", tmp_path / "nor-this") == ALL

    @pytest.mark.parametrize(
        ("cpu_max", "expected"),
        [
            ("max 100000\n", ALL),
            ("100000 100000\n", 1),
            ("50000 100000\n", 1),
            ("110000 100000\n", min(ALL, 2)),
            ("99900000 100000\n", ALL),
            ("", ALL),
            ("0 0\n", ALL),
            ("nonsense here\n", ALL),
        ],
    )
    def test_version_2(self, tmp_path: Path, cpu_max: str, expected: int) -> None:
        assert host.cores(*cgroup(tmp_path, "0::/\n", {"cpu.max": cpu_max})) == expected

    @pytest.mark.parametrize(("quota", "expected"), [("-1", ALL), ("100000", 1), ("20000", 1)])
    def test_version_1(self, tmp_path: Path, quota: str, expected: int) -> None:
        files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000"}
        # Without a namespace of its own, a container reads the host's path, which it does not have.
        assert host.cores(*cgroup(tmp_path, "4:cpu,cpuacct:/docker/0a1b\n", files)) == expected

    def test_version_1_mounted_by_one_controllers_name(self, tmp_path: Path) -> None:
        files = {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}
        assert host.cores(*cgroup(tmp_path, "3:cpu:/\n", files)) == 1

    def test_the_tightest_of_nested_groups_counts(self, tmp_path: Path) -> None:
        files = {
            "outer/cpu.max": "100000 100000",
            "outer/inner/cpu.max": "max 100000",
            "other/cpu.max": "1 1",
        }
        assert host.cores(*cgroup(tmp_path, "0::/outer/inner\n", files)) == 1


class TestThreads:
    def test_the_option_wins_over_the_variable_and_the_variable_over_the_cores(self) -> None:
        assert host.choose_threads(3, environ={"OMP_NUM_THREADS": "5"}) == 3
        assert host.choose_threads(None, environ={"OMP_NUM_THREADS": "5"}) == 5
        assert host.choose_threads(None, environ={"OMP_NUM_THREADS": ""}) == host.cores()
        assert host.choose_threads(None, environ={}) == host.cores()

    def test_processes_divide_the_cores_but_not_an_explicit_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "cores", lambda: 7)
        assert [host.choose_threads(None, n, {}) for n in (1, 2, 7, 8)] == [7, 3, 1, 1]
        assert host.choose_threads(5, 2, {}) == 5
        assert host.choose_threads(None, 2, {"OMP_NUM_THREADS": "5"}) == 5

    def test_torchruns_default_does_not_count_as_the_users_choice(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "cores", lambda: 8)
        default = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}
        assert host.choose_threads(None, 2, default) == 4
        assert host.choose_threads(None, 1, default) == 1
        assert host.choose_threads(None, 2, {"OMP_NUM_THREADS": "1"}) == 1
        assert host.choose_threads(None, 2, default | {"OMP_NUM_THREADS": "2"}) == 2
        assert host.choose_threads(1, 2, default) == 1

    @pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "2,2", "²", "1025", " 2"])
    def test_a_variable_that_breaks_its_rule(self, value: str) -> None:
        expected = f"OMP_NUM_THREADS must be a whole number from 1 to 1024, but {value} was given."
        with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
            host.choose_threads(None, environ={"OMP_NUM_THREADS": value})
        assert host.choose_threads(1, environ={"OMP_NUM_THREADS": value}) == 1


class TestMemory:
    def test_version_2_limit_less_usage_plus_page_cache(self, tmp_path: Path) -> None:
        files = {
            "memory.max": "1000000",
            "memory.current": "700000",
            "memory.stat": "anon 500000\ninactive_file 100000\n",
        }
        assert host.available_memory_bytes(*cgroup(tmp_path, "0::/", files)) == 400_000

    def test_version_1(self, tmp_path: Path) -> None:
        files = {
            "memory/memory.limit_in_bytes": "1000000",
            "memory/memory.usage_in_bytes": "1200000",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 300000\n",
        }
        assert host.available_memory_bytes(*cgroup(tmp_path, "9:memory:/docker/0a1b", files)) == 100_000

    @pytest.mark.parametrize("limit", ["max", str(1 << 62)])
    def test_no_limit_is_the_machines(self, tmp_path: Path, limit: str) -> None:
        files = {"memory.max": limit, "memory.current": "5"}
        assert host.available_memory_bytes(*cgroup(tmp_path, "0::/", files)) > 1 << 20


class TestCheckWritable:
    def test_a_folder_that_does_not_exist_yet(self, tmp_path: Path) -> None:
        host.check_writable(tmp_path / "a" / "b", "run folder", needed_bytes=1)
        assert not list(tmp_path.iterdir())

    def test_too_little_room(self, tmp_path: Path) -> None:
        with pytest.raises(
            RunFolderError, match=r"^The run folder \S+/a needs 1\.15 EB of disk space, but its volume has"
        ):
            host.check_writable(tmp_path / "a", "run folder", needed_bytes=1 << 60)

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(RunFolderError, match=r"is not: \S+/a is a file; choose another folder\.$"):
            host.check_writable(tmp_path / "a" / "b", "run folder")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere; the container tests cover this")
    def test_not_permitted(self, tmp_path: Path) -> None:
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(RunFolderError, match=r"is yours, but not writable; chmod u\+w it or choose"):
            host.check_writable(tmp_path, "run folder")

    def test_a_permission_error_names_owner_and_user(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(host.tempfile, "TemporaryFile", refused)
        with pytest.raises(RunFolderError, match=r"is yours, but not writable; chmod u\+w it or choose"):
            host.check_writable(tmp_path, "run folder")
        monkeypatch.setattr(host.os, "getuid", lambda: 1 << 30)
        with pytest.raises(RunFolderError, match=r"run as its owner or choose another folder\.$"):
            host.check_writable(tmp_path, "run folder")

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a volume that takes no files")
    def test_a_volume_that_takes_no_files(self) -> None:
        with pytest.raises(
            RunFolderError, match=r"mount the volume writable, free disk space, or choose another"
        ):
            host.check_writable(Path("/proc/self/task"), "run folder")


ENVIRONMENT = {
    "python": "3.12.3",
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "device_name": "Some CPU",
    "device": "cpu",
    "cpu_cores": 2,
    "threads": 2,
    "cuda": None,
}


class TestOtherPrograms:
    def test_a_busy_program_takes_a_core(self) -> None:
        others = host.OtherPrograms()
        loop = "import time\nend = time.time() + 1\nwhile time.time() < end: pass"
        subprocess.run([sys.executable, "-c", loop], check=True)
        assert others.free_cores() < (os.cpu_count() or 1) - 0.3

    def test_own_work_and_waiting_for_disks_count_for_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing = psutil.cpu_times()._replace(**dict.fromkeys(psutil.cpu_times()._fields, 0.0))

        def at(clock: float, user: float, iowait: float, own: float) -> None:
            machine = nothing._replace(user=user, idle=99 * clock, iowait=iowait)
            process = types.SimpleNamespace(cpu_times=lambda: types.SimpleNamespace(user=own, system=0.0))
            monkeypatch.setattr(host.time, "perf_counter", lambda: clock)
            monkeypatch.setattr(host.psutil, "cpu_times", lambda: machine)
            monkeypatch.setattr(host.psutil, "Process", lambda: process)

        at(clock=0, user=10, iowait=0, own=5)
        others = host.OtherPrograms()
        at(clock=2, user=13, iowait=1, own=6)
        assert others.free_cores() == (os.cpu_count() or 1) - 1

    @pytest.mark.parametrize(
        ("threads", "free", "advised"),
        [(1, 0.0, None), (2, 1.9, None), (2, 1.2, 1), (2, 0.0, 1), (4, 3.2, 3), (4, 2.7, 3), (4, 3.8, None)],
    )
    def test_more_threads_than_free_cores(self, threads: int, free: float, advised: int | None) -> None:
        line = host.crowded_line(threads, free)
        assert (line is None) if advised is None else (line or "").endswith(f"try --threads {advised}.")


class TestStartupLine:
    def test_cpu(self) -> None:
        assert re.fullmatch(
            r"Device: Some CPU; 2 of \d+ cores, 2 threads; [\d.]+ [MG]B of memory free; "
            r"Python 3\.12\.3, torch 2\.15\.0, torchvision 0\.29\.2\.",
            host.startup_line(ENVIRONMENT),
        )

    def test_one_thread_is_not_plural(self) -> None:
        assert " cores, 1 thread; " in host.startup_line(ENVIRONMENT | {"threads": 1})

    def test_gpu(self) -> None:
        environment = {**ENVIRONMENT, "device": "cuda", "device_name": "Some GPU", "cuda": "13.2"}
        line = host.startup_line(environment, (3 << 30, 4 << 30))
        assert line.startswith("Device: Some GPU, 3.22 GB of 4.29 GB free, driver ")
        assert "CUDA 13.2; " in line

    def test_driver_version(self, tmp_path: Path) -> None:
        (tmp_path / "version").write_text(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        )
        assert host.driver_version(tmp_path / "version") == "580.65.06"
        assert host.driver_version(tmp_path / "none") is None


class TestFreedMemory:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """What is asked of the C library."""
        found: list[tuple[int, int]] = []
        library = types.SimpleNamespace(mallopt=lambda parameter, value: found.append((parameter, value)))
        monkeypatch.setattr(host.ctypes, "CDLL", lambda _: library)
        monkeypatch.setattr(host.platform, "libc_ver", lambda: ("glibc", "2.36"))
        monkeypatch.setattr(host, "available_memory_bytes", lambda: 8 << 30)
        return found

    def test_is_kept(self, asked: list[tuple[int, int]]) -> None:
        host.keep_freed_memory()
        assert asked == [(-4, 0), (-1, -1), (-2, 64 << 20)]

    def test_not_if_memory_is_scarce(
        self, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host, "available_memory_bytes", lambda: (8 << 30) - 1)
        host.keep_freed_memory()
        assert asked == []

    def test_is_given_back_between_runs(
        self, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.ctypes.CDLL(None).malloc_trim = lambda pad: asked.append((0, pad))
        host.give_back_freed_memory()
        assert asked == [(0, 0)]
        monkeypatch.setattr(host.platform, "libc_ver", lambda: ("", ""))
        host.give_back_freed_memory()
        assert asked == [(0, 0)]

    def test_not_without_glibc(self, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host.platform, "libc_ver", lambda: ("", ""))
        host.keep_freed_memory()
        assert asked == []
