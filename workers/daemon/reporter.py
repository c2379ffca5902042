# SPDX-License-Identifier: Apache-2.0
"""Tell watchers how a job is getting on, from a thread of its own: a slow broker must not hold up stage limits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import redis

log = logging.getLogger(__name__)

Progress = dict[str, Any]

_SHORTEST_PAUSE_S = 0.25


class Reporter:
    """Hands the latest progress to each of `sinks`; what was overtaken is left out. Failures are logged, no more."""

    def __init__(self, *sinks: Callable[[Progress], None]) -> None:
        self._sinks = sinks
        self._latest: Progress | None = None
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._changed.set()
        self._thread.join(timeout=30)

    def tell(self, progress: Progress) -> None:
        """Replace what is to be told next. Returns at once."""
        self._latest = progress
        self._changed.set()

    def _publish(self) -> None:
        while not self._stop.is_set():
            self._changed.wait(60)
            self._changed.clear()
            latest = self._latest
            if latest is not None and not self._stop.is_set():
                for sink in self._sinks:
                    self._hand_to(sink, latest)
            self._stop.wait(_SHORTEST_PAUSE_S)

    def _hand_to(self, sink: Callable[[Progress], None], latest: Progress) -> None:
        try:
            sink(latest)
        except (redis.RedisError, OSError) as error:
            log.warning("progress could not be told: %s", error)
