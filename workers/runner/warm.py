# SPDX-License-Identifier: Apache-2.0
"""A warm parent: it imports a stack's libraries once, then forks a supervisor with its runner for each run.

    PYTHON -I BUNDLE_DIR --warm SOCKET_FD SUPERVISE_PY IDLE_S MODULE...

It answers with JSON lines on the socket. First `{"ready": ...}` or `{"failed": REASON}`; then, for each byte that comes
with four descriptors (the supervisor's stdin, stdout, stderr and the device's lock), `{"pid": N}` or
`{"refused": REASON}`. It ends with the socket, after IDLE_S without a byte, and with the daemon's death. Between two
forks it sleeps in one system call. It never runs anything of what it imported: a child of a process that has started
threads or opened a device hangs or fails, so that is looked for before each fork.
"""

import array
import ctypes
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any, Dict, List, Optional, Sequence

from workers.runner import child
from workers.runner.resident import resident_spans
from workers.runner.usage import memory_metrics

_PR_SET_PDEATHSIG = 1
_DESCRIPTORS = 4


def serve(arguments: Sequence[str]) -> int:
    """Be a warm parent until nobody wants one; return the exit code."""
    sock = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(sock.fileno(), False)
    _die_with_daemon(sock)
    try:
        supervise = _load(arguments[1])
        ready = _warm_up(arguments[3:])
    except Exception as error:  # noqa: BLE001 - the boundary: the daemon is told, and starts a fresh process
        traceback.print_exc()
        _say(sock, {"failed": "{}: {}".format(type(error).__name__, error)[:500]})
        return 1
    own = _descriptors()
    _say(sock, {"ready": ready})
    _serve(sock, supervise, float(arguments[2]), own)
    os._exit(0)  # the tear-down of a library takes seconds, and nothing was done that needs one


def _serve(sock: socket.socket, supervise: Any, idle_s: float, own: Dict[int, str]) -> None:
    # Children that end are nobody's business here; the kernel keeps no zombies of one who ignores them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    inherited = child.Inherited([number for number in own if number > 2 and number != sock.fileno()], resident_spans())
    while True:
        ready, _, _ = select.select([sock], [], [], idle_s)
        given = _receive(sock) if ready else None
        if given is None:
            return
        try:
            _say(sock, _fork(sock, supervise, given, inherited))
        finally:
            for number in given:
                os.close(number)


def _fork(sock: socket.socket, supervise: Any, given: List[int], inherited: child.Inherited) -> Dict[str, Any]:
    why = unsafe()
    if why is not None or len(given) != _DESCRIPTORS:
        return {"refused": why or "not the descriptors of a run"}
    child.flush()
    pid = os.fork()
    if pid:
        return {"pid": pid}
    status = 1
    try:
        _be_supervisor(sock, supervise, given, inherited)
        status = 0
    except BaseException:  # noqa: BLE001 - a fork must not return into its parent's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _be_supervisor(sock: socket.socket, supervise: Any, given: List[int], inherited: child.Inherited) -> None:
    os.setsid()
    for target, number in enumerate(given[:3]):
        os.dup2(number, target)
        os.close(number)
    sock.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    supervise.supervise(given[3], lambda plan: child.become(plan, inherited))


def unsafe() -> Optional[str]:
    """Why this process must not be forked; None: it may be."""
    threads = _threads()
    if threads > 1:
        return "the parent has {} threads".format(threads)
    devices = sorted({path for path in _descriptors().values() if path.startswith("/dev/nvidia")})
    return "the parent has {} open".format(devices[0]) if devices else None


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _warm_up(modules: Sequence[str]) -> Dict[str, Any]:
    """Import everything; what the daemon must know to tell whether this is still what a fresh process would import."""
    stamps = _stamps()
    import workers.runner.stages  # noqa: F401 - for the children
    from workers.workflows.preload import preload

    preload(modules)
    _end_idle_threads()
    gc.collect()
    # A child's collections would look through all the libraries and so make every page of them its own.
    gc.freeze()
    return {
        "stamps": stamps,
        "unsafe": unsafe(),
        "rss_bytes": memory_metrics().get("host_rss_bytes"),
    }


def _end_idle_threads() -> None:
    """OpenBLAS starts threads when it is loaded, and ends them itself before a fork; in the child they come anew."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _stamps() -> Dict[str, List[int]]:
    """When the interpreter and the folders it imports from were last changed: [mtime in ns, size] by path.

    Not of the bundle, the first: its path is its digest, and its folder changes when bytecode is kept there.
    """
    paths = {os.path.realpath(sys.executable)} | {path for path in sys.path[1:] if os.path.isdir(path)}
    found = {}
    for path in sorted(paths):
        status = os.stat(path)
        found[path] = [status.st_mtime_ns, status.st_size]
    return found


def _load(path: str) -> Any:
    """The supervisor's module: the daemon's own file, so that both ways of starting a run have one supervisor."""
    spec = importlib.util.spec_from_file_location("supervise", path)
    if spec is None or spec.loader is None:
        raise ImportError("{} cannot be loaded".format(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _receive(sock: socket.socket) -> Optional[List[int]]:
    """The descriptors that came with a byte; None: the daemon is gone."""
    size = array.array("i").itemsize
    # socket.recv_fds is of Python 3.9.
    data, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(_DESCRIPTORS * size))
    numbers = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(content[: len(content) - len(content) % size])
    for number in numbers:
        os.set_inheritable(number, False)
    return list(numbers) if data else None


def _say(sock: socket.socket, document: Dict[str, Any]) -> None:
    sock.sendall(json.dumps(document).encode("utf-8") + b"\n")


def _die_with_daemon(sock: socket.socket) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    # It may be dead already, and imports can hang: its end of the socket is closed then.
    if select.select([sock], [], [], 0)[0]:
        os._exit(0)


def _descriptors() -> Dict[int, str]:
    """The open descriptors and what they are of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
        except OSError:  # the one that listed them
            continue
        found[int(name)] = os.path.realpath("/proc/self/fd/" + name)
    return found
