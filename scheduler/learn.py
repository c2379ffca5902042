# SPDX-License-Identifier: Apache-2.0
"""From the store's index to a predictor: one question. An index that cannot be used costs the learning, no more."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from farm.broker.register import DeviceEntry
from farm.errors import FarmError, UnavailableError
from farm.store import Index, Store
from farm.store.durations import durations
from scheduler.learned import Predictor

log = logging.getLogger("inferfarm.scheduler")

#: Said once in a process: it would come with every submission.
_told: set[str] = set()


def learn(
    store: Store, workflows: Iterable[str], entries: Iterable[DeviceEntry] = (), *, refresh: bool = False
) -> Predictor:
    """A predictor for jobs of these workflows. Reads what is indexed, which every look at results brings up to date.

    With `refresh`, what ended since then is taken in first, unless somebody else is at it.
    """
    classes = {entry.device_id: entry.announcement.device.device_class for entry in entries}
    wanted = set(workflows)
    if not wanted or not store.records.by_run.is_dir():
        return Predictor((), classes)  # a new store
    try:
        if refresh:
            _refresh(store)
        return Predictor(durations(store.index.in_force, wanted), classes)
    except (FarmError, OSError) as error:
        _tell(f"durations are predicted by the formula alone, the index of {store.root} cannot be used: {error}")
        return Predictor((), classes)


def _refresh(store: Store) -> None:
    try:
        Index(store.records, store.index.directory, lock_timeout_s=0.0).refresh()
    except UnavailableError as error:
        log.debug("the index was not brought up to date: %s", error)


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        log.warning("%s", text)
