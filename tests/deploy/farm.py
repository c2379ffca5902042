# SPDX-License-Identifier: Apache-2.0
"""The playbooks on the lab's hosts: `a` is the controller, `b` and `c` serve their CPUs; `c` passes for a Jetson."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.lab import PACKAGES_PORT, SWITCH_ADDRESS, Lab

ROOT = Path(__file__).resolve().parents[2]
PLAYS = ROOT / "deploy/ansible"
STORE = "/var/lib/inferfarm/store"
FARM = "FARM_CONFIG=/etc/inferfarm/{role}.toml runuser -u farm -- /opt/inferfarm/current/bin/farm"

#: Tasks of the plays end as `HOST : ok=12 changed=3 unreachable=0 failed=0 ...`.
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)

SWEEP = """\
name: {name}
protocol: {{base: quick, warmup_min_iterations: 1, warmup_min_s: 0.0, min_iterations: {iterations}, min_s: 0.0}}
models: [resnet18]
workflows: [{{name: fake, latency_ms: {latency_ms}}}]
precisions: [fp32]
batch: [1]
devices: [{devices}]
"""


@dataclass(frozen=True)
class Played:
    """What a playbook did on each host, by the recap's words, and all that it said."""

    hosts: dict[str, dict[str, int]]
    said: str

    def changed(self) -> dict[str, int]:
        """How many tasks changed something on each of the lab's hosts."""
        return {host: row["changed"] for host, row in self.hosts.items() if host.startswith("fx-")}


class DeployedFarm:
    """The inventory of a lab, and what is asked of the farm on it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.inventory = lab.directory / "inventory.yml"
        #: The workers' own variables; a host that is not here is not in the inventory.
        self.workers: dict[str, dict[str, Any]] = {"b": {}}
        self.write_inventory()

    def write_inventory(self, **more: Any) -> None:
        """The controller and the workers, with shorter leases so that the faults are over sooner."""
        ssh = f"-o UserKnownHostsFile={self.lab.directory / 'known_hosts'} -o ServerAliveInterval=10"
        hosts = {host.full_name: {"ansible_host": host.address} for host in self.lab.hosts.values()}
        workers = {f"fx-{name}": hosts[f"fx-{name}"] | own for name, own in self.workers.items()}
        jetsons = {name: {} for name, variables in workers.items() if "jetson_stack" in variables}
        content = {
            "all": {
                "vars": {
                    "ansible_user": "root", "ansible_ssh_private_key_file": str(self.lab.key),
                    "ansible_ssh_common_args": ssh,
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "farm_find_links": f"http://{SWITCH_ADDRESS}:{PACKAGES_PORT}/wheels/",
                    "farm_pip_args": f"--trusted-host {SWITCH_ADDRESS}",
                    "farm_wheel_dir": str(self.lab.directory / "wheel"),
                    "farm_settings": {"lease_s": 30, "telemetry_hz": 0, "canary": False}
                    | {"idle_wait_s": 0, "suspect_retries": 0},
                    "worker_stop_timeout": "3min", "controller_guests": ["guest-cpu"],
                    "controller_nightly": '[nightly]\nat = "03:00"\n', **more,
                },
                "children": {
                    "controller": {"hosts": {"fx-a": hosts["fx-a"]}},
                    "workers": {"hosts": workers},
                    "jetson": {"hosts": jetsons},
                },
            }
        }  # fmt: skip
        self.inventory.write_text(yaml.safe_dump(content))

    def play(self, name: str, *options: str) -> Played:
        """Run a playbook.

        Raises:
            AssertionError: it failed, with all that it said.
        """
        done = self.try_play(name, *options)
        assert done.returncode == 0, f"{name}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        keys = ("ok", "changed", "unreachable", "failed")
        rows = {row[0]: dict(zip(keys, map(int, row[1:]), strict=True)) for row in _RECAP.findall(done.stdout)}
        return Played(rows, done.stdout)

    def try_play(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook that may fail."""
        command = [shutil.which("ansible-playbook") or "ansible-playbook", "-i", str(self.inventory), str(PLAYS / name)]
        return self.lab.run(*command, *options, timeout=1200, env=self.environment(), cwd=PLAYS)

    def environment(self) -> dict[str, str]:
        """No colours, so that the recap can be read, and a log with the time of each line."""
        return {
            # The wheel is built on the lab's network, which has no way out.
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.lab.base / "wheels"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CONFIG": str(PLAYS / "ansible.cfg"),
            "ANSIBLE_LOG_PATH": str(self.lab.directory / "plays.log"),
            "ANSIBLE_LOCAL_TEMP": str(self.lab.directory / "tmp"),
        }

    def farm(self, words: str, *, role: str = "submitter", check: bool = True) -> str:
        """Run `farm` on the controller as one of its roles."""
        return self.lab.ssh("a", f"cd /tmp; {FARM.format(role=role)} {words}", check=check)

    def submit(
        self, name: str, devices: str = "{id: fx-b-cpu}, {id: fx-c-cpu}", latency_ms: float = 20, iterations: int = 100
    ) -> None:
        """Submit a sweep of the fake workflow; a run takes latency times iterations and a second or two."""
        text = SWEEP.format(name=name, devices=devices, latency_ms=latency_ms, iterations=iterations)
        self.lab.ssh("a", f"cat > /tmp/{name}.yaml <<'EOF'\n{text}EOF")
        self.farm(f"submit /tmp/{name}.yaml")

    @contextlib.contextmanager
    def held(self, host: str) -> Iterator[None]:
        """Have the job that is measured on the host stand still: its process is stopped, those that watch it are not.

        At the end it goes on, however long that took.
        """
        # A warm parent forks a supervisor, and that the measuring process: the one without a child.
        each = "for pid in $(pgrep -u farm -f -- --warm); do pgrep -P $pid >/dev/null || kill -{} $pid; done"
        self.lab.ssh(host, each.format("STOP"))
        try:
            yield
        finally:
            self.lab.ssh(host, each.format("CONT"))

    def records(self, name: str) -> list[dict[str, Any]]:
        """The sweep's records."""
        found: list[dict[str, Any]] = json.loads(self.farm(f"results {name} --format json", check=False) or "[]")
        return found

    def devices(self) -> dict[str, dict[str, Any]]:
        """The register by device id."""
        told = json.loads(self.farm("devices --format json"))
        return {entry["device"]["device_id"]: entry for entry in told}

    def acl_log(self) -> str:
        """What the broker refused to anybody; the administrator alone may ask."""
        return self.redis("admin", "ACL LOG")

    def redis(self, user: str, words: str, host: str = "a") -> str:
        """Ask the broker over TLS as a user whose password is on that host."""
        pki = "/etc/inferfarm/pki"
        tls = f"--tls --cacert {pki}/ca.crt --cert {pki}/host.crt --key {pki}/host.key"
        secret = f"$(cat /etc/inferfarm/secrets/{user}.password)"
        return self.lab.ssh(
            host, f"REDISCLI_AUTH={secret} redis-cli -h fx-a -p 6380 {tls} --user {user} {words} 2>&1", check=False
        )
