# SPDX-License-Identifier: Apache-2.0
"""What a worker brings to every job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farm.contract.device import DeviceInfo, StackInfo
from farm.contract.job import JobSpec
from farm.contract.record import Flag
from farm.settings import Settings
from farm.store.kept import WorkerStore
from farm.thresholds import Limits, limits_for
from workers.daemon import lock, stragglers
from workers.daemon.bundle import Island
from workers.daemon.mover import Mover, PokingSpool
from workers.daemon.spool import Spool
from workers.daemon.warm import WarmRunners


@dataclass(frozen=True)
class Bench:
    """A worker's device, what can run on it, and where things are kept.

    `doubts` is asked before each point for what is known to be wrong with the device. `warm` keeps the parents that
    runs are forked from; without it each is started afresh. With a `mover`, what is in the spool goes to the store
    beside the work.
    """

    settings: Settings
    device: DeviceInfo
    stacks: list[StackInfo]
    island: Island
    store: WorkerStore
    provenance: Mapping[str, Any] = field(default_factory=dict)
    doubts: Callable[[JobSpec], list[Flag]] = lambda _job: []
    warm: WarmRunners | None = None
    mover: Mover | None = None

    @property
    def lock_path(self) -> Path:
        """The device's lock."""
        return lock.device_lock_path(self.settings.lock_dir, self.device.device_id)

    @property
    def marks(self) -> dict[str, str]:
        """What marks the processes of this device's runs."""
        return stragglers.marks(self.device.device_id, self.lock_path)

    @property
    def limits(self) -> Limits:
        """Where doubts about a run on this device begin."""
        return limits_for(self.settings.thresholds, self.device)

    @property
    def spool(self) -> Spool:
        """Where records wait for the store."""
        spool = Spool(self.settings.spool_dir)
        return spool if self.mover is None else PokingSpool(spool, self.mover)

    def quiet(self, stop: threading.Event) -> None:
        """Wait, before a run that measures this host's processors, until nothing is moved to the store beside it.

        A GPU of its own memory and power is not waited for.
        """
        if self.mover is not None and self.device.kind != "gpu":
            self.mover.quiet(stop)
