"""`.ci/container` and `.ci/install-engine` on a machine whose programs are stubs; no engine needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.container import engine
from tests.container.engine import ROOT, Done, run

BASH = shutil.which("bash") or "bash"
DEBIAN_12 = {"docker.io", "docker-compose", "debootstrap", "iproute2", "iptables", "make", "python3-venv"}
DEBIAN_13 = DEBIAN_12 | {"docker-cli", "docker-buildx"}
BASICS = ("debootstrap", "ip", "iptables-save", "ip6tables-save", "make")
PROVIDES = [
    ("docker.io", "dockerd"),
    ("docker.io", "docker"),
    ("docker-compose", "docker-compose"),
    ("debootstrap", "debootstrap"),
    ("iproute2", "ip"),
    ("iptables", "iptables-save"),
    ("make", "make"),
]
"""Packages and the programs in them that the scripts look for."""


class Machine:
    """A folder of programs, all stubs, and a log of what apt was asked for."""

    def __init__(self, folder: Path, offered: set[str], clients_version: str = "20.10.24") -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.log = folder / "apt.log"
        self.log.touch()
        self.clients_version = clients_version
        self.program("python3", "exit 0")
        names = " ".join(sorted(offered))
        self.program("apt-cache", f'case " {names} " in *" $2 "*) ;; *) exit 100 ;; esac')
        self.refuse = folder / "refuse"
        # Like Debian's apt-get: what it installs is there afterwards.
        install = f"{shutil.which('install')} -m 755 {self._client(folder)} {self.programs}"
        packages = "\n".join(
            f'case " $* " in *" {package} "*) {install}/{program} ;; esac' for package, program in PROVIDES
        )
        self.program(
            "apt-get",
            f"""echo "${{SYSTEMD_OFFLINE:-0}} $*" >> {self.log}
                [ $1 = update ] && exit 0
                [ -e {self.refuse} ] && {{ echo "E: Packages need to be removed" >&2; exit 100; }}
                {packages}
                exit 0""",
        )

    def _client(self, folder: Path, *plugins: str) -> Path:
        path = folder / "client"
        known = "|".join(("--version", *plugins))
        says = f"Docker version {self.clients_version}, build 1"
        path.write_text(f'#!{BASH}\ncase $1 in {known}) echo "{says}" ;; *) exit 1 ;; esac\n')
        path.chmod(0o755)
        return path

    def program(self, name: str, body: str = "") -> None:
        (self.programs / name).write_text(f"#!{BASH}\n{body}\n")
        (self.programs / name).chmod(0o755)

    def client(self, *plugins: str) -> None:
        """Install a docker client with these plugins."""
        shutil.copy(self._client(self.programs.parent, *plugins), self.programs / "docker")

    def install_engine(self) -> Done:
        return run(BASH, ROOT / ".ci" / "install-engine", env={"PATH": str(self.programs)}, cwd=self.programs)

    @property
    def installed(self) -> set[str]:
        """What apt was asked to install, and nothing but that."""
        lines = [line.split() for line in self.log.read_text().splitlines() if " install " in line]
        return {word for line in lines for word in line[2:] if not word.startswith("-")}


class TestInstallEngine:
    @pytest.mark.parametrize("plugins", [("buildx", "compose"), ("buildx",)])
    def test_uses_the_engine_that_is_there(self, tmp_path: Path, plugins: tuple[str, ...]) -> None:
        """docker-ce's packages conflict with docker.io, which must not be asked for."""
        machine = Machine(tmp_path, DEBIAN_13, clients_version="29.1.0")
        for name in ("dockerd", *BASICS):
            machine.program(name)
        machine.client(*plugins)
        done = machine.install_engine()
        assert done.returncode == 0, done.stderr
        assert machine.installed == (set() if "compose" in plugins else {"docker-compose"})

    def test_asks_apt_for_nothing_where_nothing_is_missing(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, DEBIAN_12)
        for name in ("dockerd", "docker-compose", *BASICS):
            machine.program(name)
        machine.client()
        assert machine.install_engine().returncode == 0
        assert machine.log.read_text() == ""

    @pytest.mark.parametrize(
        ("offered", "version", "engine_packages"),
        [
            (DEBIAN_12, "20.10.24", {"docker.io", "docker-compose"}),
            (DEBIAN_13, "20.10.24", {"docker.io", "docker-cli", "docker-buildx", "docker-compose"}),
        ],
        ids=["Debian 12", "Debian 13"],
    )
    def test_on_a_bare_machine(
        self, tmp_path: Path, offered: set[str], version: str, engine_packages: set[str]
    ) -> None:
        machine = Machine(tmp_path, offered, version)
        machine.program("python3", "exit 1")  # has no ensurepip
        done = machine.install_engine()
        assert done.returncode == 0, done.stderr
        others = {"debootstrap", "iproute2", "iptables", "make", "python3-venv"}
        assert machine.installed == engine_packages | others

    def test_never_removes_a_package_nor_starts_an_engine(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, DEBIAN_12)
        assert machine.install_engine().returncode == 0
        (command,) = [line for line in machine.log.read_text().splitlines() if " install " in line]
        offline, *words = command.split()
        assert offline == "1"
        assert "--no-remove" in words

    def test_refuses_where_apt_would_remove_a_package(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, DEBIAN_12)
        machine.refuse.touch()
        done = machine.install_engine()
        assert done.returncode == 2
        assert "apt could not install docker.io docker-compose" in done.stderr
        assert "no package was removed" in done.stderr

    def test_says_what_no_package_brought(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, DEBIAN_12 - {"docker-compose"})
        done = machine.install_engine()
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("Compose is still missing")

    def test_a_new_client_needs_its_plugin(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, DEBIAN_12, clients_version="28.0.1")
        done = machine.install_engine()
        assert done.returncode == 2
        assert "lacks its plugin buildx" in done.stderr


class TestContainer:
    """The whole script in a clone of its own; dockerd is a stub that sleeps."""

    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        clone = tmp_path / "clone"
        programs = clone / "programs"
        programs.mkdir(parents=True)
        (clone / ".ci").mkdir()
        for name in ("container", "install-engine"):
            shutil.copy(ROOT / ".ci" / name, clone / ".ci")
        shutil.copy(ROOT / "Dockerfile", clone)
        bodies = {
            "id": "echo 0",
            "setpriv": 'while [ "$1" != make ]; do shift; done; exec "$@"',
            "make": "mkdir -p .venv/bin; cp programs/pytest .venv/bin/pytest; echo $1 >> made",
            "pytest": 'echo "$CONTAINER_REQUIRED $DOCKER $*" > tested; exit ${PYTEST_EXITS:-0}',
            "dockerd": 'echo "$@" > started; ${ENGINE_DOES:-true}; exec sleep 60',
            "docker": "exit 0",
            "debootstrap": "exit 0",
            "ip": "cat links",
            "iptables-save": "echo '# generated now'; echo \":INPUT ACCEPT [$RANDOM:$RANDOM]\"; cat rules",
            "ip6tables-save": "exit 0",
        }
        for name, body in bodies.items():
            (programs / name).write_text(f"#!{BASH}\n{body}\n")
            (programs / name).chmod(0o755)
        (clone / "links").write_text("1: lo: <LOOPBACK>\n2: eth0: <UP>\n")
        (clone / "rules").write_text("-A FORWARD -j ACCEPT\n")
        return clone

    def container(self, clone: Path, **environ: str) -> Done:
        path = f"{clone / 'programs'}:{os.environ['PATH']}"
        return run(
            *(BASH, clone / ".ci" / "container", "-k", "labels"),
            env={"PATH": path, "CONTAINER_PATH": path, "HOME": str(clone), **environ},
            timeout=60,
        )

    def test_on_a_fresh_clone(self, clone: Path) -> None:
        done = self.container(clone)
        assert done.returncode == 0, done.stderr
        assert (clone / "made").read_text() == ".venv/installed\n"
        required, client, *arguments = (clone / "tested").read_text().split()
        assert (required, client) == ("1", str(clone / "programs" / "docker"))
        assert arguments[-2:] == ["-k", "labels"]

    def test_the_engine_leaves_bridge_and_firewall_alone(self, clone: Path) -> None:
        assert self.container(clone).returncode == 0
        options = (clone / "started").read_text()
        for option in ("--bridge none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"):
            assert option in options

    @pytest.mark.parametrize(
        ("change", "shown"),
        [("cp links.new links", "> docker0:"), ("cp links rules", "< -A FORWARD -j ACCEPT")],
        ids=["a link", "a rule"],
    )
    def test_fails_where_the_network_is_not_as_before(self, clone: Path, change: str, shown: str) -> None:
        (clone / "links.new").write_text((clone / "links").read_text() + "3: docker0: <UP>\n")
        done = self.container(clone, ENGINE_DOES=change)
        assert done.returncode == 1
        assert "changed this machine's links or firewall" in done.stderr
        assert shown in done.stderr

    def test_fails_as_the_tests_do(self, clone: Path) -> None:
        assert self.container(clone, PYTEST_EXITS="3").returncode == 3


class TestMissingEngine:
    @pytest.fixture(autouse=True)
    def _no_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "engine_fault", lambda: "no docker client is installed")
        for name in ("CI", "CONTAINER_REQUIRED"):
            monkeypatch.delenv(name, raising=False)

    def test_skips(self) -> None:
        with pytest.raises(pytest.skip.Exception, match="no docker client"):
            engine.require_engine()

    @pytest.mark.parametrize("name", ["CI", "CONTAINER_REQUIRED"])
    def test_fails_where_one_was_promised(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "true")
        with pytest.raises(pytest.fail.Exception, match="no docker client"):
            engine.require_engine()
