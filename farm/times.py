# SPDX-License-Identifier: Apache-2.0
"""A time of day on some days, in a time zone: when nights begin. Pure; every answer is in UTC.

A time that a change of clocks leaves out stands for the moment as many minutes after the change; one that comes twice
stands for the first. So each day has one moment, whatever the clocks do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
#: From one 29 February to the next there are at most eight years.
_FAR = timedelta(days=8 * 366)
_EVERY_DAY = frozenset(range(1, 32))
_EVERY_MONTH = frozenset(range(1, 13))
#: As cron counts: Sunday is 0.
_EVERY_WEEKDAY = frozenset(range(7))


@dataclass(frozen=True)
class Times:
    """`hour` and `minute` on the days that fit `days`, `months` and `weekdays` (0 is Sunday), all three at once."""

    text: str
    zone: ZoneInfo
    hour: int
    minute: int
    days: frozenset[int] = _EVERY_DAY
    months: frozenset[int] = _EVERY_MONTH
    weekdays: frozenset[int] = _EVERY_WEEKDAY

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """The moments later than `after`, up to and with `until`, the oldest first."""
        day, last = self._day(after) - timedelta(days=1), self._day(until) + timedelta(days=1)
        found = set()
        while day <= last:
            moment = self._moment(day)
            if moment is not None and after < moment <= until:
                found.add(moment)
            day += timedelta(days=1)
        return sorted(found)

    def latest(self, now: datetime) -> datetime | None:
        """The newest moment that is not later than `now`; None if there never was one."""
        return next((m for m in self._walk(now, -1) if m <= now), None)

    def following(self, now: datetime) -> datetime | None:
        """The first moment later than `now`; None if there will be none."""
        return next((m for m in self._walk(now, 1) if m > now), None)

    def local_date(self, moment: datetime) -> date:
        """The date in this time zone."""
        return self._day(moment)

    def _walk(self, start: datetime, step: int) -> Iterator[datetime]:
        day = self._day(start) - timedelta(days=step)
        for _ in range(_FAR.days):
            moment = self._moment(day)
            if moment is not None:
                yield moment
            day += timedelta(days=step)

    def _day(self, moment: datetime) -> date:
        return moment.astimezone(self.zone).date()

    def _moment(self, day: date) -> datetime | None:
        if day.day not in self.days or day.month not in self.months or day.isoweekday() % 7 not in self.weekdays:
            return None
        return datetime.combine(day, time(self.hour, self.minute), self.zone).astimezone(UTC)


def parse_times(at: str, timezone: str) -> Times:
    """Read `02:30`, or a cron line of five fields, `30 2 * * mon-fri`, in a time zone by its name.

    Raises:
        ValueError: either makes no sense, or the line means more than one time a day.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {timezone!r}: use a name such as UTC or Europe/Berlin") from error
    text = f"{' '.join(at.split())} {timezone}"
    clock = _CLOCK.fullmatch(at.strip())
    if clock:
        return Times(text, zone, int(clock[1]), int(clock[2]))
    return _from_cron(at, text, zone)


def _from_cron(at: str, text: str, zone: ZoneInfo) -> Times:
    from celery.schedules import ParseException, crontab

    wrong = f"{at!r} is neither a time of day (02:30) nor a cron line of five fields (30 2 * * mon-fri)"
    if len(at.split()) != 5:
        raise ValueError(wrong)
    try:
        line = crontab.from_string(" ".join(at.split()))
    except (ParseException, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{wrong}: {error}") from error
    if len(line.hour) != 1 or len(line.minute) != 1:
        raise ValueError(f"{at!r} means several times a day; a night is named by its date, so there is one a day")
    days = (frozenset(line.day_of_month), frozenset(line.month_of_year), frozenset(line.day_of_week))
    times = Times(text, zone, min(line.hour), min(line.minute), *days)
    if times.following(datetime(2024, 1, 1, tzinfo=UTC)) is None:
        raise ValueError(f"{at!r} means a day that never comes")
    return times
