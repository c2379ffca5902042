# SPDX-License-Identifier: Apache-2.0
"""Canaries in the device register: what is asked for, which one waits or runs, what the last one said.

All are fields of the device's hash `farm:device:<id>`, so reading the register brings them along:
    canary          the state, JSON
    canary_asked    why one is wanted out of turn: `asked`, `confirm`, `resumed`
    canary_sweep    the sweep of the one that waits or runs: one at most, since it is set only where there is none
    canary_why      why that one was begun
    canary_began    when the last one was begun, Unix seconds
    canary_number   which of the series that the operator began
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import redis

from farm.canary import CanaryState
from farm.contract.codec import DecodeError, from_json, to_json

ASKED, CONFIRM, RESUMED = "asked", "confirm", "resumed"
#: Asked for by someone, or needed to end what was begun: made even where canaries are off.
OUT_OF_TURN = (ASKED, CONFIRM, RESUMED)

#: ARGV: device, sweep, why, now in s. Begins one unless one waits or runs already.
_BEGIN = """
local k='farm:device:'..ARGV[1]
if redis.call('HEXISTS',k,'canary_sweep')==1 then return 0 end
redis.call('HSET',k,'canary_sweep',ARGV[2],'canary_why',ARGV[3],'canary_began',ARGV[4])
redis.call('HDEL',k,'canary_asked'); return 1
"""


@dataclass(frozen=True)
class CanaryEntry:
    """A device's canary as the register has it. `state` None: not made yet, or lost with Redis."""

    state: CanaryState | None = None
    asked: str = ""
    sweep_id: str = ""
    why: str = ""
    began_s: float = 0.0
    number: int = 0

    @property
    def series_number(self) -> int:
        """The series that the next canary belongs to: the register's word, or the records' where Redis lost it."""
        return max(self.number, self.state.number if self.state else 0)

    @property
    def busy(self) -> bool:
        """Whether one is wanted, waits or runs."""
        return bool(self.asked or self.sweep_id)


class CanaryBook:
    """Writes what the register says of canaries."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._begin = client.register_script(_BEGIN)

    def read(self, device_id: str) -> CanaryEntry:
        """One device's entry; an empty one where there is none."""
        return read_canary(cast(dict[str, str], self._redis.hgetall(_key(device_id))))

    def ask(self, device_id: str, why: str, number: int | None = None) -> None:
        """Ask for a canary out of turn; with `number`, for the first of a new series."""
        fields: dict[Any, Any] = {"canary_asked": why} | ({} if number is None else {"canary_number": str(number)})
        self._redis.hset(_key(device_id), mapping=fields)
        self._redis.lpush("farm:wake", "1")

    def begin(self, device_id: str, sweep_id: str, why: str, now_s: float) -> bool:
        """Enter the canary that is about to be submitted; False if another one waits or runs."""
        return bool(self._begin(args=[device_id, sweep_id, why, now_s]))

    def judged(self, device_id: str, state: CanaryState, *, ask: str = "") -> None:
        """Enter what the canary said, and that none waits any more; with `ask`, that another one is wanted at once."""
        fields: dict[Any, Any] = {"canary": json.dumps(to_json(state), sort_keys=True, allow_nan=False)}
        fields |= {"canary_asked": ask} if ask else {}
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(_key(device_id), mapping=fields)
        pipe.hdel(_key(device_id), "canary_sweep", "canary_why")
        pipe.execute()

    def undo(self, device_id: str, why: str) -> None:
        """Take back a canary that was entered and never submitted. What was asked for stays asked for."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hdel(_key(device_id), "canary_sweep", "canary_why", "canary_began")
        if why in OUT_OF_TURN:
            pipe.hset(_key(device_id), "canary_asked", why)
        pipe.execute()

    def give_up(self, device_id: str, state: CanaryState, now_s: float) -> None:
        """Enter that the device cannot have a canary now, so that it is not tried again before its time."""
        self.judged(device_id, state)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(_key(device_id), "canary_began", str(now_s))
        pipe.hdel(_key(device_id), "canary_asked")
        pipe.execute()


def read_canary(h: Mapping[str, Any]) -> CanaryEntry:
    """What a device's hash says of its canary. A state that cannot be read is none: it is made again."""
    try:
        state = from_json(CanaryState, json.loads(h["canary"])) if h.get("canary") else None
    except (ValueError, DecodeError):
        state = None
    return CanaryEntry(
        state=state,
        asked=h.get("canary_asked") or "",
        sweep_id=h.get("canary_sweep") or "",
        why=h.get("canary_why") or "",
        began_s=float(h.get("canary_began") or 0),
        number=int(h.get("canary_number") or 0),
    )


def _key(device_id: str) -> str:
    return f"farm:device:{device_id}"
