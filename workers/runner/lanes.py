# SPDX-License-Identifier: Apache-2.0
"""Threads for lanes: one thread each, for as long as a run lasts, all told what to do by the runner's own thread."""

import queue
import threading
from typing import Any, Callable, List, Optional, Sequence, TypeVar

T = TypeVar("T")
Work = Callable[[], Any]


class Crew:
    """`count` threads with a number each. Nothing runs in them but what `each` and `together` are given."""

    def __init__(self, count: int) -> None:
        self._hands = [_Hand(number) for number in range(count)]

    def each(self, work: Callable[[int], T]) -> List[T]:
        """Have every thread do `work(number)`, one thread after the other. Raises what the first to fail raised."""
        found: List[T] = []
        for number, hand in enumerate(self._hands):
            hand.give(_bound(work, number))
            found += _taken([hand.take()])
        return found

    def together(self, work: Callable[[int], T], failed: Callable[[], Any]) -> List[T]:
        """Have all threads do `work(number)` at once and wait for all. Raises what the first to fail raised.

        `failed` is called in a thread whose work raised, so that the others can end theirs.
        """
        for number, hand in enumerate(self._hands):
            hand.give(_bound(work, number), failed)
        return _taken([hand.take() for hand in self._hands])

    def close(self) -> None:
        """End the threads."""
        for hand in self._hands:
            hand.end()


class _Done:
    """What became of a piece of work."""

    def __init__(self, value: Any = None, error: Optional[BaseException] = None) -> None:
        self.value, self.error = value, error


class _Hand:
    def __init__(self, number: int) -> None:
        self._asked: "queue.SimpleQueue[Any]" = queue.SimpleQueue()
        self._done: "queue.SimpleQueue[_Done]" = queue.SimpleQueue()
        # A daemon: a thread that hangs in a driver must not keep a process that is told to end.
        self._thread = threading.Thread(target=self._serve, name="lane-{}".format(number), daemon=True)
        self._thread.start()

    def give(self, work: Work, failed: Optional[Callable[[], Any]] = None) -> None:
        self._asked.put((work, failed))

    def take(self) -> _Done:
        return self._done.get()

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while True:
            asked = self._asked.get()
            if asked is None:
                return
            work, failed = asked
            try:
                done = _Done(work())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the runner's thread
                done = _Done(error=error)
                if failed is not None:
                    failed()
            del work, asked  # what the work held must not live on in an idle thread
            self._done.put(done)


def _bound(work: Callable[[int], T], number: int) -> Callable[[], T]:
    return lambda: work(number)


def _taken(done: Sequence[_Done]) -> List[Any]:
    # A broken barrier is what another's failure looks like from here: the failure itself says more.
    errors = [d.error for d in done if d.error is not None]
    told = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in told or errors:
        raise error
    return [d.value for d in done]
