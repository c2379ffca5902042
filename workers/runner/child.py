# SPDX-License-Identifier: Apache-2.0
"""The last steps from a fork of a warm parent to a runner: all that executing a program would have made new.

What stays its parent's and cannot be made new: the address layout, the hash seed of `str`, malloc's arenas.
"""

import atexit
import ctypes
import os
import random
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from typing import Any, Dict, List, NamedTuple, Set, Tuple

from workers.runner.resident import Span, take

#: A variable that a warm parent is started with, long enough to hold the variables of a run in its place.
ROOM = "INFERFARM_WARM"


class Inherited(NamedTuple):
    """What a fresh process would have after the same imports: descriptors that libraries opened, pages of code."""

    descriptors: List[int]
    pages: List[Span]


def become(plan: Any, inherited: Inherited) -> None:
    """Run the plan's program in this process, as its interpreter would from the start; does not return.

    Raises:
        OSError: the run's marks do not fit where other processes look for them.
    """
    _set_environment(plan.env)
    _python_signals()
    _new_randomness()
    tempfile.tempdir = None  # of TMPDIR, which is the run's own
    bundle, arguments = plan.argv[2], plan.argv[3:]
    sys.argv[:] = [bundle, *arguments]
    _close_all_but({0, 1, 2}.union(inherited.descriptors))
    take(inherited.pages)
    _exit(_run(bundle))


def flush() -> None:
    """Write out what Python and C hold back, or each child writes it once more."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _run(bundle: str) -> int:
    """The bundle's program; what the interpreter would do with its end is done here."""
    try:
        del sys.path[0]  # the parent's bundle: the run's own comes in its place
        runpy.run_path(bundle, run_name="__main__")
    except SystemExit as error:
        return _status(error.code)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - as the interpreter itself: the traceback and status 1
        traceback.print_exc()
        return 1
    return 0


def _status(code: Any) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write("{}\n".format(code))
    return 1


def _exit(status: int) -> None:
    shut_down = getattr(threading, "_shutdown", None)
    if shut_down is not None:
        shut_down()
    atexit._run_exitfuncs()
    flush()
    os._exit(status)


def _set_environment(env: Dict[str, str]) -> None:
    """The run's own variables, in this process and in /proc/PID/environ, where stray processes are looked for."""
    start, size = _room()
    fresh = {key: value for key, value in env.items() if os.environ.get(key) != value}
    content = b"".join(os.fsencode("{}={}".format(key, value)) + b"\0" for key, value in sorted(fresh.items()))
    if len(content) > size:
        raise OSError(7, "the run's variables do not fit into its parent's environment")
    os.environ.pop(ROOM, None)
    os.environ.update(env)
    # Nothing points there any more: the variable is gone from the C library's list.
    ctypes.memmove(start, content + bytes(size - len(content)), size)


def _room() -> Tuple[int, int]:
    """Where the kernel reads this process's variables: address and size of `ROOM`'s entry."""
    with open("/proc/self/stat", "rb") as stream:
        fields = stream.read().rsplit(b")", 1)[1].split()
    start, end = int(fields[47]), int(fields[48])
    block = ctypes.string_at(start, end - start)
    offset = 0
    for entry in block.split(b"\0"):
        if entry.startswith(ROOM.encode() + b"="):
            return start + offset, len(entry)
        offset += len(entry) + 1
    raise OSError(2, "the parent's environment has no {}".format(ROOM))


def _python_signals() -> None:
    """What the interpreter does with signals when it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _new_randomness() -> None:
    """Seeds that were drawn when a library was imported; torch's is a constant."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # type: ignore[attr-defined]


def _close_all_but(kept: Set[int]) -> None:
    numbers: List[int] = [int(name) for name in os.listdir("/proc/self/fd")]
    for number in numbers:
        if number not in kept:
            try:
                os.close(number)
            except OSError:  # the one that listed them
                continue
