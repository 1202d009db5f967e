"""A SLURM cluster of one node on this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container.engine import Done, run
from tests.machine import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

# The node claims more cores and memory than this machine has, so that the scripts' requests fit.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536
PartitionName=main Nodes={host} Default=YES
"""


class Slurm:
    """What a user types on the login node, in a folder shared by all nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> Done:
        return run(*command, cwd=cwd or self.folder, env=self.environment | environment, timeout=60)

    def jobs(self) -> dict[str, dict[str, str]]:
        """The fields of every job that scontrol shows; of an array, by JOB_TASK."""
        found = {}
        for line in self("scontrol", "show", "job", "--oneliner").stdout.splitlines():
            fields = dict(re.findall(r"(\S+?)=(\S*)", line))
            if "JobId" in fields:
                task = f"_{fields['ArrayTaskId']}" if "ArrayTaskId" in fields else ""
                found[fields.get("ArrayJobId", fields["JobId"]) + task] = fields
        return found

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ...; of an array, COMPLETED if all of its tasks are."""
        jobs = self.jobs()
        states = {jobs[name]["JobState"] for name in jobs if name == job or name.startswith(f"{job}_")}
        ordered = ("RUNNING", "COMPLETING", "PENDING", "FAILED", *sorted(ENDED - {"COMPLETED"}), "COMPLETED")
        return next((state for state in ordered if state in states), "")

    def wait(self, job: str, seconds: float = 60) -> str:
        """The state in which a job has ended."""
        self.until(lambda: self.state(job) in ENDED, f"the end of job {job}", seconds)
        return self.state(job)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Wait until a condition is true; otherwise fail the test, with states and logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                states = {name: fields["JobState"] for name, fields in self.jobs().items()}
                files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.messages")])
                said = "\n".join(f"{file.name}: {file.read_text('utf-8')[-2000:]}" for file in files)
                pytest.fail(f"{what} does not come within {seconds:.0f} s; jobs: {states}\n{said}")
            time.sleep(0.5)


def require_slurm() -> None:
    """Skip the running test where SLURM's daemons are not installed."""
    lacking = [name for name in DAEMONS if shutil.which(name, path=PATH) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)}: not installed (Debian: slurmctld, slurmd and munge)")


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Start munged, slurmctld and slurmd; end them, and what they started, afterwards."""
    host = os.uname().nodename.partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    text = CONFIGURATION.format(
        folder=folder,
        host=host,
        controller=free_port(),
        node=free_port(),
        user=os.environ.get("USER", "root"),
    )
    (folder / "slurm.conf").write_text(text)
    slurm = Slurm(folder)
    munge = [f"--{option}-file={folder / option}" for option in ("key", "pid", "seed")]
    munge += [f"--socket={folder / 'munge.socket'}", f"--log-file={folder / 'munge.messages'}"]
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
        ):
            with (folder / f"{command[0]}.messages").open("w") as messages:
                daemons.append(
                    subprocess.Popen(
                        command, env=slurm.environment, stdout=messages, stderr=messages, cwd=folder
                    )
                )
            if command[0] == "munged":
                slurm.until((folder / "munge.socket").exists, "munge")
        slurm.until(lambda: "idle" in slurm("sinfo", "--noheader", "--format", "%T").stdout, "the node")
        yield slurm
    finally:
        slurm("scancel", "--state", "RUNNING")
        slurm("scancel", "--state", "PENDING")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
