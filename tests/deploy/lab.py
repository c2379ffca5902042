# SPDX-License-Identifier: Apache-2.0
"""Hosts with systemd as PID 1, made of systemd-nspawn and network namespaces: a switch, a cable each, a power button.

Each host has an overlay of its own over one Debian root, its own address and its own sshd. The switch is a namespace,
too, with the address 10.77.0.254: the play runs there, and serves packages and wheels. This machine's network is not
touched, and the hosts have no way out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NET = "10.77.0"
SWITCH_ADDRESS = f"{NET}.254"
PACKAGES_PORT = 8090
#: Hybrid hierarchies first, then a pure cgroup v2.
_CGROUPS = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
_NEEDED = ("systemd-nspawn", "ip", "mmdebstrap", "dpkg-scanpackages", "ssh", "ssh-keygen", "nsenter")


class LabError(Exception):
    """Something of the lab could not be made."""


def missing() -> list[str]:
    """The programs that the lab lacks here."""
    return [name for name in _NEEDED if shutil.which(name) is None]


@dataclass(frozen=True)
class Host:
    """One host: its name on the network is `fx-NAME`."""

    name: str
    number: int
    directory: Path

    @property
    def full_name(self) -> str:
        """Its host name, and that of its namespace."""
        return f"fx-{self.name}"

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        return f"{NET}.{self.number}"

    @property
    def root(self) -> Path:
        """Its root file system, as this machine sees it."""
        return self.directory / "root"


class Lab:
    """`names` as hosts below `directory`, over the Debian root `base/root`."""

    def __init__(self, base: Path, directory: Path, names: Sequence[str]) -> None:
        self.base = base
        self.directory = directory
        self.hosts = {name: Host(name, number, directory / name) for number, name in enumerate(names, 1)}
        self._supervisors: dict[str, subprocess.Popen[bytes]] = {}
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def key(self) -> Path:
        """The ssh key that opens every host."""
        return self.directory / "id"

    def up(self) -> None:
        """Make the switch and the hosts, boot them, and wait until ssh answers."""
        self.lay_out()
        self._server = self._start(
            "python3", "-m", "http.server", str(PACKAGES_PORT), "--bind", SWITCH_ADDRESS, "--directory", str(self.base)
        )
        for name in self.hosts:
            self.boot(name)
        for name in self.hosts:
            self.wait_for_ssh(name)

    def lay_out(self) -> None:
        """Make the switch, the cables and the hosts' roots."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        _do("ip", "netns", "add", "fx-switch")
        for words in (
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {SWITCH_ADDRESS}/24 dev br0",
            "link set br0 up",
        ):
            _do("ip", "-n", "fx-switch", *words.split())
        for host in self.hosts.values():
            self._wire(host)
            self._furnish(host)

    def down(self) -> None:
        """Power everything off and remove every trace."""
        for name in self.hosts:
            self.cut(name)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        for host in self.hosts.values():
            _try("umount", str(host.root))
            for group in _groups(host):
                for path in [*sorted(group.rglob("*"), reverse=True), group]:
                    if path.is_dir():
                        with contextlib.suppress(OSError):
                            path.rmdir()
            _try("ip", "netns", "del", host.full_name)
        _try("ip", "netns", "del", "fx-switch")

    @contextlib.contextmanager
    def unplugged(self, name: str) -> Iterator[None]:
        """Pull the host's cable, and put it back at the end."""
        _do("ip", "-n", "fx-switch", "link", "set", f"p-{name}", "down")
        try:
            yield
        finally:
            _do("ip", "-n", "fx-switch", "link", "set", f"p-{name}", "up")

    def cut(self, name: str) -> None:
        """Cut the host's power: the death of its PID 1 is that of all its processes."""
        supervisor = self._supervisors.pop(name, None)
        if supervisor is None:
            return
        if self._line(name).exists():
            _try("ssh", "-o", f"ControlPath={self._line(name)}", "-O", "exit", self.hosts[name].address)
        # Killing nspawn itself would leave the host running.
        for pid in _children(supervisor.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            supervisor.wait(timeout=15)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait(timeout=15)

    def power(self, name: str) -> None:
        """Switch the host on again, and wait until ssh answers."""
        self.boot(name)
        self.wait_for_ssh(name)

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 300, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine on the lab's network."""
        return subprocess.run(
            ["nsenter", "--net=/run/netns/fx-switch", *command],
            capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}, check=False, cwd=cwd,
        )  # fmt: skip

    def ssh_words(self, name: str, command: str) -> list[str]:
        """An ssh call of a host; its host key is checked."""
        options = [
            f"UserKnownHostsFile={self.directory / 'known_hosts'}", "BatchMode=yes", "ConnectTimeout=5",
            # One connection for all calls; it ends with the lab.
            f"ControlPath={self._line(name)}", "ControlMaster=auto", "ControlPersist=yes",
        ]  # fmt: skip
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(self.key), *words, f"root@{self.hosts[name].address}", command]

    def ssh(self, name: str, command: str, *, check: bool = True, timeout: float = 120) -> str:
        """Run a shell command on a host as root; its output.

        Raises:
            AssertionError: it failed, with all that it said.
        """
        done = self.run(*self.ssh_words(name, command), timeout=timeout)
        assert not check or done.returncode == 0, f"{name}: {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def wait_for_ssh(self, name: str, limit_s: float = 60) -> None:
        """Wait until a host lets us in."""
        self.wait(lambda: self.run(*self.ssh_words(name, "true")).returncode == 0, limit_s, f"ssh of {name}")

    @staticmethod
    def wait(condition: Callable[[], bool], limit_s: float, what: str) -> float:
        """Ask until it is so; how many seconds it took."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < limit_s, f"waited {limit_s:g} s for {what}"
            time.sleep(0.3)
        return time.monotonic() - begin

    def _line(self, name: str) -> Path:
        return self.directory / f"{name}.ssh"

    def _wire(self, host: Host) -> None:
        _do("ip", "netns", "add", host.full_name)
        _do("ip", "-n", host.full_name, "link", "set", "lo", "up")
        ends = f"link add eth0 netns {host.full_name} type veth peer name p-{host.name} netns fx-switch"
        _do("ip", *ends.split())
        _do("ip", "-n", "fx-switch", "link", "set", f"p-{host.name}", "master", "br0", "up")
        _do("ip", "-n", host.full_name, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _do("ip", "-n", host.full_name, "link", "set", "eth0", "up")

    def _furnish(self, host: Host) -> None:
        for part in ("up", "wk", "root"):
            (host.directory / part).mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={self.base / 'root'},upperdir={host.directory / 'up'},workdir={host.directory / 'wk'}"
        _do("mount", "-t", "overlay", host.full_name, "-o", layers, str(host.root))
        etc = host.root / "etc"
        (etc / "hostname").write_text(f"{host.full_name}\n")
        others = [f"{other.address} {other.full_name}\n" for other in self.hosts.values()]
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(others))
        (etc / "apt/sources.list").write_text(f"deb [trusted=yes] http://{SWITCH_ADDRESS}:{PACKAGES_PORT}/debs ./\n")
        ssh = host.root / "root/.ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        (ssh / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        own = etc / "ssh/ssh_host_ed25519_key"
        own.unlink(missing_ok=True)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own))
        public = " ".join(own.with_suffix(".pub").read_text().split()[:2])
        with (self.directory / "known_hosts").open("a") as stream:
            stream.write(f"{host.address} {public}\n")

    def boot(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """Start the host, with more words for systemd-nspawn; the process that ends with it."""
        host = self.hosts[name]
        groups = _groups(host)
        for group in groups:
            group.mkdir(parents=True, exist_ok=True)
        # nspawn takes its caller's control group for the host, so each caller gets one of its own.
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        command = [
            "systemd-nspawn", "--quiet", "--settings=no", f"--directory={host.root}",
            f"--network-namespace-path=/run/netns/{host.full_name}", f"--machine={host.full_name}",
            f"--hostname={host.full_name}", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off",
            "--link-journal=no", "--boot", *words,
        ]  # fmt: skip
        with (host.directory / "console.log").open("ab") as console:
            self._supervisors[host.name] = subprocess.Popen(
                ["bash", "-c", enter + 'exec "$@"', "boot", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        return self._supervisors[host.name]

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        words = ["nsenter", "--net=/run/netns/fx-switch", *command]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def booted(lab: Lab) -> Iterator[Lab]:
    """The lab with its hosts up; whatever happens, nothing of it is left."""
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def _groups(host: Host) -> list[Path]:
    hybrid = [Path(root) / host.full_name for root in _CGROUPS if Path(root).is_dir()]
    return hybrid or [Path("/sys/fs/cgroup") / host.full_name]


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def _try(*command: str) -> None:
    subprocess.run(command, capture_output=True, check=False)


if __name__ == "__main__":
    # For a look by hand: python -m tests.deploy.lab BASE DIRECTORY; Enter takes it down.
    _lab = Lab(Path(sys.argv[1]), Path(sys.argv[2]), ("a", "b", "c"))
    with booted(_lab):
        print(f"up; {' '.join(_lab.ssh_words('a', ''))}", flush=True)
        sys.stdin.readline()
