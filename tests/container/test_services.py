"""The Compose services as an operator types them."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess

import pytest

from tests.container.engine import GRADE, OWNER, TRAIN, Done, Project, checked, docker

pytestmark = pytest.mark.container


def test_smoke_trains_without_network_on_a_read_only_root(smoke: Done, project: Project) -> None:
    checked(smoke)
    results = json.loads((project.runs / "smoke" / "results.json").read_text("utf-8"))
    assert [run["status"] for run in results["runs"]] == ["completed"] * 3


def test_results_belong_to_the_caller(smoke: Done, project: Project) -> None:
    checked(smoke)
    owner = OWNER if os.getuid() == 0 else os.getuid()
    files = list(project.runs.rglob("*"))
    assert files
    assert {path.stat().st_uid for path in files} == {owner}


def test_the_services_are_locked_down(project: Project) -> None:
    script = """
        touch /x /usr/x 2>/dev/null && echo writable root
        grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status || echo capabilities
        grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/self/status || echo new privileges
        test "$(ls /sys/class/net)" = lo || echo network
        touch /tmp/x || echo no /tmp
        id -u
    """
    for service in ("smoke", "grade"):
        done = project("run", "--rm", "-T", "--entrypoint", "sh", service, "-c", script)
        assert checked(done).split() == [str(OWNER if os.getuid() == 0 else os.getuid())], done.stdout


def test_grade_takes_the_newest_run_and_exits_0(smoke: Done, project: Project) -> None:
    checked(smoke)
    os.utime(project.runs / "smoke" / "results.json")
    done = project.service("grade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_grade_exits_1_when_a_property_fails_and_2_when_unusable(smoke: Done, project: Project) -> None:
    checked(smoke)
    for name in ("false", "broken"):
        shutil.copytree(project.runs / "smoke", project.runs / name)
    results = project.runs / "false" / "results.json"
    claims = json.loads(results.read_text("utf-8"))
    claims["runs"][1]["best_epoch"] = 1
    results.write_text(json.dumps(claims))
    results = project.runs / "broken" / "results.json"
    results.write_text(results.read_text("utf-8")[:-100])

    failed = project.service("grade", "runs/false")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "best-epoch" in failed.stdout
    unusable = project.service("grade", "runs/broken")
    assert unusable.returncode == 2, unusable.stdout + unusable.stderr
    assert "Traceback" not in unusable.stderr


def test_arguments_reach_the_program(project: Project) -> None:
    done = project.service("train-cpu", "--epochs", "0")
    assert done.returncode == 2
    assert re.search(r"epochs.* 0", done.stderr)


def test_the_named_volumes_can_be_written(project: Project) -> None:
    script = "touch data/x weights/x runs/.x && rm data/x weights/x runs/.x && echo written"
    done = project("run", "--rm", "-T", "--entrypoint", "sh", "train-cpu", "-c", script)
    assert checked(done).strip() == "written"


def test_two_users_of_the_group_share_the_cache(project: Project) -> None:
    shared = ("--rm", "-T", "--user", "4321:4321", "--entrypoint", "shared-umask", "train-cpu", "sh", "-c")
    checked(project("run", *shared, "mkdir -p data/.cache/shared && touch data/.cache/shared/1"))
    script = "touch data/.cache/shared/2 && rm -r data/.cache/shared && echo shared"
    done = project("run", "--rm", "-T", "--entrypoint", "sh", "train-cpu", "-c", script)
    assert checked(done).strip() == "shared"


def test_up_starts_nothing(project: Project) -> None:
    done = project("up", "--detach", timeout=120)
    assert project("ps", "--quiet").stdout == "", done.stderr


def test_train_on_a_host_without_a_gpu_ends_before_it_starts(project: Project) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this host has a GPU")
    done = project.service("train", "--preset", "smoke")
    assert done.returncode != 0
    assert "gpu-check-else-use-train-cpu" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "reserved"), [({}, "0"), ({"GPUS": "0,1"}, "0,1"), ({"GPUS": "all"}, "all")]
)
def test_gpus_are_those_of_the_variable(project: Project, given: dict[str, str], reserved: str) -> None:
    name = f"{project.name}-gpus"
    try:
        # Where there is no GPU the container is made, but does not start.
        project("run", "--no-deps", "-T", "--name", name, "train", "--help", **given)
        asked = json.loads(
            checked(docker("inspect", "--format", "{{json .HostConfig.DeviceRequests}}", name))
        )
    finally:
        docker("rm", "--force", name)
    assert [(one["Driver"], one["DeviceIDs"]) for one in asked] == [("nvidia", [reserved])]


def test_released_images_are_named_by_variables(project: Project) -> None:
    named = {f"{name}_IMAGE": f"registry.example/x:1-{name}" for name in ("FINETUNE", "GRADER")}
    shown = checked(project("--profile", "run", "config", **named))
    assert set(re.findall(r"image: (\S+)", shown)) == set(named.values())


class TestStop:
    """`docker stop` is what an operator, a reboot and Kubernetes do."""

    # So many that no machine has ended before the signal arrives: an epoch takes a fifth of a second or more.
    EPOCHS = 24
    FIRST, LAST = f"C  1/{EPOCHS} ", f"C {EPOCHS}/{EPOCHS} "
    ARGUMENTS = ("--preset", "smoke", "--variants", "c", "--epochs", str(EPOCHS))

    def start(self, project: Project, name: str, out: str) -> None:
        command = ("run", "-d", "--name", name, "train-cpu", *self.ARGUMENTS, "--out", out)
        checked(project(*command))

    def stop(self, name: str) -> tuple[int, str]:
        """Exit code and log of a container that was stopped."""
        checked(docker("stop", "--time", "120", name))
        code = int(checked(docker("inspect", "--format", "{{.State.ExitCode}}", name)))
        done = docker("logs", name)
        return code, done.stdout + done.stderr

    @pytest.fixture
    def name(self, project: Project) -> str:
        return f"{project.name}-stop"

    def test_in_mid_epoch_leaves_a_run_that_resumes(self, project: Project, name: str) -> None:
        self.start(project, name, "runs/stopped")
        try:
            follow_until(name, self.FIRST)
            code, log = self.stop(name)
        finally:
            docker("rm", "--force", name)
        assert code == 143, log
        assert self.LAST not in log
        assert "--resume runs/stopped" in log

        resumed = project.service("train-cpu", "--resume", "runs/stopped")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert self.FIRST not in resumed.stdout
        assert self.LAST in resumed.stdout
        (run,) = json.loads((project.runs / "stopped" / "results.json").read_text("utf-8"))["runs"]
        assert run["status"] == "completed"
        assert [epoch["epoch"] for epoch in run["epochs"]] == list(range(1, self.EPOCHS + 1))

    def test_ctrl_c_in_a_terminal_does_the_same(self, project: Project, name: str) -> None:
        out = "runs/interrupted"
        command = project.command("run", "--rm", "--name", name, "train-cpu", *self.ARGUMENTS, "--out", out)
        terminal, of_program = pty.openpty()
        streams = {"stdin": of_program, "stdout": of_program, "stderr": of_program}
        try:
            with subprocess.Popen(command, cwd=project.folder, **streams) as process:
                os.close(of_program)
                # The screen is drawn anew a few times a second, so that it may never show the first epoch.
                shown = answer(terminal, rb"\s[1-9]\d?/%d\s" % self.EPOCHS, b"\x03")
                code = process.wait(60)
        finally:
            docker("rm", "--force", name)
            os.close(terminal)
        assert code == 130, shown
        assert "--resume" in shown
        assert list((project.runs / "interrupted" / "state").glob("*.safetensors"))

    def test_right_after_the_start_ends_at_once(self, project: Project, name: str) -> None:
        self.start(project, name, "runs/stopped-at-once")
        try:
            code, log = self.stop(name)
        finally:
            docker("rm", "--force", name)
        assert code == 143, log


def answer(terminal: int, pattern: bytes, keys: bytes) -> str:
    """Press keys in a terminal as soon as it shows a text; all that it showed until its program ended."""
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody writes any more
            return shown.decode(errors="replace")
        if keys and re.search(pattern, shown):
            os.write(terminal, keys)
            keys = b""


def follow_until(name: str, text: str) -> None:
    """Read a container's log until a line holds the text."""
    with subprocess.Popen(
        ["timeout", "600", os.environ.get("DOCKER", "docker"), "logs", "--follow", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        lines = []
        for line in follower.stdout:
            lines.append(line)
            if text in line:
                break
        else:
            pytest.fail(f"{text!r} never came:\n{''.join(lines)}")
        follower.terminate()


class TestHost:
    """What the program sees of the container it runs in."""

    def python(self, code: str, *options: str) -> str:
        command = ("run", "--rm", "--network", "none", *options, "--entrypoint", "python", TRAIN, "-c", code)
        return checked(docker(*command)).strip()

    @pytest.mark.usefixtures("images")
    def test_cpu_quota(self) -> None:
        code = "from finetune.system.host import cores; print(cores())"
        assert self.python(code, "--cpus", "0.5") == "1"
        # The tests keep to one core themselves; what started them has what the engine has.
        assert self.python(code) == str(len(os.sched_getaffinity(os.getppid())))

    @pytest.mark.usefixtures("images")
    def test_memory_limit(self) -> None:
        code = "from finetune.system.host import available_memory_bytes as a; print(a() >> 20)"
        assert 300 < int(self.python(code, "--memory", "512m")) <= 512

    @pytest.mark.usefixtures("images")
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (("--volume", "finetune-test-read-only:/workspace/runs:ro"), "read-only file system"),
            (
                ("--tmpfs", "/workspace/runs:uid=0,gid=0,mode=0755"),
                "belongs to user 0, group 0, and this is user",
            ),
            (
                ("--tmpfs", "/workspace/runs:uid=10001,gid=10001,size=1m"),
                "of disk space, but its volume has 1.05 MB free",
            ),
        ],
        ids=["read-only", "not permitted", "full"],
    )
    def test_a_run_folder_that_cannot_be_used(self, options: tuple[str, ...], reason: str) -> None:
        try:
            done = docker("run", "--rm", "--network", "none", *options, TRAIN, "train", "--preset", "smoke")
        finally:
            docker("volume", "rm", "--force", "finetune-test-read-only")
        assert done.returncode == 2, done.stdout + done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
        assert "A 1/" not in done.stdout, "said only after training"


@pytest.mark.usefixtures("images")
def test_grade_without_a_run_says_so() -> None:
    done = docker("run", "--rm", "--network", "none", GRADE)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
