# SPDX-License-Identifier: Apache-2.0
"""The checks of `farm doctor`, each one function that never raises for what it looks at."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from farm.broker.connection import broker_url, connect, leaves_host_in_the_clear, redact
from farm.broker.embedded import server_program
from farm.broker.register import Register
from farm.errors import FarmError
from farm.settings import Settings
from farm.store import Store
from farm.store.remote import RemoteStore

MIN_FREE_BYTES = 2 << 30
#: Nights are cut by the minute; a good clock is within milliseconds.
MAX_CLOCKS_APART_S = 5.0


@dataclass(frozen=True)
class Check:
    """One finding. `result` is `ok`, `note` or `bad`."""

    name: str
    result: str
    detail: str
    hint: str = ""

    def row(self) -> list[str]:
        """The finding as a table row."""
        return [self.name, self.result, self.detail, self.hint]


def run_checks(settings: Settings) -> list[Check]:
    """Look at everything the farm needs on this machine, and at the farm this machine belongs to."""
    checks: list[Callable[[Settings], Iterator[Check]]] = [
        _python,
        _home,
        _store,
        _locks,
        _stacks,
        _server,
        _farm,
        _cpu,
    ]
    return [found for check in checks for found in _guarded(check, settings)]


def _guarded(check: Callable[[Settings], Iterator[Check]], settings: Settings) -> list[Check]:
    try:
        return list(check(settings))
    except FarmError as error:
        return [Check(check.__name__.strip("_"), "bad", error.message, error.hint or "")]
    except OSError as error:
        return [Check(check.__name__.strip("_"), "bad", str(error))]


def _python(_settings: Settings) -> Iterator[Check]:
    yield Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _home(settings: Settings) -> Iterator[Check]:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    result = "ok" if free >= MIN_FREE_BYTES else "bad"
    hint = "" if result == "ok" else "Free some space: engines and prepared models are kept here."
    yield Check("home", result, f"{settings.home}, {free / 2**30:.1f} GiB free", hint)


def _store(settings: Settings) -> Iterator[Check]:
    if settings.store_url:
        remote = RemoteStore(settings)
        remote.check()
        yield Check("store", "ok", f"{remote.address} answers, and takes this worker's token")
        return
    store = Store(settings.store_dir)
    store.create()
    store.check_writable()
    free = shutil.disk_usage(settings.store_dir).free
    result = "ok" if free >= MIN_FREE_BYTES else "bad"
    hint = "" if result == "ok" else "Free some space: `farm store usage` says what takes it. docs/operations.md."
    yield Check("store", result, f"{settings.store_dir} is writable, {free / 2**30:.1f} GiB free", hint)


def _locks(settings: Settings) -> Iterator[Check]:
    directory = settings.lock_dir
    existing = next(p for p in (directory, *directory.parents) if p.exists())
    if os.access(existing, os.W_OK):
        yield Check("device locks", "ok", str(directory))
    else:
        hint = f"`sudo install -d -m 1777 {directory}`, or set FARM_LOCK_DIR the same for all farms of this host."
        yield Check("device locks", "bad", f"{directory} is not writable", hint)


def _stacks(settings: Settings) -> Iterator[Check]:
    for name, stack in settings.stacks.items():
        path = shutil.which(stack.python)
        if path:
            yield Check(f"stack {name}", "ok", f"{path}; `farm probe` shows what it holds")
        else:
            yield Check(f"stack {name}", "bad", f"{stack.python} is no program", "Correct stacks in farm.toml.")


def _server(settings: Settings) -> Iterator[Check]:
    if settings.broker_url:
        yield Check("server program", "note", "not needed: FARM_BROKER_URL is set")
    else:
        yield Check("server program", "ok", str(server_program()))


def _farm(settings: Settings) -> Iterator[Check]:
    try:
        url = broker_url(settings)
    except FarmError as error:
        yield Check("farm", "note", error.message, error.hint or "")
        return
    client = connect(settings, url=url)
    if leaves_host_in_the_clear(url):
        hint = "On a network that others use, give the broker TLS: docs/security.md."
        yield Check("broker", "note", f"{redact(url)}: without TLS, its password can be read on the way", hint)
    else:
        yield Check("broker", "ok", redact(url))
    yield _clock(client)
    if client.exists("farm:scheduler"):
        yield Check("scheduler", "ok", "one is at work")
    else:
        yield Check("scheduler", "bad", "none is at work", "Start one: `farm up`, or `farm scheduler`.")
    entries = Register(client).devices()
    online = [entry.device_id for entry in entries if entry.online]
    result = "ok" if online else "bad"
    yield Check("devices", result, f"{len(online)} of {len(entries)} online: {', '.join(online)}")


def _clock(client: redis.Redis) -> Check:
    """This machine's clock against the broker's. Leases do not depend on it; dates of records and certificates do."""
    before = time.time()
    seconds, micros = client.time()
    # The answer was made somewhere between asking and hearing it.
    apart = abs(seconds + micros / 1e6 - (before + time.time()) / 2)
    if apart <= MAX_CLOCKS_APART_S:
        return Check("clock", "ok", f"{apart:.1f} s from the broker's")
    hint = "Set both by NTP (`timedatectl`); slew the broker's, never step it while jobs run."
    return Check("clock", "bad", f"{apart:.0f} s from the broker's", hint)


def _cpu(_settings: Settings) -> Iterator[Check]:
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    busy = load / cores > 0.5
    hint = "Measure on an idle machine: neighbours on the cores cost more than most changes gain." if busy else ""
    yield Check("load", "note" if busy else "ok", f"{load:.2f} over {cores} cores", hint)
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        name = governor.read_text().strip()
        hint = "" if name == "performance" else "Clocks will vary; the governor is recorded with every run."
        yield Check("governor", "ok" if name == "performance" else "note", name, hint)
