# SPDX-License-Identifier: Apache-2.0
"""What this device's canary has against a run on it: asked of the register before each point."""

from __future__ import annotations

import logging

import redis

from farm.broker.canaries import CanaryBook
from farm.canary import CanaryState, is_canary
from farm.contract.job import JobSpec
from farm.contract.record import Flag

log = logging.getLogger(__name__)


class CanaryWord:
    """The register's word on one device, remembered while the broker is away."""

    def __init__(self, book: CanaryBook, device_id: str) -> None:
        self._book = book
        self._device_id = device_id
        self._last: CanaryState | None = None

    def doubts(self, job: JobSpec) -> list[Flag]:
        """The flag of a device whose canary has shifted. The canary itself has none: it measures the device."""
        if is_canary(job):
            return []
        try:
            self._last = self._book.read(self._device_id).state
        except redis.RedisError as error:
            log.info("the canary's state cannot be read, the last known one holds: %s", error)
        if self._last is None or not self._last.shifted:
            return []
        return [Flag("canary_shift", "suspect", self._last.doubt)]
