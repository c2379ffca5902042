# SPDX-License-Identifier: Apache-2.0
"""Stands between the daemon and one runner, and leaves no process behind. Standard library only, one thread.

    python -I -S supervise.py LOCK_FD

First line of stdin: the plan as JSON (`Plan`). Further lines: `deadline SECONDS` (CLOCK_BOOTTIME, which also counts
while a laptop sleeps) and `kill REASON`. Stdout: `pid N`, once; its end is this program's end. It kills the whole
tree, daemonised descendants too, when stdin closes (`daemon-died`), the deadline passes (`lease-expired`), it is told
to, or the runner has ended by itself. It then writes the exit file, by rename. The device's lock is inherited and so
freed last.

Python 3.8: a warm parent (`workers/runner/warm.py`), in a stack's interpreter, loads this file by its path and forks
supervisors that run `supervise` with a `become` of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any, Callable, NamedTuple  # noqa: UP035 - Python 3.8 cannot subscript the other one

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: How long stray descendants of a runner that ended by itself may take to end by themselves.
STRAY_GRACE_S = 0.25

_LONGEST_POLL_S = 1.0
_RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGQUIT)


class Plan(NamedTuple):
    """What to start. `deadline` is in seconds of CLOCK_BOOTTIME; None: no deadline."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    exit_file: str
    grace_s: float
    deadline: float | None


#: Makes the calling process, prepared but for its program, the runner; does not return.
Become = Callable[[Plan], None]


class Supervisor:
    """One runner, from its start until the last of its descendants is gone."""

    def __init__(self, plan: Plan, rest: bytes, become: Become) -> None:
        self.plan = plan
        self._become = become
        self.deadline = plan.deadline
        self.reason: str | None = None
        self.error: str | None = None
        self.runner = 0
        self.status: int | None = None
        self.usage: Any = None
        self.killed: set[int] = set()
        self._buffer = rest
        self._wake = _wake_pipe()
        self._started_ns = 0

    def run(self) -> None:
        """Start the runner, watch it, end its tree, say how it ended."""
        self._started_ns = time.monotonic_ns()
        self.runner, self.error = _start(self.plan, self._become)
        os.write(1, b"pid %d\n" % self.runner)
        self._take_lines()
        while self.status is None and self.reason is None:
            self._poll()
        self._end_tree()
        self._report()

    def _poll(self) -> None:
        left = _LONGEST_POLL_S if self.deadline is None else min(_LONGEST_POLL_S, self.deadline - _boottime())
        ready, _, _ = select.select([0, self._wake], [], [], max(0.0, left))
        if self._wake in ready:
            self._hear_signals()
        self._reap()
        if self.status is None and 0 in ready:
            self._read()
        if self.status is None and self.deadline is not None and _boottime() >= self.deadline:
            self.reason = self.reason or "lease-expired"

    def _read(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self.reason = "daemon-died"
        self._buffer += data
        self._take_lines()

    def _take_lines(self) -> None:
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            word, _, value = line.decode("utf-8", "replace").partition(" ")
            if word == "deadline":
                self.deadline = float(value)
            elif word == "kill" and self.reason is None:
                self.reason = value or "killed"

    def _hear_signals(self) -> None:
        for number in os.read(self._wake, 512):
            if number != signal.SIGCHLD and self.reason is None:
                self.reason = "supervisor-told-to-end"

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.runner:
                self.status, self.usage = status, usage

    def _end_tree(self) -> None:
        self._wait_for_tree(self._ask())
        pause_s = 0.005
        while True:
            self._reap()
            tree = descendants(os.getpid())
            if not tree:
                return
            for pid, state in tree.items():
                _kill(pid)
                if state != "Z":
                    self.killed.add(pid)
            # A process stuck in a driver cannot be killed: wait for it, for as long as it takes, and keep the lock.
            self._nap(pause_s)
            pause_s = min(pause_s * 2, 1.0)

    def _ask(self) -> float:
        """Ask the tree to end where there is time for manners; return for how long to wait for it."""
        if self.status is not None:
            return STRAY_GRACE_S
        if self.reason in ("daemon-died", "lease-expired"):
            return 0.0
        try:
            os.killpg(self.runner, signal.SIGTERM)
        except ProcessLookupError:
            _kill(self.runner)
        return self.plan.grace_s

    def _wait_for_tree(self, limit_s: float) -> None:
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            self._reap()
            if not descendants(os.getpid()):
                return
            self._nap(0.05)

    def _nap(self, limit_s: float) -> None:
        """Sleep until a child ends, at most `limit_s`."""
        ready, _, _ = select.select([self._wake], [], [], limit_s)
        if ready:
            os.read(self._wake, 512)

    def _report(self) -> None:
        status = self.status
        document = {
            "exit_code": os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            "reason": self.reason,
            "error": self.error,
            "max_rss_bytes": self.usage.ru_maxrss * 1024 if self.usage else None,
            "user_s": self.usage.ru_utime if self.usage else None,
            "system_s": self.usage.ru_stime if self.usage else None,
            "killed_stragglers": len(self.killed - {self.runner}),
            "started_ns": self._started_ns,
            "ended_ns": time.monotonic_ns(),
        }
        _write_atomically(self.plan.exit_file, json.dumps(document).encode("utf-8"))


def descendants(root: int) -> dict[int, str]:
    """All processes below `root` with their state letters, by a walk of /proc. Zombies too: their parents reap them."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start-up time
        if entry.isdigit():
            parent, states[int(entry)] = _parent_and_state(entry)
            children.setdefault(parent, []).append(int(entry))
    found: dict[int, str] = {}
    todo = [root]
    while todo:
        for pid in children.get(todo.pop(), []):
            found[pid] = states[pid]
            todo.append(pid)
    return found


def _parent_and_state(pid: str) -> tuple[int, str]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rsplit(b")", 1)[1].split()
    except OSError:
        return -1, "X"
    return int(fields[1]), fields[0].decode()


def _start(plan: Plan, become: Become) -> tuple[int, str | None]:
    """Fork the runner; return its id, and the error where it could not become one."""
    failure_read, failure_write = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _prepare(plan, parent)
            become(plan)
        except OSError as error:
            os.write(failure_write, f"{plan.argv[0]}: {error.strerror or error}".encode())
        finally:
            os._exit(126)
    os.close(failure_write)
    with os.fdopen(failure_read, "rb") as stream:
        failure = stream.read()
    return pid, failure.decode("utf-8", "replace") or None


def _prepare(plan: Plan, parent: int) -> None:
    """All that a runner is given but its program: the same for one that is executed and one that is forked."""
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(126)
    signal.set_wakeup_fd(-1)
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # A dump of a process that maps a device's memory takes minutes and fills the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _offer_to_oom_killer()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(plan.cwd)


def _execute(plan: Plan) -> None:
    os.execve(plan.argv[0], plan.argv, plan.env)  # noqa: S606 - no shell is wanted


def _offer_to_oom_killer() -> None:
    """Let the kernel, when memory runs out, take the measured process and not the daemon or the broker."""
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("1000")
    except OSError:
        return


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _wake_pipe() -> int:
    """A descriptor that becomes readable, with the signal's number, when a child ends or somebody wants us to end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read_end


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _write_atomically(path: str, content: bytes) -> None:
    with open(path + ".tmp", "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(path + ".tmp", path)  # noqa: PTH105 - pathlib would double the start-up time


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read_plan() -> tuple[Plan, bytes] | None:
    buffer = b""
    while b"\n" not in buffer:
        data = os.read(0, 65536)
        if not data:
            return None
        buffer += data
    line, _, rest = buffer.partition(b"\n")
    return Plan(**json.loads(line)), rest


def supervise(lock_fd: int, become: Become) -> None:
    """Run one plan from stdin in this process, which holds the device's lock in `lock_fd`."""
    os.set_inheritable(lock_fd, False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    given = _read_plan()
    if given is not None:
        Supervisor(*given, become).run()


if __name__ == "__main__":
    supervise(int(sys.argv[1]), _execute)
