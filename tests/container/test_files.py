"""The files themselves, checked by the tools for each kind. These need no engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.distributed.launcher import assign, launch_info
from tests.container.engine import BASE, ROOT, run

TOOLS = Path(sys.executable).parent
LOCK = ROOT / "requirements" / "train.lock"
MANIFESTS = sorted((ROOT / "deploy").glob("*.yaml"))
JOBS = [path for path in MANIFESTS if path.stem != "volumes"]
by_stem = pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)


def accepted_by(tool: str, *arguments: str | Path) -> None:
    if not (TOOLS / tool).exists():
        pytest.skip(f"{tool} is not installed in this environment")
    done = run(TOOLS / tool, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def compose_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))  # type: ignore[no-any-return]


def job(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))  # type: ignore[no-any-return]


def test_hadolint() -> None:
    accepted_by("hadolint", "--failure-threshold", "style", "Dockerfile")


@pytest.mark.parametrize(
    ("schema", "path"),
    [("compose-spec", "docker-compose.yml"), ("github-workflows", ".github/workflows/container.yml")],
)
def test_schemas(schema: str, path: str) -> None:
    accepted_by("check-jsonschema", "--builtin-schema", f"vendor.{schema}", path)


@by_stem
def test_kubernetes_schemas(manifest: Path) -> None:
    accepted_by("kubernetes-validate", "--strict", "--quiet", manifest)


class TestDockerfile:
    TEXT = (ROOT / "Dockerfile").read_text("utf-8")

    def test_base_image_is_an_argument(self) -> None:
        assert f"ARG BASE_IMAGE={BASE}\n" in self.TEXT

    def test_needs_no_frontend_from_a_registry(self) -> None:
        assert "# syntax=" not in self.TEXT

    def test_installs_nothing_unhashed_but_torch_from_another_index(self) -> None:
        logical = re.sub(r"\\\n", " ", self.TEXT)
        installs = re.findall(r"pip-install /opt/\S+ [^;&\n]*", logical)
        assert installs
        for install in installs:
            assert any(o in install for o in ("--require-hashes", "--no-index", '"$TORCH_INDEX_URL"')), (
                install
            )

    def test_the_context_holds_only_what_is_copied(self) -> None:
        lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        assert rules[0] == "*"
        for rule in rules:
            if rule.startswith("!"):
                assert (ROOT / rule[1:]).exists(), rule


class TestCompose:
    def test_no_obsolete_version(self) -> None:
        assert "version" not in compose_file()

    def test_services(self) -> None:
        services = compose_file()["services"]
        assert {"train", "train-cpu", "smoke", "grade"} <= set(services)
        (device,) = services["train"]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert "deploy" not in services["train-cpu"]

    def test_every_service_is_locked_down(self) -> None:
        for name, service in compose_file()["services"].items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["user"] == "${UID:-1000}:${GID:-1000}", name
            assert "privileged" not in service, name

    @pytest.mark.parametrize("name", ["smoke", "grade"])
    def test_no_network(self, name: str) -> None:
        assert compose_file()["services"][name]["network_mode"] == "none"


class TestJobs:
    @pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
    def test_locked_down(self, path: Path) -> None:
        pod = job(path)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    @pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
    def test_volumes_are_claimed(self, path: Path) -> None:
        claims = yaml.safe_load_all((ROOT / "deploy" / "volumes.yaml").read_text("utf-8"))
        names = {claim["metadata"]["name"] for claim in claims}
        volumes = job(path)["spec"]["template"]["spec"]["volumes"]
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
        assert used == names

    def command(self, path: Path, folder: Path) -> list[str]:
        """The words of the finetune command that a pod runs in a folder."""
        program = folder / "finetune"
        program.write_text('#!/bin/sh\necho "$@"\n')
        program.chmod(0o755)
        (container,) = job(path)["spec"]["template"]["spec"]["containers"]
        assert container["command"][:2] == ["tini", "--"]
        environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
        words = [*container["command"][2:], *container["args"]]
        return run(*words, cwd=folder, env=environment).stdout.split()

    def test_the_job_starts_and_then_resumes(self, tmp_path: Path) -> None:
        path = ROOT / "deploy" / "job.yaml"
        assert self.command(path, tmp_path) == ["train", "--out", "runs/job"]
        (tmp_path / "runs" / "job").mkdir(parents=True)
        (tmp_path / "runs" / "job" / "config.toml").touch()
        assert self.command(path, tmp_path) == ["train", "--resume", "runs/job"]

    def test_the_shards_cover_every_pair_once(self, tmp_path: Path) -> None:
        path = ROOT / "deploy" / "shards.yaml"
        n = job(path)["spec"]["completions"]
        (container,) = job(path)["spec"]["template"]["spec"]["containers"]
        environ = {entry["name"]: entry["value"] for entry in container["env"]}
        words = self.command(path, tmp_path)
        pairs = [(name, seed) for seed in range(int(words[words.index("--seeds") + 1])) for name in "abc"]
        shares = [assign(pairs, launch_info(environ | {"JOB_COMPLETION_INDEX": str(i)})) for i in range(n)]
        assert sorted(shares) == sorted([pair] for pair in pairs)
        assert words == ["train", "--seeds", "3", "--parallel", "runs", "--out", "runs/shards"]


class TestSlurm:
    SCRIPT = ROOT / "deploy" / "slurm.sh"

    def ended(self, folder: Path, number: int, code: int) -> tuple[int, list[str]]:
        """Exit code and the commands that a task runs, where training ends with a code."""
        for name, body in (("srun", f'echo "$RANK $WORLD_SIZE $@"; exit {code}'), ("scontrol", 'echo "$@"')):
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        environ = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        done = run("sh", self.SCRIPT, env=environ | {"SLURM_ARRAY_TASK_ID": str(number)})
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    def test_the_tasks_cover_every_pair_once(self, tmp_path: Path) -> None:
        (array,) = re.findall(r"^#SBATCH --array=0-(\d+)$", self.SCRIPT.read_text("utf-8"), re.MULTILINE)
        shares = []
        for number in range(int(array) + 1):
            code, (line,) = self.ended(tmp_path, number, 0)
            rank, world, *words = line.split()
            assert (code, words[0]) == (0, "finetune")
            pairs = [(name, seed) for seed in range(int(words[words.index("--seeds") + 1])) for name in "abc"]
            shares.append(assign(pairs, launch_info({"RANK": rank, "WORLD_SIZE": world})))
        assert sorted(shares) == sorted([pair] for pair in pairs)

    @pytest.mark.parametrize(("code", "again"), [(0, []), (1, []), (2, []), (143, ["requeue 77"])])
    def test_the_time_limit_alone_starts_a_task_again(
        self, tmp_path: Path, code: int, again: list[str]
    ) -> None:
        ended, (_, *lines) = self.ended(tmp_path, 0, code)
        assert (ended, lines) == (code, again)


class TestSplitLock:
    """What an image without CUDA installs, from the lock file as it is."""

    @pytest.fixture
    def parts(self, tmp_path: Path) -> tuple[str, str]:
        script = ROOT / "deploy" / "split_lock.py"
        hashed, torch = tmp_path / "hashed", tmp_path / "torch"
        subprocess.run([sys.executable, script, LOCK, hashed, torch], check=True)
        return hashed.read_text("utf-8"), torch.read_text("utf-8")

    def test_torch_keeps_its_version_and_loses_its_hashes(self, parts: tuple[str, str]) -> None:
        lock = LOCK.read_text("utf-8")
        assert [re.sub(r"==.*", "", line) for line in parts[1].split()] == ["torch", "torchvision"]
        for pin in parts[1].split():
            assert f"\n{pin} \\\n" in lock

    def test_the_rest_keeps_its_hashes_and_loses_cuda(self, parts: tuple[str, str]) -> None:
        def names(text: str) -> set[str]:
            return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))

        gone = names(LOCK.read_text("utf-8")) - names(parts[0])
        assert {"torch", "torchvision", "triton"} <= gone
        assert all(n.startswith(("nvidia-", "cuda-", "torch", "triton")) for n in gone)
        assert {"numpy", "pillow", "safetensors", "sympy"} <= names(parts[0])
        entries = re.split(r"^(?=[a-z])", parts[0], flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in entry for entry in entries)
