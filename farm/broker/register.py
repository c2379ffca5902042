# SPDX-License-Identifier: Apache-2.0
"""The device register: what each worker announces, how long ago, and the state an operator gave the device."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from farm.broker.canaries import CanaryEntry, read_canary
from farm.contract.codec import from_json, to_json
from farm.contract.device import Announcement
from farm.contract.names import check_name

#: Workers announce themselves every 10 s; three missed announcements and the device counts as offline.
HEARTBEAT_S = 10.0
OFFLINE_AFTER_S = 35.0

#: ARGV: device, announcement. Wakes the scheduler when it is new or changed.
#: Times come from Redis: workers' clocks may be off.
_ANNOUNCE = """
local t=redis.call('TIME'); local k='farm:device:'..ARGV[1]
local before=redis.call('HGET',k,'announcement')
redis.call('HSET',k,'announcement',ARGV[2],'seen',t[1]*1000+math.floor(t[2]/1000))
redis.call('SADD','farm:devices',ARGV[1])
local away=redis.call('HDEL',k,'withdrawn')
if before~=ARGV[2] or away==1 then redis.call('LPUSH','farm:wake','1'); redis.call('LTRIM','farm:wake',0,0) end
"""


@dataclass(frozen=True)
class DeviceEntry:
    """A device in the register. `state` is the operator's or quarantine's word: ready, drained or quarantined.

    `canary` is what its canary says of it, and whether one is asked for or waits.
    """

    announcement: Announcement
    age_s: float
    online: bool
    state: str
    reason: str | None
    canary: CanaryEntry = field(default_factory=CanaryEntry)

    @property
    def device_id(self) -> str:
        """The device's id."""
        return self.announcement.device.device_id


class Register:
    """All devices that ever announced themselves to this farm."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._announce = client.register_script(_ANNOUNCE)

    def announce(self, announcement: Announcement) -> None:
        """Enter or refresh a device. The state set by `set_state` is kept."""
        text = json.dumps(to_json(announcement), sort_keys=True)
        self._announce(args=[announcement.device.device_id, text])

    def withdraw(self, device_id: str) -> None:
        """Say that the device's worker has stopped; the entry stays, offline."""
        self._redis.hset(f"farm:device:{device_id}", "withdrawn", "1")

    def set_state(self, device_id: str, state: str, reason: str | None) -> None:
        """Drain, quarantine or resume a device. It takes no new jobs unless it is `ready`."""
        self._redis.hset(f"farm:device:{device_id}", mapping={"state": state, "reason": reason or ""})
        self._redis.lpush("farm:wake", "1")

    def devices(self) -> list[DeviceEntry]:
        """All entries by device id. An entry that cannot be read is left out: its worker will announce anew."""
        ids = sorted(cast(set[str], self._redis.smembers("farm:devices")))
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for device_id in ids:
            pipe.hgetall(f"farm:device:{device_id}")
        (seconds, micros), *hashes = pipe.execute()
        now_s = seconds + micros / 1e6
        entries = [_entry(device_id, h, now_s) for device_id, h in zip(ids, hashes, strict=True)]
        return [entry for entry in entries if entry is not None]


def _entry(device_id: str, h: dict[str, Any], now_s: float) -> DeviceEntry | None:
    try:
        announcement = from_json(Announcement, json.loads(h["announcement"]))
        check_name(announcement.device.device_id, "device id")
        check_name(announcement.device.device_class, "device class")
        age_s = now_s - float(h["seen"]) / 1000
    except (KeyError, ValueError, RecursionError):
        return None
    if announcement.device.device_id != device_id:
        return None  # one device's worker does not speak for another
    online = age_s < OFFLINE_AFTER_S and "withdrawn" not in h
    state, reason = h.get("state") or "ready", h.get("reason") or None
    return DeviceEntry(announcement, age_s, online, state, reason, read_canary(h))
