# SPDX-License-Identifier: Apache-2.0
"""One scheduler per farm, and one nightly: a lock in Redis with an owner and an end. Two do no harm, only churn."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import redis

import farm
from farm.broker.register import SCHEDULER_KEY
from farm.errors import UnavailableError

KEY = SCHEDULER_KEY

#: Long enough for a slow pass, short enough to replace a scheduler whose host died.
TTL_S = 20.0

#: ARGV: our value, TTL in ms, a dead holder's value or ''. Returns '' when the lock is ours, else the holder's value.
_TAKE = """
local v=redis.call('GET',KEYS[1])
if not v or v==ARGV[1] or v==ARGV[3] then redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]); return '' end
return v
"""

#: ARGV: value. Frees the lock if it is ours.
_FREE = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0"


class Leader:
    """The right to be this farm's scheduler, or what else `key` stands for; `what` names it in errors."""

    def __init__(
        self, client: redis.Redis, ttl_s: float = TTL_S, *, key: str = KEY, what: str = "another scheduler works"
    ) -> None:
        self._key, self._what = key, what
        told = {"token": uuid.uuid4().hex, "pid": os.getpid(), "host": _host(), "version": farm.__version__}
        self._value = json.dumps(told, sort_keys=True)
        self._ttl_ms = int(ttl_s * 1000)
        self._held_at: float | None = None
        self._take = client.register_script(_TAKE)
        self._free = client.register_script(_FREE)

    def hold(self) -> None:
        """Take the lock, or keep it. A holder on this host whose process is gone is replaced at once.

        Raises:
            UnavailableError: another scheduler holds it; says which.
            redis.RedisError: Redis is away.
        """
        holder = self._try("")
        if holder and _is_dead(holder):
            holder = self._try(holder)
        if holder:
            told = _told(holder)
            raise UnavailableError(
                f"{self._what} for this farm: process {told.get('pid')} on {_host_name(told)}",
                hint="One is enough. Stop that one first, or give this farm a broker of its own (FARM_HOME).",
            )
        self._held_at = time.monotonic()

    def keep(self, *, sure: bool = True) -> None:
        """`hold`, where a sixth of the lock's time has passed since the last time or one is not `sure` of it.

        Each write is flushed to the server's disk, and whoever asks the server something meanwhile waits for that.
        """
        if not sure or self._held_at is None or time.monotonic() - self._held_at >= self._ttl_ms / 6000:
            self.hold()

    def free(self) -> None:
        """Give the lock back. Harmless when it is another's."""
        self._free(keys=[self._key], args=[self._value])

    def _try(self, dead: str) -> str:
        return str(self._take(keys=[self._key], args=[self._value, self._ttl_ms, dead]))


def holder(client: redis.Redis, key: str) -> str | None:
    """Who holds a lock, `process 12 on lab1`; None if nobody does."""
    value = client.get(key)
    if value is None or _is_dead(str(value)):
        return None
    told = _told(str(value))
    return f"process {told.get('pid')} on {_host_name(told)}"


def _host() -> list[str]:
    """This host, and this set of process ids: a process id means nothing in another container."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return [socket.gethostname(), space]


def _told(holder: str) -> dict[str, Any]:
    try:
        told = json.loads(holder)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _host_name(told: dict[str, Any]) -> str:
    host = told.get("host")
    return str(host[0]) if isinstance(host, list) and host else "an unknown host"


def _is_dead(holder: str) -> bool:
    told = _told(holder)
    host = _host()
    if not host[1] or told.get("host") != host or not isinstance(told.get("pid"), int):
        return False
    return not Path(f"/proc/{told['pid']}").exists()
