# SPDX-License-Identifier: Apache-2.0
"""One process runs nights, one process has the beat: locks in Redis that are kept while the process lives."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

import redis

from farm.errors import UnavailableError
from scheduler.leader import TTL_S, Leader

log = logging.getLogger("inferfarm.nightly")

#: Whoever runs a night now; and whoever has the beat, which may last for months.
NIGHT_KEY, BEAT_KEY = "farm:nightly", "farm:nightly-beat"
WHAT = {NIGHT_KEY: "another process runs the nightly", BEAT_KEY: "another `farm nightly run --serve` is at work"}


class Holding:
    """A lock, held and renewed by a thread of its own while the context lasts. `lost` is set where another has it.

    Raises (on entering):
        UnavailableError: another process holds it; says which.
    """

    def __init__(self, client: redis.Redis, key: str, ttl_s: float = TTL_S) -> None:
        self.lost = threading.Event()
        self._leader = Leader(client, ttl_s, key=key, what=WHAT[key])
        self._every_s = ttl_s / 4
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=key, daemon=True)

    def __enter__(self) -> Self:
        self._leader.hold()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=30)
        try:
            self._leader.free()
        except redis.RedisError as away:
            log.info("the lock was not given back, it ends by itself: %s", away)

    def _keep(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self._leader.hold()
            except redis.RedisError as error:
                log.warning("the lock cannot be renewed now: %s", error)
            except UnavailableError as error:
                log.error("%s", error)
                self.lost.set()
                return
