# SPDX-License-Identifier: Apache-2.0
"""What all requests of a store's service share: the store, who may ask, and who is at which upload.

Of two requests that bring the same blob of the same worker, the later one goes on: the earlier one's line was cut, and
the service has not noticed yet.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from farm.settings import Settings
from farm.store import Store
from farm.store_service.access import Access
from farm.store_service.uploads import Part, Uploads

#: A request that brings nothing for so long is cut; what it brought stays.
IDLE_S = 60.0


class Bringer(Protocol):
    """A request that brings an upload: when it last did, and its lock while it writes."""

    last_s: float
    writing: asyncio.Lock

    def cut(self) -> None:
        """End its connection."""


class Desk:
    """One service's state. All of it is used from the event loop's thread."""

    def __init__(self, settings: Settings, idle_s: float = IDLE_S) -> None:
        self.store = Store(settings.store_dir)
        self.access = Access(settings.access_dir)
        self.max_blob_bytes = settings.store_max_blob_bytes
        self.uploads = Uploads(self.store.blobs, self.max_blob_bytes)
        self.ca_file = settings.store_ca_file
        self.broker_ca_file = settings.broker_ca_file
        self._idle_s = idle_s
        self._active: dict[Part, Bringer] = {}
        self._finishing: set[Part] = set()

    async def take(self, part: Part, by: Bringer) -> bool:
        """Make `by` the one that brings this upload; False while it is being finished."""
        if part in self._finishing:
            return False
        before = self._active.get(part)
        self._active[part] = by
        if before is not None:
            # What it is just writing must be in the file before its size is looked at.
            async with before.writing:
                pass
        return self.holds(part, by)

    def holds(self, part: Part, by: Bringer) -> bool:
        """Whether `by` is still the one that brings it."""
        return self._active.get(part) is by

    def begin_to_finish(self, part: Part, by: Bringer) -> bool:
        """Let nobody take it over any more; False if somebody has."""
        if not self.holds(part, by) or part in self._finishing:
            return False
        self._finishing.add(part)
        return True

    def leave(self, part: Part, by: Bringer) -> None:
        """`by` has ended. Harmless when repeated."""
        if self.holds(part, by):
            del self._active[part]
            self._finishing.discard(part)

    def is_active(self, part: Part) -> bool:
        """Whether a request brings this upload."""
        return part in self._active

    async def tidy(self) -> None:
        """Cut the requests that bring nothing, and remove uploads and invitations that are over."""
        for part, by in list(self._active.items()):
            if part not in self._finishing and time.monotonic() - by.last_s > self._idle_s:
                by.cut()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.uploads.remove_stale, self.is_active)
        await loop.run_in_executor(None, self.access.tidy)
