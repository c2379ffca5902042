# SPDX-License-Identifier: Apache-2.0
"""Why jobs wait although nothing runs before them: no device that could take them does. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farm.broker.register import DeviceEntry

#: A class may have hundreds of devices.
_NAMED = 5


def why_waiting(targets: Iterable[str], entries: Sequence[DeviceEntry]) -> dict[str, str]:
    """The reason for each of `targets` (`dev:ID`, `cls:NAME`) that no device serves now; the others are left out."""
    found = {}
    for target in sorted(set(targets)):
        devices = [entry for entry in entries if target in _targets(entry)]
        if not any(entry.takes_jobs for entry in devices):
            found[target] = _told(target, devices)
    return found


def _targets(entry: DeviceEntry) -> tuple[str, str]:
    return f"dev:{entry.device_id}", f"cls:{entry.announcement.device.device_class}"


def _told(target: str, devices: Sequence[DeviceEntry]) -> str:
    if not devices:
        return f"{target} is not known here: start its worker"
    named = [f"{entry.device_id} is {entry.standing}" for entry in devices[:_NAMED]]
    more = [f"and {len(devices) - _NAMED} more"] if len(devices) > _NAMED else []
    return "; ".join([*named, *more])
