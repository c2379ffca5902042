# SPDX-License-Identifier: Apache-2.0
"""One warm parent and what it forks, as the daemon holds them: a socket, a process, three pipes."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from workers.daemon import supervise

#: How long a parent may take over its imports: as long as a fresh process over its start.
START_LIMIT_S = 120.0
#: How long it may take over a fork, which takes milliseconds; then the run is started afresh.
FORK_LIMIT_S = 5.0
_LOOK_S = 0.2
_GONE_S = 5.0
#: The room for the variables of a run; `workers/runner/child.py` has the same name.
_ROOM, _ROOM_BYTES = "INFERFARM_WARM", 8192


class RefusedError(Exception):
    """A run cannot be forked; the message says why."""


class Key(NamedTuple):
    """What must be the same for two runs to have one parent: interpreter, island, environment, libraries."""

    python: str
    bundle: Path
    env: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]


class Forked:
    """A forked supervisor. `stdin` and `stdout` are as those of one that was started."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout

    def wait(self, timeout: float) -> None:
        """Wait until it is gone. Its parent, which reaps it, is another.

        Raises:
            subprocess.TimeoutExpired: it is still there.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not select.select([descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("supervisor", timeout)
        finally:
            os.close(descriptor)


class Parent:
    """One warm parent. `start` it, then `fork`; `end` it or die, and it is gone."""

    def __init__(self, key: Key, idle_s: float) -> None:
        self.key = key
        self.rss_bytes = 0.0
        self.runs = 0
        self.pid: int | None = None
        self._idle_s = idle_s
        self._stamps: Mapping[str, list[int]] = {}
        self._gone = threading.Event()
        self._trouble: OSError | None = None
        self._begun = threading.Event()
        self._sock, self._theirs = socket.socketpair()
        self._buffer = b""

    def start(self, stop: threading.Event) -> None:
        """Start it and wait until it has imported everything.

        Raises:
            RefusedError: it could not, or must not be forked, or `stop` was set.
        """
        # A thread of its own for as long as the parent lives, since the kernel ends it with the thread that began it.
        threading.Thread(target=self._keep, name="parent", daemon=True).start()
        self._begun.wait()
        if self._trouble is not None:
            raise RefusedError(f"the parent could not be started: {self._trouble.strerror or self._trouble}")
        said = self._hear(START_LIMIT_S, stop)
        if "ready" not in said:
            raise RefusedError(f"the parent could not import its libraries: {said.get('failed')}")
        ready = said["ready"]
        self._stamps, self.rss_bytes = ready["stamps"], float(ready["rss_bytes"] or 0)
        if ready["unsafe"] is not None:
            raise RefusedError(f"{ready['unsafe']} after its imports")

    def fork(self, lock_fd: int, log_fd: int) -> Forked:
        """Fork a supervisor that holds the device's lock and logs to `log_fd`.

        Raises:
            RefusedError: the parent does not, or is gone.
        """
        their_stdin, stdin = os.pipe()
        stdout, their_stdout = os.pipe()
        pipes = os.fdopen(stdin, "wb", buffering=0), os.fdopen(stdout, "rb", buffering=0)
        try:
            socket.send_fds(self._sock, [b"f"], [their_stdin, their_stdout, log_fd, lock_fd])
            said = self._hear(FORK_LIMIT_S, threading.Event())
            if "pid" not in said:
                raise RefusedError(str(said.get("refused")))
        except (OSError, RefusedError) as error:
            for pipe in pipes:
                pipe.close()
            raise RefusedError(str(error)) from error
        finally:
            os.close(their_stdin)
            os.close(their_stdout)
        self.runs += 1
        return Forked(int(said["pid"]), *pipes)

    def stale(self, most_runs: int) -> str | None:
        """Why it must be made anew; None: it will do."""
        if self._gone.is_set():
            return "it has ended"
        if self.runs >= most_runs:
            return f"it has forked {self.runs} runs"
        changed = [path for path, stamp in self._stamps.items() if _stamp(path) != stamp]
        return f"{changed[0]} has changed" if changed else None

    def end(self) -> None:
        """End it, if need be by force. What it has forked lives on."""
        self._sock.close()
        if not self._gone.wait(_GONE_S) and self.pid is not None:
            os.kill(self.pid, 9)
            self._gone.wait(_GONE_S)

    def _keep(self) -> None:
        key = self.key
        python = shutil.which(key.python) or key.python
        number = str(self._theirs.fileno())
        argv = [python, "-I", str(key.bundle), "--warm", number, supervise.__file__, f"{self._idle_s:g}", *key.modules]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**dict(key.env), _ROOM: "." * _ROOM_BYTES},
                cwd="/",
                pass_fds=(self._theirs.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            self._trouble = error
            self._gone.set()
            return
        finally:
            self._theirs.close()
            self._begun.set()
        self.pid = process.pid
        process.wait()
        self._gone.set()

    def _hear(self, limit_s: float, stop: threading.Event) -> dict[str, Any]:
        """The next line that it says."""
        until = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            if stop.is_set() or time.monotonic() > until:
                raise RefusedError("the run was given up" if stop.is_set() else f"no answer within {limit_s:g} s")
            if select.select([self._sock], [], [], _LOOK_S)[0]:
                data = self._sock.recv(65536)
                if not data:
                    raise RefusedError("the parent has ended")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        said = json.loads(line)
        return said if isinstance(said, dict) else {}


def _stamp(path: str) -> list[int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_size]
