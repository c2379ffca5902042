# SPDX-License-Identifier: Apache-2.0
"""The device register: what each worker announces, how long ago, and the state an operator gave the device."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import redis

import farm
from farm.broker.canaries import CanaryEntry, read_canary
from farm.contract.codec import from_json, to_json
from farm.contract.device import Announcement
from farm.contract.names import check_name
from farm.errors import UnavailableError
from farm.versions import too_far_apart

#: Workers announce themselves every 10 s; three missed announcements and the device counts as offline.
HEARTBEAT_S = 10.0
OFFLINE_AFTER_S = 35.0
#: A machine that has not announced a device for so long has lost it to another of the same name.
TAKEN_FOR_S = 1.5 * HEARTBEAT_S

#: ARGV: device, announcement, machine or '', for how many ms another machine's word holds, then what its state was when
#: it was last announced, or nothing. Returns another machine's age in ms, or the state. Wakes the scheduler when it is
#: new or changed. Times come from Redis: workers' clocks may be off. A Redis that lost its data is told the state
#: again: what people took out of work must not be back in it.
_ANNOUNCE = """
local t=redis.call('TIME'); local k='farm:device:'..ARGV[1]
local now=t[1]*1000+math.floor(t[2]/1000)
local h=redis.call('HMGET',k,'announcement','machine','seen','withdrawn'); local before=h[1]
if ARGV[3]~='' and h[2] and h[2]~='' and h[2]~=ARGV[3] and not h[4] and now-(tonumber(h[3]) or 0)<tonumber(ARGV[4]) then
  return now-tonumber(h[3])
end
if not before and ARGV[5] and not redis.call('HGET',k,'state') then
  redis.call('HSET',k,'state',ARGV[5],'reason',ARGV[6],'state_by',ARGV[7],'state_until',ARGV[8],'state_at',ARGV[9])
end
redis.call('HSET',k,'announcement',ARGV[2],'machine',ARGV[3],'seen',now)
redis.call('SADD','farm:devices',ARGV[1])
local away=redis.call('HDEL',k,'withdrawn')
if before~=ARGV[2] or away==1 then redis.call('LPUSH','farm:wake','1'); redis.call('LTRIM','farm:wake',0,0) end
return redis.call('HMGET',k,'state','reason','state_by','state_until','state_at')
"""


#: ARGV: device, state, reason, by, end in Unix seconds or ''. `back` is of a maintenance that has ended by itself.
_SET_STATE = """
local t=redis.call('TIME'); local k='farm:device:'..ARGV[1]
redis.call('HSET',k,'state',ARGV[2],'reason',ARGV[3],'state_by',ARGV[4],'state_until',ARGV[5],'back','',
  'state_at',t[1]*1000+math.floor(t[2]/1000))
redis.call('LPUSH','farm:wake','1'); redis.call('LTRIM','farm:wake',0,0)
"""

#: ARGV: device, why a canary is wanted first, or ''. Only what is still in maintenance, and past its end, comes back.
_END_MAINTENANCE = """
local t=redis.call('TIME'); local k='farm:device:'..ARGV[1]
local h=redis.call('HMGET',k,'state','state_until'); local ends=tonumber(h[2] or '')
if h[1]~='maintenance' or not ends or ends>t[1]+t[2]/1e6 then return 0 end
redis.call('HSET',k,'state','ready','reason','','state_by','','state_until','',
  'state_at',t[1]*1000+math.floor(t[2]/1000))
if ARGV[2]~='' then redis.call('HSET',k,'back','1','canary_asked',ARGV[2]) end
return 1
"""

#: The lock of the scheduler at work; its value says which release it is.
SCHEDULER_KEY = "farm:scheduler"

#: The year 9000, Unix time in ms.
_LATEST_MS = 221_845_392_000_000.0

READY, DRAINED, MAINTENANCE, QUARANTINED = "ready", "drained", "maintenance", "quarantined"


class TakenError(UnavailableError):
    """Another machine serves a device of this name: one of them is a clone, or was given the other's host name."""

    def __init__(self, device_id: str, age_s: float) -> None:
        super().__init__(
            f"device {device_id} is served by another machine of this name, which announced it {age_s:.0f} s ago",
            hint="A device's name begins with its host's name. Give one of the two another name, or stop its worker; "
            "docs/operations.md, 'A node was cloned'.",
        )


@dataclass(frozen=True)
class DeviceEntry:
    """A device in the register. `state` is people's or quarantine's word: ready, drained, maintenance or quarantined.

    `since_s`, `by`: when and by whom it was set; `until_s`: when a maintenance ends by itself. Unix seconds. `back`: it
    comes from a maintenance, and takes nothing but the canary that is to say how it is. `canary` is what its canary
    says of it, and whether one is asked for or waits.
    """

    announcement: Announcement
    age_s: float
    online: bool
    state: str
    reason: str | None
    canary: CanaryEntry = field(default_factory=CanaryEntry)
    since_s: float | None = None
    by: str | None = None
    until_s: float | None = None
    back: bool = False

    @property
    def takes_jobs(self) -> bool:
        """Whether it takes jobs now."""
        return self.online and self.state == READY and self.unfit is None

    @property
    def unfit(self) -> str | None:
        """Why its worker's release does not fit this one; None if it does."""
        return too_far_apart(farm.__version__, self.announcement.farm_version)

    @property
    def standing(self) -> str:
        """Its state in words: `offline`, `drained by ann@lab1 since ...`, `in maintenance until ...: new fan`."""
        if self.state == READY:
            return (self.unfit or READY) if self.online else "offline"
        words = ["in maintenance" if self.state == MAINTENANCE else self.state]
        if self.until_s is not None:
            words.append(f"until {_minute(self.until_s)}")
        if self.since_s is not None:
            words.append(f"since {_minute(self.since_s)}")
        if self.by:
            words.append(f"by {self.by}")
        return " ".join(words) + (f": {self.reason}" if self.reason else "")

    @property
    def device_id(self) -> str:
        """The device's id."""
        return self.announcement.device.device_id


class Register:
    """All devices that ever announced themselves to this farm."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._announce = client.register_script(_ANNOUNCE)
        self._set_state = client.register_script(_SET_STATE)
        self._end_maintenance = client.register_script(_END_MAINTENANCE)

    def announce(
        self, announcement: Announcement, said: Sequence[str] = (), machine: str | None = None
    ) -> Sequence[str]:
        """Enter or refresh a device. The state set by `set_state` is kept.

        `machine` tells the machine from others of the same name: its boot id. Returns what to hand in as `said` the
        next time, so that a state outlives a Redis that loses its data.

        Raises:
            TakenError: another machine announces this device.
        """
        text = json.dumps(to_json(announcement), sort_keys=True)
        device_id, holds_ms = announcement.device.device_id, int(TAKEN_FOR_S * 1000)
        found = self._announce(args=[device_id, text, machine or "", holds_ms, *said])
        if isinstance(found, int):
            raise TakenError(device_id, found / 1000)
        state = cast(list[str | None], found)
        return tuple(value or "" for value in state) if state[0] not in (None, READY) else ()

    def elsewhere(self, device_id: str, machine: str | None) -> float | None:
        """How long ago, in seconds, another machine announced this device; None if none did lately."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        pipe.hmget(f"farm:device:{device_id}", "machine", "seen", "withdrawn")
        (seconds, micros), (owner, seen, withdrawn) = pipe.execute()
        seen_ms = _number(seen)
        if not machine or not owner or owner == machine or withdrawn is not None or seen_ms is None:
            return None
        age_s = float(seconds + micros / 1e6 - seen_ms / 1000)
        return age_s if age_s < TAKEN_FOR_S else None

    def misfit(self) -> str | None:
        """Why a worker of this release must not work for the scheduler that is at work; None if it may, or none is.

        Schedulers from before they said their version are taken to fit: they are one release back.
        """
        told = cast(str | None, self._redis.get(SCHEDULER_KEY))
        try:
            version = json.loads(told)["version"] if told else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return too_far_apart(str(version), farm.__version__) if version else None

    def withdraw(self, device_id: str) -> None:
        """Say that the device's worker has stopped; the entry stays, offline."""
        self._redis.hset(f"farm:device:{device_id}", "withdrawn", "1")

    def set_state(
        self, device_id: str, state: str, reason: str | None, *, by: str = "", until_s: float | None = None
    ) -> None:
        """Drain, maintain, quarantine or resume a device. It takes no new jobs unless it is `ready`.

        `until_s`: when a maintenance ends by itself, in Unix seconds by Redis's clock.
        """
        self._set_state(args=[device_id, state, reason or "", by, "" if until_s is None else until_s])

    def end_maintenance(self, device_id: str, canary: str = "") -> bool:
        """Make a device ready whose maintenance is past its end; False if it is not, e.g. since it was prolonged.

        `canary`: why one is wanted before the device takes anything else; '' for none.
        """
        return bool(self._end_maintenance(args=[device_id, canary]))

    def settle_in(self, device_id: str) -> None:
        """The device that came back from maintenance has had its canary: it takes jobs like any other."""
        self._redis.hset(f"farm:device:{device_id}", "back", "")
        self._redis.lpush("farm:wake", "1")

    def now_s(self) -> float:
        """Redis's clock, Unix seconds: the one that ends of maintenance are held against."""
        seconds, micros = self._redis.time()
        return seconds + micros / 1e6

    def devices(self, known: Iterable[str] | None = None) -> list[DeviceEntry]:
        """All entries by device id, or those of `known`, in one round trip.

        An entry that cannot be read is left out: its worker will announce anew.
        """
        ids = sorted(cast(set[str], self._redis.smembers("farm:devices")) if known is None else known)
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
        announcement = _announcement(h["announcement"])
        age_s = now_s - float(h["seen"]) / 1000
        canary = read_canary(h)
    except (KeyError, ValueError, OverflowError, RecursionError):
        return None
    if announcement.device.device_id != device_id:
        return None  # one device's worker does not speak for another
    online = age_s < OFFLINE_AFTER_S and "withdrawn" not in h
    since_ms = _number(h.get("state_at"))
    return DeviceEntry(
        announcement,
        age_s,
        online,
        h.get("state") or READY,
        h.get("reason") or None,
        canary,
        since_s=None if since_ms is None else since_ms / 1000,
        by=h.get("state_by") or None,
        until_s=_number(h.get("state_until")),
        back=bool(h.get("back")),
    )


@functools.lru_cache(maxsize=1024)
def _announcement(text: str) -> Announcement:
    """Decoding is most of the cost of reading the register, and a device says the same for days."""
    announcement = from_json(Announcement, json.loads(text))
    check_name(announcement.device.device_id, "device id")
    check_name(announcement.device.device_class, "device class")
    return announcement


def _number(text: str | None) -> float | None:
    """A time; None for what is none: a worker can write its device's entry, and must stop nobody else with it."""
    try:
        found = float(text) if text else math.nan
    except ValueError:
        return None
    return found if 0 <= found < _LATEST_MS else None


def _minute(at_s: float) -> str:
    """`2026-11-21 14:05`, in this machine's time."""
    if at_s > _LATEST_MS / 1000:
        return "the end of time"
    return datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M")
