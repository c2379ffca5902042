# SPDX-License-Identifier: Apache-2.0
"""Passwords and certificates are changed under a running farm, as docs/operations.md says, and nobody is cut off."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis.exceptions import ConnectionError as Cut

from farm.broker.connection import connect
from farm.broker.register import DeviceEntry, Register
from farm.cli.broker import broker
from farm.errors import UnavailableError
from farm.settings import Settings
from tests.security.tls_server import TlsServer, make_certificate, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    base = Settings(home=tmp_path / "home", lock_dir=tmp_path / "locks")
    with running(tmp_path, base) as server:
        yield server


def load_users(server: TlsServer, *words: str) -> None:
    """What the operator does: print the users' file anew, and have the server read it."""
    command = [
        "acl",
        str(server.directory / "passwords"),
        "--role",
        "admin",
        "--role",
        "worker",
        "--role",
        "reader",
        *words,
    ]
    done = CliRunner().invoke(broker, command, standalone_mode=False)
    assert done.exception is None, done.exception
    (server.directory / "users.acl").write_text(done.stdout)
    connect(server.settings("admin")).acl_load()


def asked(register: Register) -> list[DeviceEntry]:
    """As workers ask, who ask again: a server that has read its users anew closes what a changed one had open."""
    try:
        return register.devices()
    except Cut:
        return register.devices()


def test_a_worker_goes_on_while_its_password_is_renewed(server: TlsServer) -> None:
    at_work = Register(connect(server.settings("worker")))
    password = server.directory / "passwords/worker.password"
    old = password.read_text()
    load_users(server, "--renew", "worker")
    assert asked(at_work) == [], "an open connection, and one that is made anew with the old password"
    (server.directory / "old").write_text(old)
    still = server.settings("worker", broker_password_file=server.directory / "old")
    assert Register(connect(still)).devices() == []
    assert Register(connect(server.settings("worker"))).devices() == []
    (server.directory / "passwords/worker.password.old").unlink()
    load_users(server)
    assert Register(connect(server.settings("worker"))).devices() == []
    with pytest.raises(UnavailableError):
        connect(still)


def test_the_server_takes_a_new_certificate_without_a_restart(server: TlsServer) -> None:
    reader = Register(connect(server.settings("reader")))
    before = shown(server)
    make_certificate(server.directory, "server")
    admin = connect(server.settings("admin"))
    admin.config_set(
        "tls-cert-file", str(server.directory / "server.crt"), "tls-key-file", str(server.directory / "server.key")
    )
    assert shown(server) != before
    assert reader.devices() == [], "who is connected stays so"
    assert Register(connect(server.settings("reader"))).devices() == []


def shown(server: TlsServer) -> str:
    """The digest of the certificate that the server shows."""
    context = ssl.create_default_context(cafile=str(server.directory / "ca.crt"))
    context.check_hostname = False
    context.load_cert_chain(server.directory / "client.crt", server.directory / "client.key")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=120) as line,
        context.wrap_socket(line) as secured,
    ):
        return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
