# SPDX-License-Identifier: Apache-2.0
"""A bounded queue between two workers that keeps a log of its length, and that can be closed from either side."""

import threading
from array import array
from collections import deque
from typing import Any, Callable, Deque, Optional


class Closed(Exception):  # noqa: N818 - it is no error: the work is over
    """The channel is closed; on `get`, also empty."""


class Waited(Exception):  # noqa: N818 - as above
    """Nothing came until the deadline."""


class Channel:
    """`changes_ns` and `lengths` say when the queue's length changed, and to what."""

    def __init__(self, name: str, capacity: int, clock: Callable[[], int]) -> None:
        self.name = name
        self.capacity = capacity
        self.changes_ns = array("q")
        self.lengths = array("q")
        self._items: Deque[Any] = deque()
        self._closed = False
        self._takers = 0
        self._clock = clock
        lock = threading.Lock()
        self._filled, self._emptied = threading.Condition(lock), threading.Condition(lock)

    def put(self, item: Any) -> None:
        """Wait for room and add an item. Raises Closed."""
        with self._emptied:
            while len(self._items) >= self.capacity and not self._closed:
                self._emptied.wait()
            if self._closed:
                raise Closed(self.name)
            self._items.append(item)
            self._changed()
            self._filled.notify()

    def get(self, until_ns: Optional[int] = None) -> Any:
        """Wait for an item and take it. Raises Closed, or Waited where the clock has reached `until_ns` before."""
        with self._filled:
            while not self._items:
                if self._closed:
                    raise Closed(self.name)
                left_ns = None if until_ns is None else until_ns - self._clock()
                if left_ns is not None and left_ns <= 0:
                    raise Waited(self.name)
                self._takers += 1
                self._emptied.notify_all()
                self._filled.wait(None if left_ns is None else left_ns / 1e9)
                self._takers -= 1
            item = self._items.popleft()
            self._changed()
            self._emptied.notify()
            return item

    def await_taker(self) -> None:
        """Wait until somebody waits in `get` with nothing to take. Raises Closed."""
        with self._emptied:
            while (not self._takers or self._items) and not self._closed:
                self._emptied.wait()
            if self._closed:
                raise Closed(self.name)

    def close(self, discard: bool = False) -> None:
        """Let nothing more in; what is there can still be taken, unless it is discarded."""
        with self._filled:
            self._closed = True
            if discard:
                self._items.clear()
                self._changed()
            self._filled.notify_all()
            self._emptied.notify_all()

    def _changed(self) -> None:
        self.changes_ns.append(self._clock())
        self.lengths.append(len(self._items))
