# SPDX-License-Identifier: Apache-2.0
"""A Redis of one's own, as docs/security.md sets it up: TLS with client certificates, and the farm's ACL file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from farm.settings import Settings

_CONFIG = """\
port 0
tls-port {port}
bind 127.0.0.1
tls-cert-file {dir}/server.crt
tls-key-file {dir}/server.key
tls-ca-cert-file {dir}/ca.crt
tls-auth-clients yes
aclfile {dir}/users.acl
dir {dir}
save ""
appendonly yes
logfile {dir}/server.log
daemonize no
"""


def server_command() -> tuple[str, str] | None:
    """(program, name to start it under) of a server with TLS. Debian's redis-tools has it under another name."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _has_tls(found, name):
            return found, name
    found = shutil.which("redis-check-rdb")
    return (found, "redis-server") if found and _has_tls(found, "redis-server") else None


def _has_tls(program: str, name: str) -> bool:
    # A server without TLS refuses the option; one with it goes on to the next, which does not exist.
    command = [name, "--port", "0", "--tls-port", "0", "--tls-protocols", "TLSv1.3", "--no-such-option", "1"]
    done = subprocess.run(command, executable=program, capture_output=True, text=True, timeout=120)
    return "no-such-option" in done.stdout + done.stderr


def required_server() -> tuple[str, str]:
    """The same; without one a skip on a person's machine, a failure in CI."""
    found = server_command()
    if found is not None and shutil.which("openssl"):
        return found
    message = "no Redis with TLS, or no openssl: install Debian's redis-tools and openssl to test TLS and ACL users"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def make_authority(directory: Path, name: str = "ca") -> None:
    """A certificate authority: NAME.key, NAME.crt."""
    _openssl(
        directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt",
    )  # fmt: skip


def make_certificate(directory: Path, name: str, authority: str = "ca", host: str = "IP:127.0.0.1") -> None:
    """A certificate that the authority signed for `host`: NAME.key, NAME.crt."""
    (directory / f"{name}.ext").write_text(f"subjectAltName={host}\n")
    _openssl(
        directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
        "-keyout", f"{name}.key", "-out", f"{name}.csr",
    )  # fmt: skip
    _openssl(
        directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
        "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt",
    )  # fmt: skip


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=120)


@dataclass
class TlsServer:
    """A running server and what it takes to reach it as each role."""

    directory: Path
    port: int
    base: Settings
    command: tuple[str, str]
    process: subprocess.Popen[bytes] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the server on what its directory holds, and wait until it answers."""
        program, name = self.command
        self.process = subprocess.Popen(
            [name, str(self.directory / "server.conf")],
            executable=program,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        _wait(self, self.process)

    def stop(self, *, at_once: bool = False) -> None:
        """End it; at once: as a power cut does."""
        if self.process is not None:
            self.process.kill() if at_once else self.process.terminate()
            self.process.wait(timeout=120)

    def settings(self, role: str, **changes: Any) -> Settings:
        """The settings of a process of that role."""
        own = {
            "broker_url": f"rediss://127.0.0.1:{self.port}/0",
            "broker_user": role,
            "broker_password_file": self.directory / "passwords" / f"{role}.password",
            "broker_ca_file": self.directory / "ca.crt",
            "broker_cert_file": self.directory / "client.crt",
            "broker_key_file": self.directory / "client.key",
        }
        return self.base.model_copy(update=own | changes)

    def environment(self, role: str) -> dict[str, str]:
        """The same for another program, with nothing of this one's farm in it."""
        names = ("broker_url", "broker_user", "broker_password_file", "broker_ca_file", "broker_cert_file")
        settings = self.settings(role)
        own = {f"FARM_{name.upper()}": str(getattr(settings, name)) for name in (*names, "broker_key_file")}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FARM_")}
        return kept | settings.environment() | own

    def refusals(self) -> list[dict[str, Any]]:
        """What the server refused so far, newest first, but for what clients ask of servers newer than this one."""
        from farm.broker.connection import connect

        entries = connect(self.settings("admin")).acl_log()
        assert isinstance(entries, list)
        return [entry for entry in entries if entry["object"] not in ("client|setinfo", "client|maint_notifications")]


@contextmanager
def running(directory: Path, base: Settings) -> Iterator[TlsServer]:
    """Make certificates, passwords and the ACL file with the farm's own command; run the server."""
    from click.testing import CliRunner

    from farm.cli.broker import broker

    command = required_server()
    make_authority(directory)
    make_certificate(directory, "server")
    make_certificate(directory, "client")
    roles = ("scheduler", "worker", "submitter", "nightly", "reader", "flower", "admin")
    words = [word for role in roles for word in ("--role", role)]
    made = CliRunner().invoke(broker, ["acl", str(directory / "passwords"), *words], standalone_mode=False)
    assert made.exception is None, made.output
    (directory / "users.acl").write_text(made.stdout)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (directory / "server.conf").write_text(_CONFIG.format(dir=directory, port=port))
    server = TlsServer(directory, port, base, command)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _wait(server: TlsServer, process: subprocess.Popen[bytes]) -> None:
    from farm.broker.connection import broker_url

    url = broker_url(server.settings("admin"))
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            redis.Redis.from_url(url).ping()
            return
        except redis.RedisError:
            time.sleep(0.05)
    log = server.directory / "server.log"
    pytest.fail(f"the server did not start: {log.read_text() if log.exists() else 'no log'}")
