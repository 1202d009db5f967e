"""Kubernetes manifests and SLURM scripts, as far as they can be tried without a cluster."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.distributed.launcher import assign, launch_info
from tests.container.engine import ROOT, Done, accepted_by, run

KUBERNETES = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.glob("*.yaml") if path.stem != "kustomization")
JOBS = [path for path in MANIFESTS if path.stem != "volumes"]
each_job = pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)


def job(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8"))  # type: ignore[no-any-return]


def containers(path: Path) -> list[dict[str, Any]]:
    pod = job(path)["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_schemas(manifest: Path) -> None:
    accepted_by("kubernetes-validate", "--strict", "--quiet", manifest)


class TestJobs:
    @each_job
    def test_locked_down(self, path: Path) -> None:
        pod = job(path)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in containers(path):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }

    @each_job
    def test_bounded(self, path: Path) -> None:
        spec = job(path)["spec"]
        assert spec["activeDeadlineSeconds"] > 0
        assert spec["ttlSecondsAfterFinished"] > 0
        for container in containers(path):
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])

    @each_job
    def test_volumes_are_claimed_and_mounted(self, path: Path) -> None:
        claims = yaml.safe_load_all((KUBERNETES / "volumes.yaml").read_text("utf-8"))
        names = {claim["metadata"]["name"] for claim in claims}
        volumes = job(path)["spec"]["template"]["spec"]["volumes"]
        assert {v["persistentVolumeClaim"]["claimName"] for v in volumes if "emptyDir" not in v} <= names
        mounted = {mount["name"] for container in containers(path) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in volumes}

    def test_the_kustomization_names_every_file_and_image(self) -> None:
        base = job(KUBERNETES / "kustomization.yaml")
        assert {"job.yaml", *base["resources"]} == {path.name for path in MANIFESTS}
        images = {
            c["image"]
            for name in base["resources"]
            if name != "volumes.yaml"
            for c in containers(KUBERNETES / name)
        }
        assert images == {image["name"] for image in base["images"]}

    def command(self, path: Path, folder: Path) -> list[str]:
        """The words of the finetune command that a pod runs in a folder."""
        program(folder, "finetune", 'echo "$@"')
        (container,) = containers(path)
        assert container["command"][:3] == ["tini", "--", "shared-umask"]
        environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
        words = [*container["command"][3:], *container["args"]]
        return run(*words, cwd=folder, env=environment).stdout.split()

    def test_the_job_starts_and_then_resumes(self, tmp_path: Path) -> None:
        path = KUBERNETES / "job.yaml"
        assert self.command(path, tmp_path) == ["train", "--out", "runs/job"]
        (tmp_path / "runs" / "job").mkdir(parents=True)
        (tmp_path / "runs" / "job" / "config.toml").touch()
        assert self.command(path, tmp_path) == ["train", "--resume", "runs/job"]

    def test_the_shards_cover_every_pair_once(self, tmp_path: Path) -> None:
        path = KUBERNETES / "shards.yaml"
        n = job(path)["spec"]["completions"]
        (container,) = containers(path)
        environ = {entry["name"]: entry["value"] for entry in container["env"]}
        words = self.command(path, tmp_path)
        pairs = [(name, seed) for seed in range(int(words[words.index("--seeds") + 1])) for name in "abc"]
        shares = [assign(pairs, launch_info(environ | {"JOB_COMPLETION_INDEX": str(i)})) for i in range(n)]
        assert sorted(shares) == sorted([pair] for pair in pairs)
        assert words == ["train", "--seeds", "3", "--parallel", "runs", "--out", "runs/shards"]


class TestKustomize:
    """What `kubectl apply -k` sends, rendered by kubectl itself; needs no cluster."""

    @pytest.fixture
    def rendered(self) -> str:
        if shutil.which("kubectl") is None:
            pytest.skip("kubectl is not installed")
        done = run("kubectl", "kustomize", KUBERNETES)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def test_every_job_with_the_image_of_the_cluster(self, rendered: str) -> None:
        found = list(yaml.safe_load_all(rendered))
        jobs = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "Job"}
        assert set(jobs) == {f"finetune-{name}" for name in ("prepare", "shards", "grade", "results")}
        assert sum(one["kind"] == "PersistentVolumeClaim" for one in found) == 3
        pods = [spec["template"]["spec"] for spec in jobs.values()]
        images = {c["image"] for pod in pods for c in [*pod.get("initContainers", []), *pod["containers"]]}
        assert images == {"finetune:train", "finetune:grade"}

    def test_its_schemas(self, rendered: str, tmp_path: Path) -> None:
        (tmp_path / "all.yaml").write_text(rendered)
        accepted_by("kubernetes-validate", "--strict", "--quiet", tmp_path / "all.yaml")

    def test_an_overlay_of_ones_own(self, tmp_path: Path) -> None:
        """As its comment promises: another registry and a node selector, without editing the base."""
        if shutil.which("kubectl") is None:
            pytest.skip("kubectl is not installed")
        overlay = tmp_path / "overlay"
        shutil.copytree(KUBERNETES, tmp_path / "base")
        overlay.mkdir()
        patch = {"spec": {"template": {"spec": {"nodeSelector": {"gpu": "h100"}}}}}
        head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "any"}}
        own = {
            "resources": ["../base"],
            "images": [{"name": "finetune", "newName": "registry.example/finetune"}],
            "patches": [{"target": {"kind": "Job"}, "patch": yaml.safe_dump(head | patch)}],
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(own))
        done = run("kubectl", "kustomize", overlay)
        assert (done.returncode, done.stderr) == (0, "")
        jobs = [one["spec"] for one in yaml.safe_load_all(done.stdout) if one["kind"] == "Job"]
        for job in jobs:
            pod = job["template"]["spec"]
            assert pod["nodeSelector"] == {"gpu": "h100"}
            assert pod["containers"][0]["image"].startswith("registry.example/finetune:")


class TestRun:
    """`deploy/kubernetes/run` with a kubectl that knows how each job ends."""

    def ended(self, folder: Path, **states: str) -> tuple[Done, list[str]]:
        answers = "".join(f"finetune-{name}) echo {state} ;; " for name, state in states.items())
        program(
            folder,
            "kubectl",
            f"""echo "$@" >> {folder}/calls
                case "$1 $2 $*" in
                    "get job "*jsonpath*) case $3 in {answers} *) echo Complete ;; esac ;;
                    "get job "*) exit 1 ;;
                    "get pod "*) echo results-1 ;;
                esac""",
        )
        environ = {"PATH": f"{folder}:{os.environ['PATH']}", "POLL_SECONDS": "0"}
        done = run(KUBERNETES / "run", "out", env=environ, timeout=30)
        return done, (folder / "calls").read_text().splitlines()

    def started(self, calls: list[str]) -> list[str]:
        return [call.split()[2] for call in calls if call.startswith("patch job")]

    def test_one_job_after_the_other_and_the_results(self, tmp_path: Path) -> None:
        done, calls = self.ended(tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"apply -k {KUBERNETES}" in calls
        assert self.started(calls) == [
            f"finetune-{name}" for name in ("prepare", "shards", "grade", "results")
        ]
        assert "cp results-1:/workspace/runs/merged out" in calls

    def test_a_failed_job_ends_it(self, tmp_path: Path) -> None:
        done, calls = self.ended(tmp_path, shards="Failed")
        assert (done.returncode, "finetune-shards failed" in done.stderr) == (1, True)
        assert self.started(calls) == ["finetune-prepare", "finetune-shards"]
        assert any(call.startswith("logs") and call.endswith("job/finetune-shards") for call in calls)

    def test_what_does_not_pass_is_copied_all_the_same(self, tmp_path: Path) -> None:
        done, calls = self.ended(tmp_path, grade="Failed")
        assert done.returncode == 1
        assert "cp results-1:/workspace/runs/merged out" in calls


class TestSlurm:
    SCRIPT = ROOT / "deploy" / "slurm.sh"

    def ended(self, folder: Path, number: int, code: int) -> tuple[int, list[str]]:
        """Exit code and the commands that a task runs, where training ends with a code."""
        for name, body in (("srun", f'echo "$RANK $WORLD_SIZE $@"; exit {code}'), ("scontrol", 'echo "$@"')):
            program(folder, name, body)
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

    def test_each_job_waits_for_the_one_before(self, tmp_path: Path) -> None:
        program(
            tmp_path, "sbatch", f'echo "$@" >> {tmp_path}/calls; wc -l < {tmp_path}/calls | sed "s/$/;here/"'
        )
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FINETUNE": "apptainer exec x.sif finetune"}
        done = run(ROOT / "deploy" / "slurm-all.sh", "--partition", "gpu", env=environ)
        assert (done.returncode, done.stderr) == (0, "")
        prepare, shards, grade = (tmp_path / "calls").read_text().splitlines()
        assert all("--partition gpu" in call for call in (prepare, shards, grade))
        assert prepare.endswith("--wrap apptainer exec x.sif finetune data prepare")
        assert "--dependency afterok:1 " in shards
        assert shards.endswith("deploy/slurm.sh")
        assert "--dependency afterok:2 " in grade
        assert grade.endswith("finetune merge runs/shards/shard-* --out runs/merged && grader runs/merged")

    def test_a_job_that_is_refused_ends_the_script(self, tmp_path: Path) -> None:
        program(
            tmp_path,
            "sbatch",
            f'echo "$@" >> {tmp_path}/calls; [ $(wc -l < {tmp_path}/calls) = 1 ] && echo 1',
        )
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = run(ROOT / "deploy" / "slurm-all.sh", env=environ)
        assert (done.returncode, done.stdout) == (1, "")
        assert len((tmp_path / "calls").read_text().splitlines()) == 2

    @pytest.mark.parametrize("given", [{}, {"FINETUNE_TRAIN_PRESET": "mine.toml"}])
    def test_the_first_job_prepares_what_the_others_train(
        self, tmp_path: Path, given: dict[str, str]
    ) -> None:
        program(tmp_path, "sbatch", f'echo "$FINETUNE_DATA_PREPARE_PRESET" >> {tmp_path}/presets; echo 1')
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
        assert run(ROOT / "deploy" / "slurm-all.sh", env=environ).returncode == 0
        presets = (tmp_path / "presets").read_text().splitlines()
        assert set(presets) == {given.get("FINETUNE_TRAIN_PRESET", "")}

    def test_a_task_may_run_in_a_container(self, tmp_path: Path) -> None:
        program(tmp_path, "srun", 'echo "$@"')
        environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"}
        done = run("sh", self.SCRIPT, env=environ | {"FINETUNE": "apptainer exec --nv x.sif finetune"})
        assert done.stdout.startswith("apptainer exec --nv x.sif finetune train ")
