# SPDX-License-Identifier: Apache-2.0
"""Warm parents, from the daemon's side: which runs are forked, from which process, and when that is made anew.

A warm parent (`workers/runner/warm.py`) has a stack's libraries imported and forks the supervisor of a run, whose
runner is forked in its turn. Whenever anything speaks against it the run is started afresh instead, and says why.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from farm.contract.catalogue import WORKFLOWS
from farm.contract.job import JobSpec
from farm.contract.layers import PROFILES
from farm.contract.names import is_turn
from farm.settings import Settings, WarmPolicy
from workers.daemon.replicate import replication
from workers.daemon.warm_parent import Forked, Key, Parent, RefusedError

log = logging.getLogger(__name__)

#: Parents kept at once, of all stacks and sets of libraries: the one that was used longest ago ends for another.
MOST_PARENTS = 4
#: After so many parents in a row that failed or crashed, runs like theirs are started afresh until the worker ends.
MOST_FAILURES = 2


class Choice(NamedTuple):
    """The modules that a run's parent has imported, or None and why the run is started afresh."""

    modules: tuple[str, ...] | None
    why: str | None = None


def choose(policy: WarmPolicy, job: JobSpec, kind: str, mode: str) -> Choice:
    """Whether a run of `job` may be forked. Pure.

    Processes that count as replicates differ in what an execution draws at random (addresses, the hash seed); forks of
    one parent share it, and the interval over them would be too narrow. So `auto` starts those afresh.
    """
    if policy == "never":
        return Choice(None, "warm_runners is never")
    if mode in PROFILES:
        return Choice(None, "a profiler sets its libraries up before they are imported")
    info = WORKFLOWS.get(job.workflow)
    modules = info.preloads(kind, mode) if info is not None else None
    if modules is None:
        return Choice(None, f"{job.workflow} is not forked on a {kind}")
    if policy == "auto" and mode in ("measure", "pipeline"):
        if kind == "gpu":
            return Choice(None, "no comparison has yet shown that forks measure the same on a gpu")
        if replication(job.protocol).several:
            return Choice(None, "the point has several processes, which are to be independent")
        if is_turn(job.sweep_name):
            return Choice(None, "it is one of a comparison's processes, which are to be independent")
    return Choice(modules)


@dataclass
class _Kept:
    parent: Parent
    used_at: float


@dataclass
class WarmRunners:
    """The warm parents of one worker process. They end with it, and are not handed on by a fork.

    Args:
        settings: `warm_*`.
        clock: seconds; to tell which parent was used last.
    """

    settings: Settings
    clock: Callable[[], float] = time.monotonic
    _kept: dict[Key, _Kept] = field(default_factory=dict)
    _failures: dict[Key, tuple[int, str]] = field(default_factory=dict)
    _owner: int = 0

    def fork(self, key: Key, lock_fd: int, log_fd: int, stop: threading.Event) -> Forked:
        """A supervisor, forked from the parent of `key`, which is made first where there is none that will do.

        Raises:
            RefusedError: it cannot be had; the message is the reason for the record.
        """
        parent = self._parent(key, stop)
        try:
            forked = parent.fork(lock_fd, log_fd)
        except RefusedError as refused:
            self._drop(key)
            self._count_failure(key, str(refused))
            raise
        self._failures.pop(key, None)
        return forked

    def close(self) -> None:
        """End all parents."""
        self._forget_inherited()
        for key in list(self._kept):
            self._drop(key)

    @property
    def memory_bytes(self) -> Mapping[str, float]:
        """What each parent takes, by its libraries."""
        return {" ".join(key.modules): kept.parent.rss_bytes for key, kept in self._kept.items()}

    def _parent(self, key: Key, stop: threading.Event) -> Parent:
        self._forget_inherited()
        kept = self._kept.get(key)
        stale = kept.parent.stale(self.settings.warm_runs) if kept is not None else None
        if kept is not None and stale is None:
            kept.used_at = self.clock()
            return kept.parent
        if kept is not None:
            log.info("the warm parent of %s is made anew: %s", key.python, stale)
            self._drop(key)
        count, why = self._failures.get(key, (0, ""))
        if count >= MOST_FAILURES:
            raise RefusedError(why)
        return self._make(key, stop)

    def _make(self, key: Key, stop: threading.Event) -> Parent:
        while len(self._kept) >= MOST_PARENTS:
            self._drop(min(self._kept, key=lambda one: self._kept[one].used_at))
        parent = Parent(key, self.settings.warm_idle_s)
        try:
            parent.start(stop)
            if parent.rss_bytes > self.settings.warm_memory_mib << 20:
                raise RefusedError(f"the parent took {parent.rss_bytes / 2**20:.0f} MiB, more than warm_memory_mib")
        except RefusedError as refused:
            parent.end()
            if not stop.is_set():
                self._count_failure(key, str(refused))
            raise
        self._kept[key] = _Kept(parent, self.clock())
        return parent

    def _count_failure(self, key: Key, why: str) -> None:
        self._failures[key] = (self._failures.get(key, (0, ""))[0] + 1, why)
        log.warning("no warm parent of %s: %s", key.python, why)

    def _drop(self, key: Key) -> None:
        self._kept.pop(key).parent.end()

    def _forget_inherited(self) -> None:
        """In a process that was forked after it had parents: they are its maker's, whose end ends them."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._kept, self._failures = {}, {}
