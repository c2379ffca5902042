# SPDX-License-Identifier: Apache-2.0
"""What people say about devices: drained, in maintenance, quarantined, ready again; and who said it."""

from __future__ import annotations

import getpass
import re
import socket
from datetime import datetime, timedelta

import redis

from farm.broker.canaries import RESUMED, CanaryBook
from farm.broker.register import MAINTENANCE, READY, Register
from farm.errors import UsageError

_UNITS_S = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_CLOCK = re.compile(r"\d{1,2}:\d{2}")
#: Longer than any repair; a slip of the finger otherwise.
_LONGEST_S = 366 * 86400.0


def set_device(
    client: redis.Redis, device_id: str, state: str, reason: str | None = None, *, until_s: float | None = None
) -> None:
    """Set a device's state. One whose canary has shifted and that is ready again gets a canary.

    Raises:
        UsageError: no such device, or a maintenance that would end before it begins.
    """
    register = Register(client)
    known = {entry.device_id: entry for entry in register.devices()}
    if device_id not in known:
        raise UsageError(
            f"no device {device_id!r}",
            hint=f"Known: {', '.join(sorted(known)) or 'none yet: start a worker with `farm worker`'}.",
        )
    if until_s is not None:
        _check_end(until_s - register.now_s())
    canary = known[device_id].canary.state
    if state == READY and canary is not None and canary.shifted:
        CanaryBook(client).ask(device_id, RESUMED)
    register.set_state(device_id, state, reason, by=operator(), until_s=until_s)


def maintain(
    client: redis.Redis, device_id: str, reason: str, *, for_s: float | None = None, until_s: float | None = None
) -> None:
    """Put a device into maintenance, for so long, until then (Unix seconds), or until it is resumed.

    Raises:
        UsageError: no such device, or an end that is no end.
    """
    if for_s is not None:
        # By Redis's clock, which ends it: this machine's may be off.
        until_s = Register(client).now_s() + for_s
    set_device(client, device_id, MAINTENANCE, reason, until_s=until_s)


def operator() -> str:
    """Who this is, `ann@lab1`: a note for colleagues, no proof."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no such user: a container's
        user = "?"
    return f"{user}@{socket.gethostname()}"


def length_s(text: str) -> float:
    """`90min`, `2h`, `1.5d` in seconds.

    Raises:
        UsageError: it is no such length.
    """
    found = _LENGTH.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"{text!r} is not a length of time", hint="Write 45min, 2h or 1.5d.")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    _check_end(seconds)
    return seconds


def moment_s(text: str, now: datetime) -> float:
    """`14:30`, `2026-11-22` or `2026-11-22 14:30` in Unix seconds: in the zone it names, or in that of `now`.

    A time of day alone is the next one.

    Raises:
        UsageError: it is no time, or it is past.
    """
    word = text.strip()
    try:
        if _CLOCK.fullmatch(word):
            at = datetime.combine(now.date(), datetime.strptime(word, "%H:%M").time(), now.tzinfo)
            at += timedelta(days=1) if at <= now else timedelta()
        else:
            at = datetime.fromisoformat(word)
            at = at if at.tzinfo else at.replace(tzinfo=now.tzinfo)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time", hint='Write 14:30, or "2026-11-22 14:30".') from error
    _check_end(at.timestamp() - now.timestamp())
    return at.timestamp()


def _check_end(left_s: float) -> None:
    if left_s <= 0:
        raise UsageError("the end of the maintenance is not in the future", hint="Write a later one.")
    if left_s > _LONGEST_S:
        raise UsageError("the end of the maintenance is more than a year away", hint="Leave it out: then it has none.")
